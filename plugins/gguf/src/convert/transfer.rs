//! Makes tensor data from the checkpoint, chunk by chunk, converting and reordering on the way, and streams it to a file.

use super::plan::{Data, Plan, PlannedTensor};
use crate::gguf_file::{GgmlType, GgufWriter};
use half::slice::HalfFloatSliceExt;
use pajamas_hf_model::tensor::decode_f32;
use pajamas_hf_model::{Dtype, Tensor};
use pajamas_plugin_api::{CancelToken, Error, Progress, Result};

/// Bytes of the source that a chunk of a file is made from, unless one head has more.
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
        let name = &planned.spec.name;
        report(0, name);
        let chunks = Chunks::new(planned, CHUNK_BYTES)?;
        for index in 0..chunks.count() {
            cancel.check()?;
            writer.write(&chunks.read(index)?)?;
            let range = chunks.source_range(index);
            report(range.end - range.start, name);
        }
        writer.end_tensor()?;
    }
    Ok(())
}

/// The data of one planned tensor as a file has it, in chunks that can be asked for in any order.
pub(super) struct Chunks<'p> {
    planned: &'p PlannedTensor<'p>,
    heads: Option<Heads>,
    /// Bytes of the source that a chunk is made from; the last one may be made from fewer.
    step_bytes: u64,
}

impl<'p> Chunks<'p> {
    /// Chunks that are made from about `chunk_bytes` of the source each, at least a head.
    pub(super) fn new(planned: &'p PlannedTensor<'p>, chunk_bytes: u64) -> Result<Self> {
        let (heads, step_bytes) = match &planned.data {
            // These are small, and made already.
            Data::Generated(_) => (None, source_bytes(&planned.data).max(1)),
            Data::Source { tensor, interleave_heads } => {
                let heads = interleave_heads.map(|heads| Heads::new(tensor, heads)).transpose()?;
                let unit = heads.as_ref().map_or(4, |heads| heads.block_bytes);
                // A whole number of units, so that a chunk never cuts an element or a head.
                (heads, (chunk_bytes / unit).max(1) * unit)
            }
        };
        Ok(Self { planned, heads, step_bytes })
    }

    pub(super) fn count(&self) -> u64 {
        source_bytes(&self.planned.data).div_ceil(self.step_bytes)
    }

    /// The chunk that holds byte `position` of the tensor's data in the file, and where that chunk begins there.
    pub(super) fn locate(&self, position: u64) -> (u64, u64) {
        let from = match &self.planned.data {
            Data::Generated(_) => 4,
            // The plan has refused types without a size.
            Data::Source { tensor, .. } => tensor.dtype().size_bytes().unwrap_or(4),
        };
        let chunk_bytes = self.step_bytes / from * self.planned.spec.ggml_type.type_size;
        let index = position / chunk_bytes;
        (index, index * chunk_bytes)
    }

    /// Makes chunk `index`.
    ///
    /// # Errors
    /// `Io`, with the file's name.
    pub(super) fn read(&self, index: u64) -> Result<Vec<u8>> {
        let ggml_type = self.planned.spec.ggml_type;
        match &self.planned.data {
            Data::Generated(values) => encode(values, ggml_type),
            Data::Source { tensor, .. } => {
                let mut bytes = tensor.read(self.source_range(index))?;
                if let Some(heads) = &self.heads {
                    bytes = heads.interleave(&bytes);
                }
                convert(bytes, tensor.dtype(), ggml_type)
            }
        }
    }

    fn source_range(&self, index: u64) -> std::ops::Range<u64> {
        let start = index * self.step_bytes;
        start..(start + self.step_bytes).min(source_bytes(&self.planned.data))
    }
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
