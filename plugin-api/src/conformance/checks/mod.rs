//! The checks, by what they look at, and what they share.

pub(super) mod file;
pub(super) mod generating;
pub(super) mod loading;
pub(super) mod probe;
pub(super) mod resources;

use super::Subject;
use crate::abi::client::{LoadedModel, Plugin};
use crate::{
    Availability, CancelToken, Capabilities, Error, ErrorKind, Event, GenerateRequest, GenerateStats, HostServices,
    LoadRequest, Prompt, Result, Sampling,
};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a check found: a note of what was measured, or what stood against it.
pub(super) type Finding = std::result::Result<String, Obstacle>;

/// Why a rule is not passed.
pub(super) enum Obstacle {
    /// It is broken, so.
    Failed(String),
    /// It cannot be checked, because.
    Skipped(String),
}

impl From<Error> for Obstacle {
    fn from(error: Error) -> Self {
        Self::Failed(format!("{error} ({:?})", error.kind))
    }
}

/// How far apart two log-probabilities may be that devices which add up in another order take for each other.
const TIE: f32 = 0.02;

/// Fails the check with a formatted reason unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($reason:tt)+) => {{
        let holds: bool = $condition;
        if !holds {
            return Err($crate::conformance::checks::Obstacle::Failed(format!($($reason)+)));
        }
    }};
}
pub(super) use ensure;

/// Tokens of context that models are loaded with.
const CONTEXT: u32 = 256;

/// A text that every language model can go on with.
const TEXT: &str = "Once upon a time, there was a";

/// Loads the library, as a host does.
fn open(subject: &Subject) -> Result<Plugin> {
    let services = HostServices::new(|_, _, _| (), subject.cache_dir.clone(), subject.threads);
    // SAFETY: whoever checks a plugin trusts it as much as that.
    unsafe { Plugin::open(&subject.plugin, services) }
}

/// The library and the model's path; skips what cannot run one here.
fn with_model(subject: &Subject) -> std::result::Result<(Plugin, &Path), Obstacle> {
    let plugin = open(subject)?;
    let skipped = |reason: String| Err(Obstacle::Skipped(reason));
    match plugin.is_available()? {
        Availability::QuantizeOnly => return skipped("it makes models and runs none".into()),
        Availability::Unavailable { reason, .. } => return skipped(format!("it cannot run here: {reason}")),
        _ => (),
    }
    match subject.model.as_deref() {
        Some(model) => Ok((plugin, model)),
        None => skipped(format!(
            "it takes a model to check this; give one of its formats ({})",
            plugin.capabilities()?.formats.join(", ")
        )),
    }
}

/// How `model` is loaded.
fn request(model: &Path, subject: &Subject) -> LoadRequest {
    let mut request = LoadRequest::new(model);
    request.context_length = Some(CONTEXT);
    request.threads = Some(subject.threads);
    request
}

/// Loads `model`; skips the check if that is one that the plugin does not support.
fn load(plugin: &Plugin, model: &Path, subject: &Subject) -> std::result::Result<LoadedModel, Obstacle> {
    plugin.load_model(&request(model, subject), &|_| (), &CancelToken::never()).map_err(|error| match error.kind {
        ErrorKind::Unsupported => Obstacle::Skipped(format!("it does not support the model: {error}")),
        _ => error.into(),
    })
}

/// The library with its model loaded.
fn loaded(subject: &Subject) -> std::result::Result<(Plugin, LoadedModel), Obstacle> {
    let (plugin, path) = with_model(subject)?;
    let model = load(&plugin, path, subject)?;
    Ok((plugin, model))
}

/// The likeliest `max_tokens` tokens after `text`, past any end of the turn.
fn greedy(text: &str, max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        sampling: Sampling::greedy(),
        max_tokens,
        ignore_eos: true,
        ..GenerateRequest::new(Prompt::text(text))
    }
}

/// The likeliest tokens after `text`, with the margins by which they are, where `can` says that there are such.
fn likeliest(model: &LoadedModel, can: &Capabilities, text: &str, max_tokens: u32) -> Result<Answer> {
    let top_logprobs = if can.logprobs { 2 } else { 0 };
    answer(model, &GenerateRequest { top_logprobs, ..greedy(text, max_tokens) })
}

/// The log-probability of a token, and the best candidates at its place.
type Logprobs = (Option<f32>, Vec<(u32, f32)>);

/// An answer with all that was heard of it.
struct Answer {
    tokens: Vec<u32>,
    text: String,
    /// The tokens' bytes.
    bytes: Vec<u8>,
    /// One for each token.
    logprobs: Vec<Logprobs>,
    stats: GenerateStats,
}

impl Answer {
    /// Whether the other answer is the same, up to a token that is as likely as another.
    fn agrees_with(&self, other: &Self) -> bool {
        let differing = self.tokens.iter().zip(&other.tokens).position(|(a, b)| a != b);
        let is_tie = |at: usize| match self.logprobs[at].1.as_slice() {
            [(_, best), (_, second), ..] => best - second < TIE,
            _ => false,
        };
        differing.map_or(self.tokens.len() == other.tokens.len(), is_tie)
    }
}

fn answer(model: &LoadedModel, request: &GenerateRequest) -> Result<Answer> {
    let (mut tokens, mut all, mut text, mut logprobs) = (Vec::new(), Vec::new(), String::new(), Vec::new());
    let stats = model.generate_stream(request, &CancelToken::never(), &mut |event| {
        match event {
            Event::Token { id, bytes, logprob, top } => {
                tokens.push(id);
                all.extend(bytes);
                logprobs.push((logprob, top));
            }
            Event::Text(piece) => text += &piece,
            Event::PromptProgress { .. } => (),
        }
        ControlFlow::Continue(())
    })?;
    Ok(Answer { tokens, text, bytes: all, logprobs, stats })
}

/// A token that is never cancelled until it was asked `allowed` times, and counts how often it is asked.
fn counting(allowed: usize) -> (CancelToken, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    (CancelToken::new(move || count.fetch_add(1, Ordering::Relaxed) >= allowed), asked)
}
