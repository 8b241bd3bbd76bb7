//! A loaded model, as the plugin API's `Model`.

use crate::devices;
use crate::engine::architecture::Architecture;
use crate::engine::cache;
use crate::engine::generate::Answer;
use crate::engine::thread::Engine;
use crate::options::Settings;
use crate::source::Source;
use crate::vocabulary::Vocabulary;
use mlx_rs::Dtype;
use pajamas_plugin_api::{
    CancelToken, Error, GenerateRequest, LoadRequest, MemoryUsage, Model, ModelInfo, Progress, Result, TokenSink,
    check_ids,
};
use std::ops::ControlFlow;

/// A loaded model. Its methods may be called from any thread; the engine serves one call at a time, in order.
pub(crate) struct MlxModel {
    info: ModelInfo,
    /// In the types that are computed in, which may be larger than those that are stored.
    weights_bytes: u64,
    vocabulary: Vocabulary,
    engine: Engine,
}

impl MlxModel {
    /// Loads the folder or file at `request.path`.
    ///
    /// # Errors
    /// `InvalidModel` for a model that is damaged or incomplete, or has a tensor too many; `Unsupported` for an
    /// architecture or a quantization that is not known; `OutOfMemory`; `Cancelled`.
    pub(crate) fn load(request: &LoadRequest, progress: &Progress, cancel: &CancelToken) -> Result<Self> {
        cancel.check()?;
        devices::start();
        let source = Source::open(&request.path)?;
        let mut architecture = Architecture::new(source.config())?;
        architecture.rope_factors = source.rope_factors()?;
        architecture.tied = source.tied_embeddings();
        let settings = Settings::new(request, architecture.context_length)?;
        let vocabulary = Vocabulary::new(
            &source.tokenizer()?,
            source.end_of_generation(),
            architecture.vocabulary_size.unsigned_abs(),
        )?;
        let weights = source.weights(&architecture, settings.compute, progress, cancel)?;
        let mut info = ModelInfo {
            architecture: architecture.name.into(),
            name: source.name(),
            quantization: source.describe(),
            parameter_count: weights.parameter_count(),
            size_bytes: source.size_bytes(),
            context_length: settings.context_length,
            context_length_trained: architecture.context_length,
            ..ModelInfo::default()
        };
        vocabulary.describe(&mut info);
        let weights_bytes = weights.size_bytes();
        let engine =
            Engine::start(architecture, weights, settings.context_length, settings.slots, settings.prefill_step)?;
        Ok(Self { info, weights_bytes, vocabulary, engine })
    }
}

/// What loading the folder or file at `request.path` would take with the context full. What MLX computes with comes and
/// goes, and is not in it.
///
/// # Errors
/// Those of [`MlxModel::load`], as far as headers tell.
pub(crate) fn forecast_memory(request: &LoadRequest) -> Result<MemoryUsage> {
    let source = Source::open(&request.path)?;
    let architecture = Architecture::new(source.config())?;
    let settings = Settings::new(request, architecture.context_length)?;
    let mut usage = MemoryUsage::default();
    usage.weights_bytes = source.loaded_bytes(settings.compute, source.tied_embeddings());
    let element_bytes = match settings.compute {
        Some(Dtype::Float32) => 4,
        _ => 2,
    };
    let heads = u64::from((architecture.kv_heads * architecture.head_dim).unsigned_abs());
    let positions = u64::from(settings.context_length).next_multiple_of(u64::from(cache::STEP.unsigned_abs()));
    usage.kv_cache_bytes = 2 * architecture.layers as u64 * heads * element_bytes * positions * settings.slots as u64;
    usage.device_total_bytes = devices::memory_total_bytes();
    Ok(usage)
}

impl Model for MlxModel {
    fn info(&self) -> ModelInfo {
        self.info.clone()
    }

    fn generate(&self, request: &GenerateRequest, sink: &mut TokenSink<'_>) -> Result<()> {
        let prompt = self.vocabulary.prompt(&request.prompt)?;
        if prompt.len() >= self.info.context_length as usize {
            return Err(Error::context_overflow("a prompt", prompt.len(), self.info.context_length));
        }
        let answer = Answer {
            prompt,
            session: request.session,
            sampling: request.sampling.clone(),
            max_tokens: request.max_tokens,
            top_logprobs: request.top_logprobs as usize,
        };
        self.engine.answer(answer, sink, |id| self.vocabulary.piece(id))
    }

    fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        self.vocabulary.tokenize(text, add_special, parse_special)
    }

    fn detokenize(&self, tokens: &[u32]) -> Result<Vec<u8>> {
        self.vocabulary.detokenize(tokens)
    }

    fn logits(
        &self,
        tokens: &[u32],
        first_row: usize,
        rows: &mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>,
        cancel: &CancelToken,
    ) -> Result<()> {
        check_ids(tokens, self.vocabulary.size())?;
        if tokens.len() > self.info.context_length as usize {
            return Err(Error::context_overflow("a text", tokens.len(), self.info.context_length));
        }
        if first_row >= tokens.len() {
            return Ok(());
        }
        self.engine.rows(tokens, first_row, self.vocabulary.size() as usize, rows, cancel)
    }

    fn memory_usage(&self) -> MemoryUsage {
        let mut usage = MemoryUsage::default();
        usage.weights_bytes = self.weights_bytes;
        usage.kv_cache_bytes = self.engine.kv_cache_bytes();
        usage.device_total_bytes = devices::memory_total_bytes();
        usage
    }
}
