//! llama.cpp as pajamas uses it: running GGUF models and Hugging Face folders, and making GGUF models.
//!
//! | module | what it holds |
//! |---|---|
//! | [`backend`] | all of a plugin, but for its driver |
//! | [`engine`] | running models |
//! | [`convert`] | Hugging Face folders to GGUF: what the file will hold |
//! | [`quantize`] | folders and GGUF files to GGUF files of any type, in one pass |
//! | `rows`, `blocks`, `transfer` | reading, encoding and writing tensors, for both |
//!
//! A plugin for one kind of hardware is a thin cdylib around this crate: it says whether its driver is there, and takes
//! [`GgufBackend`] and [`CPU_FEATURES`] from here. This crate's cargo features choose the hardware, one in each build.

pub mod backend;
mod blocks;
pub mod convert;
pub mod engine;
pub mod quantize;
mod rows;
mod transfer;

use pajamas_gguf_file as gguf_file;

pub use backend::GgufBackend;
pub use engine::{GgufModel, forecast_memory, option_specs};
pub use quantize::GgufQuantizer;
pub use rows::Arrangement;

/// The CPU features that llama.cpp was compiled for, for the manifest of the plugin that it is linked into.
pub const CPU_FEATURES: &str = env!("PAJAMAS_CPU_FEATURES");
