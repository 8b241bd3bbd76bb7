//! The GGUF file that a conversion would write, read in parts without being written.

use super::Conversion;
use crate::gguf_file::{Header, TensorPlace};
use crate::transfer::{self, Target};
use pajamas_plugin_api::{CancelToken, Result};

/// Elements of a piece, unless more belong together. Few, because C's streams read a little before every position that
/// they are sent to.
const PIECE_ELEMENTS: u64 = 128 << 10;

/// The bytes of a file that does not exist. They are the same as those of [`convert`](super::convert)'s output; a piece
/// of a tensor is made when a byte of it is asked for, and kept until another one is.
pub(crate) struct View<'a> {
    targets: Vec<Target<'a>>,
    header: Header,
    cancel: &'a CancelToken,
    made: Option<Made>,
}

/// The piece made last.
struct Made {
    tensor: usize,
    first_row: u64,
    bytes: Vec<u8>,
}

impl<'a> View<'a> {
    /// A view of what `conversion` would write; `cancel` is polled for every piece.
    ///
    /// # Errors
    /// `InvalidRequest` for tensors that no file can hold.
    pub(crate) fn new(conversion: &'a Conversion<'a>, cancel: &'a CancelToken) -> Result<Self> {
        let header = conversion.header()?;
        Ok(Self { targets: conversion.targets(), header, cancel, made: None })
    }

    /// Bytes of the whole file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.header.file_bytes
    }

    /// Bytes of all tensors.
    pub(crate) fn tensor_bytes(&self) -> u64 {
        self.header.tensors.iter().map(|tensor| tensor.size_bytes).sum()
    }

    /// Fills the beginning of `buffer` with the file's bytes from `position` on; gives how many, at least one unless
    /// the file ends there or the buffer is empty.
    ///
    /// # Errors
    /// `Io`, with the source file's name; `Cancelled`.
    pub(crate) fn read_at(&mut self, position: u64, buffer: &mut [u8]) -> Result<usize> {
        let header = &self.header;
        let next = header.tensors.partition_point(|tensor| tensor.offset <= position);
        let end = header.tensors.get(next).map_or(header.file_bytes, |tensor| tensor.offset);
        let inside = |place: &TensorPlace| position - place.offset < place.size_bytes;
        match next.checked_sub(1).map(|index| (index, &header.tensors[index])) {
            None => Ok(copy(header.bytes.get(position as usize..).unwrap_or_default(), buffer)),
            Some((index, place)) if inside(place) => self.read_tensor(index, position - place.offset, buffer),
            Some(_) => {
                let count = buffer.len().min(end.saturating_sub(position) as usize);
                buffer[..count].fill(0);
                Ok(count)
            }
        }
    }

    fn read_tensor(&mut self, tensor: usize, position: u64, buffer: &mut [u8]) -> Result<usize> {
        let target = &self.targets[tensor];
        let piece_rows = transfer::piece_rows(target.rows, PIECE_ELEMENTS);
        let first_row = position / target.row_bytes().max(1) / piece_rows * piece_rows;
        let made = match self.made.take() {
            Some(made) if (made.tensor, made.first_row) == (tensor, first_row) => made,
            // The old piece is gone by now, so that there are never two.
            _ => {
                self.cancel.check()?;
                let rows = first_row..(first_row + piece_rows).min(target.rows.count());
                Made { tensor, first_row, bytes: transfer::make(target, rows)? }
            }
        };
        let start = first_row * target.row_bytes();
        let count = copy(made.bytes.get((position - start) as usize..).unwrap_or_default(), buffer);
        self.made = Some(made);
        Ok(count)
    }
}

/// Copies as much as there is and fits.
fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let count = from.len().min(to.len());
    to[..count].copy_from_slice(&from[..count]);
    count
}
