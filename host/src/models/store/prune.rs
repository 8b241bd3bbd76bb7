//! What in the home folder is of no use any more: what interrupted work left, and, where asked for, artifacts that a newer one
//! of the same making replaces, that are not good enough, or whose source is another by now.

use super::{Record, Removal, list, record_path, size_on_disk};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::hardware::process_exists;
use crate::models::source;
use crate::scratch;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What goes beside what always does.
#[derive(Debug, Clone, Copy, Default)]
pub struct Also {
    /// Artifacts of which there is one by the same method of a newer state of the source.
    pub superseded: bool,
    /// Artifacts that validation found not good enough.
    pub failed: bool,
    /// Artifacts whose source is not there as it was when they were made.
    pub stale: bool,
}

/// Something that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Useless {
    /// Its file or folder.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
    /// Its bytes.
    pub size_bytes: u64,
    /// Whether it is an artifact.
    #[serde(skip)]
    artifact: bool,
}

/// Everything that goes, by path.
pub fn find(config: &Config, also: Also) -> Vec<Useless> {
    let mut found: Vec<Useless> = leftovers(config);
    let kept = list(config);
    for record in kept.iter().filter(|record| record.is_ours()) {
        if let Some(reason) = useless(record, &kept, also, config) {
            let (path, size_bytes) = (config.models_dir().join(&record.file), record.size_bytes);
            found.push(Useless { path, reason, size_bytes, artifact: true });
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// Removes what was found.
///
/// # Errors
/// When a model is being written, or something cannot be removed: what came before that is gone.
pub fn remove(config: &Config, found: &[Useless]) -> Result<()> {
    let name = |useless: &Useless| useless.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let artifacts: Vec<String> = found.iter().filter(|useless| useless.artifact).map(name).collect();
    if !artifacts.is_empty() {
        Removal::plan(config, &artifacts, false)?.carry_out(config)?;
    }
    for useless in found.iter().filter(|useless| !useless.artifact) {
        super::remove_files(&useless.path).map_err(Error::io("removing", &useless.path))?;
    }
    Ok(())
}

fn useless(record: &Record, kept: &[Record], also: Also, config: &Config) -> Option<String> {
    let same = |other: &&Record| {
        other.is_ours()
            && (&other.source, &other.format, &other.method, &other.options)
                == (&record.source, &record.format, &record.method, &record.options)
    };
    let now = |reference: &str| source::resolve(reference, config).and_then(|source| source::fingerprint(&source));
    if also.superseded && kept.iter().filter(same).any(|other| other.fingerprint != record.fingerprint) {
        let current = now(&record.source).ok();
        let is_current = |other: &&Record| current.as_ref() == Some(&other.fingerprint);
        // What was made last may be of an older state: that counts only where nothing is of the state as it is now.
        let last =
            |other: &&Record| other.fingerprint != record.fingerprint && other.created_unix_s > record.created_unix_s;
        let newer = kept.iter().filter(same).find(is_current).or_else(|| kept.iter().filter(same).find(last));
        if let Some(newer) = newer.filter(|newer| newer.fingerprint != record.fingerprint) {
            return Some(format!("`{}` is the same of a newer state of the source", newer.name()));
        }
    }
    if also.failed && record.validation.as_ref().is_some_and(|summary| !summary.passed) {
        return Some("it was measured and is not good enough".into());
    }
    if also.stale {
        return match now(&record.reference()) {
            Ok(fingerprint) if fingerprint == record.fingerprint => None,
            Ok(_) => Some("its source has changed since".into()),
            Err(Error::ModelNotFound { .. }) => Some("its source is not here any more".into()),
            // Something is there, and what is not known.
            Err(_) => None,
        };
    }
    None
}

/// What work that was interrupted left: hidden folders of processes that are gone, records of nothing, scratch folders.
fn leftovers(config: &Config) -> Vec<Useless> {
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let useless = |path: PathBuf, reason: &str| {
        let size_bytes = size_on_disk(&path);
        Useless { path, reason: reason.into(), size_bytes, artifact: false }
    };
    let dir = config.models_dir();
    let mut found = Vec::new();
    for path in entries(&dir) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let process = name.strip_prefix('.').and_then(|name| name.strip_suffix(".partial")?.rsplit_once('.'));
        if process.and_then(|(_, process)| process.parse().ok()).is_some_and(|process| !process_exists(process)) {
            found.push(useless(path, "an interrupted run left it"));
        } else if name.strip_suffix(".json").is_some_and(|artifact| is_record_of_nothing(config, &path, artifact)) {
            let record = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
            let beside = record.map_or_else(Vec::new, |record| record.companions).into_iter();
            let beside = beside.filter(|name| !name.contains(['/', '\\'])).map(|name| dir.join(name));
            found.extend(
                beside
                    .filter(|path| path.is_file())
                    .map(|path| useless(path, "it belongs to a model that is not there")),
            );
            found.push(useless(path, "it is the record of a model that is not there"));
        }
    }
    found.extend(scratch::abandoned(config).map(|path| useless(path, "an interrupted run left it")));
    found
}

fn is_record_of_nothing(config: &Config, path: &Path, artifact: &str) -> bool {
    let record = || serde_json::from_slice::<Record>(&std::fs::read(path).ok()?).ok();
    path == record_path(config, artifact) && !config.models_dir().join(artifact).exists() && record().is_some()
}
