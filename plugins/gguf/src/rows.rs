//! The rows of a tensor of a GGUF file that is being made, and where they come from: made on the spot, gathered from a
//! checkpoint's tensors, or read from another GGUF file.

use crate::gguf_file::{GgmlType, reader::TensorInfo};
use half::f16;
use pajamas_hf_model::{Dtype, Tensor, decode_f32, read_exact_at};
use pajamas_plugin_api::{Error, Result};
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// The rows of a tensor, which can be read in any order and from several threads.
#[derive(Debug)]
pub(crate) struct Rows<'a> {
    origin: Origin<'a>,
    /// Elements of a row.
    width: u64,
    count: u64,
    /// How [`Rows::read`] gives the elements.
    element_type: GgmlType,
}

#[derive(Debug)]
enum Origin<'a> {
    Made(Vec<f32>),
    Checkpoint { parts: Vec<&'a Tensor>, arrangement: Arrangement },
    File { file: Arc<OpenFile>, offset: u64 },
}

/// A GGUF file that rows are read from.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
}

/// How a tensor is laid out in a checkpoint. Tensors that a checkpoint holds in parts (a matrix for each expert) are the
/// parts one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrangement {
    /// As it will be.
    Plain,
    /// The rows of q and k: transformers rotates element `i` of a head with element `i + size / 2`, llama.cpp with its
    /// neighbour, so that row `i` of a head's first half and row `i` of its second come to stand side by side.
    Heads(u64),
    /// Everything one too small: Gemma's norms.
    PlusOne,
    /// Each matrix has `of` rows, of which every `step`th from `first` on is wanted.
    SomeRows {
        /// The first row wanted.
        first: u64,
        /// The distance to the next one.
        step: u64,
        /// Rows of a matrix in the checkpoint.
        of: u64,
    },
    /// Each matrix is transposed and has `of` columns, of which every `step`th from `first` on becomes a row.
    SomeColumns {
        /// The first column wanted.
        first: u64,
        /// The distance to the next one.
        step: u64,
        /// Columns of a matrix in the checkpoint.
        of: u64,
    },
    /// Each row has `of` elements, of which every `step`th from `first` on is wanted.
    SomeElements {
        /// The first element wanted.
        first: u64,
        /// The distance to the next one.
        step: u64,
        /// Elements of a row in the checkpoint.
        of: u64,
    },
    /// Four-bit codes in one tensor (rows of 16-byte blocks) and scales in another (a byte for each block), which become
    /// ggml's MXFP4; of each matrix's `of` rows, every `step`th from `first` on.
    Mxfp4 {
        /// The first row wanted.
        first: u64,
        /// The distance to the next one.
        step: u64,
        /// Rows of a matrix in the checkpoint.
        of: u64,
    },
}

impl<'a> Rows<'a> {
    /// One row of `values`.
    pub(crate) fn made(values: Vec<f32>) -> Self {
        Self { width: values.len() as u64, count: 1, element_type: GgmlType::F32, origin: Origin::Made(values) }
    }

    /// Rows that make a tensor of `shape` (outermost dimension first) from `parts`, laid out as `arrangement` says. That
    /// the parts have the shapes for it is the caller's promise.
    ///
    /// # Errors
    /// `Unsupported` for elements that are no floats that can be read.
    pub(crate) fn of_checkpoint(parts: Vec<&'a Tensor>, arrangement: Arrangement, shape: &[u64]) -> Result<Self> {
        let mut element_type = GgmlType::MXFP4;
        for (index, part) in parts.iter().enumerate() {
            let found = match (arrangement, part.dtype()) {
                (Arrangement::Mxfp4 { .. }, dtype) if dtype.name() == "U8" => continue,
                (_, Dtype::F32) => GgmlType::F32,
                (_, Dtype::F16) => GgmlType::F16,
                (_, Dtype::Bf16) => GgmlType::BF16,
                (_, Dtype::Other(_)) => return Err(unreadable(part)),
            };
            if index > 0 && found != element_type {
                return Err(Error::unsupported(format!(
                    "`{}` is stored as {} and `{}` as {}, though one tensor is made of both",
                    parts[0].name(),
                    element_type.name,
                    part.name(),
                    found.name
                )));
            }
            element_type = found;
        }
        if arrangement == Arrangement::PlusOne {
            // The sum has more digits than the summands.
            element_type = GgmlType::F32;
        }
        // A bias of q or k is as many rows of one element.
        let (width, outer) = match (arrangement, shape) {
            (Arrangement::Heads(_), [_]) => (1, shape),
            (_, [outer @ .., width]) => (*width, outer),
            (_, []) => (1, shape),
        };
        let count = outer.iter().product();
        Ok(Self { origin: Origin::Checkpoint { parts, arrangement }, width, count, element_type })
    }

    /// The rows of `tensor`, which lies in `file`.
    pub(crate) fn of_file(file: &Arc<OpenFile>, tensor: &TensorInfo) -> Self {
        Self {
            origin: Origin::File { file: Arc::clone(file), offset: tensor.offset },
            width: tensor.shape.first().copied().unwrap_or(1),
            count: tensor.shape.iter().skip(1).product(),
            element_type: tensor.ggml_type,
        }
    }

    /// Elements of a row.
    pub(crate) fn width(&self) -> u64 {
        self.width
    }

    /// How many rows there are.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// How [`Rows::read`] gives the elements.
    pub(crate) fn element_type(&self) -> GgmlType {
        self.element_type
    }

    /// Bytes that the rows take where they come from.
    pub(crate) fn source_bytes(&self) -> u64 {
        self.count * self.row_bytes()
    }

    /// Rows that are read together; a range that is read begins at a multiple of it, and so does what follows it.
    pub(crate) fn granule(&self) -> u64 {
        match &self.origin {
            Origin::Checkpoint { arrangement: Arrangement::Heads(heads), .. } => (self.count / heads).max(1),
            Origin::Checkpoint { parts, arrangement: Arrangement::SomeColumns { .. } } => {
                (self.count / matrices(parts)).max(1)
            }
            _ => 1,
        }
    }

    fn row_bytes(&self) -> u64 {
        self.element_type.tensor_bytes(&[self.width]).unwrap_or(0)
    }

    /// The elements of some rows, little-endian blocks of [`Rows::element_type`].
    ///
    /// # Errors
    /// `Io`, with the file's name.
    pub(crate) fn read(&self, rows: Range<u64>) -> Result<Vec<u8>> {
        match &self.origin {
            Origin::Made(values) => Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            Origin::File { file, offset } => {
                let mut bytes = vec![0; ((rows.end - rows.start) * self.row_bytes()) as usize];
                read_exact_at(&file.file, &mut bytes, offset + rows.start * self.row_bytes())
                    .map_err(|error| Error::io("reading", &file.path, &error))?;
                Ok(bytes)
            }
            Origin::Checkpoint { parts, arrangement } => self.gather(parts, *arrangement, rows),
        }
    }

    fn gather(&self, parts: &[&Tensor], arrangement: Arrangement, rows: Range<u64>) -> Result<Vec<u8>> {
        match arrangement {
            Arrangement::Plain => self.consecutive(parts, rows, self.row_bytes()),
            Arrangement::Heads(heads) => {
                let bytes = self.consecutive(parts, rows, self.row_bytes())?;
                Ok(interleave(&bytes, self.row_bytes() as usize, (self.count / heads) as usize))
            }
            Arrangement::PlusOne => {
                let dtype = parts[0].dtype();
                let bytes = self.consecutive(parts, rows, self.width * dtype.size_bytes().unwrap_or(4))?;
                Ok(plus_one(&bytes, dtype))
            }
            Arrangement::SomeRows { first, step, of } => {
                let row_bytes = self.row_bytes();
                let mut out = Vec::with_capacity(((rows.end - rows.start) * row_bytes) as usize);
                self.each_matrix(parts, rows, |tensor, matrix, wanted| {
                    let span = span(&wanted, first, step, of, matrix);
                    let bytes = tensor.read(span.start * row_bytes..span.end * row_bytes)?;
                    let taken = bytes.chunks_exact(row_bytes as usize).step_by(step as usize);
                    taken.for_each(|row| out.extend_from_slice(row));
                    Ok(())
                })?;
                Ok(out)
            }
            Arrangement::SomeColumns { first, step, of } => {
                let size = self.element_type.type_size as usize;
                let (height, width) = (self.width, of);
                let mut out = Vec::with_capacity(((rows.end - rows.start) * self.row_bytes()) as usize);
                self.each_matrix(parts, rows, |tensor, matrix, wanted| {
                    let matrix_bytes = height * width * size as u64;
                    let bytes = tensor.read(matrix * matrix_bytes..(matrix + 1) * matrix_bytes)?;
                    for row in wanted {
                        let column = (first + row * step) as usize * size;
                        let elements = bytes[column..].chunks(width as usize * size);
                        elements.for_each(|line| out.extend_from_slice(&line[..size]));
                    }
                    Ok(())
                })?;
                Ok(out)
            }
            Arrangement::SomeElements { first, step, of } => {
                let size = self.element_type.type_size as usize;
                let source_row = of * size as u64;
                let [tensor] = parts else { return Err(Error::other("such a tensor has one part")) };
                let bytes = tensor.read(rows.start * source_row..rows.end * source_row)?;
                Ok(bytes
                    .chunks_exact(source_row as usize)
                    .flat_map(|row| row.chunks_exact(size).skip(first as usize).step_by(step as usize))
                    .flatten()
                    .copied()
                    .collect())
            }
            Arrangement::Mxfp4 { first, step, of } => {
                let [codes, scales] = parts else { return Err(Error::other("MXFP4 has codes and scales")) };
                let blocks = self.width / GgmlType::MXFP4.block_size;
                let mut out = Vec::with_capacity(((rows.end - rows.start) * self.row_bytes()) as usize);
                self.each_matrix(&parts[..1], rows, |_, matrix, wanted| {
                    let span = span(&wanted, first, step, of, matrix);
                    let codes = codes.read(span.start * blocks * 16..span.end * blocks * 16)?;
                    let scales = scales.read(span.start * blocks..span.end * blocks)?;
                    let rows = codes.chunks_exact(blocks as usize * 16).zip(scales.chunks_exact(blocks as usize));
                    for (codes, scales) in rows.step_by(step as usize) {
                        for (block, scale) in codes.as_chunks::<16>().0.iter().zip(scales) {
                            out.push(*scale);
                            out.extend_from_slice(&mxfp4_codes(block));
                        }
                    }
                    Ok(())
                })?;
                Ok(out)
            }
        }
    }

    /// Rows that are stored one after another, in one part or several of the same size.
    fn consecutive(&self, parts: &[&Tensor], rows: Range<u64>, row_bytes: u64) -> Result<Vec<u8>> {
        let part_rows = (self.count / parts.len() as u64).max(1);
        let mut bytes = vec![0; ((rows.end - rows.start) * row_bytes) as usize];
        let (mut row, mut rest) = (rows.start, bytes.as_mut_slice());
        while row < rows.end {
            let (part, inside) = (row / part_rows, row % part_rows);
            let count = (part_rows - inside).min(rows.end - row);
            let (now, later) = rest.split_at_mut((count * row_bytes) as usize);
            parts[part as usize].read_into(inside * row_bytes, now)?;
            (row, rest) = (row + count, later);
        }
        Ok(bytes)
    }

    /// Calls `take` with the tensor, the number in it, and the rows wanted of each matrix that `rows` touches.
    fn each_matrix(
        &self,
        parts: &[&Tensor],
        rows: Range<u64>,
        mut take: impl FnMut(&Tensor, u64, Range<u64>) -> Result<()>,
    ) -> Result<()> {
        let [tensor] = parts else { return Err(Error::other("such a tensor has one part")) };
        let matrix_rows = (self.count / matrices(parts)).max(1);
        let mut row = rows.start;
        while row < rows.end {
            let (matrix, inside) = (row / matrix_rows, row % matrix_rows);
            let count = (matrix_rows - inside).min(rows.end - row);
            take(tensor, matrix, inside..inside + count)?;
            row += count;
        }
        Ok(())
    }
}

/// How many matrices a tensor of the checkpoint holds: its first dimension, if it has three or more.
fn matrices(parts: &[&Tensor]) -> u64 {
    let shape = parts.first().map_or(&[][..], |part| part.shape());
    if shape.len() > 2 { shape[0].max(1) } else { 1 }
}

/// The rows of the checkpoint from the first that is wanted to the last, counted through all matrices.
fn span(wanted: &Range<u64>, first: u64, step: u64, of: u64, matrix: u64) -> Range<u64> {
    let start = matrix * of + first;
    start + wanted.start * step..start + (wanted.end - 1) * step + 1
}

fn interleave(bytes: &[u8], row_bytes: usize, head_rows: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact(row_bytes * head_rows) {
        let (first, second) = head.split_at(head.len() / 2);
        for (a, b) in first.chunks_exact(row_bytes).zip(second.chunks_exact(row_bytes)) {
            out.extend_from_slice(a);
            out.extend_from_slice(b);
        }
    }
    out
}

/// Single-precision sums; those of half-precision elements are rounded to half precision, as in PyTorch.
fn plus_one(bytes: &[u8], dtype: Dtype) -> Vec<u8> {
    let round = |sum: f32| if dtype == Dtype::F16 { f16::from_f32(sum).to_f32() } else { sum };
    decode_f32(dtype, bytes).into_iter().flat_map(|value| round(value + 1.0).to_le_bytes()).collect()
}

/// The codes of a block in ggml's order: the checkpoint holds neighbours in a byte, ggml element `i` with `i + 16`.
fn mxfp4_codes(block: &[u8; 16]) -> [u8; 16] {
    let code = |index: usize| if index.is_multiple_of(2) { block[index / 2] & 15 } else { block[index / 2] >> 4 };
    std::array::from_fn(|index| code(index) | code(index + 16) << 4)
}

/// The error for a tensor whose elements are no floats that can be read.
pub(crate) fn unreadable(tensor: &Tensor) -> Error {
    Error::unsupported(format!(
        "tensor `{}` in `{}` is stored as {}; F32, F16 and BF16 can be converted",
        tensor.name(),
        tensor.file().display(),
        tensor.dtype().name()
    ))
    .with_hint("use the original, unquantized model")
}
