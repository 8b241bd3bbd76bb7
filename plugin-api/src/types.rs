//! The data of the contract. All of it is serde data, encoded self-describingly at the boundary, so that a field
//! added in a later minor version is ignored by older readers and defaulted by newer ones.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The class of hardware that a backend or device is. Ranking goes by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DeviceClass {
    /// A GPU with memory of its own.
    DiscreteGpu,
    /// A GPU that shares the machine's memory.
    IntegratedGpu,
    /// A neural processing unit.
    Npu,
    /// The CPU.
    Cpu,
    /// A GPU interface computed by the CPU (llvmpipe and the like).
    Software,
    /// A class that this build does not know.
    #[serde(other)]
    Other,
}

/// One device that a backend can use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// As its maker calls it: `NVIDIA GeForce RTX 4070`.
    pub name: String,
    /// Its class.
    pub class: DeviceClass,
    /// Memory it has, in bytes; 0 if unknown.
    #[serde(default)]
    pub memory_total_bytes: u64,
    /// Memory free at the time of asking, in bytes; 0 if unknown.
    #[serde(default)]
    pub memory_free_bytes: u64,
}

/// The answer of [`Backend::is_available`](crate::Backend::is_available).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    /// It can work, on these devices (best first, at least one).
    Available {
        /// Best first.
        devices: Vec<Device>,
    },
    /// It cannot work here.
    Unavailable {
        /// What is missing, in a sentence.
        reason: String,
        /// What the user can do about it; empty when nothing can be done.
        remedy: String,
    },
}

/// What a backend can do. Start from `Capabilities::new` and set what differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Capabilities {
    /// `cpu`, `cuda`, `metal`, `vulkan`, `rocm`, `npu`, …
    pub hardware: String,
    /// Model formats it loads: `gguf`, `mlx`, …
    pub formats: Vec<String>,
    /// Precisions it computes weights in: `f16`, `q4_k_m`, …
    #[serde(default)]
    pub precisions: Vec<String>,
    /// The longest context it can do, in tokens; none if only the model limits it.
    #[serde(default)]
    pub context_length_max: Option<u32>,
    /// Whether concurrent requests share batches.
    #[serde(default)]
    pub batching: bool,
    /// Whether tokens arrive one by one.
    #[serde(default = "yes")]
    pub streaming: bool,
    /// Whether [`Model::logits`](crate::Model::logits) works.
    #[serde(default)]
    pub logits: bool,
    /// Whether sessions keep their KV cache between requests.
    #[serde(default)]
    pub sessions: bool,
    /// Which fields of [`Sampling`] it honours, by field name. A request that sets another one is refused.
    #[serde(default)]
    pub sampling: Vec<String>,
    /// Load options beyond [`LoadRequest`]'s own fields.
    #[serde(default)]
    pub options: Vec<OptionSpec>,
    /// The backend's own preference among equals; higher runs first.
    #[serde(default)]
    pub score: i32,
}

fn yes() -> bool {
    true
}

impl Capabilities {
    /// A streaming backend for `hardware` that loads `formats` and honours every sampling field.
    pub fn new(hardware: &str, formats: &[&str]) -> Self {
        Self {
            hardware: hardware.into(),
            formats: formats.iter().map(|f| (*f).into()).collect(),
            precisions: Vec::new(),
            context_length_max: None,
            batching: false,
            streaming: true,
            logits: false,
            sessions: false,
            sampling: Sampling::FIELDS.iter().map(|f| (*f).into()).collect(),
            options: Vec::new(),
            score: 0,
        }
    }
}

/// A load option that a backend takes, typed and documented.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OptionSpec {
    /// Lower case with underscores: `n_gpu_layers`.
    pub name: String,
    /// Its type and range.
    pub kind: OptionKind,
    /// Its default, as a user would write it.
    #[serde(default)]
    pub default: String,
    /// One sentence.
    #[serde(default)]
    pub help: String,
}

impl OptionSpec {
    /// An option with its type, its default as a user would write it, and one sentence of help.
    pub fn new(name: &str, kind: OptionKind, default: &str, help: &str) -> Self {
        Self { name: name.into(), kind, default: default.into(), help: help.into() }
    }
}

/// The type of a load option.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OptionKind {
    /// `true` or `false`.
    Bool,
    /// A whole number in `min..=max`.
    Int {
        /// Smallest value allowed.
        min: i64,
        /// Largest value allowed.
        max: i64,
    },
    /// A number in `min..=max`.
    Float {
        /// Smallest value allowed.
        min: f64,
        /// Largest value allowed.
        max: f64,
    },
    /// Any text.
    Text,
    /// One of these words.
    Choice(Vec<String>),
}

/// The value of a load option.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OptionValue {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// Text, and the words of a choice.
    Text(String),
}

/// What [`Backend::load_model`](crate::Backend::load_model) gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadRequest {
    /// The model's file or folder.
    pub path: PathBuf,
    /// Tokens of context per slot; none takes the smaller of 4096 and what the model was trained with.
    #[serde(default)]
    pub context_length: Option<u32>,
    /// Threads to compute with; none takes the host's thread budget.
    #[serde(default)]
    pub threads: Option<u32>,
    /// Sessions that keep their KV cache side by side, at least 1.
    #[serde(default = "one")]
    pub parallel_slots: u32,
    /// Options of this backend, checked against [`Capabilities::options`].
    #[serde(default)]
    pub options: BTreeMap<String, OptionValue>,
}

fn one() -> u32 {
    1
}

impl LoadRequest {
    /// Loads `path` with defaults.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), context_length: None, threads: None, parallel_slots: 1, options: BTreeMap::new() }
    }

    /// The boolean option `name`, if it was set.
    pub fn bool(&self, name: &str) -> Option<bool> {
        match self.options.get(name)? {
            OptionValue::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The whole-number option `name`, if it was set.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.options.get(name)? {
            OptionValue::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The text or choice option `name`, if it was set.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.options.get(name)? {
            OptionValue::Text(value) => Some(value),
            _ => None,
        }
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

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampling {
    /// 0 takes the likeliest token always; above, the softmax temperature.
    pub temperature: f32,
    /// Keep this many likeliest tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the likeliest tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this fraction as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Divide positive logits of recent tokens by this and multiply negative ones; 1 changes nothing.
    pub repeat_penalty: f32,
    /// How many recent tokens the penalty looks at.
    pub repeat_last_n: u32,
    /// Seed of the random numbers; none takes one from the system.
    pub seed: Option<u64>,
}

impl Sampling {
    /// The fields, by name.
    pub const FIELDS: [&'static str; 7] =
        ["temperature", "top_k", "top_p", "min_p", "repeat_penalty", "repeat_last_n", "seed"];

    /// Always the likeliest token. Every backend honours this.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, ..Self::default() }
    }

    /// The defaults, with those fields neutral that a backend which honours only `honoured` would refuse.
    pub fn default_for(honoured: &[String]) -> Self {
        let has = |name: &str| honoured.iter().any(|known| known == name);
        let (all, neutral) = (Self::default(), Self::greedy());
        Self {
            temperature: if has("temperature") { all.temperature } else { neutral.temperature },
            top_k: if has("top_k") { all.top_k } else { neutral.top_k },
            top_p: if has("top_p") { all.top_p } else { neutral.top_p },
            ..all
        }
    }

    /// The fields that have an effect, by name. A temperature of 0 or 1 has none: it leaves a backend its own way.
    pub fn effective(&self) -> impl Iterator<Item = &'static str> {
        let effects = [
            self.temperature != 0.0 && self.temperature != 1.0,
            self.top_k != 0,
            self.top_p < 1.0,
            self.min_p > 0.0,
            self.repeat_penalty != 1.0,
            false, // repeat_last_n: only with repeat_penalty
            self.seed.is_some(),
        ];
        Self::FIELDS.into_iter().zip(effects).filter_map(|(name, effect)| effect.then_some(name))
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.7, top_k: 40, top_p: 0.9, min_p: 0.0, repeat_penalty: 1.0, repeat_last_n: 64, seed: None }
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
    /// Requests with the same id share a KV cache by common prefix.
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

/// Memory that a model holds, in bytes. Zeroes mean unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// One thing that a quantizer can make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// `Q4_K_M`, `4bit`, …; matched without regard to case.
    pub name: String,
    /// The format it makes: `gguf`, `mlx`, …
    pub format: String,
    /// Bits per weight on a typical model.
    pub bits_per_weight: f32,
    /// One sentence: what it is good for.
    pub description: String,
}

impl Recipe {
    /// A recipe.
    pub fn new(name: &str, format: &str, bits_per_weight: f32, description: &str) -> Self {
        Self { name: name.into(), format: format.into(), bits_per_weight, description: description.into() }
    }
}

/// What [`Quantizer::quantize`](crate::Quantizer::quantize) gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuantizeJob {
    /// A Hugging Face folder, or a model file of a format that the quantizer reads.
    pub source: PathBuf,
    /// The name of one of its recipes.
    pub recipe: String,
    /// What to write; does not exist yet.
    pub output: PathBuf,
    /// An empty folder for intermediate files, on the same file system as the output.
    pub scratch_dir: PathBuf,
    /// Threads to compute with; none takes the host's thread budget.
    #[serde(default)]
    pub threads: Option<u32>,
    /// Keep the output tensor at the source's precision.
    #[serde(default)]
    pub leave_output_tensor: bool,
    /// Provenance to store in the artifact, as `pajamas.*` and `general.source.*` keys.
    #[serde(default)]
    pub provenance: BTreeMap<String, String>,
}

/// What a quantizer did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct QuantizeReport {
    /// `qwen2`, `llama`, …
    pub architecture: String,
    /// Precision of the source's weights: `BF16`, …
    pub source_precision: String,
    /// Bytes of the source's weights.
    pub source_bytes: u64,
    /// Bytes written.
    pub output_bytes: u64,
    /// Tensors written.
    pub tensor_count: u64,
    /// Texts whose token ids were compared with the source's own tokenizer, all alike.
    #[serde(default)]
    pub tokenizer_checks: u64,
    /// Things a user should know: fallbacks, differences that are known and harmless.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Progress of loading or quantizing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProgressUpdate {
    /// What is being done: `converting`, `quantizing`, `loading`.
    pub stage: String,
    /// `0.0..=1.0` of that stage.
    pub fraction: f32,
    /// Detail: the tensor's name, say.
    #[serde(default)]
    pub detail: String,
}

/// Where a plugin reports progress. May be called from any thread, as often as it likes: the host thins it out.
pub struct Progress<'a>(&'a (dyn Fn(&ProgressUpdate) + Sync));

impl<'a> Progress<'a> {
    /// Progress that goes to `report`.
    pub fn new(report: &'a (dyn Fn(&ProgressUpdate) + Sync)) -> Self {
        Self(report)
    }

    /// `fraction` (`0.0..=1.0`) of `stage` is done, `detail` is next.
    pub fn report(&self, stage: &str, fraction: f32, detail: &str) {
        (self.0)(&ProgressUpdate { stage: stage.into(), fraction: fraction.clamp(0.0, 1.0), detail: detail.into() });
    }
}

impl Default for Progress<'_> {
    fn default() -> Self {
        Self(&|_| ())
    }
}
