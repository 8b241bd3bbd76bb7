//! Reads Hugging Face model folders without mapping them into memory: what both quantizers convert from.
//!
//! - [`model`]: [`HfModel`], a folder that was opened and checked; its tensors in llama.cpp's converter order
//! - [`config`]: [`Config`], one view of `config.json` as transformers 4 and 5 write it
//! - [`tensor`]: [`Tensor`], a tensor that can be read in parts and decoded to `f32`
//! - [`tokenizer`]: [`TokenizerFiles`], vocabulary, merges, added tokens and chat templates
//! - [`sentencepiece`]: [`SentencePieceModel`], what `tokenizer.model` holds
//! - `shard`, `pread`, `json`: safetensors headers, positioned reads, and JSON files with a size cap

pub mod config;
mod json;
pub mod model;
mod pread;
pub mod sentencepiece;
mod shard;
pub mod tensor;
pub mod tokenizer;

pub use config::{Config, Rope, RopeScaling};
pub use model::HfModel;
pub use pread::read_exact_at;
pub use sentencepiece::{PieceKind, SentencePieceModel};
pub use tensor::{Dtype, Tensor, decode_f32};
pub use tokenizer::{AddedToken, ChatTemplate, TokenizerFiles};
