//! What a benchmark found, as every exporter reads it; docs/reference/json/benchmark.schema.json describes its JSON.

use super::plan::{Kind, Test};
use super::statistics::{Latency, Rate};
use crate::error::Error;
use crate::hardware::Hardware;
use pajamas_plugin_api::ModelInfo;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// All of it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The version of pajamas that measured.
    pub pajamas_version: &'static str,
    /// When it began: RFC 3339, UTC.
    pub started_at: String,
    /// Whether the user ended it before everything was measured.
    pub interrupted: bool,
    /// The machine.
    pub hardware: Hardware,
    /// How it was measured.
    pub settings: Settings,
    /// One for each model on each backend, in order.
    pub runs: Vec<Run>,
}

impl Report {
    /// Whether there is a row to show.
    pub fn is_empty(&self) -> bool {
        self.runs.iter().all(|run| run.error.is_none() && run.tests.is_empty())
    }

    /// How many models on backends failed, wholly or in a test.
    pub fn failures(&self) -> usize {
        self.runs.iter().filter(|run| run.failed()).count()
    }

    /// Gives each measurement its ratio to the first one of the same test.
    pub(super) fn compare(&mut self) {
        let mut first: BTreeMap<String, f64> = BTreeMap::new();
        for test in self.runs.iter_mut().flat_map(|run| &mut run.tests) {
            if let Outcome::Measured(measurement) = &mut test.outcome {
                let mean = measurement.tokens_per_second.mean;
                measurement.ratio = mean / *first.entry(test.test.clone()).or_insert(mean);
            }
        }
    }
}

/// How it was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// How often each test was measured.
    pub repetitions: u32,
    /// Whether each test ran once before, uncounted.
    pub warm_up: bool,
    /// Seconds of rest before each test.
    pub delay_s: f64,
    /// Threads that the backends were offered.
    pub threads: u32,
    /// Tokens of context that the models were loaded with.
    pub context_length: u32,
    /// The quantization method asked for, where a model had to be made.
    pub method: Option<String>,
    /// Options of the backends that were set.
    pub options: BTreeMap<String, String>,
}

/// One model on one backend, in a process of its own.
#[derive(Debug, Serialize)]
pub struct Run {
    /// The model as the user named it.
    pub model: String,
    /// A short name for it, unlike those of the other models.
    pub name: String,
    /// The backend; none if none could be chosen.
    pub backend: Option<String>,
    /// The version of the backend's plugin.
    pub backend_version: Option<String>,
    /// The loaded file or folder.
    pub path: Option<String>,
    /// What the loaded model is.
    pub loaded: Option<Loaded>,
    /// The tests that ran, in order.
    pub tests: Vec<TestResult>,
    /// Why it could not be loaded, or ended before its last test.
    #[serde(serialize_with = "failure")]
    pub error: Option<Error>,
}

impl Run {
    /// Whether it failed, wholly or in a test.
    pub fn failed(&self) -> bool {
        self.error.is_some() || self.tests.iter().any(|test| test.failure().is_some())
    }
}

/// As errors are printed with `--json`.
fn failure<S: Serializer>(error: &Option<Error>, serializer: S) -> Result<S::Ok, S::Error> {
    let value = error
        .as_ref()
        .map(|error| serde_json::json!({ "kind": error.kind(), "message": error.to_string(), "hint": error.hint() }));
    value.serialize(serializer)
}

/// A loaded model.
#[derive(Debug, Clone, Serialize)]
pub struct Loaded {
    /// `qwen2`, `llama`, …
    pub architecture: String,
    /// How its weights are stored: `Q4_K - Medium`, …
    pub quantization: String,
    /// Parameters; 0 if unknown.
    pub parameter_count: u64,
    /// Bytes of weights; 0 if unknown.
    pub size_bytes: u64,
    /// Tokens of context that the backend gave it.
    pub context_length: u32,
    /// Tokens of context that it was trained with; 0 if unknown.
    pub context_length_trained: u32,
    /// From the start of its process until it could answer, in milliseconds.
    pub load_ms: f64,
    /// What it holds.
    pub memory: Memory,
}

impl Loaded {
    pub(super) fn new(info: &ModelInfo, load_ms: f64) -> Self {
        Self {
            architecture: info.architecture.clone(),
            quantization: info.quantization.clone(),
            parameter_count: info.parameter_count,
            size_bytes: info.size_bytes,
            context_length: info.context_length,
            context_length_trained: info.context_length_trained,
            load_ms,
            memory: Memory::default(),
        }
    }
}

/// Memory, in bytes. Zeroes mean unknown.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Memory {
    /// Weights, by the backend's account.
    pub weights_bytes: u64,
    /// KV cache, by the backend's account.
    pub kv_cache_bytes: u64,
    /// Compute buffers, by the backend's account.
    pub compute_bytes: u64,
    /// The most that the process had in main memory at once.
    pub peak_resident_bytes: u64,
}

/// One test of one model on one backend.
#[derive(Debug, Clone, Serialize)]
pub struct TestResult {
    /// llama-bench's name of the test.
    pub test: String,
    /// What it measures.
    pub kind: Kind,
    /// Tokens that were processed or generated, each time.
    pub tokens: u32,
    /// Tokens that the KV cache held before.
    pub depth: u32,
    /// What a reader must know of it.
    pub note: Option<String>,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl TestResult {
    pub(super) fn new(test: &Test, outcome: Outcome, note: Option<String>) -> Self {
        Self { test: test.to_string(), kind: test.kind, tokens: test.tokens, depth: test.depth, note, outcome }
    }

    /// How it failed, if it did.
    pub fn failure(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Failed { reason } => Some(reason),
            _ => None,
        }
    }
}

/// What came of a test.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Outcome {
    /// A number.
    Measured(Measurement),
    /// The backend has no way to be measured so; that is no failure.
    Skipped {
        /// Why.
        reason: String,
    },
    /// The backend failed.
    Failed {
        /// How.
        reason: String,
    },
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Measurement {
    /// The speed.
    pub tokens_per_second: Rate,
    /// From the request until the first token; of prompt processing only.
    pub time_to_first_token_ms: Option<Latency>,
    /// The mean speed by that of the first run that measured the same test.
    pub ratio: f64,
}
