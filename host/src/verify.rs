//! Checks a finished model against what it tells of its own making: nothing of it has changed since, its source is still the
//! one that it was made from, and a backend takes it.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::models::describe::{self, Description};
use crate::models::hashes::{self, Sums};
use crate::models::source::{self, Source};
use crate::models::{provenance, store};
use crate::plugins::{Candidate, rank};
use crate::worker::remote_model;
use pajamas_plugin_api::{CancelToken, ErrorKind, LoadRequest, ProgressUpdate};
use serde::Serialize;
use std::path::PathBuf;

/// Tokens of context that a backend is asked to make room for.
const CONTEXT_LENGTH: u32 = 512;

/// What checking a model came to.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The model's file or folder.
    pub path: PathBuf,
    /// `gguf`, `mlx`, …
    pub format: String,
    /// Whether no check failed.
    pub passed: bool,
    /// The checks, in order.
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked: `structure`, `content`, `source`, `record`, `backend`.
    pub name: &'static str,
    /// What it came to.
    pub outcome: Outcome,
    /// What was found, or why it could not be looked at.
    pub detail: String,
}

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it should be.
    Passed,
    /// Not as it should be.
    Failed,
    /// It could not be looked at here.
    Skipped,
}

/// What a model is checked with.
pub struct Context<'a> {
    /// The backends that are installed.
    pub candidates: &'a [Candidate],
    /// Settings.
    pub config: &'a Config,
    /// Hears of the progress.
    pub progress: &'a dyn Fn(&ProgressUpdate),
    /// Stops the work.
    pub cancel: &'a CancelToken,
}

/// Checks the model `artifact`. `source` is what it was made from, where that is known better than by the model.
///
/// # Errors
/// `Interrupted`; when the files cannot be read.
pub fn verify(artifact: &Source, source: Option<&Source>, context: &Context<'_>) -> Result<Report> {
    let mut checks = Vec::new();
    let description = match describe::describe(artifact, context.config) {
        Ok(description) => {
            checks.push(passed("structure", summary(&description)));
            Some(description)
        }
        Err(error) => {
            checks.push(failed("structure", error.to_string()));
            None
        }
    };
    if let Some(description) = description {
        checks.push(content(artifact, &description, context)?);
        checks.push(source_files(artifact, source, &description, context)?);
        checks.push(record(artifact, context.config));
        checks.push(backend(artifact, context)?);
    }
    let failed = checks.iter().any(|check| check.outcome == Outcome::Failed);
    Ok(Report { path: artifact.path.clone(), format: artifact.format.clone(), passed: !failed, checks })
}

fn passed(name: &'static str, detail: String) -> Check {
    Check { name, outcome: Outcome::Passed, detail }
}

fn failed(name: &'static str, detail: String) -> Check {
    Check { name, outcome: Outcome::Failed, detail }
}

fn skipped(name: &'static str, detail: impl Into<String>) -> Check {
    Check { name, outcome: Outcome::Skipped, detail: detail.into() }
}

fn summary(description: &Description) -> String {
    let tensors: u64 = description.tensor_types.iter().map(|kind| kind.count).sum();
    format!("whole: {tensors} tensors, {} bytes", description.size_bytes)
}

fn content(artifact: &Source, description: &Description, context: &Context<'_>) -> Result<Check> {
    const NAME: &str = "content";
    let Some(stated) = description.provenance.get(provenance::CONTENT_SUM) else {
        // Whatever pajamas made says it: then the key itself is damaged.
        return Ok(if description.provenance.keys().any(|key| key.starts_with("pajamas.")) {
            failed(NAME, format!("`{}` is missing: make or fetch it again", provenance::CONTENT_SUM))
        } else {
            skipped(NAME, "it does not say what it adds up to: pajamas did not make it")
        });
    };
    let found = provenance::content_sum(&artifact.path, context.progress, context.cancel)?;
    Ok(if found == *stated {
        passed(NAME, "SHA-256 as when it was made".into())
    } else {
        failed(NAME, format!("SHA-256 is {found}, it was {stated}: make or fetch it again"))
    })
}

fn source_files(
    artifact: &Source,
    source: Option<&Source>,
    description: &Description,
    context: &Context<'_>,
) -> Result<Check> {
    const NAME: &str = "source";
    let Some(stated) = description.provenance.get(provenance::SOURCE_SUMS).and_then(|text| Sums::parse(text)) else {
        return Ok(skipped(NAME, "it does not say what its source's files add up to"));
    };
    let known = match source {
        Some(source) => Some(source.clone()),
        None => known_source(artifact, description, context.config),
    };
    let Some(source) = known else {
        return Ok(skipped(NAME, "what it was made from is not here; --source names it"));
    };
    let files = hashes::files_of(&source)?;
    let total: u64 = files.iter().map(|file| std::fs::metadata(file).map_or(0, |file| file.len())).sum();
    let mut done = 0;
    let mut report = |bytes| {
        done += bytes;
        let fraction = done as f32 / total.max(1) as f32;
        (context.progress)(&ProgressUpdate { stage: "hashing source".into(), fraction, detail: String::new() });
    };
    let found = Sums::of(&files, false, &mut report, context.cancel)?;
    let different: Vec<&str> = stated
        .iter()
        .filter(|(name, sum)| !found.iter().any(|(found, its_sum)| found == *name && its_sum == *sum))
        .map(|(name, _)| name)
        .collect();
    Ok(if different.is_empty() {
        passed(NAME, format!("{} files of {} are those that it was made from", stated.iter().count(), source.display()))
    } else {
        failed(NAME, format!("changed or gone since in {}: {}", source.display(), different.join(", ")))
    })
}

/// What the artifact was made from, by its own account or the store's record.
fn known_source(artifact: &Source, description: &Description, config: &Config) -> Option<Source> {
    let hub = description.provenance.get("general.source.huggingface.repository");
    let commit = description.provenance.get("pajamas.source.commit");
    let by_id = hub.zip(commit).map(|(id, commit)| format!("{id}@{commit}"));
    let recorded = store::record_of(config, &artifact.path).map(|record| record.source);
    let reference = by_id.or(recorded).filter(|reference| !reference.is_empty())?;
    source::resolve(&reference, config).ok()
}

fn record(artifact: &Source, config: &Config) -> Check {
    const NAME: &str = "record";
    match store::record_of(config, &artifact.path) {
        Some(record) if record.is_ours() => {
            passed(NAME, format!("in the store, {} of {}", record.method, record.source))
        }
        Some(_) => failed(NAME, "in the store, but it is not the file that was put there".into()),
        None => skipped(NAME, "not in the store"),
    }
}

fn backend(artifact: &Source, context: &Context<'_>) -> Result<Check> {
    const NAME: &str = "backend";
    let formats = std::slice::from_ref(&artifact.format);
    let preferred = rank::choose(context.candidates, formats, context.config.backend.as_deref(), true);
    // One that is preferred and not installed is for others to complain about.
    let chosen = preferred.or_else(|_| rank::choose(context.candidates, formats, None, true));
    let Ok(candidate) = chosen.map(|choice| choice.candidate) else {
        return Ok(skipped(NAME, format!("no installed backend runs {} models", artifact.format.to_uppercase())));
    };
    let mut request = LoadRequest::new(&artifact.path);
    request.context_length = Some(CONTEXT_LENGTH);
    request.threads = context.config.threads;
    match remote_model::forecast(candidate.file()?, &request, context.config) {
        Ok(_) => Ok(passed(NAME, format!("`{}` takes it", candidate.name()))),
        Err(Error::Plugin(error)) if error.kind == ErrorKind::Unsupported => {
            Ok(skipped(NAME, format!("`{}` cannot say: {error}", candidate.name())))
        }
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(error) => Ok(failed(NAME, format!("`{}` does not take it: {error}", candidate.name()))),
    }
}
