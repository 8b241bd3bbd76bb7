//! Makes a model of Hugging Face's small, proves that it is still good, and runs it on the best hardware present.
//!
//! ```no_run
//! use pajamas::Pajamas;
//!
//! # fn main() -> pajamas::Result<()> {
//! let pajamas = Pajamas::new()?;
//! // The smallest GGUF file whose mean KL divergence from the source is at most 0.03, found by measuring.
//! let made = pajamas.quantize("Qwen/Qwen2.5-0.5B-Instruct").max_kld(0.03).run()?;
//! println!("{} by {}", made.artifact.path.display(), made.artifact.method);
//!
//! let model = pajamas.load(&made).run()?;
//! let answer = model.chat("What is the capital of France?").max_tokens(32).run()?;
//! println!("{} ({:.0} tokens/s)", answer.text, answer.stats.tokens_per_second);
//! # Ok(())
//! # }
//! ```
//!
//! [`Pajamas`] is an installation: its settings, its plugins, the models that were made. Each of its methods begins a piece of
//! work ([`Quantize`], [`Load`], [`Validate`], [`Benchmark`], [`SweepMethods`]) that is described step by step and done by
//! `run`, which blocks; an [`Observer`] hears how it goes, a [`CancelToken`] stops it. A [`Model`] answers, from any number of
//! threads at once. Everything that fails gives an [`Error`] with a [hint](Error::hint) apart from its message.
//!
//! Plugins are asked, models quantized, and isolated models run, in a process of their own, `pajamas-worker`, which is
//! installed with the program `pajamas`: see [`Builder::worker`].

mod api;
#[doc(hidden)]
pub mod benchmark;
#[doc(hidden)]
pub mod chat;
// Its comments are help texts, as a terminal shows them.
#[allow(rustdoc::invalid_html_tags)]
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod config;
mod conversation;
mod doctor;
mod env_vars;
mod error;
mod files;
#[doc(hidden)]
pub mod hardware;
#[doc(hidden)]
pub mod models;
#[doc(hidden)]
pub mod pipeline;
#[doc(hidden)]
pub mod plugins;
#[doc(hidden)]
pub mod runtime;
mod scratch;
#[doc(hidden)]
pub mod search;
#[doc(hidden)]
pub mod sweep;
mod text;
mod users;
#[doc(hidden)]
pub mod validate;
mod verify;
#[doc(hidden)]
pub mod worker;

pub use api::*;
pub use chat::Message;
pub use error::{Error, Result};
pub use hardware::Hardware;
pub use models::store::Record;
pub use pajamas_plugin_api::{
    CancelToken, ErrorKind, Event, FinishReason, GenerateRequest, GenerateResult, GenerateStats, MemoryUsage,
    ModelInfo, ProgressUpdate, Prompt, QuantizeReport, Sampling, SpecialToken, TensorReport, TextSegment,
};
pub use pipeline::Artifact;
pub use plugins::{Backend, Status};
pub use runtime::open::Observer;
pub use search::Trial;

/// Starts the log on stderr, where `RUST_LOG` asks for one.
#[doc(hidden)]
pub fn log_if_asked() {
    if std::env::var_os(env_vars::RUST_LOG).is_some() {
        cli::log::start(0);
    }
}

/// What measuring gives: all the figures, as `--json` shows them.
pub mod report {
    pub use crate::benchmark::plan::Kind;
    pub use crate::benchmark::report::{
        Loaded, Measurement, Memory, Outcome, Report as Benchmark, Run, Settings, TestResult,
    };
    pub use crate::benchmark::statistics::{Latency, Rate};
    pub use crate::sweep::{Failure, Row, Sweep};
    pub use crate::validate::statistics::{Comparison, Distribution, Estimate};
    pub use crate::validate::text::TextSummary;
    pub use crate::validate::verdict::Verdict;
    pub use crate::validate::{Elapsed, Participant, Report as Validation, Summary};
}
