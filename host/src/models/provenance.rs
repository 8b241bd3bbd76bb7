//! What an artifact tells of its own making: keys in a GGUF file's metadata, a file in a folder. The result of
//! validating it is written there too.

use super::format;
use crate::error::{Error, Result};
use pajamas_gguf_file::{GgufFile, Value};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

/// The file in a folder artifact that tells where it came from. A folder with it is one that pajamas made.
pub const FILE: &str = "pajamas.json";

/// Bytes of that file that are read at the most.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The key of the validation's result, JSON in a string.
pub const VALIDATION: &str = "pajamas.validation";

/// Bytes of that string in a GGUF file: as many as llama.cpp's quantizer can be told to set. It has this length from the
/// beginning, so that a result can be written later without moving what follows it.
const VALIDATION_BYTES: usize = 127;

/// The value of [`VALIDATION`] in a new GGUF file.
pub fn room_for_validation() -> String {
    format!("{:<VALIDATION_BYTES$}", "{}")
}

/// Everything that the artifact at `path` tells of its making: keys `pajamas.*` and `general.source.*`. Empty for one
/// that tells nothing.
///
/// # Errors
/// When a GGUF file is damaged.
pub fn read(path: &Path) -> Result<BTreeMap<String, String>> {
    if path.is_dir() {
        let mut text = Vec::new();
        if let Ok(file) = std::fs::File::open(path.join(FILE)) {
            let _ = file.take(FILE_BYTES_MAX).read_to_end(&mut text);
        }
        return Ok(serde_json::from_slice(&text).unwrap_or_default());
    }
    if format::detect(path)? != format::GGUF {
        return Ok(BTreeMap::new());
    }
    let file = GgufFile::open(path)?;
    let keys = file.metadata().iter();
    let ours = keys.filter(|(key, _)| key.starts_with("pajamas.") || key.starts_with("general.source."));
    Ok(ours
        .filter_map(|(key, value)| Some((key.to_owned(), value.as_str()?.trim_end().to_owned())))
        .filter(|(key, value)| key != VALIDATION || value != "{}")
        .collect())
}

/// Writes `result`, JSON, into the artifact at `path`, which pajamas made. False when there is no room for it: the
/// artifact is someone else's.
///
/// # Errors
/// When it cannot be written.
pub fn write_validation(path: &Path, result: &str) -> Result<bool> {
    if path.is_dir() { into_folder(path, result) } else { into_gguf(path, result) }
}

fn into_folder(path: &Path, result: &str) -> Result<bool> {
    let file = path.join(FILE);
    if !file.is_file() {
        return Ok(false);
    }
    let mut keys = read(path)?;
    keys.insert(VALIDATION.into(), result.into());
    let text = serde_json::to_string_pretty(&keys).unwrap_or_default();
    let partial = path.join(".pajamas.json.partial");
    let written = std::fs::write(&partial, text + "\n").and_then(|()| std::fs::rename(&partial, &file));
    if written.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    written.map_err(Error::io("writing", &file))?;
    Ok(true)
}

fn into_gguf(path: &Path, result: &str) -> Result<bool> {
    if format::detect(path)? != format::GGUF || result.len() > VALIDATION_BYTES {
        return Ok(false);
    }
    let file = GgufFile::open(path)?;
    let Some(Value::String(old)) = file.metadata().get(VALIDATION) else { return Ok(false) };
    let Some(offset) = file.string_offset(VALIDATION).filter(|_| old.len() == VALIDATION_BYTES) else {
        return Ok(false);
    };
    let failed = || Error::io("writing", path);
    // What the file is made of has not changed, and neither should what it is recognized by.
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    let mut file = std::fs::OpenOptions::new().write(true).open(path).map_err(failed())?;
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(offset)).map_err(failed())?;
    file.write_all(format!("{result:<VALIDATION_BYTES$}").as_bytes()).map_err(failed())?;
    file.sync_all().map_err(failed())?;
    if let Ok(modified) = modified {
        let _ = file.set_modified(modified);
    }
    Ok(true)
}
