//! How much memory a model would take, found by making everything of it but its weights and its KV cache.

use super::context::{context_parameters, refusal};
use super::handle::ContextHandle;
use super::info::trained_context;
use super::memory;
use super::model::check_generates;
use super::options::Settings;
use super::placement;
use super::source::Source;
use llama_cpp_sys_2 as sys;
use pajamas_plugin_api::{LoadRequest, LogLevel, MemoryUsage, Result};

/// What [`GgufModel::load`](super::GgufModel::load) would come to for `request`. Reads headers, no weights.
///
/// A KV cache that could never fit into this machine is counted by its shape; how much the computing would take besides
/// is then left open (0).
///
/// # Errors
/// Those of loading, but for what has to do with memory and cancelling.
pub fn forecast_memory(request: &LoadRequest) -> Result<MemoryUsage> {
    let settings = Settings::new(request)?;
    Ok(rehearse(&Source::open(&request.path)?, &settings)?.usage)
}

/// What was seen when a model was made without its weights.
pub(super) struct Rehearsal {
    pub(super) usage: MemoryUsage,
    /// Layers without the output.
    pub(super) layers: usize,
    /// Bytes of compute buffers on the GPUs that the settings name.
    pub(super) gpu_compute_bytes: u64,
}

/// Makes everything of the model but its weights and its KV cache, and drops it again.
///
/// # Errors
/// As [`forecast_memory`].
pub(super) fn rehearse(source: &Source, settings: &Settings) -> Result<Rehearsal> {
    let model = source.load_hollow(settings)?;
    check_generates(&model)?;
    // SAFETY: the model is there, if without weights; these only read.
    let (weights_bytes, vocabulary_size, layers) = unsafe {
        let vocab = sys::llama_model_get_vocab(model.as_ptr());
        (
            sys::llama_model_size(model.as_ptr()),
            sys::llama_vocab_n_tokens(vocab),
            sys::llama_model_n_layer(model.as_ptr()),
        )
    };
    let layers = usize::try_from(layers).unwrap_or(0);
    let context_length = settings.context_length(trained_context(&model))?;
    let kv_bytes = memory::kv_cache_bytes(&model, settings, context_length);
    let rehearsal = |lines: &[(LogLevel, String)]| Rehearsal {
        usage: memory::forecast(weights_bytes, kv_bytes, lines),
        layers,
        gpu_compute_bytes: placement::compute_bytes(&settings.gpus, lines),
    };
    if memory::check_forecast(kv_bytes, context_length, settings).is_err() {
        // Even without the cache, llama.cpp's notes about each of its cells would fill this machine.
        return Ok(rehearsal(&[]));
    }
    let parameters = context_parameters(settings, context_length, u32::try_from(vocabulary_size).unwrap_or(0));
    // SAFETY: the parameters point to nothing, and the context is dropped before the model.
    let (context, lines) = unsafe { ContextHandle::new(&model, parameters) };
    match context {
        Some(_) => Ok(rehearsal(&lines)),
        None => Err(refusal(&lines, || memory::out_of_memory(kv_bytes, context_length, settings))),
    }
}
