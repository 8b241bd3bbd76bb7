//! Reads the header of one safetensors file and checks it against the file's real size.

use crate::HfModel;
use crate::json::check_values;
use crate::tensor::{Dtype, Tensor, TensorFile};
use pajamas_plugin_api::{Error, Result};
use safetensors::tensor::Metadata;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// The largest header that is read. The `safetensors` crate allows the same.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// The header's own length comes first, in eight bytes.
const LENGTH_BYTES: u64 = 8;

/// A safetensors file that was opened and checked.
pub(crate) struct Shard {
    /// Sorted by name as text.
    pub(crate) tensors: Vec<Tensor>,
    /// `__metadata__`.
    pub(crate) metadata: HashMap<String, String>,
}

/// Opens the file `path`.
pub(crate) fn open_shard(path: &Path) -> Result<Shard> {
    // Opening a pipe would wait for somebody to write into it.
    if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(Error::invalid_model(format!("`{}` is not a regular file", path.display())));
    }
    let mut file = File::open(path).map_err(|error| Error::io("opening", path, &error))?;
    let info = file.metadata().map_err(|error| Error::io("reading", path, &error))?;
    if !info.is_file() {
        return Err(Error::invalid_model(format!("`{}` is not a regular file", path.display())));
    }
    let (metadata, data_start) = read_header(&mut file, info.len(), path)?;
    let file = Arc::new(TensorFile { path: path.to_owned(), file });
    let mut tensors: Vec<Tensor> = metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| Tensor {
            name,
            dtype: Dtype::from_safetensors(info.dtype),
            shape: info.shape.iter().map(|size| *size as u64).collect(),
            file: Arc::clone(&file),
            offset: data_start + info.data_offsets.0 as u64,
            len: (info.data_offsets.1 - info.data_offsets.0) as u64,
        })
        .collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Shard { tensors, metadata: metadata.metadata().clone().unwrap_or_default() })
}

impl HfModel {
    /// The names of a safetensors file's tensors, and where their bytes lie in it, from its header alone, which is checked
    /// as that of a file in a folder is. `source` holds `file_bytes` bytes; `path` is for error messages.
    #[doc(hidden)]
    pub fn safetensors_places(source: impl Read, file_bytes: u64, path: &Path) -> Result<Vec<(String, Range<u64>)>> {
        let (metadata, data_start) = read_header(source, file_bytes, path)?;
        let place = |(start, end): (usize, usize)| data_start + start as u64..data_start + end as u64;
        Ok(metadata.tensors().into_iter().map(|(name, info)| (name, place(info.data_offsets))).collect())
    }
}

/// Reads the header from `source`, which holds `file_bytes` bytes, and gives it with the position where data begins.
/// The crate's parser checks that tensors are adjacent and as long as their shapes say; then they must fill the file.
fn read_header(mut source: impl Read, file_bytes: u64, path: &Path) -> Result<(Metadata, u64)> {
    let mut length = [0; LENGTH_BYTES as usize];
    if file_bytes < LENGTH_BYTES {
        return Err(truncated(path, LENGTH_BYTES, file_bytes));
    }
    source.read_exact(&mut length).map_err(|error| Error::io("reading", path, &error))?;
    let header_bytes = u64::from_le_bytes(length);
    if header_bytes > HEADER_BYTES_MAX {
        return Err(Error::invalid_model(format!(
            "`{}` is not a safetensors file: its header would have {header_bytes} bytes, at most {HEADER_BYTES_MAX} are allowed",
            path.display()
        ))
        .with_hint("a file of this name that holds a Git LFS pointer or a web page has to be fetched again"));
    }
    if LENGTH_BYTES + header_bytes > file_bytes {
        return Err(truncated(path, LENGTH_BYTES + header_bytes, file_bytes));
    }
    let mut header = vec![0; header_bytes as usize];
    source.read_exact(&mut header).map_err(|error| Error::io("reading", path, &error))?;
    check_values(&header, path)?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| {
        Error::invalid_model(format!("the safetensors header of `{}` is damaged: {error}", path.display()))
            .with_hint("fetch this file again")
    })?;
    let data_start = LENGTH_BYTES + header_bytes;
    let promised = data_start.checked_add(metadata.data_len() as u64).ok_or_else(|| {
        Error::invalid_model(format!("`{}`: its header promises more bytes than can be counted", path.display()))
    })?;
    if promised > file_bytes {
        return Err(truncated(path, promised, file_bytes));
    }
    if promised < file_bytes {
        return Err(Error::invalid_model(format!(
            "`{}` has {} bytes after its last tensor: its header promises {promised} bytes, the file has {file_bytes}",
            path.display(),
            file_bytes - promised
        ))
        .with_hint("fetch this file again"));
    }
    Ok((metadata, data_start))
}

fn truncated(path: &Path, promised: u64, actual: u64) -> Error {
    Error::invalid_model(format!(
        "`{}` is truncated: its header promises {promised} bytes, the file has {actual}",
        path.display()
    ))
    .with_hint("the download was cut short; fetch this file again")
}
