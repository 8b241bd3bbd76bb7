//! What a model reference means: a file, a folder, the name of an artifact, or an id in the Hugging Face cache.

use super::store::{self, Record};
use super::{format, hashes, hub};
use crate::config::Config;
use crate::error::{Error, Result};
use pajamas_plugin_api::options::nearest;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A model that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its file or folder.
    pub path: PathBuf,
    /// What it is, as [`mod@format`] tells: `huggingface` for what is to be quantized, else the format it runs in.
    pub format: String,
    /// Its name, for file names: the folder's, the file's stem, or the last part of the id.
    pub name: String,
    /// The id and commit, where it came from the Hugging Face cache.
    pub hub: Option<(String, String)>,
}

impl Source {
    /// What a user can write to mean it: the id, or the path.
    pub fn display(&self) -> String {
        self.hub.as_ref().map_or_else(|| self.path.display().to_string(), |(id, _)| id.clone())
    }
}

/// Finds the model that `reference` means.
///
/// # Errors
/// When there is none, with where it was looked for.
pub fn resolve(reference: &str, config: &Config) -> Result<Source> {
    let path = Path::new(reference);
    if path.exists() {
        return at_path(path);
    }
    let made = store::list(config);
    if let Some(record) = made.iter().find(|record| record.file == reference || record.name() == reference) {
        return at_path(&config.models_dir().join(&record.file));
    }
    let not_found = if looks_like_path(reference) {
        Error::ModelNotFound {
            reference: reference.into(),
            reason: "there is no such file or folder".into(),
            hint:
                "give a GGUF file, a Hugging Face or MLX folder, an id in the Hugging Face cache, or a model of `pajamas models`"
                    .into(),
        }
    } else {
        match hub::find(reference) {
            Ok(source) => return Ok(source),
            Err(error) => error,
        }
    };
    match nearest(reference, made.iter().map(Record::name)).filter(|_| is_plain_name(reference)) {
        Some(near) => Err(Error::ModelNotFound {
            reference: reference.into(),
            reason: "there is no such file, folder or model made before".into(),
            hint: format!("did you mean `{near}`?"),
        }),
        None => Err(not_found),
    }
}

/// Whether `reference`, which nothing on this machine goes by, may be a model of the hub's: `org/name`, with a revision or
/// not.
pub fn may_be_on_hub(reference: &str) -> bool {
    // Hardly any model of the hub has a name without an organization; most such names are slips.
    !looks_like_path(reference) && reference.split('@').next().is_some_and(|id| id.contains('/'))
}

fn looks_like_path(reference: &str) -> bool {
    let path = Path::new(reference);
    path.is_absolute()
        || reference.starts_with('.')
        || reference.ends_with('/')
        || path.extension().is_some_and(|extension| extension == format::GGUF)
        || !hub::is_id(reference)
}

fn at_path(path: &Path) -> Result<Source> {
    let path = path.canonicalize().map_err(Error::io("opening", path))?;
    let format = format::detect(&path)?;
    let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = match file_name.rsplit_once('.') {
        // A folder's name may well have dots in it.
        Some((stem, extension)) if extension.eq_ignore_ascii_case(&format) => stem.to_owned(),
        _ => file_name,
    };
    Ok(Source { path, format, name, hub: None })
}

fn is_plain_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(['/', '\\']) && !text.starts_with('.')
}

/// A key for what the source holds now: the commit of a hub model, else names, sizes and times of the files that make it.
///
/// # Errors
/// When the folder cannot be read.
pub fn fingerprint(source: &Source) -> Result<String> {
    let mut hash = Sha256::new();
    if let Some((id, commit)) = &source.hub {
        hash.update(format!("hub:{id}@{commit}"));
    } else if source.path.is_dir() {
        let mut files = if [format::HUGGING_FACE, format::MLX].contains(&source.format.as_str()) {
            hashes::files_of(source)?
        } else {
            // In a layout of some plugin's own, any file may be part of it.
            let listing = std::fs::read_dir(&source.path).map_err(Error::io("reading", &source.path))?;
            listing.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect()
        };
        files.sort();
        files.iter().for_each(|file| add_file(&mut hash, file));
    } else {
        add_file(&mut hash, &source.path);
    }
    Ok(hash.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

fn add_file(hash: &mut Sha256, path: &Path) {
    let metadata = std::fs::metadata(path).ok();
    let size = metadata.as_ref().map_or(0, std::fs::Metadata::len);
    let modified = metadata.and_then(|m| m.modified().ok());
    let since = modified.and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or_default();
    hash.update(format!("{}\0{size}\0{}\0", path.display(), since.as_nanos()));
}
