//! The conformance kit: rules that every plugin keeps, and checks of them.
//!
//! Each rule is checked in a process of its own, because a plugin that breaks one may take its process along. `pajamas
//! plugins verify FILE` does so in worker processes; a [`Kit`] does so in a plugin's own `cargo test`:
//!
//! ```no_run
//! // tests/conformance.rs, with `harness = false` in Cargo.toml
//! fn main() -> std::process::ExitCode {
//!     pajamas_plugin_api::conformance::Kit::new("acme-npu").model(|| Some("tests/tiny.acme".into())).run()
//! }
//! ```
//!
//! The feature `conformance` brings it; only tests and hosts need that. docs/plugins/rules.md has the rules for authors.

mod checks;
mod harness;
pub mod reference;
mod rules;

pub use harness::Kit;
pub use reference::Reference;
pub use rules::{RULES, Rule};

use serde::{Deserialize, Serialize};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// A plugin that is checked, and what with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Subject {
    /// Its library.
    pub plugin: PathBuf,
    /// A small model that it can load, for the rules that need one.
    pub model: Option<PathBuf>,
    /// Where it may cache.
    pub cache_dir: PathBuf,
    /// Threads that it may compute with.
    pub threads: u32,
    /// What the model's logits must come to.
    pub reference: Option<Reference>,
}

impl Subject {
    /// The plugin `plugin`, without a model.
    pub fn new(plugin: impl Into<PathBuf>) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(4));
        Self {
            plugin: plugin.into(),
            model: None,
            cache_dir: std::env::temp_dir(),
            threads: u32::try_from(threads).unwrap_or(1),
            reference: None,
        }
    }
}

/// What came of checking a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// It is kept.
    Passed {
        /// What was measured; may be empty.
        note: String,
    },
    /// It is broken.
    Failed {
        /// How.
        reason: String,
    },
    /// It could not be checked.
    Skipped {
        /// Why.
        reason: String,
    },
}

/// Checks the rule of that number in this process, which should be a fresh one: the check may crash it, and leaves the
/// plugin loaded. None if there is no such rule.
pub fn run(number: u16, subject: &Subject) -> Option<Outcome> {
    let rule = RULES.iter().find(|rule| rule.number == number)?;
    let found = catch_unwind(AssertUnwindSafe(|| (rule.check)(subject)));
    Some(match found {
        Ok(Ok(note)) => Outcome::Passed { note },
        Ok(Err(checks::Obstacle::Failed(reason))) => Outcome::Failed { reason },
        Ok(Err(checks::Obstacle::Skipped(reason))) => Outcome::Skipped { reason },
        Err(payload) => {
            let reason = format!("the check panicked: {}", crate::abi::guard::message(payload.as_ref()));
            Outcome::Failed { reason }
        }
    })
}
