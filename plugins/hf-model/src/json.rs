//! Reads the small JSON and text files of a model folder, each with a cap on its size.

use crate::{Config, TokenizerFiles};
use pajamas_plugin_api::{Error, Result};
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// The largest text file that is read whole. The largest published `tokenizer.json` files have about 35 MB.
const TEXT_BYTES_MAX: u64 = 512 << 20;
/// The most values in a JSON text. The largest published `tokenizer.json` files have about two million; in memory each
/// takes about a hundred bytes.
const VALUES_MAX: usize = 4 << 20;

/// The bytes of `path`, at most `bytes_max` of them, or none when there is no such file.
pub(crate) fn read_bytes_if_present(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>> {
    // Opening a pipe would wait for somebody to write into it.
    if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(Error::invalid_model(format!("`{}` is not a regular file", path.display())));
    }
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("opening", path, &error)),
    };
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|error| Error::io("reading", path, &error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(Error::invalid_model(format!("`{}` is larger than {bytes_max} bytes", path.display())));
    }
    Ok(Some(bytes))
}

/// The text of `path`, or none when there is no such file.
pub(crate) fn read_text_if_present(path: &Path) -> Result<Option<String>> {
    read_bytes_if_present(path, TEXT_BYTES_MAX)?.map(|bytes| parse_text(bytes, path)).transpose()
}

/// The JSON in `path`, or none when there is no such file.
pub(crate) fn read_json_if_present(path: &Path) -> Result<Option<Value>> {
    read_bytes_if_present(path, TEXT_BYTES_MAX)?.map(|bytes| parse_json(bytes, path)).transpose()
}

fn parse_text(bytes: Vec<u8>, path: &Path) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| Error::invalid_model(format!("`{}` is not UTF-8 text", path.display())))
}

fn parse_json(bytes: Vec<u8>, path: &Path) -> Result<Value> {
    let text = parse_text(bytes, path)?;
    check_values(text.as_bytes(), path)?;
    serde_json::from_str(&text).map_err(|error| {
        Error::invalid_model(format!("`{}` is not valid JSON: {error}", path.display()))
            .with_hint("the download may be incomplete; fetch this file again")
    })
}

/// Refuses a JSON text that would take many times its size in memory: two bytes are enough for a value.
pub(crate) fn check_values(text: &[u8], path: &Path) -> Result<()> {
    // Each value but the first has a comma or a bracket before it. Those inside of strings are few.
    if text.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count() > VALUES_MAX {
        return Err(Error::invalid_model(format!("`{}` holds more than {VALUES_MAX} values", path.display())));
    }
    Ok(())
}

impl Config {
    /// Takes what would be in the file, as [`Config::read`] does; `path` is for error messages.
    #[doc(hidden)]
    pub fn parse(bytes: Vec<u8>, path: &Path) -> Result<Self> {
        Self::new(parse_json(bytes, path)?, path)
    }
}

impl TokenizerFiles {
    /// Takes what would be in `tokenizer.json` and `tokenizer_config.json`, as [`TokenizerFiles::read`] does; `path` is for
    /// error messages.
    #[doc(hidden)]
    pub fn parse(tokenizer: Vec<u8>, tokenizer_config: Vec<u8>, path: &Path) -> Result<Self> {
        Self::new(path, parse_json(tokenizer, path)?, parse_json(tokenizer_config, path)?, Vec::new())
    }
}
