//! What a plugin author implements: [`Backend`], [`Model`], and, for backends that make models, [`Quantizer`].
//!
//! Five methods are required; everything else has a default. All of it is plain Rust: the adapter that
//! [`export_plugin!`](crate::export_plugin) writes carries it across the binary interface, guards every crossing
//! against panics, and owns the text (see [`TokenSink`]).

use crate::{
    Availability, CancelToken, Capabilities, Error, GenerateRequest, LoadRequest, MemoryUsage, ModelInfo, Progress,
    QuantizeJob, QuantizeReport, Recipe, Result, TokenSink,
};
use std::ops::ControlFlow;

/// A backend: one engine on one kind of hardware.
///
/// Made once per process, by the constructor named in `export_plugin!`, and never dropped. Every method may be
/// called from any thread, several at a time.
pub trait Backend: Send + Sync + 'static {
    /// Whether this backend can work on this machine, with the devices it found or the reason and the remedy.
    ///
    /// Called in a worker process. It should return within 100 ms, must not initialise a device beyond what listing
    /// needs, and must answer honestly without the hardware or driver.
    fn is_available(&self) -> Availability;

    /// What this backend can do, and which options it takes. The same on every call and on every machine.
    fn capabilities(&self) -> Capabilities;

    /// Loads the model at `request.path`.
    ///
    /// The adapter has checked `request.options` against [`Capabilities::options`]: unknown keys and values of the
    /// wrong type never arrive. Report progress in `0.0..=1.0`; poll `cancel` at least every 100 ms of work.
    ///
    /// # Errors
    /// [`ErrorKind`](crate::ErrorKind) decides what the host tries next, so tell `OutOfMemory` and `InvalidModel` apart.
    fn load_model(&self, request: &LoadRequest, progress: &Progress, cancel: &CancelToken) -> Result<Box<dyn Model>>;

    /// The quantizer that comes with this backend. It works without the backend's device.
    fn quantizer(&self) -> Option<&dyn Quantizer> {
        None
    }
}

/// A loaded model. Dropping it unloads it and gives its memory back.
///
/// Every method may be called from any thread, several at a time; an engine that cannot do that queues inside.
pub trait Model: Send + Sync {
    /// Architecture, context, vocabulary, special tokens, chat template. The same on every call.
    fn info(&self) -> ModelInfo;

    /// Processes the prompt and generates, handing each token to `sink` until it says [`ControlFlow::Break`] or the
    /// model ends its turn (then return: the adapter knows the end-of-generation tokens from [`Model::info`]).
    ///
    /// Blocks its caller until done. The sink and the request live until it returns. Poll `sink.is_cancelled()`
    /// while the prompt is processed; between tokens the sink's answer says it too.
    ///
    /// # Errors
    /// `ContextOverflow` when the prompt does not fit: never truncate. A full context during generation is no
    /// error: call [`TokenSink::context_full`] and return.
    fn generate(&self, request: &GenerateRequest, sink: &mut TokenSink<'_>) -> Result<()>;

    /// Token ids of `text`. `add_special` adds what the model wants around a text (BOS); `parse_special` lets the
    /// text contain control tokens.
    ///
    /// # Errors
    /// `Unsupported` by default.
    fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        let _ = (text, add_special, parse_special);
        Err(Error::unsupported("this backend does not tokenize"))
    }

    /// The bytes of `tokens`, control tokens included. Not always UTF-8: a token may hold half a character.
    ///
    /// # Errors
    /// `Unsupported` by default; `InvalidRequest` for an id outside the vocabulary.
    fn detokenize(&self, tokens: &[u32]) -> Result<Vec<u8>> {
        let _ = tokens;
        Err(Error::unsupported("this backend does not detokenize"))
    }

    /// The logits after each token from position `first_row` on: `rows(position, logits)` gets one row of
    /// `vocabulary_size` f32 values at a time, valid during that call only, in order of position.
    ///
    /// Rows come one by one because 512 rows of a vocabulary of 152k are 311 MB.
    ///
    /// # Errors
    /// `Unsupported` by default; `ContextOverflow` when `tokens` does not fit; `Cancelled`.
    fn logits(
        &self,
        tokens: &[u32],
        first_row: usize,
        rows: &mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>,
        cancel: &CancelToken,
    ) -> Result<()> {
        let _ = (tokens, first_row, rows, cancel);
        Err(Error::unsupported("this backend does not give logits"))
    }

    /// Memory that this model holds now, in bytes. Zeroes mean unknown.
    fn memory_usage(&self) -> MemoryUsage {
        MemoryUsage::default()
    }
}

/// Makes quantized models. Runs in a worker process: an engine that aborts ends the worker, not the host.
pub trait Quantizer: Send + Sync {
    /// Everything it can make, the default first.
    fn recipes(&self) -> Vec<Recipe>;

    /// Makes `job.output` (a path that does not exist yet) from `job.source`, using `job.scratch_dir` for whatever
    /// else it has to write. The host removes both when this fails, and gives the output its final name when not.
    ///
    /// # Errors
    /// `InvalidModel` for a damaged or unknown source, `Unsupported` for a recipe it does not make, `Io`, `Cancelled`.
    fn quantize(&self, job: &QuantizeJob, progress: &Progress, cancel: &CancelToken) -> Result<QuantizeReport>;
}
