//! Generating: the request, the events, the statistics.

use super::sampling::Sampling;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What to continue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Prompt {
    /// Token ids, used as they are.
    Tokens(Vec<u32>),
    /// Text in segments, tokenized one by one and joined.
    Text {
        /// Whether to add what the model wants around a text (BOS). Never doubles a BOS that the text starts with.
        add_special: bool,
        /// In order. More than one only where some of the text must not be read as control tokens.
        segments: Vec<TextSegment>,
    },
}

/// A piece of a text prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextSegment {
    /// The text.
    pub text: String,
    /// Whether control tokens in it are read as such. False for what a user typed.
    pub parse_special: bool,
}

impl Prompt {
    /// Plain text from a user: BOS added where the model wants it, no control tokens read.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { add_special: true, segments: vec![TextSegment { text: text.into(), parse_special: false }] }
    }
}

/// What [`Model::generate`](crate::Model::generate) gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerateRequest {
    /// What to continue.
    pub prompt: Prompt,
    /// How to choose tokens.
    #[serde(default)]
    pub sampling: Sampling,
    /// Tokens to generate at the most.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: u32,
    /// Generation ends before any of these texts, which are not part of the answer.
    #[serde(default)]
    pub stop_sequences: Vec<String>,
    /// Requests with the same id share a KV cache by common prefix, on backends that keep one. It saves time and
    /// changes no answer, so other backends do not look at it.
    #[serde(default)]
    pub session: Option<u64>,
    /// Log-probabilities of this many best tokens with each token; 0 for none.
    #[serde(default)]
    pub top_logprobs: u32,
    /// Go on past end-of-generation tokens (for measuring speed).
    #[serde(default)]
    pub ignore_eos: bool,
}

fn default_max_tokens() -> u32 {
    512
}

impl GenerateRequest {
    /// Continues `prompt` with defaults.
    pub fn new(prompt: Prompt) -> Self {
        Self {
            prompt,
            sampling: Sampling::default(),
            max_tokens: default_max_tokens(),
            stop_sequences: Vec::new(),
            session: None,
            top_logprobs: 0,
            ignore_eos: false,
        }
    }
}

/// A token as a plugin hands it to its [`TokenSink`](crate::TokenSink).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its bytes; half a character is fine.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability before sampling filters, if known.
    pub logprob: Option<f32>,
    /// The likeliest tokens at this position with their log-probabilities, best first.
    pub top: Vec<(u32, f32)>,
}

impl Token {
    /// A token without probabilities.
    pub fn new(id: u32, bytes: impl Into<Vec<u8>>) -> Self {
        Self { id, bytes: bytes.into(), ..Self::default() }
    }
}

/// What a caller of generation sees, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// So many of the prompt's tokens are processed (or were found in the session's cache).
    PromptProgress {
        /// Tokens done.
        done: u32,
        /// Tokens in the prompt.
        total: u32,
    },
    /// A token was chosen. Its text comes, joined with others, in [`Event::Text`].
    Token {
        /// Its id.
        id: u32,
        /// Its bytes.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
        /// Its log-probability, if asked for.
        #[serde(default)]
        logprob: Option<f32>,
        /// The best candidates, if asked for.
        #[serde(default)]
        top: Vec<(u32, f32)>,
    },
    /// Text that is final: whole characters, and no part of a stop sequence.
    Text(String),
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinishReason {
    /// The model ended its turn, or a stop sequence was met.
    Stop,
    /// `max_tokens` or the context's end was reached.
    Length,
    /// The caller cancelled.
    Cancelled,
    /// The engine failed after it had begun; what was generated so far is in the text.
    Error,
    /// A reason that this build does not know.
    #[serde(other)]
    Other,
}

/// What generation did and how fast. Times are measured by the adapter, the same way for every backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerateStats {
    /// Tokens in the prompt.
    pub prompt_tokens: u32,
    /// Of those, found in the session's KV cache.
    #[serde(default)]
    pub cached_tokens: u32,
    /// Tokens generated, the one that ended the turn not counted.
    pub generated_tokens: u32,
    /// From the call to the first token, in milliseconds; 0 when there was none.
    pub time_to_first_token_ms: f64,
    /// Generated tokens after the first, per second since the first; 0 with fewer than two.
    pub tokens_per_second: f64,
    /// Prompt tokens that were processed (not cached), per second until the first token.
    #[serde(default)]
    pub prompt_tokens_per_second: f64,
    /// From the call to its return, in milliseconds.
    pub total_ms: f64,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Anything else worth showing.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// A finished generation: the text and how it went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerateResult {
    /// The whole answer.
    pub text: String,
    /// Its token ids.
    pub tokens: Vec<u32>,
    /// How it went.
    #[serde(flatten)]
    pub stats: GenerateStats,
}
