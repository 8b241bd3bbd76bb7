//! The stages of a plugin: discover → preflight → trust → probe → rank → load. One file each; [`survey`] runs all but
//! the last and keeps a row for every file, with its status and reason. Apart from them, [`scaffold`] begins a new plugin.

pub mod discover;
pub mod load;
pub mod preflight;
pub mod probe;
pub mod rank;
pub mod scaffold;
pub mod trust;

use crate::config::Config;
use crate::worker::protocol::ProbeReport;
use pajamas_plugin_api::Availability;
use pajamas_plugin_api::manifest::Manifest;
use serde::Serialize;
use std::path::PathBuf;

/// Where a plugin's way through the stages ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It can run.
    Available,
    /// It makes models and runs none.
    QuantizeOnly,
    /// It loads, and says that it cannot run here.
    Unavailable,
    /// A file of that name, or a backend of that name, came earlier in the search.
    Shadowed,
    /// It was not loaded: its file, its manifest or its owner do not allow it.
    Refused,
    /// It crashed, hung or failed when it was asked.
    Failed,
}

impl Status {
    /// As a table shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::QuantizeOnly => "quantizes",
            Self::Unavailable => "unavailable",
            Self::Shadowed => "shadowed",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// One file found in the plugin folders, and what became of it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its canonical path.
    pub path: PathBuf,
    /// What it says of itself, if it could be read.
    pub manifest: Option<Manifest>,
    /// Where its way ended.
    pub status: Status,
    /// Why it is no more than that; empty for the available.
    pub reason: String,
    /// What the user can do about it; may be empty.
    pub remedy: String,
    /// What it answered when asked.
    pub report: Option<ProbeReport>,
}

impl Candidate {
    /// The backend's name, or the file's where there is no manifest.
    pub fn name(&self) -> String {
        self.manifest.as_ref().map_or_else(
            || self.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            |manifest| manifest.name.clone(),
        )
    }

    fn new(path: PathBuf) -> Self {
        Self {
            path,
            manifest: None,
            status: Status::Refused,
            reason: String::new(),
            remedy: String::new(),
            report: None,
        }
    }
}

/// Finds every plugin and asks each that may be loaded, in worker processes. Sorted by rank, the available first.
pub fn survey(config: &Config) -> Vec<Candidate> {
    let mut candidates: Vec<Candidate> = Vec::new();
    for found in discover::discover(&config.plugin_dirs) {
        let mut candidate = Candidate::new(found.path);
        if let Some(earlier) = found.shadowed_by {
            candidate.manifest = preflight::preflight(&candidate.path).ok();
            candidate.status = Status::Shadowed;
            candidate.reason = format!("`{}` comes first", earlier.display());
            candidates.push(candidate);
            continue;
        }
        match preflight::preflight(&candidate.path).and_then(|manifest| {
            trust::check(&candidate.path)?;
            Ok(manifest)
        }) {
            Err(refusal) => {
                candidate.manifest = refusal.manifest.map(|manifest| *manifest);
                candidate.reason = refusal.reason;
                candidate.remedy = refusal.remedy;
            }
            Ok(manifest) => {
                let twin = candidates.iter().find(|c| {
                    c.report.is_some()
                        && c.manifest.as_ref().is_some_and(|m| m.name == manifest.name && same_level(m, &manifest))
                });
                if let Some(twin) = twin {
                    candidate.status = Status::Shadowed;
                    candidate.reason = format!("another `{}` comes first: `{}`", manifest.name, twin.path.display());
                } else {
                    ask(&mut candidate, config);
                }
                candidate.manifest = Some(manifest);
            }
        }
        candidates.push(candidate);
    }
    rank::sort(&mut candidates, config.backend.as_deref());
    candidates
}

/// Whether two builds of one backend are for the same CPU level; builds for other levels are variants, all asked.
fn same_level(a: &Manifest, b: &Manifest) -> bool {
    a.cpu_features == b.cpu_features
}

fn ask(candidate: &mut Candidate, config: &Config) {
    match probe::probe(&candidate.path, config) {
        Ok(report) => {
            match &report.availability {
                Availability::Available { .. } => candidate.status = Status::Available,
                Availability::QuantizeOnly => {
                    candidate.status = Status::QuantizeOnly;
                    let mut formats: Vec<&str> = report.recipes.iter().map(|recipe| recipe.format.as_str()).collect();
                    formats.dedup();
                    candidate.reason = format!("it makes {} models and runs none", formats.join(", "));
                }
                Availability::Unavailable { reason, remedy } => {
                    candidate.status = Status::Unavailable;
                    candidate.reason.clone_from(reason);
                    candidate.remedy.clone_from(remedy);
                }
                other => candidate.reason = format!("it gave an answer that this pajamas does not know: {other:?}"),
            }
            candidate.report = Some(report);
        }
        Err(error) => {
            candidate.status = Status::Failed;
            candidate.remedy = error.hint().unwrap_or_default();
            candidate.reason = error.to_string();
        }
    }
}
