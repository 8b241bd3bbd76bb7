//! What an artifact tells of its own making: keys in a GGUF file's metadata, a file in a folder. The result of
//! validating it is written there too.

use super::format;
use crate::error::{Error, Result};
use crate::files;
use pajamas_gguf_file::{GgufFile, Value};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

/// The file in a folder artifact that tells where it came from. A folder with it is one that pajamas made.
pub const FILE: &str = "pajamas.json";

/// Bytes of that file that are read at the most.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The key of the validation's result, JSON in a string.
pub const VALIDATION: &str = "pajamas.validation";

/// Bytes of that string in a GGUF file: as many as llama.cpp's quantizer can be told to set. It has this length from the
/// beginning, so that a result can be written later without moving what follows it.
pub const VALIDATION_BYTES: usize = 127;

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
        let keys = keys_of_folder(path)?.unwrap_or_default().into_iter();
        return Ok(keys.filter_map(|(key, value)| Some((key, value.as_str()?.to_owned()))).collect());
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

/// Everything in the file of the folder at `path`; none where there is no such file.
fn keys_of_folder(path: &Path) -> Result<Option<serde_json::Map<String, serde_json::Value>>> {
    let path = path.join(FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("opening", &path)(error)),
    };
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(Error::io("reading", &path))?;
    serde_json::from_slice(&text).map(Some).map_err(|error| Error::Invalid {
        path,
        message: format!("this is no JSON object with a model's provenance: {error}"),
        hint: "make the model again".into(),
    })
}

/// Writes `result`, JSON, into the artifact at `path`, which pajamas made. False when there is no room for it: the
/// artifact is someone else's, or has other names that it would change under as well.
///
/// # Errors
/// When it cannot be written.
pub fn write_validation(path: &Path, result: &str) -> Result<bool> {
    if path.is_dir() { into_folder(path, result) } else { into_gguf(path, result) }
}

fn into_folder(path: &Path, result: &str) -> Result<bool> {
    let Some(mut keys) = keys_of_folder(path)? else { return Ok(false) };
    keys.insert(VALIDATION.into(), result.into());
    let text = serde_json::to_string_pretty(&keys).unwrap_or_default();
    files::replace(&path.join(FILE), (text + "\n").as_bytes(), 0o644)?;
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
    let mut writer = OpenOptions::new().write(true).open(path).map_err(failed())?;
    let metadata = writer.metadata().map_err(failed())?;
    if !has_one_name(&metadata) {
        return Ok(false);
    }
    writer.seek(SeekFrom::Start(offset)).map_err(failed())?;
    writer.write_all(format!("{result:<VALIDATION_BYTES$}").as_bytes()).map_err(failed())?;
    writer.sync_all().map_err(failed())?;
    // What the file is made of has not changed, and neither should what it is recognized by.
    if let Ok(modified) = metadata.modified() {
        let _ = writer.set_modified(modified);
    }
    Ok(true)
}

#[cfg(unix)]
fn has_one_name(metadata: &std::fs::Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(metadata) == 1
}

#[cfg(not(unix))]
fn has_one_name(_: &std::fs::Metadata) -> bool {
    true
}
