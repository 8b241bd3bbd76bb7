//! What an artifact tells of its own making: keys in a GGUF file's metadata, a file in a folder. The result of
//! validating it is written there too.

use super::format;
use super::hashes::{self, SUM_CHARS, Sums};
use crate::error::{Error, Result};
use crate::files;
use pajamas_gguf_file::{GgufFile, Value};
use pajamas_plugin_api::{CancelToken, ProgressUpdate};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The file in a folder artifact that tells where it came from. A folder with it is one that pajamas made.
pub const FILE: &str = "pajamas.json";

/// Bytes of that file that are read at the most.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The key of the validation's result, JSON in a string.
pub const VALIDATION: &str = "pajamas.validation";

/// Bytes of that string in a GGUF file. It has this length from the beginning, so that a result can be written later
/// without moving what follows it.
pub const VALIDATION_BYTES: usize = 127;

/// The key of the sums of what an artifact was made from, a line for each file as `sha256sum` writes it.
pub const SOURCE_SUMS: &str = "pajamas.source.sha256";

/// The key of the sum of a GGUF file, with zeroes in place of its own value and of [`VALIDATION`]'s; or of the sums of a
/// folder's files but for [`FILE`], a line for each.
pub const CONTENT_SUM: &str = "pajamas.content.sha256";

/// The key of the search that an artifact's method came from, JSON in a string: [`Evidence`](crate::search::Evidence).
pub const CHOICE: &str = "pajamas.choice";

/// What a new GGUF file is given room for, to be filled in when it is known: keys and texts as long as theirs will be.
/// `files` are what it is made from.
pub fn rooms(files: &[PathBuf]) -> impl Iterator<Item = (&'static str, String)> {
    let validation = format!("{:<VALIDATION_BYTES$}", "{}");
    [(VALIDATION, validation), (SOURCE_SUMS, Sums::unknown(files).text()), (CONTENT_SUM, "0".repeat(SUM_CHARS))]
        .into_iter()
}

/// Notes down in the artifact at `path`, which has no name yet, what it was made from and what it adds up to: in a
/// GGUF file itself, for a folder in `keys`.
///
/// # Errors
/// `Interrupted`; when it cannot be read or written.
pub fn seal(
    path: &Path,
    keys: &mut BTreeMap<String, String>,
    source: &Sums,
    progress: &dyn Fn(&ProgressUpdate),
    cancel: &CancelToken,
) -> Result<()> {
    if path.is_dir() {
        keys.insert(SOURCE_SUMS.into(), source.text());
        keys.insert(CONTENT_SUM.into(), content_sum(path, progress, cancel)?);
    } else if format::detect(path)? == format::GGUF {
        overwrite(path, SOURCE_SUMS, &source.text())?;
        overwrite(path, CONTENT_SUM, &content_sum(path, progress, cancel)?)?;
    }
    Ok(())
}

/// What the artifact at `path` adds up to now.
///
/// # Errors
/// `Interrupted`; when it cannot be read.
pub fn content_sum(path: &Path, progress: &dyn Fn(&ProgressUpdate), cancel: &CancelToken) -> Result<String> {
    let files = files_of(path)?;
    let total: u64 = files.iter().map(|file| std::fs::metadata(file).map_or(0, |file| file.len())).sum();
    let mut done = 0;
    let mut report = |bytes| {
        done += bytes;
        let fraction = done as f32 / total.max(1) as f32;
        progress(&ProgressUpdate { stage: "hashing".into(), fraction, detail: String::new() });
    };
    if path.is_dir() {
        return Ok(Sums::of(&files, false, &mut report, cancel)?.text());
    }
    let file = GgufFile::open(path)?;
    let blanks = [CONTENT_SUM, VALIDATION].iter().filter_map(|key| {
        let length = file.metadata().get(key)?.as_str()?.len() as u64;
        let start = file.string_offset(key)?;
        Some(start..start + length)
    });
    hashes::sum_without(path, &blanks.collect::<Vec<_>>(), &mut report, cancel)
}

/// Where the result of validating it lies in the GGUF file at `path`; empty for any other.
pub fn validation_room(path: &Path) -> Vec<Range<u64>> {
    let is_gguf = || format::detect(path).is_ok_and(|format| format == format::GGUF);
    let room = || -> Option<Range<u64>> {
        let file = GgufFile::open(path).ok()?;
        let length = file.metadata().get(VALIDATION)?.as_str()?.len() as u64;
        let start = file.string_offset(VALIDATION)?;
        Some(start..start + length)
    };
    if is_gguf() { room().into_iter().collect() } else { Vec::new() }
}

/// The artifact's file, or the files in its folder but for the one that tells of its making.
fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let listing = std::fs::read_dir(path).map_err(Error::io("reading", path))?;
    let mut files: Vec<PathBuf> = listing.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| {
        let name = file.file_name().unwrap_or_default().as_encoded_bytes();
        file.is_file() && name != FILE.as_bytes() && !name.starts_with(b".")
    });
    files.sort();
    Ok(files)
}

/// Writes `value` over the string value of `key` in the GGUF file at `path`; false if it has no string there of just that
/// length.
fn overwrite(path: &Path, key: &str, value: &str) -> Result<bool> {
    let file = GgufFile::open(path)?;
    let Some(Value::String(old)) = file.metadata().get(key) else { return Ok(false) };
    let Some(offset) = file.string_offset(key).filter(|_| old.len() == value.len()) else { return Ok(false) };
    let failed = || Error::io("writing", path);
    let mut writer = OpenOptions::new().write(true).open(path).map_err(failed())?;
    writer.seek(SeekFrom::Start(offset)).map_err(failed())?;
    writer.write_all(value.as_bytes()).map_err(failed())?;
    writer.sync_all().map_err(failed())?;
    Ok(true)
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
        .filter(|(key, value)| ![SOURCE_SUMS, CONTENT_SUM].contains(&key.as_str()) || !value.starts_with("00000000"))
        .collect())
}

/// Whether pajamas made what is at `path`.
pub fn made_here(path: &Path) -> bool {
    read(path).is_ok_and(|keys| keys.keys().any(|key| key.starts_with("pajamas.")))
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
    let metadata = std::fs::metadata(path).map_err(Error::io("reading", path))?;
    if !has_one_name(&metadata) || !overwrite(path, VALIDATION, &format!("{result:<VALIDATION_BYTES$}"))? {
        return Ok(false);
    }
    // What the file is made of has not changed, and neither should what it is recognized by.
    if let (Ok(modified), Ok(file)) = (metadata.modified(), OpenOptions::new().write(true).open(path)) {
        let _ = file.set_modified(modified);
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
