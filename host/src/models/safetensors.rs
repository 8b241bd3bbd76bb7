//! The headers of safetensors files, without their tensors: names, types, shapes. A length in eight bytes, little-endian,
//! then JSON: <https://huggingface.co/docs/safetensors>. And which files a folder's weights are in.

use crate::error::{Error, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes of a header, or of another JSON file of a model's, that are read at the most: the `safetensors` crate's limit.
pub const JSON_BYTES_MAX: u64 = 100_000_000;
/// The file that tells which tensor is in which of several weight files.
pub const INDEX: &str = "model.safetensors.index.json";

/// A header.
#[derive(Debug, Default)]
pub struct Header {
    /// `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// The tensors, by name.
    pub tensors: BTreeMap<String, Tensor>,
}

/// What a header says of a tensor.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Tensor {
    /// `BF16`, `U32`, …
    pub dtype: String,
    /// Outermost dimension first.
    pub shape: Vec<u64>,
    /// Its first byte and the one behind its last, counted from the header's end.
    pub data_offsets: (u64, u64),
}

impl Tensor {
    /// Its elements; none where they cannot be counted.
    pub fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1_u64, |product, size| product.checked_mul(*size))
    }

    /// Its bytes.
    pub fn size_bytes(&self) -> u64 {
        self.data_offsets.1.saturating_sub(self.data_offsets.0)
    }
}

/// Reads the header of the file at `path` and checks that the file is as long as that says.
///
/// # Errors
/// When it is no safetensors file, or a damaged one.
pub fn read_header(path: &Path) -> Result<Header> {
    let (mut file, file_bytes) = open(path)?;
    parse_header(&mut file, file_bytes, path)
}

/// Reads the `__metadata__` of the file at `path` alone; the rest may be damaged.
///
/// # Errors
/// When there is no header.
pub fn read_metadata(path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(default, rename = "__metadata__")]
        metadata: BTreeMap<String, String>,
    }
    let (mut file, file_bytes) = open(path)?;
    let text = header_text(&mut file, file_bytes, path)?;
    let header: Metadata =
        serde_json::from_slice(&text).map_err(|error| damaged(path, &format!("its header is damaged: {error}")))?;
    Ok(header.metadata)
}

fn open(path: &Path) -> Result<(File, u64)> {
    let metadata = regular(path).map_err(Error::io("opening", path))?.ok_or_else(|| not_regular(path))?;
    let file = File::open(path).map_err(Error::io("opening", path))?;
    Ok((file, metadata.len()))
}

/// What is at `path`; none where it is no regular file. Asked before it is opened: a pipe that nobody writes to would
/// keep its reader waiting for ever.
fn regular(path: &Path) -> std::io::Result<Option<Metadata>> {
    Ok(Some(std::fs::metadata(path)?).filter(Metadata::is_file))
}

fn not_regular(path: &Path) -> Error {
    damaged(path, "this is not a file")
}

fn header_text(file: &mut impl Read, file_bytes: u64, path: &Path) -> Result<Vec<u8>> {
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| damaged(path, "it is too short for a safetensors file"))?;
    let length = u64::from_le_bytes(length);
    if length > JSON_BYTES_MAX {
        return Err(damaged(path, "this is no safetensors file: its header would be larger than any"));
    }
    if length > file_bytes.saturating_sub(8) {
        return Err(damaged(path, "it is truncated: its header is longer than the file"));
    }
    let mut text = vec![0; length as usize];
    file.read_exact(&mut text).map_err(Error::io("reading", path))?;
    Ok(text)
}

fn parse_header(file: &mut impl Read, file_bytes: u64, path: &Path) -> Result<Header> {
    let text = header_text(file, file_bytes, path)?;
    let length = text.len() as u64;
    let mut values: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&text).map_err(|error| damaged(path, &format!("its header is damaged: {error}")))?;
    let metadata = values.remove("__metadata__").map(serde_json::from_value).transpose();
    let metadata = metadata.map_err(|error| damaged(path, &format!("its header is damaged: {error}")))?;
    let data_bytes = file_bytes - 8 - length;
    let mut tensors = BTreeMap::new();
    for (name, value) in values {
        let shown = name.escape_debug().to_string();
        let tensor: Tensor = serde_json::from_value(value)
            .map_err(|error| damaged(path, &format!("its tensor `{shown}` is damaged: {error}")))?;
        let (begin, end) = tensor.data_offsets;
        if begin > end || tensor.elements().is_none() {
            return Err(damaged(path, &format!("its tensor `{shown}` is damaged")));
        }
        if end > data_bytes {
            let needed = end.saturating_add(8 + length);
            let text = format!("it is truncated: tensor `{shown}` ends at byte {needed}, the file has {file_bytes}");
            return Err(damaged(path, &text));
        }
        tensors.insert(name, tensor);
    }
    Ok(Header { metadata: metadata.unwrap_or_default(), tensors })
}

fn damaged(path: &Path, message: &str) -> Error {
    Error::Invalid { path: path.to_owned(), message: message.into(), hint: "fetch this file again".into() }
}

/// The files that the index in `folder` names, sorted; none where there is no index.
///
/// # Errors
/// When the index is damaged, or names a file that is not in the folder.
pub fn indexed_shards(folder: &Path) -> Result<Option<Vec<String>>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let path = folder.join(INDEX);
    let Some(bytes) = read_capped(&path)? else { return Ok(None) };
    let index: Index =
        serde_json::from_slice(&bytes).map_err(|error| damaged(&path, &format!("it is damaged: {error}")))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    match names.iter().find(|name| name.contains(['/', '\\', '\0']) || name.starts_with('.') || name.is_empty()) {
        Some(name) => Err(damaged(&path, &format!("it names a file outside of its folder: `{}`", name.escape_debug()))),
        None => Ok(Some(names.into_iter().collect())),
    }
}

/// The weight files of `folder`: those that its index names, else every `.safetensors` file in it.
///
/// # Errors
/// As [`indexed_shards`], and when the folder cannot be read.
pub fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    if let Some(names) = indexed_shards(folder)? {
        return Ok(names.into_iter().map(|name| folder.join(name)).collect());
    }
    let listing = std::fs::read_dir(folder).map_err(Error::io("reading", folder))?;
    let paths = listing.flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|e| e == "safetensors") && path.is_file()).collect();
    paths.sort();
    Ok(paths)
}

/// The bytes of a text file of a model's; none where there is no such file.
///
/// # Errors
/// When it is no regular file, cannot be read, or is larger than any.
pub fn read_capped(path: &Path) -> Result<Option<Vec<u8>>> {
    match regular(path) {
        Ok(Some(_)) => (),
        Ok(None) => return Err(not_regular(path)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("opening", path)(error)),
    }
    let file = File::open(path).map_err(Error::io("opening", path))?;
    let mut bytes = Vec::new();
    file.take(JSON_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(Error::io("reading", path))?;
    if bytes.len() as u64 > JSON_BYTES_MAX {
        return Err(damaged(path, &format!("it is larger than {JSON_BYTES_MAX} bytes")));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
    }

    fn read(bytes: &[u8]) -> Result<Header> {
        parse_header(&mut &*bytes, bytes.len() as u64, Path::new("w.safetensors"))
    }

    #[test]
    fn a_header_tells_types_and_shapes() {
        let text = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}"#;
        let header = read(&file(text, 12)).unwrap();
        assert_eq!(header.metadata["format"], "pt");
        let tensor = &header.tensors["a"];
        assert_eq!((tensor.dtype.as_str(), tensor.elements(), tensor.size_bytes()), ("BF16", Some(6), 12));
    }

    #[test]
    fn every_kind_of_damage_is_an_error() {
        let tensor = |shape: &str, offsets: &str| {
            file(&format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#), 8)
        };
        let cases = [
            (b"1234".to_vec(), "too short"),
            (vec![0xff; 8], "larger than any"),
            ([&1000_u64.to_le_bytes()[..], b"{}"].concat(), "longer than the file"),
            (file("{", 0), "header is damaged"),
            (file(r#"{"a":1}"#, 0), "tensor `a` is damaged"),
            (tensor("[2]", "[0,9]"), "it is truncated"),
            (tensor("[2]", "[8,0]"), "is damaged"),
            (tensor("[18446744073709551615,2]", "[0,8]"), "is damaged"),
            (file(r#"{"__metadata__":3}"#, 0), "header is damaged"),
        ];
        for (bytes, expected) in cases {
            let error = read(&bytes).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("w.safetensors"), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_in_a_model_folder_is_an_error_and_keeps_nobody_waiting() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(INDEX);
        let name = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the name ends with a zero and lives during the call.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let (done, wait) = std::sync::mpsc::channel();
        let (read, folder) = (path.clone(), dir.path().to_owned());
        // In a thread of its own, so that a hang is a failure and not a test that never ends.
        std::thread::spawn(move || {
            let errors = [
                read_capped(&read).unwrap_err(),
                read_header(&read).unwrap_err(),
                read_metadata(&read).unwrap_err(),
                weight_files(&folder).unwrap_err(),
            ];
            done.send(errors.map(|error| error.to_string())).unwrap();
        });
        let errors = wait.recv_timeout(std::time::Duration::from_secs(30)).expect("an answer at once");
        assert!(errors.iter().all(|error| error.contains("is not a file")), "{errors:?}");
    }

    #[test]
    fn an_index_names_files_of_its_own_folder_only() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(indexed_shards(dir.path()).unwrap(), None);
        let write = |text: &str| std::fs::write(dir.path().join(INDEX), text).unwrap();
        write(r#"{"weight_map":{"a":"2.safetensors","b":"1.safetensors","c":"2.safetensors"}}"#);
        assert_eq!(indexed_shards(dir.path()).unwrap().unwrap(), ["1.safetensors", "2.safetensors"]);
        write(r#"{"weight_map":{"a":"../x"}}"#);
        assert!(indexed_shards(dir.path()).unwrap_err().to_string().contains("outside of its folder"));
        write("{}");
        assert!(indexed_shards(dir.path()).is_err());
    }
}
