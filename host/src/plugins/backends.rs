//! What a user is told of each plugin, in the order of rank.

use super::{Candidate, Status, rank};
use crate::config::Config;
use pajamas_plugin_api::Availability;
use serde::Serialize;

/// A plugin that was found, and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Backend {
    /// 1 for the backend that runs by default; none for those that cannot run.
    pub rank: Option<usize>,
    /// Why it comes before the next.
    pub rank_reason: String,
    /// Its name, or its file's where it does not say one.
    pub name: String,
    /// Its version.
    pub version: Option<String>,
    /// The version of the plugin API that it was built with.
    pub api_version: Option<String>,
    /// Where its way ended.
    pub status: Status,
    /// The devices of an available backend.
    pub devices: Vec<String>,
    /// The formats that it loads.
    pub formats: Vec<String>,
    /// Why it is not available; empty where it is.
    pub reason: String,
    /// What the user can do about it; may be empty.
    pub remedy: String,
    /// How long it took to say whether it is available, in milliseconds.
    pub probe_ms: Option<f64>,
    /// When it was asked, in seconds since 1970.
    pub asked_at: Option<u64>,
    /// Its library.
    pub path: String,
}

/// What there is to tell of `candidates`, which are sorted.
pub fn backends(candidates: &[Candidate], config: &Config) -> Vec<Backend> {
    (0..candidates.len()).map(|index| backend(index, candidates, config)).collect()
}

/// What there is to tell of the candidate at `index`.
pub fn backend(index: usize, candidates: &[Candidate], config: &Config) -> Backend {
    let candidate = &candidates[index];
    let manifest = candidate.manifest.as_ref();
    let devices = match candidate.report.as_ref().map(|report| &report.availability) {
        Some(Availability::Available { devices }) => devices.iter().map(|device| device.name.clone()).collect(),
        _ => Vec::new(),
    };
    Backend {
        rank: (candidate.status == Status::Available).then_some(index + 1),
        rank_reason: rank::why(candidates, index, config.backend.as_deref()),
        name: candidate.name(),
        version: manifest.map(|m| m.version.to_string()),
        api_version: manifest.map(|m| m.api_version.to_string()),
        status: candidate.status,
        devices,
        formats: manifest.map(|m| m.formats.clone()).unwrap_or_default(),
        reason: candidate.reason.clone(),
        remedy: candidate.remedy.clone(),
        probe_ms: candidate.report.as_ref().map(|report| (report.elapsed_ms * 1e3).round() / 1e3),
        asked_at: candidate.asked_at,
        path: candidate.path.display().to_string(),
    }
}
