//! A tensor in a safetensors file: what it is, and how to read it in parts.

use crate::pread::read_exact_at;
use half::slice::HalfFloatSliceExt;
use pajamas_plugin_api::{Error, ErrorKind, Result};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How the elements of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of a single-precision number.
    Bf16,
    /// Anything else that safetensors knows, which no float conversion reads; its bits per element are kept.
    Other(safetensors::Dtype),
}

impl Dtype {
    pub(crate) fn from_safetensors(dtype: safetensors::Dtype) -> Self {
        match dtype {
            safetensors::Dtype::F32 => Self::F32,
            safetensors::Dtype::F16 => Self::F16,
            safetensors::Dtype::BF16 => Self::Bf16,
            other => Self::Other(other),
        }
    }

    /// Bytes per element, for the types that [`Tensor::read_f32`] decodes.
    pub fn size_bytes(self) -> Option<u64> {
        match self {
            Self::F32 => Some(4),
            Self::F16 | Self::Bf16 => Some(2),
            Self::Other(_) => None,
        }
    }

    /// As safetensors writes it: `BF16`.
    pub fn name(self) -> String {
        match self {
            Self::F32 => "F32".into(),
            Self::F16 => "F16".into(),
            Self::Bf16 => "BF16".into(),
            Self::Other(other) => format!("{other:?}"),
        }
    }
}

/// An open safetensors file that tensors share.
#[derive(Debug)]
pub(crate) struct TensorFile {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
}

/// A tensor in a safetensors file. Its bytes were checked to lie inside the file when the model was opened.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
    pub(crate) file: Arc<TensorFile>,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Tensor {
    /// `model.layers.0.self_attn.q_proj.weight`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How its elements are stored.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Outermost dimension first, as PyTorch has it.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// How many elements it has. Cannot overflow: the file's header was checked.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Bytes that it takes in its file.
    pub fn size_bytes(&self) -> u64 {
        self.len
    }

    /// The file that it is in.
    pub fn file(&self) -> &Path {
        &self.file.path
    }

    /// Where its bytes begin in that file.
    pub fn file_offset(&self) -> u64 {
        self.offset
    }

    /// Fills `buffer` with its bytes from `start` on, little-endian elements in row-major order.
    pub fn read_into(&self, start: u64, buffer: &mut [u8]) -> Result<()> {
        let inside = start.checked_add(buffer.len() as u64).is_some_and(|end| end <= self.len);
        if !inside {
            return Err(Error::invalid_request(format!(
                "bytes {start}+{} of tensor `{}` were asked for, it has {}",
                buffer.len(),
                self.name,
                self.len
            )));
        }
        read_exact_at(&self.file.file, buffer, self.offset + start).map_err(|error| {
            let message = format!("reading tensor `{}` from `{}` failed", self.name, self.file.path.display());
            Error::new(ErrorKind::Io, message).with_cause(&error)
        })
    }

    /// The bytes in `range`.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let len = range.end.saturating_sub(range.start).min(self.len);
        let mut bytes = vec![0; len as usize];
        self.read_into(range.start, &mut bytes)?;
        Ok(bytes)
    }

    /// The elements in `range`, decoded from F32, F16 or BF16.
    pub fn read_f32(&self, range: Range<u64>) -> Result<Vec<f32>> {
        let Some(size) = self.dtype.size_bytes() else {
            return Err(Error::unsupported(format!(
                "tensor `{}` in `{}` is stored as {}; F32, F16 and BF16 can be read",
                self.name,
                self.file.path.display(),
                self.dtype.name()
            )));
        };
        let outside =
            || Error::invalid_request(format!("elements {range:?} of tensor `{}` lie outside of it", self.name));
        let start = range.start.checked_mul(size).ok_or_else(outside)?;
        let end = range.end.checked_mul(size).filter(|end| *end <= self.len).ok_or_else(outside)?;
        Ok(decode_f32(self.dtype, &self.read(start..end)?))
    }
}

/// Decodes little-endian elements of a float type; a trailing part of an element is ignored.
pub fn decode_f32(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let halves = || bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair));
    match dtype {
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect(),
        Dtype::F16 => halves().map(half::f16::from_bits).collect::<Vec<_>>().to_f32_vec(),
        Dtype::Bf16 => halves().map(|bits| f32::from_bits(u32::from(bits) << 16)).collect(),
        Dtype::Other(_) => Vec::new(),
    }
}
