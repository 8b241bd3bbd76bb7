//! The engine's thread: MLX ties what is not yet computed to the thread that asked for it, so one thread does it all and
//! callers talk to it through channels. First come, first served.

use super::architecture::Architecture;
use super::cache::Cache;
use super::generate::{Answer, Generator};
use super::network::Network;
use super::pool;
use super::weights::Weights;
use pajamas_plugin_api::{CancelToken, Error, ErrorKind, Result, Slots, TokenSink};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often a waiting caller asks whether it is cancelled.
const CANCEL_POLL: Duration = Duration::from_millis(20);

/// What the engine tells a caller, in order. After the last one the channel closes.
pub(crate) enum Step {
    /// So many of the prompt's tokens were in the session's cache.
    Started { cached: usize },
    /// So many of the prompt's tokens are done.
    Prompt { done: usize },
    /// A token was chosen.
    Token { id: u32, logprob: Option<f32>, top: Vec<(u32, f32)> },
    /// There is no room for another token.
    ContextFull,
    /// Rows of logits, the first for position `first`.
    Rows { first: usize, values: Vec<f32> },
    /// It failed.
    Failed(Error),
}

/// The engine's end of a conversation with a caller.
pub(crate) struct Caller {
    steps: SyncSender<Step>,
    go_on: Receiver<()>,
    gone: Arc<AtomicBool>,
}

impl Caller {
    /// Tells `step`; false if nobody listens any more.
    pub(crate) fn tell(&self, step: Step) -> bool {
        !self.gone.load(Ordering::Relaxed) && self.steps.send(step).is_ok()
    }

    /// The same, then waits for the caller to want more.
    pub(crate) fn tell_and_wait(&self, step: Step) -> bool {
        self.tell(step) && self.go_on.recv().is_ok()
    }
}

/// The caller's end. Dropping it ends the engine's work for it.
struct Conversation {
    steps: Receiver<Step>,
    go_on: Sender<()>,
    gone: Arc<AtomicBool>,
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

impl Conversation {
    fn new() -> (Self, Caller) {
        // Room for one step, so that telling progress does not wait for the caller.
        let (to_caller, steps) = mpsc::sync_channel(1);
        let (go_on, from_caller) = mpsc::channel();
        let gone = Arc::new(AtomicBool::new(false));
        let caller = Caller { steps: to_caller, go_on: from_caller, gone: Arc::clone(&gone) };
        (Self { steps, go_on, gone }, caller)
    }

    /// The next step; none after the last one.
    fn next(&self, cancelled: &dyn Fn() -> bool) -> Result<Option<Step>> {
        loop {
            if cancelled() {
                return Err(Error::cancelled());
            }
            match self.steps.recv_timeout(CANCEL_POLL) {
                Ok(Step::Failed(error)) => return Err(error),
                Ok(step) => return Ok(Some(step)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => (),
            }
        }
    }
}

enum Work {
    Answer(Answer),
    Rows { tokens: Vec<u32>, first_row: usize },
}

/// A loaded model's thread. Dropping it waits for the thread to be done with it, and with that frees the model.
pub(crate) struct Engine {
    work: Mutex<Option<Sender<(Work, Caller)>>>,
    running: Option<pool::Running>,
    kv_cache_bytes: Arc<AtomicU64>,
}

impl Engine {
    /// Starts the thread and builds the network on it.
    ///
    /// # Errors
    /// Those of [`Network::new`].
    pub(crate) fn start(
        architecture: Architecture,
        weights: Weights,
        context_length: u32,
        slots: usize,
        prefill_step: usize,
    ) -> Result<Self> {
        let (work, requests) = mpsc::channel::<(Work, Caller)>();
        let (ready, started) = mpsc::channel();
        let kv_cache_bytes = Arc::new(AtomicU64::new(0));
        let shared_bytes = Arc::clone(&kv_cache_bytes);
        let run = move || {
            let build = || {
                Ok(Generator {
                    network: Network::new(&architecture, weights)?,
                    vocabulary_size: usize::try_from(architecture.vocabulary_size).unwrap_or_default(),
                    context_length: context_length as usize,
                    prefill_step: prefill_step.max(1),
                    slots: Slots::new(slots),
                    caches: (0..slots.max(1)).map(|_| Cache::new(architecture.layers)).collect(),
                })
            };
            let mut generator = match guarded(build) {
                Ok(generator) => generator,
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            // Who started the thread waits for this.
            let _ = ready.send(Ok(()));
            for (work, caller) in requests {
                // Whoever gave up while waiting must not cost another session its cache.
                if caller.gone.load(Ordering::Relaxed) {
                    continue;
                }
                let outcome = guarded(|| match &work {
                    Work::Answer(answer) => generator.answer(answer, &caller),
                    Work::Rows { tokens, first_row } => generator.rows(tokens, *first_row, &caller),
                });
                if let Err(error) = outcome {
                    if error.kind == ErrorKind::Panic {
                        generator.forget_all();
                    }
                    caller.tell(Step::Failed(error));
                }
                shared_bytes.store(generator.kv_cache_bytes(), Ordering::Relaxed);
            }
            drop(generator);
            // What cannot be given back now is used again by the next model.
            let _ = mlx_rs::memory::clear_cache();
        };
        let running = pool::run(run).map_err(|error| Error::other(format!("no thread for MLX: {error}")))?;
        let engine = Self { work: Mutex::new(Some(work)), running: Some(running), kv_cache_bytes };
        match started.recv() {
            Ok(outcome) => outcome.map(|()| engine),
            Err(_) => Err(Error::other("MLX's thread ended while the model was loaded")),
        }
    }

    /// Bytes of keys and values after the last request.
    pub(crate) fn kv_cache_bytes(&self) -> u64 {
        self.kv_cache_bytes.load(Ordering::Relaxed)
    }

    /// Generates, handing every token with its bytes to `sink`. Blocks until done.
    pub(crate) fn answer(
        &self,
        answer: Answer,
        sink: &mut TokenSink<'_>,
        bytes: impl Fn(u32) -> Vec<u8>,
    ) -> Result<()> {
        let total = count(answer.prompt.len());
        let conversation = self.begin(Work::Answer(answer))?;
        loop {
            let step = {
                let sink = &*sink;
                conversation.next(&|| sink.is_cancelled())?
            };
            match step {
                None => return Ok(()),
                Some(Step::Started { cached }) => sink.prompt_started(total, count(cached)),
                Some(Step::Prompt { done }) => sink.prompt_progress(count(done)),
                Some(Step::Token { id, logprob, top }) => {
                    let mut token = pajamas_plugin_api::Token::new(id, bytes(id));
                    (token.logprob, token.top) = (logprob, top);
                    if sink.token(token).is_break() {
                        return Ok(());
                    }
                    // An engine that is gone says so at the next step.
                    let _ = conversation.go_on.send(());
                }
                Some(Step::ContextFull) => sink.context_full(),
                Some(Step::Rows { .. } | Step::Failed(_)) => (),
            }
        }
    }

    /// Gives the logits after each of `tokens` from `first_row` on. Blocks until done.
    pub(crate) fn rows(
        &self,
        tokens: &[u32],
        first_row: usize,
        vocabulary_size: usize,
        rows: &mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>,
        cancel: &CancelToken,
    ) -> Result<()> {
        let conversation = self.begin(Work::Rows { tokens: tokens.to_vec(), first_row })?;
        while let Some(step) = conversation.next(&|| cancel.is_cancelled())? {
            if let Step::Rows { first, values } = step {
                for (index, row) in values.chunks_exact(vocabulary_size).enumerate() {
                    if rows(first + index, row).is_break() {
                        return Ok(());
                    }
                }
                let _ = conversation.go_on.send(());
            }
            cancel.check()?;
        }
        Ok(())
    }

    fn begin(&self, work: Work) -> Result<Conversation> {
        let (conversation, caller) = Conversation::new();
        let sender = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = sender.as_ref().is_some_and(|sender| sender.send((work, caller)).is_ok());
        if sent { Ok(conversation) } else { Err(Error::other("MLX's thread has ended")) }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        *self.work.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // Waits, after the channel above was closed.
        drop(self.running.take());
    }
}

fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Error::new(ErrorKind::Panic, format!("MLX's thread panicked: {}", text.unwrap_or("without a message"))))
    })
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}
