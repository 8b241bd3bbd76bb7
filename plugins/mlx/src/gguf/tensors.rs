//! A GGUF file's tensors as MLX arrays, under the names that they have in a Hugging Face checkpoint.

use super::blocks::{self, Read};
use crate::engine::weights::{Affine, Weights};
use crate::folder::{array, float_array};
use mlx_rs::Dtype;
use pajamas_gguf_file::GgufFile;
use pajamas_gguf_file::reader::TensorInfo;
use pajamas_plugin_api::{CancelToken, Error, Progress, Result};
use std::collections::HashMap;

/// Llama 3's rope scaling, which is no weight of a layer.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// What a layer is called in a block, and in a Hugging Face checkpoint.
const LAYERS: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Reads every tensor of `file`.
///
/// # Errors
/// `Unsupported` for a type that MLX does not know; `InvalidModel` for a tensor of an unknown name.
pub(super) fn weights(
    file: &GgufFile,
    compute: Option<Dtype>,
    progress: &Progress,
    cancel: &CancelToken,
) -> Result<Weights> {
    let (mut arrays, mut quantization) = (HashMap::new(), HashMap::new());
    let total: u64 = file.tensors().iter().map(|tensor| tensor.size_bytes).sum();
    let mut done = 0;
    for tensor in file.tensors().iter().filter(|tensor| tensor.name != ROPE_FACTORS) {
        cancel.check()?;
        progress.report("loading", done as f32 / total.max(1) as f32, &tensor.name);
        done += tensor.size_bytes;
        let name = name(&tensor.name).ok_or_else(|| {
            let (path, name) = (file.path().display(), tensor.name.escape_debug());
            Error::unsupported(format!("`{path}`: tensor `{name}` belongs to no layer that this backend knows"))
        })?;
        let bytes = file.read_tensor(tensor)?;
        let shape = shape(file, tensor)?;
        match tensor.ggml_type.name {
            "F32" => arrays.insert(name, float_array(bytes, &shape, Dtype::Float32, compute)?),
            "F16" => arrays.insert(name, float_array(bytes, &shape, Dtype::Float16, compute)?),
            "BF16" => arrays.insert(name, float_array(bytes, &shape, Dtype::Bfloat16, compute)?),
            kind => {
                let unknown = || unknown_type(file, tensor);
                let (&columns, rows) = shape.split_last().ok_or_else(unknown)?;
                match blocks::read(kind, &bytes).ok_or_else(unknown)? {
                    Read::Floats(halves) => arrays.insert(name, float_array(halves, &shape, Dtype::Float16, compute)?),
                    Read::Affine { bits, weights, scales, biases } => {
                        let layer = name.strip_suffix(".weight").unwrap_or(&name).to_owned();
                        let with = |columns: i32| [rows, &[columns]].concat();
                        let groups = with(columns / blocks::GROUP_SIZE);
                        arrays
                            .insert(format!("{layer}.scales"), float_array(scales, &groups, Dtype::Float16, compute)?);
                        arrays
                            .insert(format!("{layer}.biases"), float_array(biases, &groups, Dtype::Float16, compute)?);
                        quantization.insert(layer, Affine { group_size: blocks::GROUP_SIZE, bits });
                        let packed = with(columns / blocks::GROUP_SIZE * bits);
                        arrays.insert(name, array(&weights, &packed, Dtype::Uint32)?)
                    }
                }
            }
        };
    }
    progress.report("loading", 1.0, "");
    Ok(Weights::new(arrays, quantization, compute, file.path()))
}

/// `blk.3.attn_q.weight` → `model.layers.3.self_attn.q_proj.weight`.
fn name(gguf: &str) -> Option<String> {
    match gguf {
        "token_embd.weight" => return Some("model.embed_tokens.weight".into()),
        "output_norm.weight" => return Some("model.norm.weight".into()),
        "output.weight" => return Some("lm_head.weight".into()),
        _ => (),
    }
    let (block, rest) = gguf.strip_prefix("blk.")?.split_once('.')?;
    let (layer, part) = rest.rsplit_once('.')?;
    let (_, layer) = LAYERS.iter().find(|(known, _)| *known == layer)?;
    block.bytes().all(|digit| digit.is_ascii_digit()).then(|| format!("model.layers.{block}.{layer}.{part}"))
}

/// Outermost dimension first, as everybody but ggml has it.
fn shape(file: &GgufFile, tensor: &TensorInfo) -> Result<Vec<i32>> {
    tensor.shape.iter().rev().map(|size| i32::try_from(*size)).collect::<Result<_, _>>().map_err(|_| {
        let (path, name) = (file.path().display(), tensor.name.escape_debug());
        Error::unsupported(format!("`{path}`: tensor `{name}` is larger than MLX takes"))
    })
}

fn unknown_type(file: &GgufFile, tensor: &TensorInfo) -> Error {
    Error::unsupported(format!(
        "`{}`: tensor `{}` is of type {}; this backend reads F32, F16, BF16, {}",
        file.path().display(),
        tensor.name.escape_debug(),
        tensor.ggml_type.name,
        blocks::TYPES.join(", ")
    ))
    .with_hint("run it on a gguf backend, or make an MLX model of the original")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_checkpoint() {
        assert_eq!(name("blk.12.attn_q.bias").unwrap(), "model.layers.12.self_attn.q_proj.bias");
        assert_eq!(name("blk.0.attn_k_norm.weight").unwrap(), "model.layers.0.self_attn.k_norm.weight");
        assert_eq!(name("output.weight").unwrap(), "lm_head.weight");
        for unknown in ["blk.x.attn_q.weight", "blk.1.ssm_in.weight", "blk.1", "other"] {
            assert_eq!(name(unknown), None, "{unknown}");
        }
    }
}
