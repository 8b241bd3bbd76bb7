//! A model folder's tensors as MLX arrays: read by our own reader, checked, and copied in, one at a time.

use crate::engine::architecture::Architecture;
use crate::engine::weights::{Affine, Weights};
use mlx_rs::{Array, Dtype};
use pajamas_hf_model::Tensor;
use pajamas_mlx_folder::{LayerQuantization, MlxFolder, Mode};
use pajamas_plugin_api::{CancelToken, Error, ErrorKind, Progress, Result};
use std::collections::HashMap;

/// Reads every tensor of `folder` that its layers use, and how the quantized ones are quantized.
pub(crate) fn weights(
    folder: &MlxFolder,
    architecture: &Architecture,
    compute: Option<Dtype>,
    progress: &Progress,
    cancel: &CancelToken,
) -> Result<Weights> {
    let model = folder.model();
    let mut tensors = HashMap::new();
    let total: u64 = model.size_bytes().max(1);
    let mut done = 0;
    for tensor in model.tensors() {
        cancel.check()?;
        progress.report("loading", done as f32 / total as f32, tensor.name());
        done += tensor.size_bytes();
        if is_needed(tensor, architecture.tied) {
            tensors.insert(tensor.name().to_owned(), tensor_array(tensor, compute)?);
        }
    }
    progress.report("loading", 1.0, "");
    Ok(Weights::new(tensors, quantization(folder, architecture)?, compute, model.dir()))
}

/// Old checkpoints hold what is computed from the configuration, and some hold a tied output layer twice.
fn is_needed(tensor: &Tensor, tied: bool) -> bool {
    let computed = tensor.name().ends_with("rotary_emb.inv_freq");
    let twice = tied && tensor.name().starts_with("lm_head.");
    !computed && !twice
}

/// Bytes of what [`weights`] reads, once it is read.
pub(crate) fn loaded_bytes(folder: &MlxFolder, compute: Option<Dtype>, tied: bool) -> u64 {
    use pajamas_hf_model::Dtype::{Bf16, F16};
    let grows = |tensor: &Tensor| compute == Some(Dtype::Float32) && matches!(tensor.dtype(), F16 | Bf16);
    let needed = folder.model().tensors().iter().filter(|tensor| is_needed(tensor, tied));
    needed.map(|tensor| if grows(tensor) { 2 * tensor.size_bytes() } else { tensor.size_bytes() }).sum()
}

fn tensor_array(tensor: &Tensor, compute: Option<Dtype>) -> Result<Array> {
    let dtype = match tensor.dtype() {
        pajamas_hf_model::Dtype::F32 => Dtype::Float32,
        pajamas_hf_model::Dtype::F16 => Dtype::Float16,
        pajamas_hf_model::Dtype::Bf16 => Dtype::Bfloat16,
        pajamas_hf_model::Dtype::Other(safetensors::Dtype::U32) => Dtype::Uint32,
        pajamas_hf_model::Dtype::Other(_) => {
            return Err(Error::unsupported(format!(
                "`{}`: tensor `{}` is of type {}; F32, F16, BF16 and MLX's packed U32 are read",
                tensor.file().display(),
                tensor.name().escape_debug(),
                tensor.dtype().name()
            )));
        }
    };
    let shape: Vec<i32> =
        tensor.shape().iter().map(|size| i32::try_from(*size)).collect::<Result<_, _>>().map_err(|_| {
            Error::unsupported(format!("tensor `{}` is larger than MLX takes", tensor.name().escape_debug()))
        })?;
    float_array(tensor.read(0..tensor.size_bytes())?, &shape, dtype, compute)
}

/// A copy of `bytes`, little-endian elements of `dtype`, as MLX's; halves become singles at once where `compute` is that.
pub(crate) fn float_array(
    mut bytes: Vec<u8>,
    shape: &[i32],
    mut dtype: Dtype,
    compute: Option<Dtype>,
) -> Result<Array> {
    let source = match dtype {
        Dtype::Float16 => Some(pajamas_hf_model::Dtype::F16),
        Dtype::Bfloat16 => Some(pajamas_hf_model::Dtype::Bf16),
        _ => None,
    };
    if let (Some(source), Some(Dtype::Float32)) = (source, compute) {
        let values = pajamas_hf_model::decode_f32(source, &bytes);
        bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        dtype = Dtype::Float32;
    }
    array(&bytes, shape, dtype)
}

/// A copy of `bytes`, little-endian elements of `dtype`, as MLX's.
pub(crate) fn array(bytes: &[u8], shape: &[i32], dtype: Dtype) -> Result<Array> {
    let item_bytes: u64 = if matches!(dtype, Dtype::Float16 | Dtype::Bfloat16) { 2 } else { 4 };
    let elements = shape.iter().try_fold(1_u64, |product, size| product.checked_mul(u64::try_from(*size).ok()?));
    if bytes.is_empty() || elements.and_then(|count| count.checked_mul(item_bytes)) != Some(bytes.len() as u64) {
        return Err(Error::invalid_model(format!("a tensor of shape {shape:?} cannot have {} bytes", bytes.len())));
    }
    // SAFETY: `bytes` holds all elements of this shape and type, as was just checked; MLX copies them.
    let array = unsafe { Array::from_raw_data(bytes.as_ptr().cast(), shape, dtype) };
    if array.as_ptr().ctx.is_null() {
        let message = format!("MLX has no memory for a tensor of {} bytes", bytes.len());
        return Err(Error::new(ErrorKind::OutOfMemory, message));
    }
    Ok(array)
}

/// Which layers are quantized, and how, by config.json and by the scales that there are.
fn quantization(folder: &MlxFolder, architecture: &Architecture) -> Result<HashMap<String, Affine>> {
    let mut quantized = HashMap::new();
    for layer in folder.model().tensors().iter().filter_map(|tensor| tensor.name().strip_suffix(".scales")) {
        let Some(LayerQuantization { bits, group_size, mode }) =
            folder.layer_quantization(layer, architecture.input_width(layer))?
        else {
            continue;
        };
        if mode != Mode::Affine {
            return Err(Error::unsupported(format!(
                "`{}`: layer `{}` is quantized by `{}`; this backend runs MLX's affine quantization",
                folder.model().dir().display(),
                layer.escape_debug(),
                mode.word().escape_debug()
            )));
        }
        if pajamas_mlx_folder::affine::Affine::new(bits, group_size).is_none() {
            return Err(Error::unsupported(format!(
                "`{}`: layer `{}` has {bits} bits in groups of {group_size}, which MLX does not compute with",
                folder.model().dir().display(),
                layer.escape_debug()
            )));
        }
        let affine = Affine { group_size: group_size.cast_signed(), bits: bits.cast_signed() };
        quantized.insert(layer.to_owned(), affine);
    }
    Ok(quantized)
}

/// How the weights are stored, in words: `4bit in groups of 64`, or the type of the first matrix.
pub(crate) fn describe(folder: &MlxFolder) -> String {
    match folder.quantization().map(pajamas_mlx_folder::Quantization::model) {
        Some(LayerQuantization { bits, group_size, .. }) => format!("{bits}bit in groups of {group_size}"),
        None => {
            let matrix = folder.model().tensors().iter().find(|tensor| tensor.shape().len() > 1);
            matrix.map_or_else(String::new, |tensor| tensor.dtype().name())
        }
    }
}
