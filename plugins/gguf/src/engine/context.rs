//! The engine of one model: its context, the slots of its KV cache, and the decoding of batches, cancellable within one.

use super::handle::{ContextHandle, ModelHandle};
use super::{log, memory, options::Settings};
use llama_cpp_sys_2 as sys;
use pajamas_plugin_api::Slots;
use pajamas_plugin_api::{CancelToken, Error, ErrorKind, LogLevel, Result};
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

/// The rows of logits that one batch may ask for are bounded by this size, because llama.cpp keeps room for all.
const LOGITS_BYTES_MAX: u64 = 64 << 20;

/// A context with its bookkeeping. One caller at a time uses it.
pub(crate) struct Engine {
    // Dropped in this order: the context reads the abort flag and the model.
    context: ContextHandle,
    abort: Arc<AbortFlag>,
    _model: Arc<ModelHandle>,
    pub(super) slots: Slots,
    batch: Batch,
    vocabulary_size: usize,
    /// Tokens that one decoding call takes.
    pub(super) batch_tokens_max: usize,
    /// Rows of logits that one decoding call gives.
    pub(super) rows_max: usize,
}

/// What is decoded of one slot: the tokens behind those that it holds.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) slot: usize,
    pub(super) tokens: &'a [u32],
    pub(super) rows: Rows,
}

/// Which rows of logits a batch is to give.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Rows {
    None,
    Last,
    All,
}

/// What llama.cpp calls for every node of its graph.
#[derive(Clone, Copy)]
pub(crate) struct EvalCallback {
    pub(crate) function: unsafe extern "C" fn(*mut sys::ggml_tensor, bool, *mut c_void) -> bool,
    /// Valid as long as the engine.
    pub(crate) data: *mut c_void,
}

impl Engine {
    /// A context for `context_length` tokens in each of the settings' slots, and what llama.cpp logged about it.
    ///
    /// # Errors
    /// `OutOfMemory`, `Unsupported` (an embedding model, cache types that do not go together).
    pub(crate) fn new(
        model: Arc<ModelHandle>,
        settings: &Settings,
        context_length: u32,
        vocabulary_size: u32,
        on_eval: Option<EvalCallback>,
    ) -> Result<(Self, Vec<(LogLevel, String)>)> {
        let kv_bytes = memory::kv_cache_bytes(&model, settings, context_length);
        let out_of_memory = || memory::out_of_memory(kv_bytes, context_length, settings);
        memory::check_forecast(kv_bytes, context_length, settings)?;
        let abort = Arc::new(AbortFlag::default());
        let mut parameters = context_parameters(settings, context_length, vocabulary_size);
        let rows_max = parameters.n_outputs_max;
        parameters.abort_callback = Some(on_abort_poll);
        parameters.abort_callback_data = Arc::as_ptr(&abort).cast_mut().cast();
        if let Some(on_eval) = on_eval {
            parameters.cb_eval = Some(on_eval.function);
            parameters.cb_eval_user_data = on_eval.data;
        }
        // SAFETY: `Engine` drops the context before the abort flag and the model; on errors below, so do the locals'
        // scopes, because the context is the inner one.
        let (context, lines) = unsafe { ContextHandle::new(&model, parameters) };
        let Some(context) = context else {
            return Err(refusal(&lines, out_of_memory));
        };
        // SAFETY: the context is valid; these only read.
        let (memory, length, batch) = unsafe {
            let pointer = context.as_ptr();
            (sys::llama_get_memory(pointer), sys::llama_n_ctx_seq(pointer), sys::llama_n_batch(pointer))
        };
        if memory.is_null() {
            return Err(Error::unsupported("the model keeps no context: it makes embeddings and cannot generate"));
        }
        if length < context_length {
            return Err(Error::unsupported(format!(
                "llama.cpp made a context of {length} tokens where {context_length} were asked for"
            )));
        }
        let engine = Self {
            context,
            abort,
            _model: model,
            slots: Slots::new(settings.slots as usize),
            batch: Batch::default(),
            vocabulary_size: vocabulary_size as usize,
            batch_tokens_max: batch.max(1) as usize,
            rows_max: rows_max.min(batch.max(1)) as usize,
        };
        Ok((engine, lines))
    }

    /// Makes every decoding stop when `cancel` says so, until the guard is dropped.
    pub(super) fn watch(&self, cancel: CancelToken) -> AbortGuard {
        self.abort.set(Some(cancel));
        AbortGuard(Arc::clone(&self.abort))
    }

    /// Puts `session` into a slot that holds nothing but a prefix of `prompt`; gives the slot and the prefix's length.
    /// None where no slot that is `free` is for the session.
    pub(super) fn take_slot(
        &mut self,
        session: Option<u64>,
        prompt: &[u32],
        free: &dyn Fn(usize) -> bool,
    ) -> Option<(usize, usize)> {
        let (slot, keep) = self.slots.assign_free(session, free)?;
        let mut cached = if keep { self.slots.common_prefix(slot, prompt) } else { 0 };
        // SAFETY: the context is valid, the slot is one of its sequences; this only reads.
        let oldest = unsafe { sys::llama_memory_seq_pos_min(self.memory(), sequence(slot)) };
        if oldest > 0 {
            // A sliding window has dropped the beginning, so what follows it cannot be computed from the rest.
            cached = 0;
        }
        let cached = self.truncate(slot, cached);
        Some((slot, cached))
    }

    /// Decodes `tokens` at the end of `slot`. At most `batch_tokens_max` of them, and `rows_max` with `Rows::All`.
    ///
    /// # Errors
    /// `Cancelled`, `OutOfMemory`, `Other`. The slot then holds what it held before, or nothing.
    pub(super) fn decode(&mut self, slot: usize, tokens: &[u32], rows: Rows) -> Result<()> {
        self.decode_together(&[Part { slot, tokens, rows }])
    }

    /// As [`Self::decode`], for several slots at a time; the limits are for all of them together.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub(super) fn decode_together(&mut self, parts: &[Part<'_>]) -> Result<()> {
        let held: Vec<usize> = parts.iter().map(|part| self.slots.tokens(part.slot).len()).collect();
        let batch = self.batch.fill(parts, &held);
        debug_assert!(batch.n_tokens as usize <= self.batch_tokens_max);
        if batch.n_tokens == 0 {
            return Ok(());
        }
        let context = self.context.as_ptr();
        // SAFETY: the batch's arrays have `n_tokens` entries and live in `self.batch` during the call; the ids were
        // checked against the vocabulary, and `&mut self` keeps everybody else out of the context.
        let (status, lines) = log::capture(|| unsafe { sys::llama_decode(context, batch) });
        if status == 0 {
            parts.iter().for_each(|part| self.slots.extend(part.slot, part.tokens));
            return Ok(());
        }
        // Some of the batch may be in the cache. What cannot be taken out again goes with the whole slot.
        for (part, held) in parts.iter().zip(held) {
            self.truncate(part.slot, held);
        }
        let mut error = match status {
            2 => return Err(Error::cancelled()),
            1 => Error::new(ErrorKind::ContextOverflow, "llama.cpp found no room in the KV cache"),
            -2 => Error::new(ErrorKind::OutOfMemory, "llama.cpp could not allocate memory to decode a batch"),
            _ if log::speaks_of_memory(&lines) => {
                Error::new(ErrorKind::OutOfMemory, "memory ran out while llama.cpp decoded a batch")
            }
            _ => Error::other(format!("llama.cpp failed to decode a batch (status {status})")),
        };
        error.causes = log::reasons(&lines);
        Err(error)
    }

    /// The logits after token `index` of the last batch, for which they were asked.
    ///
    /// # Errors
    /// `Other` when llama.cpp has none.
    pub(super) fn logits(&self, index: usize) -> Result<&[f32]> {
        let index = i32::try_from(index).map_err(|_| Error::other("a batch has fewer tokens than that"))?;
        // SAFETY: the context is valid and nobody else is in it.
        let row = unsafe { sys::llama_get_logits_ith(self.context.as_ptr(), index) };
        if row.is_null() {
            return Err(Error::other("llama.cpp computed no logits"));
        }
        // SAFETY: a row has one value per token of the vocabulary; it stays until the next decoding, which takes
        // `&mut self`.
        Ok(unsafe { std::slice::from_raw_parts(row, self.vocabulary_size) })
    }

    /// Leaves the first `length` tokens in `slot`, or none where the model's memory cannot be cut. Gives what is left.
    pub(super) fn truncate(&mut self, slot: usize, length: usize) -> usize {
        let from = i32::try_from(length).unwrap_or(i32::MAX);
        // SAFETY: the context is valid, the slot is one of its sequences, and nobody else is in the context.
        let cut = unsafe { sys::llama_memory_seq_rm(self.memory(), sequence(slot), from, -1) };
        let left = if cut { length } else { 0 };
        if !cut {
            // SAFETY: as above; removing a whole sequence never fails.
            unsafe { sys::llama_memory_seq_rm(self.memory(), sequence(slot), -1, -1) };
        }
        self.slots.truncate(slot, left);
        left
    }

    /// Forgets every slot: for when somebody panicked and nobody knows what the cache holds.
    pub(crate) fn forget(&mut self) {
        self.abort.set(None);
        self.slots.clear();
        // SAFETY: the context is valid and nobody else is in it.
        unsafe { sys::llama_memory_clear(self.memory(), false) };
    }

    fn memory(&self) -> sys::llama_memory_t {
        // SAFETY: the context is valid; it was seen to have a memory when it was made.
        unsafe { sys::llama_get_memory(self.context.as_ptr()) }
    }
}

/// What llama.cpp is told about a context for `context_length` tokens in each of the settings' slots; no callbacks.
pub(super) fn context_parameters(
    settings: &Settings,
    context_length: u32,
    vocabulary_size: u32,
) -> sys::llama_context_params {
    let rows_max = u32::try_from(LOGITS_BYTES_MAX / (4 * u64::from(vocabulary_size.max(1)))).unwrap_or(u32::MAX);
    // SAFETY: gives a plain value.
    let mut parameters = unsafe { sys::llama_context_default_params() };
    parameters.n_ctx = context_length.next_multiple_of(256) * settings.slots;
    parameters.n_batch = settings.batch_size;
    parameters.n_ubatch = settings.ubatch_size.min(settings.batch_size);
    parameters.n_seq_max = settings.slots;
    parameters.n_outputs_max = rows_max.clamp(8, settings.batch_size.max(8)).max(settings.slots);
    parameters.n_threads = settings.threads;
    parameters.n_threads_batch = settings.threads;
    parameters.flash_attn_type = settings.flash_attention;
    parameters.type_k = settings.cache_type_k.ggml;
    parameters.type_v = settings.cache_type_v.ggml;
    parameters
}

/// Why llama.cpp made no context, from what it logged.
pub(super) fn refusal(lines: &[(LogLevel, String)], out_of_memory: impl FnOnce() -> Error) -> Error {
    let mut error = if log::speaks_of_memory(lines) {
        out_of_memory()
    } else {
        Error::unsupported("llama.cpp could not make a context with these options")
    };
    error.causes = log::reasons(lines);
    error
}

fn sequence(slot: usize) -> sys::llama_seq_id {
    i32::try_from(slot).expect("there are at most 256 slots")
}

/// The arrays that a `llama_batch` points to, kept between calls.
#[derive(Default)]
struct Batch {
    tokens: Vec<sys::llama_token>,
    positions: Vec<sys::llama_pos>,
    sequence_counts: Vec<i32>,
    /// One for each part.
    ids: Vec<sys::llama_seq_id>,
    sequences: Vec<*mut sys::llama_seq_id>,
    outputs: Vec<i8>,
}

// SAFETY: the pointers in `sequences` point into `ids`, whose elements stay where they are when both are moved.
unsafe impl Send for Batch {}

impl Batch {
    /// A batch of `parts`, each behind the `held` tokens of its slot, valid until the next call.
    fn fill(&mut self, parts: &[Part<'_>], held: &[usize]) -> sys::llama_batch {
        self.ids.clear();
        self.ids.extend(parts.iter().map(|part| sequence(part.slot)));
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.outputs.clear();
        for ((part, held), id) in parts.iter().zip(held).zip(&mut self.ids) {
            let count = part.tokens.len();
            self.tokens.extend(part.tokens.iter().map(|id| id.cast_signed()));
            self.positions.extend((*held..held + count).map(|position| i32::try_from(position).unwrap_or(i32::MAX)));
            self.sequences.resize(self.sequences.len() + count, &raw mut *id);
            self.outputs.resize(self.outputs.len() + count, i8::from(part.rows == Rows::All));
            if let (Rows::Last, 1.., Some(last)) = (part.rows, count, self.outputs.last_mut()) {
                *last = 1;
            }
        }
        let count = self.tokens.len();
        self.sequence_counts.clear();
        self.sequence_counts.resize(count, 1);
        sys::llama_batch {
            n_tokens: i32::try_from(count).expect("a batch has at most 65536 tokens"),
            token: self.tokens.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: self.positions.as_mut_ptr(),
            n_seq_id: self.sequence_counts.as_mut_ptr(),
            seq_id: self.sequences.as_mut_ptr(),
            logits: self.outputs.as_mut_ptr(),
        }
    }
}

/// Whose cancellation the context's abort callback asks for.
#[derive(Default)]
struct AbortFlag(Mutex<Option<CancelToken>>);

impl AbortFlag {
    fn set(&self, cancel: Option<CancelToken>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = cancel;
    }

    fn is_cancelled(&self) -> bool {
        let cancel = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        cancel.is_some_and(|cancel| cancel.is_cancelled())
    }
}

/// Ends the watching of a cancellation token.
pub(super) struct AbortGuard(Arc<AbortFlag>);

impl Drop for AbortGuard {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

unsafe extern "C" fn on_abort_poll(flag: *mut c_void) -> bool {
    // SAFETY: the context was made with its engine's flag, which outlives it; the flag may be read from any thread.
    let flag = unsafe { &*flag.cast::<AbortFlag>() };
    catch_unwind(AssertUnwindSafe(|| flag.is_cancelled())).unwrap_or(true)
}
