//! What was made and is kept: artifacts under `~/.pajamas/models`, each with a record beside it.

use super::source::{self, Source};
use crate::config::Config;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What is known of an artifact, in `NAME.gguf.json` beside it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The artifact's file name.
    pub file: String,
    /// `gguf`, `mlx`, …
    pub format: String,
    /// The recipe it was made by.
    pub method: String,
    /// Path or id of what it was made from.
    pub source: String,
    /// [`source::fingerprint`] of that, then.
    pub fingerprint: String,
    /// Its bytes.
    pub size_bytes: u64,
    /// Whether its output tensor has the source's precision: then it is not what the method alone would make.
    #[serde(default)]
    pub leave_output_tensor: bool,
}

/// Every artifact that is kept, by file name. One without a record, put there by hand, has its name and size alone.
pub fn list(config: &Config) -> Vec<Record> {
    let Ok(listing) = std::fs::read_dir(config.models_dir()) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = listing.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let artifacts = paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    artifacts.map(|path| record(config, path)).collect()
}

/// What is known of the artifact at `path`; its size is the file's own.
fn record(config: &Config, path: &Path) -> Record {
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let text = std::fs::read_to_string(record_path(config, &file)).unwrap_or_default();
    let size_bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    match serde_json::from_str::<Record>(&text) {
        // A file that changed since is not what was made.
        Ok(record) if record.size_bytes == size_bytes => Record { file, ..record },
        _ => Record { file, format: "gguf".into(), size_bytes, ..Record::default() },
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
            && !record.leave_output_tensor
            && record.method.eq_ignore_ascii_case(method)
    });
    Ok(found.map(|record| config.models_dir().join(record.file)))
}

/// Notes down an artifact that lies in the store.
///
/// # Errors
/// When the record cannot be written.
pub fn remember(config: &Config, record: &Record) -> Result<()> {
    let path = record_path(config, &record.file);
    let text = serde_json::to_string_pretty(record).unwrap_or_default();
    let partial = path.with_extension("json.partial");
    std::fs::write(&partial, text).map_err(Error::io("writing", &partial))?;
    std::fs::rename(&partial, &path).map_err(Error::io("writing", &path))
}

/// Removes the record of the artifact at `path`, if there is one.
pub fn forget(config: &Config, path: &Path) {
    let _ = std::fs::remove_file(record_path(config, &path.file_name().unwrap_or_default().to_string_lossy()));
}

/// Where an artifact called `file` made from `source` goes: under its own name, unless that is taken by one that was
/// made from something else.
pub fn place(config: &Config, file: &str, origin: &str, fingerprint: &str) -> PathBuf {
    let path = config.models_dir().join(file);
    // One without a record was put there by hand: it is not ours to replace.
    let taken = path.exists() && record(config, &path).source != origin;
    if !taken {
        return path;
    }
    let (stem, extension) = file.rsplit_once('.').unwrap_or((file, ""));
    config.models_dir().join(format!("{stem}-{}.{extension}", &fingerprint[..8.min(fingerprint.len())]))
}

fn record_path(config: &Config, file: &str) -> PathBuf {
    config.models_dir().join(Path::new(&format!("{file}.json")))
}
