//! Loading a model, and what a loaded one is.

use super::option_spec::Options;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What [`Backend::load_model`](crate::Backend::load_model) gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadRequest {
    /// The model's file or folder.
    pub path: PathBuf,
    /// Tokens of context per slot; none takes the smaller of 4096 and what the model was trained with.
    #[serde(default)]
    pub context_length: Option<u32>,
    /// Threads to compute with; none takes the host's thread budget. An engine that schedules its own does not look at
    /// it.
    #[serde(default)]
    pub threads: Option<u32>,
    /// Sessions that keep their KV cache side by side, at least 1.
    #[serde(default = "one")]
    pub parallel_slots: u32,
    /// Options of this backend, checked against [`Capabilities::options`](crate::Capabilities::options).
    #[serde(default)]
    pub options: Options,
}

fn one() -> u32 {
    1
}

impl LoadRequest {
    /// Loads `path` with defaults.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), context_length: None, threads: None, parallel_slots: 1, options: Options::default() }
    }
}

/// What a loaded model is. `Default` is an empty one to fill in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// `qwen2`, `llama`, …
    pub architecture: String,
    /// The model's own name, if it has one.
    #[serde(default)]
    pub name: String,
    /// How its weights are stored: `Q4_K - Medium`, …
    #[serde(default)]
    pub quantization: String,
    /// Parameters; 0 if unknown.
    #[serde(default)]
    pub parameter_count: u64,
    /// Bytes of weights; 0 if unknown.
    #[serde(default)]
    pub size_bytes: u64,
    /// Tokens of context per slot that it was loaded with.
    pub context_length: u32,
    /// Tokens of context that it was trained with; 0 if unknown.
    #[serde(default)]
    pub context_length_trained: u32,
    /// Rows of logits have this many values.
    pub vocabulary_size: u32,
    /// Beginning-of-sequence token, where a text starts with one.
    #[serde(default)]
    pub bos_token: Option<SpecialToken>,
    /// End-of-sequence token.
    #[serde(default)]
    pub eos_token: Option<SpecialToken>,
    /// Every token that ends a turn; the adapter stops at any of them.
    #[serde(default)]
    pub end_of_generation_tokens: Vec<u32>,
    /// Every token whose text must not arise from what a user types.
    #[serde(default)]
    pub control_tokens: Vec<SpecialToken>,
    /// Chat templates (Jinja) by name; the default one is named `default`.
    #[serde(default)]
    pub chat_templates: BTreeMap<String, String>,
    /// Anything else worth showing.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// A token with a role, and its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialToken {
    /// Its id.
    pub id: u32,
    /// Its text: `<|im_end|>`.
    pub text: String,
}

/// Memory that a model holds, in bytes. Zeroes mean unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemoryUsage {
    /// Weights.
    pub weights_bytes: u64,
    /// KV cache.
    pub kv_cache_bytes: u64,
    /// Compute buffers.
    pub compute_bytes: u64,
    /// Total memory of the device it is on.
    pub device_total_bytes: u64,
}
