//! What was made and is kept: artifacts under `~/.pajamas/models`, each with a record beside it.

pub mod prune;
mod remove;

pub use remove::{Removal, remove_files};

use super::format;
use super::source::{self, Source};
use crate::config::Config;
use crate::error::Result;
use crate::validate::Summary;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What is known of an artifact, in `FILE.json` beside it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The artifact's file or folder name.
    pub file: String,
    /// `gguf`, `mlx`, …
    pub format: String,
    /// The recipe it was made by.
    pub method: String,
    /// Path or id of what it was made from.
    pub source: String,
    /// [`source::fingerprint`] of that, then.
    pub fingerprint: String,
    /// The commit, where that is a model of the hub's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Its bytes.
    pub size_bytes: u64,
    /// The recipe's options that it was made with, as a user writes them.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// When it was made, in seconds since 1970; 0 if unknown.
    #[serde(default)]
    pub created_unix_s: u64,
    /// What validating it came to, if that was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Summary>,
    /// Names of the files beside it that belong to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub companions: Vec<String>,
}

impl Record {
    /// What a user calls it: its file name without the extension.
    pub fn name(&self) -> &str {
        self.file.strip_suffix(&format!(".{}", self.format)).unwrap_or(&self.file)
    }

    /// What a user can write to mean just what it was made from.
    pub fn reference(&self) -> String {
        self.commit.as_ref().map_or_else(|| self.source.clone(), |commit| format!("{}@{commit}", self.source))
    }

    /// Whether it was measured and found not good enough.
    fn failed(&self) -> bool {
        self.validation.as_ref().is_some_and(|summary| !summary.passed)
    }

    /// Whether pajamas made it, and it is still what was made.
    pub fn is_ours(&self) -> bool {
        !self.method.is_empty()
    }
}

/// Every artifact that is kept, by file name. One without a record, put there by hand, has its name and size alone.
pub fn list(config: &Config) -> Vec<Record> {
    let Ok(listing) = std::fs::read_dir(config.models_dir()) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = listing.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let shown = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // An importance matrix is no model, also where the one that it belongs to is gone.
        !name.starts_with('.') && !name.ends_with(".imatrix.gguf")
    };
    let mut records: Vec<Record> = paths.iter().filter(shown).filter_map(|path| record(config, path)).collect();
    let companions: Vec<String> = records.iter().flat_map(|record| record.companions.clone()).collect();
    records.retain(|record| !companions.contains(&record.file));
    records
}

/// What is known of the artifact at `path`; its size is the artifact's own. None for what is no artifact.
fn record(config: &Config, path: &Path) -> Option<Record> {
    let file = path.file_name()?.to_string_lossy().into_owned();
    let record = std::fs::read(record_path(config, &file)).ok();
    let record = record.and_then(|text| serde_json::from_slice::<Record>(&text).ok());
    // Without a record, only what tells its format by its content: anything may lie here.
    let known = record.is_some();
    let format = format::detect(path).ok();
    let format = format.filter(|format| known || [format::GGUF, format::MLX].contains(&&**format))?;
    let size_bytes = size_on_disk(path);
    match record {
        // A file that changed since is not what was made.
        Some(record) if record.size_bytes == size_bytes => Some(Record { file, ..record }),
        _ => Some(Record { file, format, size_bytes, ..Record::default() }),
    }
}

/// Bytes of the file at `path`, or of the files in that folder. Hidden ones do not count (a file manager may leave some),
/// and links in a folder are not followed.
pub fn size_on_disk(path: &Path) -> u64 {
    match std::fs::read_dir(path) {
        Ok(listing) => listing.flatten().map(|entry| size_in_folder(&entry)).sum(),
        Err(_) => std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
    }
}

/// Bytes of the file at `path`, or of the files in that folder, where links lead to them, as in Hugging Face's cache.
pub fn size_with_links(path: &Path) -> u64 {
    let files = std::fs::read_dir(path).map(|listing| listing.flatten().map(|entry| entry.path()).collect());
    let files: Vec<PathBuf> = files.unwrap_or_else(|_| vec![path.to_owned()]);
    files.iter().filter_map(|file| std::fs::metadata(file).ok()).filter(|m| m.is_file()).map(|m| m.len()).sum()
}

fn size_in_folder(entry: &std::fs::DirEntry) -> u64 {
    // Of the entry itself, not of what a link leads to.
    let metadata = entry.metadata().ok().filter(|_| !entry.file_name().as_encoded_bytes().starts_with(b"."));
    match metadata {
        Some(metadata) if metadata.is_dir() => size_on_disk(&entry.path()),
        Some(metadata) if metadata.is_file() => metadata.len(),
        _ => 0,
    }
}

/// The artifact made from `source` as it is now, by `method`.
///
/// # Errors
/// When the source cannot be read.
pub fn find(config: &Config, source: &Source, format: &str, method: &str) -> Result<Option<PathBuf>> {
    let fingerprint = source::fingerprint(source)?;
    let found = list(config).into_iter().find(|record| {
        record.fingerprint == fingerprint
            && record.format == format
            && record.options.is_empty()
            && record.method.eq_ignore_ascii_case(method)
    });
    Ok(found.map(|record| config.models_dir().join(record.file)))
}

/// The best artifact in `format` made from `source` as it is now: the largest of those that were not found wanting, because
/// what takes more bits is nearer to its source. One that has no room in `memory_bytes` comes after all that have.
///
/// # Errors
/// When the source cannot be read.
pub fn best(config: &Config, source: &Source, format: &str, memory_bytes: u64) -> Result<Option<Record>> {
    let fingerprint = source::fingerprint(source)?;
    let made = list(config).into_iter().filter(|record| record.fingerprint == fingerprint && record.format == format);
    Ok(made.filter(|record| !record.failed()).max_by_key(|record| by_quality(record, memory_bytes)))
}

/// The best artifact made from the hub's model `reference`, which need not be here any more: of its revision if it has one,
/// else of the newest that something was made of. As [`best`], in any format that `runner` gives the memory for, in which it
/// runs.
pub fn best_of_hub(
    config: &Config,
    reference: &str,
    method: Option<&str>,
    runner: &dyn Fn(&str) -> Option<u64>,
) -> Option<Record> {
    let (id, revision) = reference.split_once('@').map_or((reference, None), |(id, revision)| (id, Some(revision)));
    let meant = |record: &Record| {
        let commit = record.commit.as_deref().unwrap_or_default();
        record.source == id
            && record.is_ours()
            && revision.is_none_or(|revision| revision == "main" || commit == revision)
            && method.is_none_or(|method| record.method.eq_ignore_ascii_case(method))
            && !record.failed()
            && runner(&record.format).is_some()
    };
    let made: Vec<Record> = list(config).into_iter().filter(meant).collect();
    let newest = made.iter().max_by_key(|record| record.created_unix_s)?.fingerprint.clone();
    let made = made.into_iter().filter(|record| record.fingerprint == newest);
    made.max_by_key(|record| by_quality(record, runner(&record.format).unwrap_or(0)))
}

fn by_quality(record: &Record, memory_bytes: u64) -> (bool, u64) {
    // The context and what is computed with it take some, too.
    let fits = memory_bytes == 0 || record.size_bytes <= memory_bytes / 5 * 4;
    (fits, if fits { record.size_bytes } else { u64::MAX - record.size_bytes })
}

/// What is known of the artifact at `path`, if it lies in the store.
pub fn record_of(config: &Config, path: &Path) -> Option<Record> {
    let store = config.models_dir().canonicalize().ok()?;
    let path = path.canonicalize().ok()?;
    (path.parent() == Some(&store)).then(|| record(config, &path))?
}

/// Notes down what validating the artifact of `record` came to. Its own size may have changed by the result that was just
/// written into it.
///
/// # Errors
/// When the record cannot be written.
pub fn remember_validation(config: &Config, record: &Record, summary: &Summary) -> Result<()> {
    let size_bytes = size_on_disk(&config.models_dir().join(&record.file));
    remember(config, &Record { size_bytes, validation: Some(summary.clone()), ..record.clone() })
}

/// Notes down an artifact that lies in the store.
///
/// # Errors
/// When the record cannot be written.
pub fn remember(config: &Config, record: &Record) -> Result<()> {
    let path = record_path(config, &record.file);
    let text = serde_json::to_string_pretty(record).unwrap_or_default();
    crate::files::replace(&path, text.as_bytes(), 0o644)
}

/// Removes the record of the artifact at `path`, if there is one.
pub fn forget(config: &Config, path: &Path) {
    let _ = std::fs::remove_file(record_path(config, &path.file_name().unwrap_or_default().to_string_lossy()));
}

/// Removes the files `names` of the folder `dir`, which belonged to an artifact that is gone, but for those in `kept`.
pub fn remove_companions(dir: &Path, names: &[String], kept: &[PathBuf]) {
    for name in names.iter().filter(|name| !name.contains(['/', '\\'])) {
        let path = dir.join(name);
        if !kept.contains(&path) {
            // One that cannot be removed is only in the way.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Where the artifact `file` made from `origin` goes: under its own name, unless that is taken by one that was made
/// from something else, or from another commit of the same. `extension` is the end of `file`, dot included; empty for a folder.
pub fn place(
    config: &Config,
    file: &str,
    extension: &str,
    origin: &str,
    commit: Option<&str>,
    fingerprint: &str,
) -> PathBuf {
    let path = config.models_dir().join(file);
    // One without a record was put there by hand: it is not ours to replace.
    let other = |record: Record| {
        let another_commit = commit.zip(record.commit.as_deref()).is_some_and(|(commit, known)| commit != known);
        record.source != origin || another_commit
    };
    let taken = path.exists() && record(config, &path).is_none_or(other);
    if !taken {
        return path;
    }
    let (stem, extension) = file.strip_suffix(extension).map_or((file, ""), |stem| (stem, extension));
    let mark = commit.unwrap_or(fingerprint);
    config.models_dir().join(format!("{stem}-{}{extension}", &mark[..8.min(mark.len())]))
}

/// Where the record of the artifact `file` is.
pub fn record_path(config: &Config, file: &str) -> PathBuf {
    config.models_dir().join(Path::new(&format!("{file}.json")))
}
