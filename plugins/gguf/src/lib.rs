//! llama.cpp as pajamas uses it: running GGUF models and Hugging Face folders, and making GGUF models.
//!
//! | module | what it holds |
//! |---|---|
//! | [`engine`] | running models |
//! | [`convert`] | Hugging Face folders to GGUF: what the file will hold |
//! | [`quantize`] | folders and GGUF files to GGUF files of any type, in one pass |
//! | `rows`, `blocks`, `transfer` | reading, encoding and writing tensors, for both |
//!
//! A plugin for one kind of hardware is a thin cdylib around this crate: it says whether its device is there, and
//! takes [`capabilities`], [`load`], [`forecast_memory`] and [`GgufQuantizer`] from here.

mod blocks;
pub mod convert;
pub mod engine;
pub mod quantize;
mod rows;
mod transfer;

use pajamas_gguf_file as gguf_file;

pub use engine::{GgufModel, cpu_device, forecast_memory, option_specs};
pub use quantize::GgufQuantizer;
pub use rows::Arrangement;

use pajamas_plugin_api::{CancelToken, Capabilities, LoadRequest, Model, Progress, Result};

/// What a llama.cpp backend for `hardware` (`cpu`, `cuda`, …) can do; `gpu` adds the options that a GPU has.
pub fn capabilities(hardware: &str, gpu: bool) -> Capabilities {
    const PRECISIONS: [&str; 18] = [
        "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m", "q4_k_s", "q4_1", "q4_0",
        "iq4_nl", "iq4_xs", "q3_k_m", "q2_k", "mxfp4",
    ];
    let mut capabilities = Capabilities::new(hardware, &["gguf", "huggingface"]);
    capabilities.precisions = PRECISIONS.map(String::from).into();
    capabilities.logits = true;
    capabilities.sessions = true;
    capabilities.logprobs = true;
    capabilities.options = option_specs(gpu);
    capabilities
}

/// Loads a GGUF file, or a Hugging Face folder in its own precision. May be called from any thread; blocks until the model is loaded.
///
/// # Errors
/// Those of [`GgufModel::load`].
pub fn load(request: &LoadRequest, progress: &Progress, cancel: &CancelToken) -> Result<Box<dyn Model>> {
    Ok(Box::new(GgufModel::load(request, progress, cancel)?))
}
