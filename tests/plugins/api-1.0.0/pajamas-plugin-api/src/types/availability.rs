//! What a backend says of itself: whether it can work here, on which devices, and what it can do.

use crate::{OptionSpec, Sampling};
use serde::{Deserialize, Serialize};

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
#[non_exhaustive]
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

impl Device {
    /// A device whose memory is not known.
    pub fn new(name: impl Into<String>, class: DeviceClass) -> Self {
        Self { name: name.into(), class, memory_total_bytes: 0, memory_free_bytes: 0 }
    }

    /// The same with its memory, in bytes; 0 where unknown.
    pub fn with_memory(self, total_bytes: u64, free_bytes: u64) -> Self {
        Self { memory_total_bytes: total_bytes, memory_free_bytes: free_bytes, ..self }
    }
}

/// The answer of [`Backend::is_available`](crate::Backend::is_available).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
#[non_exhaustive]
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
    /// It makes models and runs none, on any machine.
    QuantizeOnly,
    /// An answer that this build does not know.
    #[serde(other)]
    Unknown,
}

impl Availability {
    /// It can work, on `devices`, best first.
    pub fn on(devices: impl IntoIterator<Item = Device>) -> Self {
        Self::Available { devices: devices.into_iter().collect() }
    }

    /// It cannot work here, and what the user can do about it (empty for nothing).
    pub fn no(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Unavailable { reason: reason.into(), remedy: remedy.into() }
    }
}

/// What a backend can do. Start from `Capabilities::new` and set what differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// `cpu`, `cuda`, `metal`, `vulkan`, `rocm`, `npu`, …
    pub hardware: String,
    /// Model formats it loads, its own first: `gguf`, `mlx`, … A file is of the format that its extension names, in
    /// lower case. For a model in another format than its first, it ranks behind the backends whose first that is.
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
    /// Whether it gives log-probabilities. A request for them is refused otherwise.
    #[serde(default)]
    pub logprobs: bool,
    /// Which fields of [`Sampling`] it honours, by field name. A request that sets another one is refused.
    #[serde(default)]
    pub sampling: Vec<String>,
    /// Load options beyond [`LoadRequest`](crate::LoadRequest)'s own fields.
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
            logprobs: false,
            sampling: Sampling::FIELDS.iter().map(|f| (*f).into()).collect(),
            options: Vec::new(),
            score: 0,
        }
    }
}
