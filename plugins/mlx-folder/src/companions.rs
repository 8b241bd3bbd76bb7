//! The files beside the weights: the tokenizer's and the generation's, copied as they are.

use pajamas_hf_model::HfModel;
use pajamas_plugin_api::{Error, Result};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Files that are copied where the source has them. Code (`*.py`) is not: no family here needs any.
const COPIED: [&str; 11] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates",
    "generation_config.json",
];

/// Checks that there is a tokenizer, before anything is written.
///
/// # Errors
/// `InvalidModel` for a folder without one, or with one that is damaged.
pub(crate) fn check_tokenizer(source: &HfModel) -> Result<()> {
    // Readers of MLX folders load tokenizer.model too, but only with Python code that knows its dialect.
    if !source.dir().join("tokenizer.json").exists() && source.dir().join("tokenizer.model").is_file() {
        return Ok(());
    }
    source.tokenizer().map(|_| ())
}

/// Copies the files into the folder `to`.
pub(crate) fn copy(source: &HfModel, to: &Path) -> Result<()> {
    for name in COPIED {
        let from = source.dir().join(name);
        if from.is_file() {
            copy_file(&from, &to.join(name))?;
        } else if from.is_dir() {
            let to = to.join(name);
            fs::create_dir(&to).map_err(|error| Error::io("creating", &to, &error))?;
            for name in templates(&from)? {
                copy_file(&from.join(&name), &to.join(&name))?;
            }
        }
    }
    Ok(())
}

/// Writes a small file.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|error| Error::io("writing", path, &error))
}

/// The templates in the folder `dir`, by name.
fn templates(dir: &Path) -> Result<Vec<OsString>> {
    let entries = fs::read_dir(dir).map_err(|error| Error::io("reading", dir, &error))?;
    let mut names: Vec<OsString> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file() && path.extension().is_some_and(|extension| extension == "jinja"))
        .filter_map(|path| path.file_name().map(OsString::from))
        .collect();
    names.sort();
    Ok(names)
}

/// Copies what a file holds and not its permissions: a cache's files may be read-only.
fn copy_file(from: &PathBuf, to: &PathBuf) -> Result<()> {
    let mut source = File::open(from).map_err(|error| Error::io("opening", from, &error))?;
    let mut target = File::create_new(to).map_err(|error| Error::io("creating", to, &error))?;
    io::copy(&mut source, &mut target).map_err(|error| Error::io("writing", to, &error))?;
    Ok(())
}
