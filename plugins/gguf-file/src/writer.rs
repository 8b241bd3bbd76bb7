//! Writes GGUF files front to back: the header first, then each tensor's bytes as they come.

use super::{ALIGNMENT_DEFAULT, DIMENSIONS_MAX, GgmlType, MAGIC, Metadata, VERSION, Value, align_up};
use pajamas_plugin_api::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Bytes gathered before they go to the file.
const BUFFER_BYTES: usize = 1 << 20;

/// A tensor that a file will hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// `blk.0.attn_q.weight`.
    pub name: String,
    /// Innermost dimension first, as ggml has it.
    pub shape: Vec<u64>,
    /// How its elements are stored.
    pub ggml_type: GgmlType,
}

/// Where a tensor's data lies in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlace {
    /// `blk.0.attn_q.weight`.
    pub name: String,
    /// Bytes from the start of the file.
    pub offset: u64,
    /// How many bytes it has; zeroes follow, up to a multiple of the alignment.
    pub size_bytes: u64,
}

/// Everything in front of the tensors' data, and where that data belongs.
#[derive(Debug)]
pub struct Header {
    /// The first bytes of the file, padded to the alignment.
    pub bytes: Vec<u8>,
    /// The tensors, in the order of the file.
    pub tensors: Vec<TensorPlace>,
    /// Bytes of the whole file, data included.
    pub file_bytes: u64,
}

impl Header {
    /// The header of a file that holds `metadata` and `tensors`.
    ///
    /// # Errors
    ///
    /// `InvalidRequest` for a tensor that cannot be stored as it is asked for.
    pub fn new(metadata: &Metadata, tensors: &[TensorSpec]) -> Result<Self> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata.iter() {
            put_string(&mut bytes, key);
            bytes.extend_from_slice(&(value.value_type() as u32).to_le_bytes());
            put_value(&mut bytes, value);
        }
        let mut places = Vec::with_capacity(tensors.len());
        // Offsets in the file count from the end of the header, which is not known before all of it is there.
        let mut offset = 0_u64;
        let impossible = |tensor: &TensorSpec| {
            Error::invalid_request(format!(
                "tensor `{}` of shape {:?} cannot be stored as {}",
                tensor.name, tensor.shape, tensor.ggml_type.name
            ))
        };
        for tensor in tensors {
            if tensor.shape.len() > DIMENSIONS_MAX || tensor.shape.contains(&0) {
                return Err(impossible(tensor));
            }
            let size_bytes = tensor.ggml_type.tensor_bytes(&tensor.shape).ok_or_else(|| impossible(tensor))?;
            put_string(&mut bytes, &tensor.name);
            bytes.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
            for size in &tensor.shape {
                bytes.extend_from_slice(&size.to_le_bytes());
            }
            bytes.extend_from_slice(&tensor.ggml_type.id.to_le_bytes());
            bytes.extend_from_slice(&offset.to_le_bytes());
            places.push(TensorPlace { name: tensor.name.clone(), offset, size_bytes });
            let end = offset.checked_add(size_bytes).and_then(|end| align_up(end, ALIGNMENT_DEFAULT));
            offset = end.ok_or_else(|| impossible(tensor))?;
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT_DEFAULT as usize), 0);
        let data_offset = bytes.len() as u64;
        let file_bytes = offset
            .checked_add(data_offset)
            .ok_or_else(|| Error::invalid_request("these tensors are more bytes than a file can have"))?;
        for place in &mut places {
            // Below `file_bytes`, which did not overflow.
            place.offset += data_offset;
        }
        Ok(Self { bytes, tensors: places, file_bytes })
    }
}

/// A GGUF file that is being written. Dropped before [`GgufWriter::finish`], it leaves an incomplete file behind,
/// which [`GgufFile::check_complete`](super::GgufFile::check_complete) recognises.
#[derive(Debug)]
pub struct GgufWriter {
    path: PathBuf,
    file: BufWriter<File>,
    tensors: Vec<TensorPlace>,
    next: usize,
    /// Bytes of the current tensor written so far.
    written: u64,
    total: u64,
}

impl GgufWriter {
    /// Creates `path` and writes the header: `metadata` and the list of `tensors`, whose data then has to follow in
    /// this order.
    pub fn create(path: &Path, metadata: &Metadata, tensors: &[TensorSpec]) -> Result<Self> {
        let header = Header::new(metadata, tensors)?;
        let file = File::create(path).map_err(|error| Error::io("creating", path, &error))?;
        let mut writer = Self {
            path: path.to_owned(),
            file: BufWriter::with_capacity(BUFFER_BYTES, file),
            tensors: header.tensors,
            next: 0,
            written: 0,
            total: 0,
        };
        writer.put(&header.bytes)?;
        Ok(writer)
    }

    /// The tensor whose data comes next; none once all were written.
    pub fn next_tensor(&self) -> Option<&str> {
        self.tensors.get(self.next).map(|tensor| tensor.name.as_str())
    }

    /// Appends bytes to the current tensor.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(TensorPlace { name, size_bytes, .. }) = self.tensors.get(self.next) else {
            return Err(Error::other(format!("`{}`: data after the last tensor", self.path.display())));
        };
        let written = self.written + bytes.len() as u64;
        if written > *size_bytes {
            return Err(Error::other(format!(
                "`{}`: tensor `{name}` got {written} bytes, {size_bytes} were promised",
                self.path.display()
            )));
        }
        self.written = written;
        self.put(bytes)
    }

    /// Ends the current tensor, which must have got exactly the bytes that its type and shape promise.
    pub fn end_tensor(&mut self) -> Result<()> {
        let Some(TensorPlace { name, size_bytes, .. }) = self.tensors.get(self.next) else {
            return Err(Error::other(format!("`{}`: no tensor is open", self.path.display())));
        };
        if self.written != *size_bytes {
            return Err(Error::other(format!(
                "`{}`: tensor `{name}` got {} bytes, {size_bytes} were promised",
                self.path.display(),
                self.written
            )));
        }
        self.next += 1;
        self.written = 0;
        let padding = self.total.next_multiple_of(ALIGNMENT_DEFAULT) - self.total;
        self.put(&[0; ALIGNMENT_DEFAULT as usize][..padding as usize])
    }

    /// Flushes the file to the disk and gives its size in bytes.
    pub fn finish(mut self) -> Result<u64> {
        if let Some(TensorPlace { name, .. }) = self.tensors.get(self.next) {
            return Err(Error::other(format!("`{}`: tensor `{name}` was not written", self.path.display())));
        }
        let failed = |error: &std::io::Error| Error::io("writing", &self.path, error);
        self.file.flush().map_err(|error| failed(&error))?;
        self.file.get_ref().sync_all().map_err(|error| failed(&error))?;
        Ok(self.total)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.total += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|error| Error::io("writing", &self.path, &error))
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(value) => out.push(*value),
        Value::I8(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::U16(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::I16(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::U32(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::I32(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::F32(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::Bool(value) => out.push(u8::from(*value)),
        Value::String(text) => put_string(out, text),
        Value::Array(element, items) => {
            out.extend_from_slice(&(*element as u32).to_le_bytes());
            out.extend_from_slice(&(items.len() as u64).to_le_bytes());
            for item in items {
                debug_assert_eq!(item.value_type(), *element, "an array holds values of one type");
                put_value(out, item);
            }
        }
        Value::U64(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::I64(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::F64(value) => out.extend_from_slice(&value.to_le_bytes()),
    }
}
