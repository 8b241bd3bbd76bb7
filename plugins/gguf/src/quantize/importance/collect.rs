//! Makes an importance matrix: the model reads a text, and what is multiplied with its matrices is summed up.

use super::{ImportanceMatrix, Sums};
use crate::engine::context::{Engine, EvalCallback};
use crate::engine::options::Settings;
use crate::engine::source::Source;
use crate::engine::vocab::Vocab;
use llama_cpp_sys_2 as sys;
use pajamas_plugin_api::{CancelToken, Error, LoadRequest, Progress, Result};
use std::any::Any;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_void};
use std::io::Read;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;

/// Tokens that are read with one context, as llama.cpp's tool does by default.
const CHUNK_TOKENS: usize = 512;
/// Rows of fewer tokens are no part of a prompt.
const ROWS_MIN: i64 = 16;
/// The largest text that is read.
const TEXT_BYTES_MAX: u64 = 1 << 30;

/// Reads the text in the file `text` with the model at `model`, at most `tokens_max` tokens of it.
///
/// # Errors
/// `InvalidRequest` for a text that is too short or no text; those of loading a model; `Cancelled`.
pub(in crate::quantize) fn collect(
    model: &Path,
    text: &Path,
    tokens_max: usize,
    pre_tokenizer: Option<&str>,
    threads: u32,
    progress: &Progress,
    cancel: &CancelToken,
) -> Result<ImportanceMatrix> {
    let content = read_text(text)?;
    let mut request = LoadRequest::new(model);
    request.context_length = Some(CHUNK_TOKENS as u32);
    request.threads = Some(threads);
    let settings = Settings::new(&request)?;
    let handle = Arc::new(Source::open(model)?.with_pre_tokenizer(pre_tokenizer).load(&settings, progress, cancel)?);
    let vocab = Vocab::new(Arc::clone(&handle))?;
    let mut tokens = vocab.tokenize(&content, true, false)?;
    drop(content);
    tokens.truncate(tokens_max);
    let chunks = tokens.len() / CHUNK_TOKENS;
    if chunks == 0 {
        return Err(Error::invalid_request(format!(
            "`{}` gives {} tokens, an importance matrix takes at least {CHUNK_TOKENS}",
            text.display(),
            tokens.len()
        ))
        .with_hint("use a longer text; some hundred thousand tokens are usual"));
    }
    // Owned by nobody but a pointer while llama.cpp may write to it.
    let collector: *mut Collector = Box::into_raw(Box::default());
    let callback = EvalCallback { function: on_eval, data: collector.cast() };
    let read = Engine::new(handle, &settings, CHUNK_TOKENS as u32, vocab.count(), Some(callback)).and_then(
        |(mut engine, _)| {
            for (index, chunk) in tokens.chunks_exact(CHUNK_TOKENS).enumerate() {
                progress.report("calibrating", index as f32 / chunks as f32, "");
                read_chunk(&mut engine, chunk, vocab.bos_to_add(), cancel)?;
                // SAFETY: no decoding is going on, so nobody else uses it.
                if unsafe { (*collector).panic.is_some() } {
                    break;
                }
            }
            Ok(())
        },
    );
    // SAFETY: made above; the context that knew it is gone.
    let mut collector: Collector = *unsafe { Box::from_raw(collector) };
    // A panic is what made the rest fail.
    if let Some(payload) = collector.panic.take() {
        resume_unwind(payload);
    }
    read?;
    progress.report("calibrating", 1.0, "");
    let dataset = text.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(ImportanceMatrix {
        datasets: vec![dataset],
        chunk_count: chunks as u32,
        chunk_tokens: CHUNK_TOKENS as u32,
        ..ImportanceMatrix::new(collector.sums)?
    })
}

fn read_text(path: &Path) -> Result<String> {
    if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(Error::invalid_request(format!("`{}` is not a regular file", path.display())));
    }
    let file = std::fs::File::open(path).map_err(|error| Error::io("opening", path, &error))?;
    let mut bytes = Vec::new();
    file.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| Error::io("reading", path, &error))?;
    if bytes.len() as u64 > TEXT_BYTES_MAX {
        return Err(Error::invalid_request(format!("`{}` is larger than {TEXT_BYTES_MAX} bytes", path.display())));
    }
    String::from_utf8(bytes).map_err(|_| Error::invalid_request(format!("`{}` is not UTF-8 text", path.display())))
}

/// Reads one chunk from an empty context, its first token replaced by the one that texts begin with.
fn read_chunk(engine: &mut Engine, chunk: &[u32], bos: Option<u32>, cancel: &CancelToken) -> Result<()> {
    let mut chunk = chunk.to_vec();
    if let Some(bos) = bos {
        chunk[0] = bos;
    }
    // Where nobody asks for a token's logits, llama.cpp leaves it out of the last layer.
    engine.rows(&chunk, 0, &mut |_, _| ControlFlow::Continue(()), cancel)
}

#[derive(Default)]
struct Collector {
    sums: BTreeMap<String, Sums>,
    /// Scratch for activations that lie in a device's memory.
    bytes: Vec<u8>,
    panic: Option<Box<dyn Any + Send>>,
}

unsafe extern "C" fn on_eval(tensor: *mut sys::ggml_tensor, ask: bool, collector: *mut c_void) -> bool {
    // SAFETY: `collect` passes its collector, which outlives the context, and one thread at a time evaluates; llama.cpp
    // passes a node of its graph.
    let (collector, node) = unsafe { (&mut *collector.cast::<Collector>(), &*tensor) };
    let result = catch_unwind(AssertUnwindSafe(|| match (ask, Product::of(node)) {
        (true, product) => product.is_some(),
        (false, Some(product)) => {
            collector.add(&product);
            true
        }
        (false, None) => true,
    }));
    result.unwrap_or_else(|payload| {
        collector.panic = Some(payload);
        false
    })
}

/// A node that multiplies one of the model's matrices with activations.
struct Product<'a> {
    weights: &'a sys::ggml_tensor,
    activations: &'a sys::ggml_tensor,
    /// The experts that each token's activations go to.
    experts: Option<&'a sys::ggml_tensor>,
}

impl<'a> Product<'a> {
    fn of(node: &'a sys::ggml_tensor) -> Option<Self> {
        // SAFETY: llama.cpp's nodes point to nodes of the same graph, or nowhere.
        let source = |index: usize| unsafe { node.src[index].as_ref() };
        let by_expert = node.op == sys::GGML_OP_MUL_MAT_ID;
        if !by_expert && node.op != sys::GGML_OP_MUL_MAT {
            return None;
        }
        let (weights, activations) = (source(0)?, source(1)?);
        let wanted = by_expert || (activations.ne[1] >= ROWS_MIN && tensor_name(weights).starts_with("blk."));
        (wanted && activations.type_ == sys::GGML_TYPE_F32).then_some(())?;
        let experts = if by_expert { Some(source(2)?) } else { None };
        Some(Self { weights, activations, experts })
    }
}

/// The name without what schedulers put around it: `CUDA0#blk.0.attn_k.weight#0`.
fn tensor_name(tensor: &sys::ggml_tensor) -> String {
    // SAFETY: ggml ends names with a NUL inside the array.
    let name = unsafe { CStr::from_ptr(tensor.name.as_ptr()) }.to_string_lossy();
    let mut parts = name.split('#');
    let first = parts.next().unwrap_or_default();
    parts.next().unwrap_or(first).to_owned()
}

impl Collector {
    fn add(&mut self, product: &Product<'_>) {
        let name = tensor_name(product.weights);
        match product.experts {
            Some(experts) => self.add_by_expert(name, product, experts),
            None => self.add_all(name, product),
        }
    }

    fn add_all(&mut self, name: String, product: &Product<'_>) {
        let (weights, activations) = (product.weights, product.activations);
        let Self { sums, bytes, .. } = self;
        let values = Activations::new(activations, bytes);
        let columns = activations.ne[0] as usize;
        let matrices = (weights.ne[2] * weights.ne[3]).max(1);
        let entry = sums.entry(name).or_default();
        entry.squares.resize(columns * matrices as usize, 0.0);
        entry.counts.resize(1, 0);
        for outer in 0..activations.ne[3] {
            for middle in 0..activations.ne[2] {
                let matrix = (outer % weights.ne[3]) * weights.ne[2] + middle % weights.ne[2];
                let into = &mut entry.squares[matrix as usize * columns..][..columns];
                for row in 0..activations.ne[1] {
                    add_squares(into, values.row([row, middle, outer]));
                }
            }
        }
        let rows = activations.ne[1] * activations.ne[2] * activations.ne[3];
        entry.counts[0] += (rows / matrices).unsigned_abs();
    }

    fn add_by_expert(&mut self, name: String, product: &Product<'_>, experts: &sys::ggml_tensor) {
        let activations = product.activations;
        let (columns, count) = (activations.ne[0] as usize, product.weights.ne[2] as usize);
        let chosen = experts_of(experts);
        let Self { sums, bytes, .. } = self;
        let values = Activations::new(activations, bytes);
        let entry = sums.entry(name).or_default();
        entry.squares.resize(columns * count, 0.0);
        entry.counts.resize(count, 0);
        for (token, experts) in chosen.iter().enumerate() {
            for (index, expert) in experts.iter().enumerate() {
                let row = values.row([index as i64 % activations.ne[1], token as i64, 0]);
                add_squares(&mut entry.squares[*expert * columns..][..columns], row);
                entry.counts[*expert] += 1;
            }
        }
    }
}

fn add_squares(into: &mut [f32], row: &[f32]) {
    into.iter_mut().zip(row).for_each(|(sum, value)| *sum += value * value);
}

/// For each token the experts that it goes through.
fn experts_of(tensor: &sys::ggml_tensor) -> Vec<Vec<usize>> {
    let mut bytes = Vec::new();
    // Not contiguous: there are more experts than are chosen.
    copy_bytes(tensor, &mut bytes);
    let expert = |token: i64, index: i64| {
        let at = token as usize * tensor.nb[1] + index as usize * tensor.nb[0];
        i32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap_or_default()) as usize
    };
    (0..tensor.ne[1]).map(|token| (0..tensor.ne[0]).map(|index| expert(token, index)).collect()).collect()
}

fn copy_bytes(tensor: &sys::ggml_tensor, into: &mut Vec<u8>) {
    // SAFETY: the node is computed; this only reads its sizes.
    let size = unsafe { sys::ggml_nbytes(tensor) };
    into.resize(size, 0);
    // SAFETY: as above, and the buffer has as many bytes as the tensor.
    unsafe { sys::ggml_backend_tensor_get(tensor, into.as_mut_ptr().cast(), 0, size) };
}

/// Activations in this computer's memory.
struct Activations<'a> {
    tensor: &'a sys::ggml_tensor,
    base: *const u8,
}

impl<'a> Activations<'a> {
    fn new(tensor: &'a sys::ggml_tensor, scratch: &'a mut Vec<u8>) -> Self {
        // SAFETY: the node is computed, so that it has a buffer.
        let is_here = unsafe { sys::ggml_backend_buffer_is_host(tensor.buffer) };
        let base = if is_here {
            tensor.data.cast::<u8>().cast_const()
        } else {
            copy_bytes(tensor, scratch);
            scratch.as_ptr()
        };
        Self { tensor, base }
    }

    /// The row at these indices of the tensor's dimensions behind the first.
    fn row(&self, [a, b, c]: [i64; 3]) -> &[f32] {
        let nb = &self.tensor.nb;
        assert!(nb[0] == 4 && [a, b, c].iter().zip(&self.tensor.ne[1..]).all(|(index, size)| index < size));
        let offset = a as usize * nb[1] + b as usize * nb[2] + c as usize * nb[3];
        // SAFETY: the indices were checked, the row's elements are adjacent floats, and rows begin at multiples of their
        // size in ggml's buffers.
        unsafe { std::slice::from_raw_parts(self.base.add(offset).cast(), self.tensor.ne[0] as usize) }
    }
}
