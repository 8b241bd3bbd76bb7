//! Running models with llama.cpp: loading, the KV cache's slots, tokenizing, generating, logits.
//!
//! | module | what it holds |
//! |---|---|
//! | `source` | what is loaded: a GGUF file, or a Hugging Face folder that is converted on its way into memory |
//! | `handle` | owners of llama.cpp's objects, and the loading of a model |
//! | `stream` | a file that does not exist, for C to read |
//! | `log` | llama.cpp's log on its way to the host and into errors |
//! | `options` | load options, and the settings they come to |
//! | `vocab`, `info`, `memory` | what a loaded model knows and takes |
//! | `placement` | how much of a model fits on the GPUs |
//! | `forecast` | what a model would take, without loading it |
//! | `batcher` | who uses the context, and when: several callers' tokens in one batch |
//! | `context`, `generate` | decoding, and the loops around it |
//! | `devices` | what ggml can compute on |
//! | `model` | all of it as the plugin API's `Model` |

mod batcher;
pub(crate) mod context;
pub mod devices;
mod forecast;
mod generate;
pub(crate) mod handle;
pub(crate) mod info;
pub(crate) mod log;
mod memory;
mod model;
pub(crate) mod options;
mod placement;
pub(crate) mod source;
mod stream;
pub(crate) mod vocab;

pub use forecast::forecast_memory;
pub use model::GgufModel;
pub use options::option_specs;
