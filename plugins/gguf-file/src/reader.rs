//! Reads the header of a GGUF file of any origin: every length is capped and checked before it is used.

use super::{ALIGNMENT_DEFAULT, DIMENSIONS_MAX, GgmlType, MAGIC, Metadata, Value, ValueType, align_up};
use pajamas_plugin_api::{Error, Result};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The most metadata keys that are read; published files have about 50.
pub const METADATA_COUNT_MAX: u64 = 16_384;
/// The most tensors that are read; the largest published models have some thousands per file.
pub const TENSOR_COUNT_MAX: u64 = 1 << 20;
/// The longest key or tensor name, in bytes.
pub const NAME_BYTES_MAX: u64 = 65_535;
/// The longest string value, in bytes: a chat template has some ten thousand.
pub const STRING_BYTES_MAX: u64 = 64 << 20;
/// The most elements of all arrays together: vocabularies have some hundred thousand. In memory each has 32 bytes.
pub const ARRAY_LENGTH_MAX: u64 = 8 << 20;
/// The largest header, in bytes: the largest published ones have some ten million.
pub const HEADER_BYTES_MAX: u64 = 128 << 20;
/// How deep arrays may nest.
pub const ARRAY_DEPTH_MAX: u32 = 4;
/// The largest alignment of tensor data, in bytes.
pub const ALIGNMENT_MAX: u64 = 1 << 20;

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// `blk.0.attn_q.weight`.
    pub name: String,
    /// Innermost dimension first, as ggml has it.
    pub shape: Vec<u64>,
    /// How its elements are stored.
    pub ggml_type: GgmlType,
    /// Where its bytes begin in the file.
    pub offset: u64,
    /// How many bytes it has.
    pub size_bytes: u64,
}

/// The header of a GGUF file.
#[derive(Debug, Clone)]
pub struct GgufFile {
    path: PathBuf,
    version: u32,
    metadata: Metadata,
    /// Where the bytes of each string value begin in the file.
    string_offsets: HashMap<String, u64>,
    tensors: Vec<TensorInfo>,
    data_offset: u64,
    file_bytes: u64,
}

impl GgufFile {
    /// Reads the header of `path`, no tensor data.
    ///
    /// # Errors
    ///
    /// `InvalidModel` where the file is no GGUF, of an unknown version, or damaged; the message names the file.
    pub fn open(path: &Path) -> Result<Self> {
        // Before it is opened: opening a pipe would wait for somebody to write into it.
        let info = std::fs::metadata(path).map_err(|error| Error::io("opening", path, &error))?;
        if !info.is_file() {
            return Err(Error::invalid_model(format!("`{}` is not a regular file", path.display())));
        }
        let file = File::open(path).map_err(|error| Error::io("opening", path, &error))?;
        Self::parse(BufReader::with_capacity(1 << 18, file), info.len(), path)
    }

    /// Reads a header from `source`, which holds `file_bytes` bytes; `path` is for messages.
    pub fn parse(source: impl Read, file_bytes: u64, path: &Path) -> Result<Self> {
        let mut parser = Parser { source, position: 0, file_bytes, elements: 0, path };
        let magic: [u8; 4] = parser.bytes()?;
        if magic != MAGIC {
            return Err(parser.error(format!("is not a GGUF file: it begins with {magic:02x?}")));
        }
        let version = parser.u32()?;
        if !(2..=3).contains(&version) {
            let swapped = version.swap_bytes();
            return Err(if (1..=3).contains(&swapped) {
                parser.error("is a big-endian GGUF file, which is not supported")
            } else {
                parser.error(format!("is GGUF version {version}; versions 2 and 3 are supported"))
            });
        }
        let tensor_count = parser.capped("tensors", TENSOR_COUNT_MAX)?;
        let metadata_count = parser.capped("metadata keys", METADATA_COUNT_MAX)?;

        let mut metadata = Metadata::default();
        let mut string_offsets = HashMap::new();
        for _ in 0..metadata_count {
            let key = parser.string("a key", NAME_BYTES_MAX)?;
            let value_type = parser.value_type()?;
            if value_type == ValueType::String {
                // Behind its length.
                string_offsets.insert(key.clone(), parser.position + 8);
            }
            let value = parser.value(value_type, 0)?;
            if metadata.get(&key).is_some() {
                return Err(parser.error(format!("is damaged: the key `{}` is there twice", key.escape_debug())));
            }
            metadata.set(key, value);
        }
        let alignment = parser.alignment(&metadata)?;
        let mut tensors = Vec::new();
        let mut names = HashSet::new();
        for _ in 0..tensor_count {
            let tensor = parser.tensor(alignment)?;
            if !names.insert(tensor.name.clone()) {
                let name = tensor.name.escape_debug();
                return Err(parser.error(format!("is damaged: the tensor `{name}` is there twice")));
            }
            tensors.push(tensor);
        }
        let too_large =
            || Error::invalid_model(format!("`{}` promises more bytes than can be counted", path.display()));
        let data_offset = align_up(parser.position, alignment).ok_or_else(too_large)?;
        for tensor in &mut tensors {
            tensor.offset = tensor.offset.checked_add(data_offset).ok_or_else(too_large)?;
            tensor.offset.checked_add(tensor.size_bytes).ok_or_else(too_large)?;
        }
        Ok(Self { path: path.to_owned(), version, metadata, string_offsets, tensors, data_offset, file_bytes })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its format version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Its metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Where in the file the bytes of the string value of `key` begin: one of the same length may be written over it.
    pub fn string_offset(&self, key: &str) -> Option<u64> {
        self.string_offsets.get(key).copied()
    }

    /// `general.architecture`; empty if missing.
    pub fn architecture(&self) -> &str {
        self.metadata.get("general.architecture").and_then(Value::as_str).unwrap_or_default()
    }

    /// Its tensors, in the order of the file's list.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Where tensor data begins.
    pub fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// The file's size.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Bytes that the header and all tensors need.
    pub fn needed_bytes(&self) -> u64 {
        let ends = self.tensors.iter().map(|tensor| tensor.offset + tensor.size_bytes);
        ends.max().unwrap_or(0).max(self.data_offset)
    }

    /// An error unless every tensor lies inside the file.
    pub fn check_complete(&self) -> Result<()> {
        let needed = self.needed_bytes();
        // A file without tensors may end before the padding.
        if self.tensors.is_empty() || needed <= self.file_bytes {
            return Ok(());
        }
        Err(Error::invalid_model(format!(
            "`{}` is truncated: it needs {needed} bytes, the file has {}",
            self.path.display(),
            self.file_bytes
        ))
        .with_hint("the download or the conversion was cut short; make or fetch the file again"))
    }

    /// Reads all bytes of `tensor`.
    pub fn read_tensor(&self, tensor: &TensorInfo) -> Result<Vec<u8>> {
        let inside = tensor.offset.checked_add(tensor.size_bytes).is_some_and(|end| end <= self.file_bytes);
        if !inside {
            self.check_complete()?;
        }
        let failed = |error: &std::io::Error| Error::io("reading", &self.path, error);
        let mut file = File::open(&self.path).map_err(|error| failed(&error))?;
        file.seek(SeekFrom::Start(tensor.offset)).map_err(|error| failed(&error))?;
        let mut bytes = Vec::new();
        file.take(tensor.size_bytes).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
        Ok(bytes)
    }
}

struct Parser<'a, R> {
    source: R,
    position: u64,
    file_bytes: u64,
    /// Elements of arrays read so far.
    elements: u64,
    path: &'a Path,
}

impl<R: Read> Parser<'_, R> {
    fn error(&self, what: impl AsRef<str>) -> Error {
        Error::invalid_model(format!("`{}` {}", self.path.display(), what.as_ref()))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        let needed = self.position.saturating_add(buffer.len() as u64);
        if needed > HEADER_BYTES_MAX {
            return Err(self.error(format!("is damaged: its header has more than {HEADER_BYTES_MAX} bytes")));
        }
        if needed > self.file_bytes {
            let has = self.file_bytes;
            return Err(
                self.error(format!("is truncated: its header needs at least {needed} bytes, the file has {has}"))
            );
        }
        self.source.read_exact(buffer).map_err(|error| Error::io("reading", self.path, &error))?;
        self.position = needed;
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut buffer = [0; N];
        self.fill(&mut buffer)?;
        Ok(buffer)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    /// A count of `what` that must not exceed `max`.
    fn capped(&mut self, what: &str, max: u64) -> Result<u64> {
        let count = self.u64()?;
        if count > max {
            return Err(self.error(format!("is damaged: it claims {count} {what}, at most {max} are allowed")));
        }
        Ok(count)
    }

    fn string(&mut self, what: &str, max: u64) -> Result<String> {
        let length = self.capped(&format!("bytes of {what}"), max)?;
        // Before the allocation, so that a short file cannot ask for a large one.
        if length > self.file_bytes - self.position {
            let (needed, has) = (self.position + length, self.file_bytes);
            return Err(
                self.error(format!("is truncated: its header needs at least {needed} bytes, the file has {has}"))
            );
        }
        let mut buffer = vec![0; length as usize];
        self.fill(&mut buffer)?;
        String::from_utf8(buffer).map_err(|_| self.error(format!("is damaged: {what} is not UTF-8 text")))
    }

    fn value_type(&mut self) -> Result<ValueType> {
        let id = self.u32()?;
        ValueType::from_id(id).ok_or_else(|| self.error(format!("is damaged: {id} is no metadata type")))
    }

    fn value(&mut self, value_type: ValueType, depth: u32) -> Result<Value> {
        Ok(match value_type {
            ValueType::U8 => Value::U8(u8::from_le_bytes(self.bytes()?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(self.bytes()?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(self.bytes()?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(self.bytes()?)),
            ValueType::U32 => Value::U32(self.u32()?),
            ValueType::I32 => Value::I32(i32::from_le_bytes(self.bytes()?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(self.bytes()?)),
            ValueType::Bool => match self.bytes()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(self.error(format!("is damaged: {other} is no boolean"))),
            },
            ValueType::String => Value::String(self.string("a string", STRING_BYTES_MAX)?),
            ValueType::U64 => Value::U64(self.u64()?),
            ValueType::I64 => Value::I64(i64::from_le_bytes(self.bytes()?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(self.bytes()?)),
            ValueType::Array => self.array(depth + 1)?,
        })
    }

    fn array(&mut self, depth: u32) -> Result<Value> {
        if depth > ARRAY_DEPTH_MAX {
            return Err(self.error(format!("is damaged: its arrays nest deeper than {ARRAY_DEPTH_MAX}")));
        }
        let element = self.value_type()?;
        let length = self.capped("elements of an array", ARRAY_LENGTH_MAX - self.elements)?;
        self.elements += length;
        let fewest_bytes = length * element.size_bytes_min();
        if fewest_bytes > self.file_bytes - self.position {
            let (needed, has) = (self.position + fewest_bytes, self.file_bytes);
            return Err(
                self.error(format!("is truncated: its header needs at least {needed} bytes, the file has {has}"))
            );
        }
        let mut items = Vec::with_capacity(length as usize);
        for _ in 0..length {
            items.push(self.value(element, depth)?);
        }
        Ok(Value::Array(element, items))
    }

    fn alignment(&self, metadata: &Metadata) -> Result<u64> {
        let Some(value) = metadata.get("general.alignment") else { return Ok(ALIGNMENT_DEFAULT) };
        match value.as_u64().filter(|alignment| alignment.is_power_of_two() && *alignment <= ALIGNMENT_MAX) {
            Some(alignment) => Ok(alignment),
            None => Err(self.error(format!(
                "is damaged: `general.alignment` is {value:?}, a power of two up to {ALIGNMENT_MAX} was expected"
            ))),
        }
    }

    /// A tensor whose offset still counts from the start of the data.
    fn tensor(&mut self, alignment: u64) -> Result<TensorInfo> {
        let name = self.string("a tensor's name", NAME_BYTES_MAX)?;
        let shown = name.escape_debug().to_string();
        let dimensions = self.u32()?;
        if dimensions as usize > DIMENSIONS_MAX {
            return Err(self.error(format!(
                "is damaged: tensor `{shown}` has {dimensions} dimensions, at most {DIMENSIONS_MAX} are allowed"
            )));
        }
        let mut shape = Vec::with_capacity(dimensions as usize);
        for _ in 0..dimensions {
            shape.push(self.u64()?);
        }
        let id = self.u32()?;
        let offset = self.u64()?;
        let Some(ggml_type) = GgmlType::from_id(id) else {
            return Err(self
                .error(format!("holds tensor `{shown}` of type {id}, which is not known"))
                .with_hint("the file may be newer than this version of pajamas"));
        };
        let size_bytes = if shape.contains(&0) { None } else { ggml_type.tensor_bytes(&shape) };
        let Some(size_bytes) = size_bytes else {
            let name = ggml_type.name;
            return Err(self.error(format!("is damaged: tensor `{shown}` of type {name} cannot have shape {shape:?}")));
        };
        if offset % alignment != 0 {
            return Err(self.error(format!(
                "is damaged: tensor `{shown}` begins at {offset}, which is no multiple of {alignment}"
            )));
        }
        Ok(TensorInfo { name, shape, ggml_type, offset, size_bytes })
    }
}
