//! The host's end of an isolated model: the calls of a loaded model, answered by a worker process.

use super::client::Worker;
use super::protocol::{Reply, Request};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::plugins::file::PluginFile;
use pajamas_plugin_api::{
    CancelToken, Event, GenerateRequest, GenerateStats, LoadRequest, MemoryUsage, ModelInfo, ProgressUpdate,
};
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a cancelled call may take to return before its process is ended.
const CANCEL_GRACE: Duration = Duration::from_secs(4);

/// How often cancellation is looked at while the worker is silent.
const POLL: Duration = Duration::from_millis(50);

/// A model in a worker process. Calls from several threads follow each other; dropping it ends the process.
pub struct RemoteModel {
    worker: Mutex<Worker>,
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
        let on_reply = &mut |reply| match reply {
            Reply::Progress(update) => {
                progress(&update);
                Step::Continue
            }
            Reply::Loaded(info) => Step::Done(*info),
            other => Step::Confused(Box::new(other)),
        };
        let info = call(&mut worker, &load, cancel, on_reply)?;
        Ok(Self { worker: Mutex::new(worker), info })
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
        let request = Request::Generate { request: Box::new(request.clone()), events: on_event.is_some() };
        self.call(&request, cancel, &mut |reply| match reply {
            Reply::Event(event) => match on_event.as_mut().map_or(ControlFlow::Continue(()), |f| f(event)) {
                ControlFlow::Continue(()) => Step::Continue,
                ControlFlow::Break(()) => Step::Stop,
            },
            Reply::Generated(stats) => Step::Done(stats),
            other => Step::Confused(Box::new(other)),
        })
    }

    /// As [`Model::tokenize`](pajamas_plugin_api::Model::tokenize).
    ///
    /// # Errors
    /// The plugin's, and those of a worker that crashed.
    pub fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        let request = Request::Tokenize { text: text.into(), add_special, parse_special };
        self.call(&request, &CancelToken::never(), &mut |reply| match reply {
            Reply::Tokens(tokens) => Step::Done(tokens),
            other => Step::Confused(Box::new(other)),
        })
    }

    /// As [`Model::detokenize`](pajamas_plugin_api::Model::detokenize).
    ///
    /// # Errors
    /// The plugin's, and those of a worker that crashed.
    pub fn detokenize(&self, tokens: &[u32]) -> Result<Vec<u8>> {
        let request = Request::Detokenize { tokens: tokens.to_vec() };
        self.call(&request, &CancelToken::never(), &mut |reply| match reply {
            Reply::Text(bytes) => Step::Done(bytes),
            other => Step::Confused(Box::new(other)),
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
        let request = Request::Logits { tokens: tokens.to_vec(), first_row };
        let mut row: Vec<f32> = Vec::new();
        let mut enough = false;
        let end = self.call(&request, cancel, &mut |reply| match reply {
            Reply::Row(position, bytes) => {
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
            Reply::RowsEnd => Step::Done(()),
            other => Step::Confused(Box::new(other)),
        });
        match end {
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
        self.call(&Request::MemoryUsage, &CancelToken::never(), &mut memory)
    }

    fn call<T>(
        &self,
        request: &Request,
        cancel: &CancelToken,
        on_reply: &mut dyn FnMut(Reply) -> Step<T>,
    ) -> Result<T> {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        call(&mut worker, request, cancel, on_reply)
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
    match call(&mut worker, &request, &late, &mut memory) {
        Err(Error::Interrupted) => Err(Error::Worker {
            what: format!("did not forecast within {} s", config.probe_timeout_s),
            stderr: String::new(),
        }),
        forecast => forecast.map(|(usage, _)| usage),
    }
}

fn memory(reply: Reply) -> Step<(MemoryUsage, u64)> {
    match reply {
        Reply::Memory { usage, peak_bytes } => Step::Done((usage, peak_bytes)),
        other => Step::Confused(Box::new(other)),
    }
}

/// What a reply means for the call it answers.
enum Step<T> {
    /// More replies follow.
    Continue,
    /// The caller has enough: the call is to end, and what still comes of it is dropped.
    Stop,
    /// The last reply.
    Done(T),
    /// It is no reply to this.
    Confused(Box<Reply>),
}

/// Sends `request` and hands each reply to `on_reply` until the last one.
fn call<T>(
    worker: &mut Worker,
    request: &Request,
    cancel: &CancelToken,
    on_reply: &mut dyn FnMut(Reply) -> Step<T>,
) -> Result<T> {
    worker.send(request)?;
    let mut stopped_at: Option<Instant> = None;
    loop {
        let reply = match worker.poll(POLL) {
            Ok(reply) => reply,
            Err(_) if stopped_at.is_some() && cancel.is_cancelled() => return Err(Error::Interrupted),
            Err(error) => return Err(error),
        };
        let mut stop = cancel.is_cancelled();
        match reply {
            Some(Reply::Failed(error)) => return Err(error.into()),
            // After a stop only the last reply counts.
            Some(Reply::Event(_) | Reply::Row(..) | Reply::Progress(_)) if stopped_at.is_some() => (),
            Some(reply) => match on_reply(reply) {
                Step::Continue => (),
                Step::Stop => stop = true,
                Step::Done(value) => return Ok(value),
                Step::Confused(reply) => return Err(worker.confused(&reply)),
            },
            None => (),
        }
        match stopped_at {
            None if stop => {
                stopped_at = Some(Instant::now());
                worker.send(&Request::Cancel)?;
            }
            Some(at) if at.elapsed() > CANCEL_GRACE => {
                worker.end();
                return Err(Error::Interrupted);
            }
            _ => (),
        }
    }
}
