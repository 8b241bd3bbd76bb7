//! Reads the small JSON and text files of a model folder, each with a cap on its size.

use pajamas_plugin_api::{Error, Result};
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// The largest text file that is read whole. The largest published `tokenizer.json` files have about 35 MB.
const TEXT_BYTES_MAX: u64 = 512 << 20;

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
    let Some(bytes) = read_bytes_if_present(path, TEXT_BYTES_MAX)? else { return Ok(None) };
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| Error::invalid_model(format!("`{}` is not UTF-8 text", path.display())))
}

/// The JSON in `path`, or none when there is no such file.
pub(crate) fn read_json_if_present(path: &Path) -> Result<Option<Value>> {
    let Some(text) = read_text_if_present(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        Error::invalid_model(format!("`{}` is not valid JSON: {error}", path.display()))
            .with_hint("the download may be incomplete; fetch this file again")
    })
}
