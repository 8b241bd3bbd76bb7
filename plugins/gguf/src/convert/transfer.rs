//! Streams tensor data from the checkpoint to the file, chunk by chunk, converting and reordering on the way.

use super::plan::{Data, Plan};
use crate::gguf_file::{GgmlType, GgufWriter};
use half::slice::HalfFloatSliceExt;
use pajamas_hf_model::tensor::decode_f32;
use pajamas_hf_model::{Dtype, Tensor};
use pajamas_plugin_api::{CancelToken, Error, Progress, Result};

/// Bytes of a chunk of the source, unless one head has more.
const CHUNK_BYTES: u64 = 4 << 20;

/// Writes the data of every planned tensor.
pub(super) fn transfer(plan: &Plan, writer: &mut GgufWriter, progress: &Progress, cancel: &CancelToken) -> Result<()> {
    let total: u64 = plan.tensors.iter().map(|planned| source_bytes(&planned.data)).sum();
    let mut done = 0_u64;
    let mut report = |bytes: u64, name: &str| {
        done += bytes;
        progress.report("converting", (done as f64 / total.max(1) as f64) as f32, name);
    };
    for planned in &plan.tensors {
        let (name, ggml_type) = (&planned.spec.name, planned.spec.ggml_type);
        report(0, name);
        match &planned.data {
            Data::Generated(values) => {
                cancel.check()?;
                writer.write(&encode(values, ggml_type)?)?;
                report(values.len() as u64 * 4, name);
            }
            Data::Source { tensor, interleave_heads } => {
                let heads = interleave_heads.map(|heads| Heads::new(tensor, heads)).transpose()?;
                let unit = heads.as_ref().map_or(4, |heads| heads.block_bytes);
                // A whole number of units, so that a chunk never cuts an element or a head.
                let chunk = (CHUNK_BYTES / unit).max(1) * unit;
                let mut start = 0;
                while start < tensor.size_bytes() {
                    cancel.check()?;
                    let end = (start + chunk).min(tensor.size_bytes());
                    let mut bytes = tensor.read(start..end)?;
                    if let Some(heads) = &heads {
                        bytes = heads.interleave(&bytes);
                    }
                    writer.write(&convert(bytes, tensor.dtype(), ggml_type)?)?;
                    report(end - start, name);
                    start = end;
                }
            }
        }
        writer.end_tensor()?;
    }
    Ok(())
}

fn source_bytes(data: &Data) -> u64 {
    match data {
        Data::Generated(values) => values.len() as u64 * 4,
        Data::Source { tensor, .. } => tensor.size_bytes(),
    }
}

/// How the rows of q and k are regrouped. transformers rotates element `i` of a head with element `i + size / 2`,
/// llama.cpp with its neighbour: row `i` of the first half and row `i` of the second half come to stand side by side.
struct Heads {
    /// Bytes of a row.
    row_bytes: usize,
    /// Bytes of all rows of a head.
    block_bytes: u64,
}

impl Heads {
    fn new(tensor: &Tensor, heads: u64) -> Result<Self> {
        let rows = tensor.shape().first().copied().unwrap_or(0);
        if heads == 0 || rows == 0 || rows % (heads * 2) != 0 {
            return Err(Error::invalid_model(format!("the {rows} rows of `{}` are not {heads} heads", tensor.name())));
        }
        Ok(Self { row_bytes: (tensor.size_bytes() / rows) as usize, block_bytes: tensor.size_bytes() / heads })
    }

    fn interleave(&self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        for head in bytes.chunks_exact(self.block_bytes as usize) {
            let (first, second) = head.split_at(head.len() / 2);
            for (a, b) in first.chunks_exact(self.row_bytes).zip(second.chunks_exact(self.row_bytes)) {
                out.extend_from_slice(a);
                out.extend_from_slice(b);
            }
        }
        out
    }
}

/// Converts little-endian elements; those of the right type pass as they are.
fn convert(bytes: Vec<u8>, from: Dtype, to: GgmlType) -> Result<Vec<u8>> {
    let same =
        matches!((from, to), (Dtype::F32, GgmlType::F32) | (Dtype::F16, GgmlType::F16) | (Dtype::Bf16, GgmlType::BF16));
    if same { Ok(bytes) } else { encode(&decode_f32(from, &bytes), to) }
}

/// Encodes to little-endian elements, rounding to nearest, ties to even.
fn encode(values: &[f32], to: GgmlType) -> Result<Vec<u8>> {
    match to {
        GgmlType::F32 => Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        GgmlType::F16 => {
            let mut halves = vec![half::f16::ZERO; values.len()];
            halves.convert_from_f32_slice(values);
            Ok(halves.iter().flat_map(|value| value.to_le_bytes()).collect())
        }
        GgmlType::BF16 => Ok(values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect()),
        other => Err(Error::other(format!("the converter does not write {}", other.name))),
    }
}
