//! One answer: how it is chosen, and the ways to get it: whole, piece by piece, or event by event.

use super::Model;
use crate::error::{Error, Result};
use pajamas_plugin_api::{
    CancelToken, Event, FinishReason, GenerateRequest, GenerateResult, GenerateStats, Prompt, Sampling,
};
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What is to be generated, and how; [`Model::chat`] and [`Model::generate`] begin it. Each part that is not set is as
/// `pajamas run` has it.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/installed.rs"));
/// # fn main() -> pajamas::Result<()> {
/// # let Installed { pajamas, model, .. } = &Installed::new();
/// let model = pajamas.load(model).method("Q8_0").run()?;
/// let messages = [pajamas::Message::new("system", "You are brief."), pajamas::Message::new("user", "What does a cow say?")];
/// let answer = model.chat(messages).temperature(0.8).top_p(0.95).seed(7).max_tokens(20).run()?;
/// assert!(answer.stats.generated_tokens <= 20);
///
/// // The text as it is, without the model's chat template.
/// let story = model.generate("Once upon a time").temperature(0.0).stop(".").run()?;
/// assert!(!story.text.contains('.'));
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is generated before `run` or `stream`"]
pub struct Generate<'m> {
    model: &'m Model,
    /// Or why there is none.
    request: Result<GenerateRequest>,
    cancel: CancelToken,
}

impl<'m> Generate<'m> {
    pub(super) fn new(model: &'m Model, prompt: Result<Prompt>) -> Self {
        let sampling = Sampling::default_for(&model.opened().capabilities.sampling);
        let request = prompt.map(|prompt| GenerateRequest { sampling, ..GenerateRequest::new(prompt) });
        Self { model, request, cancel: CancelToken::never() }
    }

    /// Changes the request itself.
    pub fn with(mut self, change: impl FnOnce(&mut GenerateRequest)) -> Self {
        if let Ok(request) = &mut self.request {
            change(request);
        }
        self
    }

    /// Tokens to generate at the most; 512 without this.
    pub fn max_tokens(self, tokens: u32) -> Self {
        self.with(|request| request.max_tokens = tokens)
    }

    /// 0 takes the likeliest token always; 0.7 without this.
    pub fn temperature(self, temperature: f32) -> Self {
        self.with(|request| request.sampling.temperature = temperature)
    }

    /// Chooses among this many likeliest tokens; 0 among all, 40 without this.
    pub fn top_k(self, tokens: u32) -> Self {
        self.with(|request| request.sampling.top_k = tokens)
    }

    /// Chooses among the likeliest tokens that reach this probability together; 0.9 without this.
    pub fn top_p(self, probability: f32) -> Self {
        self.with(|request| request.sampling.top_p = probability)
    }

    /// Chooses among tokens at least this fraction as likely as the likeliest.
    pub fn min_p(self, fraction: f32) -> Self {
        self.with(|request| request.sampling.min_p = fraction)
    }

    /// Makes recent tokens less likely; 1 does not.
    pub fn repeat_penalty(self, penalty: f32) -> Self {
        self.with(|request| request.sampling.repeat_penalty = penalty)
    }

    /// How many recent tokens the penalty looks at; 64 without this.
    pub fn repeat_last_n(self, tokens: u32) -> Self {
        self.with(|request| request.sampling.repeat_last_n = tokens)
    }

    /// The same seed gives the same answer.
    pub fn seed(self, seed: u64) -> Self {
        self.with(|request| request.sampling.seed = Some(seed))
    }

    /// Ends before this text, which is no part of the answer; may be called several times.
    pub fn stop(self, text: impl Into<String>) -> Self {
        let text = text.into();
        self.with(|request| request.stop_sequences.push(text))
    }

    /// Requests of the same session share what their prompts have in common: it is not computed again.
    pub fn session(self, id: u64) -> Self {
        self.with(|request| request.session = Some(id))
    }

    /// Goes on where the model would end its turn.
    pub fn ignore_eos(self, ignore: bool) -> Self {
        self.with(|request| request.ignore_eos = ignore)
    }

    /// What ends it before its time; what came until then is the answer.
    pub fn cancel(mut self, cancel: CancelToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// Generates, and gives the whole answer.
    ///
    /// # Errors
    /// When the prompt does not fit the model's context or template, the backend cannot do what is asked, or fails, also in
    /// the middle.
    pub fn run(self) -> Result<GenerateResult> {
        self.run_with(&mut |_| ControlFlow::Continue(()))
    }

    /// Generates, handing each event to `on_event` until it breaks, and gives the whole answer.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_with(self, on_event: &mut dyn FnMut(&Event) -> ControlFlow<()>) -> Result<GenerateResult> {
        let request = self.request?;
        check(&request.sampling)?;
        let (mut text, mut tokens, mut broken) = (String::new(), Vec::new(), false);
        let mut keep = |event: Event| {
            match &event {
                Event::Text(piece) => text += piece,
                Event::Token { id, .. } => tokens.push(*id),
                _ => (),
            }
            let flow = on_event(&event);
            broken |= flow.is_break();
            flow
        };
        let started = Instant::now();
        let stats = match self.model.engine()?.generate_stream(&request, &self.cancel, &mut keep) {
            // Before it began, or by an engine that does not look: what came until then is the answer all the same.
            Err(Error::Interrupted) if broken || self.cancel.is_cancelled() => cancelled(tokens.len(), started),
            stats => stats?,
        };
        fail_if_broken_off(&stats)?;
        Ok(GenerateResult { text, tokens, stats })
    }

    /// Begins to generate on a thread of its own, and gives the text piece by piece as it comes.
    pub fn stream(self) -> Stream {
        // Not bounded but by the answer's length: who is slow to take pieces must not keep others from the model.
        let (sender, pieces) = mpsc::channel();
        let stopped = Arc::new(AtomicBool::new(false));
        let thread = {
            let (model, stopped, cancel) = (self.model.clone(), Arc::clone(&stopped), self.cancel);
            let request = self.request;
            let cancel = CancelToken::new(move || stopped.load(Ordering::Relaxed) || cancel.is_cancelled());
            std::thread::Builder::new().spawn(move || {
                Generate { model: &model, request, cancel }.run_with(&mut |event| match event {
                    Event::Text(piece) if sender.send(piece.clone()).is_err() => ControlFlow::Break(()),
                    _ => ControlFlow::Continue(()),
                })
            })
        };
        Stream { pieces, stopped, thread: Some(thread), end: None, process: std::process::id() }
    }
}

/// An answer that is being generated, whether or not somebody takes it: an iterator over its pieces of text, each of whole
/// characters. A failure is the last item. Dropping it stops it.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/installed.rs"));
/// # fn main() -> pajamas::Result<()> {
/// # let Installed { pajamas, model, .. } = &Installed::new();
/// let model = pajamas.load(model).method("Q8_0").run()?;
/// let mut answer = model.chat("Count from 3 to 8.").temperature(0.0).stream();
/// let mut text = String::new();
/// for piece in &mut answer {
///     text += &piece?;
/// }
/// assert_eq!(text, "3, 4, 5, 6, 7, 8.");
/// let result = answer.result().expect("it has ended");
/// println!("{:.0} tokens/s", result.stats.tokens_per_second);
/// # Ok(())
/// # }
/// ```
pub struct Stream {
    pieces: Receiver<String>,
    stopped: Arc<AtomicBool>,
    /// Until its end was taken; what generates, or why it could not be begun.
    thread: Option<io::Result<JoinHandle<Result<GenerateResult>>>>,
    /// How it ended, and once the failure was handed over, none again.
    end: Option<GenerateResult>,
    /// Where it generates: a process that is forked off would wait for ever.
    process: u32,
}

impl Stream {
    /// Stops it soon: what is on its way still comes.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// What stops it, for another thread.
    pub fn stopper(&self) -> impl Fn() + Send + Sync + 'static {
        let stopped = Arc::clone(&self.stopped);
        move || stopped.store(true, Ordering::Relaxed)
    }

    /// The next piece, or none within `wait`; the outer none is the end.
    pub fn next_within(&mut self, wait: Duration) -> Option<Result<Option<String>>> {
        if self.process != std::process::id() {
            return self.thread.take().map(|_| Err(super::model::forked_off()));
        }
        match self.pieces.recv_timeout(wait) {
            Ok(piece) => Some(Ok(Some(piece))),
            Err(RecvTimeoutError::Timeout) => Some(Ok(None)),
            Err(RecvTimeoutError::Disconnected) => self.finish().map(Err),
        }
    }

    /// Keeps how it ended; the error, once, if it failed.
    fn finish(&mut self) -> Option<Error> {
        let message = match self.thread.take()? {
            Ok(thread) => match thread.join() {
                Ok(Ok(result)) => {
                    self.end = Some(result);
                    return None;
                }
                Ok(Err(error)) => return Some(error),
                Err(_) => "generating panicked".to_owned(),
            },
            Err(error) => format!("no thread can be started to generate: {error}"),
        };
        Some(Error::Refused { message, hint: String::new() })
    }

    /// The whole answer and how it went, once the iterator has ended; none before, and after a failure.
    pub fn result(&self) -> Option<&GenerateResult> {
        self.end.as_ref()
    }
}

impl Iterator for Stream {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_within(Duration::MAX)? {
                Ok(Some(piece)) => return Some(Ok(piece)),
                Ok(None) => (),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How an answer went that was cancelled, where its engine does not say.
fn cancelled(tokens: usize, started: Instant) -> GenerateStats {
    GenerateStats {
        prompt_tokens: 0,
        cached_tokens: 0,
        generated_tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
        time_to_first_token_ms: 0.0,
        tokens_per_second: 0.0,
        prompt_tokens_per_second: 0.0,
        total_ms: started.elapsed().as_secs_f64() * 1e3,
        finish_reason: FinishReason::Cancelled,
        metadata: std::collections::BTreeMap::new(),
    }
}

/// What makes no sense is said before an engine makes something of it.
fn check(sampling: &Sampling) -> Result<()> {
    let Sampling { temperature, top_p, min_p, repeat_penalty, .. } = *sampling;
    let (at_least_0, fraction) = ("a number from 0 up", "a number from 0 to 1");
    let checks = [
        ("temperature", temperature, temperature.is_finite() && temperature >= 0.0, at_least_0),
        ("top_p", top_p, (0.0..=1.0).contains(&top_p), fraction),
        ("min_p", min_p, (0.0..=1.0).contains(&min_p), fraction),
        ("repeat_penalty", repeat_penalty, repeat_penalty.is_finite() && repeat_penalty > 0.0, "a number above 0"),
    ];
    match checks.iter().find(|(_, _, fits, _)| !fits) {
        None => Ok(()),
        Some((name, value, _, expected)) => {
            Err(Error::Usage { message: format!("`{name}` is {value}"), hint: format!("give {expected}") })
        }
    }
}

/// A backend that failed in the middle has failed, whatever text came before.
///
/// # Errors
/// Just then.
pub(crate) fn fail_if_broken_off(stats: &GenerateStats) -> Result<()> {
    match stats.finish_reason {
        FinishReason::Error => {
            let reason = stats.metadata.get("error").cloned().unwrap_or_default();
            let message = format!("the backend failed after {} tokens: {reason}", stats.generated_tokens);
            Err(Error::Refused { message, hint: String::new() })
        }
        _ => Ok(()),
    }
}
