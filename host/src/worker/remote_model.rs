//! The host's end of an isolated model: the calls of a loaded model, answered by a worker process.

use super::client::{self, Replies, Worker};
use super::protocol::{Answer, Call, Reply, Request};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::plugins::file::PluginFile;
use pajamas_plugin_api::{
    CancelToken, Event, GenerateRequest, GenerateStats, LoadRequest, MemoryUsage, ModelInfo, ProgressUpdate,
};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a cancelled call may take to return before its process is ended.
const CANCEL_GRACE: Duration = Duration::from_secs(4);

/// How often cancellation is looked at while the worker is silent.
const POLL: Duration = Duration::from_millis(50);

/// Events of a call that may be on their way: enough that the engine does not wait for a caller which keeps up.
const EVENTS_WINDOW: u32 = 256;

/// Rows of logits that may be on their way: each is large.
const ROWS_WINDOW: u32 = 8;

/// A model in a worker process. Calls from several threads run at once there, as its backend does them; dropping it ends
/// the process.
pub struct RemoteModel {
    worker: Mutex<Worker>,
    calls: Arc<Calls>,
    next_id: AtomicU64,
    info: ModelInfo,
}

impl RemoteModel {
    /// Starts a worker, which loads the plugin and, with it, the model.
    ///
    /// # Errors
    /// The plugin's, and those of a worker that crashed.
    pub fn load(
        plugin: &PluginFile,
        request: &LoadRequest,
        config: &Config,
        progress: &dyn Fn(&ProgressUpdate),
        cancel: &CancelToken,
    ) -> Result<Self> {
        let mut worker = Worker::start(config)?;
        let load = Request::Load { plugin: plugin.clone(), request: request.clone() };
        let info = ask(&mut worker, &load, cancel, &mut |reply| match reply {
            Reply::Progress(update) => {
                progress(&update);
                Step::Continue
            }
            Reply::Loaded(info) => Step::Done(*info),
            other => Step::Confused(other),
        })?;
        let calls = Arc::new(Calls::default());
        let replies = worker.take_replies();
        let of_dispatcher = Arc::clone(&calls);
        std::thread::spawn(move || dispatch(&replies, &of_dispatcher));
        Ok(Self { worker: Mutex::new(worker), calls, next_id: AtomicU64::new(1), info })
    }

    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Generates, handing each event to `on_event` until it breaks; without `on_event`, none is sent.
    ///
    /// # Errors
    /// The plugin's, and those of a worker that crashed.
    pub fn generate_stream(
        &self,
        request: &GenerateRequest,
        cancel: &CancelToken,
        mut on_event: Option<&mut dyn FnMut(Event) -> ControlFlow<()>>,
    ) -> Result<GenerateStats> {
        let call = Call::Generate { request: Box::new(request.clone()), events: on_event.is_some() };
        self.call(call, EVENTS_WINDOW, cancel, &mut |answer| match answer {
            Answer::Event(event) => match on_event.as_mut().map_or(ControlFlow::Continue(()), |f| f(event)) {
                ControlFlow::Continue(()) => Step::Continue,
                ControlFlow::Break(()) => Step::Stop,
            },
            Answer::Generated(stats) => Step::Done(stats),
            other => Step::Confused(other),
        })
    }

    /// As [`Model::tokenize`](pajamas_plugin_api::Model::tokenize).
    ///
    /// # Errors
    /// The plugin's, and those of a worker that crashed.
    pub fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        let call = Call::Tokenize { text: text.into(), add_special, parse_special };
        self.call(call, 0, &CancelToken::never(), &mut |answer| match answer {
            Answer::Tokens(tokens) => Step::Done(tokens),
            other => Step::Confused(other),
        })
    }

    /// As [`Model::detokenize`](pajamas_plugin_api::Model::detokenize).
    ///
    /// # Errors
    /// The plugin's, and those of a worker that crashed.
    pub fn detokenize(&self, tokens: &[u32]) -> Result<Vec<u8>> {
        let call = Call::Detokenize { tokens: tokens.to_vec() };
        self.call(call, 0, &CancelToken::never(), &mut |answer| match answer {
            Answer::Text(bytes) => Step::Done(bytes),
            other => Step::Confused(other),
        })
    }

    /// As [`Model::logits`](pajamas_plugin_api::Model::logits).
    ///
    /// # Errors
    /// The plugin's, and those of a worker that crashed.
    pub fn logits(
        &self,
        tokens: &[u32],
        first_row: usize,
        rows: &mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>,
        cancel: &CancelToken,
    ) -> Result<()> {
        let call = Call::Logits { tokens: tokens.to_vec(), first_row };
        let mut row: Vec<f32> = Vec::new();
        let mut enough = false;
        let end = self.call(call, ROWS_WINDOW, cancel, &mut |answer| match answer {
            Answer::Row(position, bytes) => {
                row.clear();
                let values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                row.extend(values);
                match rows(position, &row) {
                    ControlFlow::Continue(()) => Step::Continue,
                    ControlFlow::Break(()) => {
                        enough = true;
                        Step::Stop
                    }
                }
            }
            Answer::RowsEnd => Step::Done(()),
            other => Step::Confused(other),
        });
        match end {
            // It may take a cancellation for the caller's having enough.
            Ok(()) if cancel.is_cancelled() && !enough => Err(Error::Interrupted),
            // The worker knows one way only to stop.
            Err(Error::Interrupted) if enough && !cancel.is_cancelled() => Ok(()),
            end => end,
        }
    }

    /// What the model holds, by its backend's account, and the most that its process has held so far.
    ///
    /// # Errors
    /// Those of a worker that crashed.
    pub fn memory_usage(&self) -> Result<(MemoryUsage, u64)> {
        self.call(Call::MemoryUsage, 0, &CancelToken::never(), &mut |answer| match answer {
            Answer::Memory { usage, peak_bytes } => Step::Done((usage, peak_bytes)),
            other => Step::Confused(other),
        })
    }

    /// Makes a call and hands each answer to `on_answer` until the last one.
    fn call<T>(
        &self,
        call: Call,
        window: u32,
        cancel: &CancelToken,
        on_answer: &mut dyn FnMut(Answer) -> Step<T, Answer>,
    ) -> Result<T> {
        let mut open = OpenCall::begin(self, window)?;
        let id = open.id;
        self.worker().send(&Request::Call { id, window, call })?;
        let mut stop = Stop::default();
        let mut taken = 0;
        loop {
            let answer = match open.answers.recv_timeout(POLL) {
                Ok(answer) => Some(answer),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) if stop.is_sent() && cancel.is_cancelled() => {
                    return Err(Error::Interrupted);
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.broken()),
            };
            let mut enough = cancel.is_cancelled();
            match answer {
                Some(Answer::Failed(error)) => {
                    open.ended = true;
                    return Err(error.into());
                }
                // After a stop only the last answer counts.
                Some(Answer::Event(_) | Answer::Row(..)) if stop.is_sent() => (),
                Some(answer) => {
                    let piece = matches!(answer, Answer::Event(_) | Answer::Row(..));
                    match on_answer(answer) {
                        Step::Continue => (),
                        Step::Stop => enough = true,
                        Step::Done(value) => {
                            open.ended = true;
                            return Ok(value);
                        }
                        Step::Confused(answer) => return Err(self.worker().confused(&answer)),
                    }
                    taken += u32::from(piece);
                    if taken > window / 2 && !enough {
                        // Of a worker that is gone, the answers' end tells more.
                        let _ = self.worker().send(&Request::More { id, count: std::mem::take(&mut taken) });
                    }
                }
                None => (),
            }
            if enough && stop.begins() {
                self.worker().send(&Request::CancelCall { id })?;
            }
            if stop.is_late() {
                // What others wait for goes on; this call's answer no longer counts.
                let mut waiting = self.calls.lock();
                if waiting.open.len() <= 1 {
                    waiting.ended = true;
                    drop(waiting);
                    self.worker().end();
                }
                return Err(Error::Interrupted);
            }
        }
    }

    fn worker(&self) -> MutexGuard<'_, Worker> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error for answers that ended.
    fn broken(&self) -> Error {
        let nonsense = self.calls.lock().nonsense.clone();
        let mut worker = self.worker();
        match nonsense {
            Some(what) => worker.failed(what),
            None => worker.gone(),
        }
    }
}

/// The calls that wait for answers.
#[derive(Default)]
struct Calls(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    open: HashMap<u64, SyncSender<Answer>>,
    /// There will be no more answers.
    ended: bool,
    /// Why, where the worker was not to be understood.
    nonsense: Option<String>,
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Brings each answer to the call that waits for it, until the worker is gone.
fn dispatch(replies: &Replies, calls: &Calls) {
    let nonsense = loop {
        match replies.recv() {
            Ok(Ok(Reply::Log { level, target, message })) => client::log(level, &target, &message),
            Ok(Ok(Reply::Answer { id, answer })) => {
                // A call that was given up may still be answered.
                let waiting = calls.lock().open.get(&id).cloned();
                if let Some(Err(mpsc::TrySendError::Full(_))) = waiting.map(|waiting| waiting.try_send(answer)) {
                    break Some("answers more than it was asked for".to_owned());
                }
            }
            // Progress of loading that was on its way.
            Ok(Ok(Reply::Progress(_))) => (),
            Ok(Ok(other)) => break Some(client::unexpected(&other)),
            Ok(Err(error)) => break Some(client::nonsense(&error)),
            Err(_) => break None,
        }
    };
    let mut waiting = calls.lock();
    waiting.ended = true;
    waiting.nonsense = nonsense;
    waiting.open.clear();
}

/// A call that has begun; the worker is told where the host gives it up.
struct OpenCall<'a> {
    model: &'a RemoteModel,
    id: u64,
    answers: Receiver<Answer>,
    /// Whether its last answer came.
    ended: bool,
}

impl<'a> OpenCall<'a> {
    fn begin(model: &'a RemoteModel, window: u32) -> Result<Self> {
        let id = model.next_id.fetch_add(1, Ordering::Relaxed);
        // All that may be on its way, and the last answer.
        let (sender, answers) = mpsc::sync_channel(window as usize + 1);
        let mut waiting = model.calls.lock();
        if waiting.ended {
            drop(waiting);
            return Err(model.broken());
        }
        waiting.open.insert(id, sender);
        Ok(Self { model, id, answers, ended: false })
    }
}

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        self.model.calls.lock().open.remove(&self.id);
        if !self.ended {
            let _ = self.model.worker().send(&Request::CancelCall { id: self.id });
        }
    }
}

/// When a call was told to stop.
#[derive(Default)]
struct Stop(Option<Instant>);

impl Stop {
    fn is_sent(&self) -> bool {
        self.0.is_some()
    }

    /// Whether it is to be told now; it is told once.
    fn begins(&mut self) -> bool {
        let first = self.0.is_none();
        self.0.get_or_insert_with(Instant::now);
        first
    }

    fn is_late(&self) -> bool {
        self.0.is_some_and(|at| at.elapsed() > CANCEL_GRACE)
    }
}

/// Asks the plugin, in a worker, how much memory a model would take.
///
/// # Errors
/// The plugin's (`Unsupported` for one that does not forecast), and those of a worker that crashed.
pub fn forecast(plugin: &PluginFile, request: &LoadRequest, config: &Config) -> Result<MemoryUsage> {
    let mut worker = Worker::start(config)?;
    let request = Request::Forecast { plugin: plugin.clone(), request: request.clone() };
    // Nobody wants to wait longer for it than for a probe.
    let deadline = Instant::now() + Duration::from_secs(config.probe_timeout_s);
    let late = CancelToken::new(move || Instant::now() >= deadline);
    let forecast = ask(&mut worker, &request, &late, &mut |reply| match reply {
        Reply::Forecast(usage) => Step::Done(usage),
        other => Step::Confused(other),
    });
    match forecast {
        Err(Error::Interrupted) => Err(Error::Worker {
            what: format!("did not forecast within {} s", config.probe_timeout_s),
            stderr: String::new(),
        }),
        forecast => forecast,
    }
}

/// What a message means for what was asked.
enum Step<T, M> {
    /// More follow.
    Continue,
    /// The caller has enough: the call is to end, and what still comes of it is dropped.
    Stop,
    /// The last one.
    Done(T),
    /// It does not belong here.
    Confused(M),
}

/// Sends what a worker does once and hands each reply to `on_reply` until the last one.
fn ask<T>(
    worker: &mut Worker,
    request: &Request,
    cancel: &CancelToken,
    on_reply: &mut dyn FnMut(Reply) -> Step<T, Reply>,
) -> Result<T> {
    worker.send(request)?;
    let mut stop = Stop::default();
    loop {
        let reply = match worker.poll(POLL) {
            Ok(reply) => reply,
            Err(_) if stop.is_sent() => return Err(Error::Interrupted),
            Err(error) => return Err(error),
        };
        match reply {
            Some(Reply::Failed(error)) => return Err(error.into()),
            Some(Reply::Progress(_)) if stop.is_sent() => (),
            Some(reply) => match on_reply(reply) {
                Step::Continue | Step::Stop => (),
                Step::Done(value) => return Ok(value),
                Step::Confused(reply) => return Err(worker.confused(&reply)),
            },
            None => (),
        }
        if cancel.is_cancelled() && stop.begins() {
            worker.send(&Request::Cancel)?;
        }
        if stop.is_late() {
            worker.end();
            return Err(Error::Interrupted);
        }
    }
}
