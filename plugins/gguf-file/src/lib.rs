//! The GGUF file format, version 3: its types, a streaming writer, a reader that trusts nothing, and the pre-tokenizers
//! that its vocabularies name.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod pre_tokenizer;
pub mod reader;
pub mod types;
mod value;
pub mod writer;

pub use pre_tokenizer::PreTokenizer;
pub use reader::GgufFile;
pub use types::{FileType, GgmlType};
pub use value::{Metadata, Value, ValueType};
pub use writer::{GgufWriter, Header, TensorPlace, TensorSpec};

/// The first four bytes of every file.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
/// The version that is written. Version 2 differs in nothing that is read here.
pub(crate) const VERSION: u32 = 3;
/// Tensor data is aligned to this many bytes unless `general.alignment` says otherwise.
pub(crate) const ALIGNMENT_DEFAULT: u64 = 32;
/// ggml's tensors have at most this many dimensions.
pub(crate) const DIMENSIONS_MAX: usize = 4;

/// `position` rounded up to a multiple of `alignment` (a power of two); none on overflow.
pub(crate) fn align_up(position: u64, alignment: u64) -> Option<u64> {
    Some(position.checked_add(alignment - 1)? & !(alignment - 1))
}

#[cfg(test)]
mod tests;
