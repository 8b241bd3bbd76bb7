//! A model in llama.cpp, as the plugin API's `Model`.

use super::batcher::Batcher;
use super::context::Engine;
use super::generate;
use super::handle::ModelHandle;
use super::info::{model_info, trained_context};
use super::memory;
use super::options::Settings;
use super::placement;
use super::source::Source;
use super::vocab::Vocab;
use llama_cpp_sys_2 as sys;
use pajamas_plugin_api::{
    CancelToken, Error, GenerateRequest, LoadRequest, LogLevel, MemoryUsage, Model, ModelInfo, Progress, Result,
    TokenSink, host,
};
use std::ops::ControlFlow;
use std::sync::Arc;

/// A loaded model with its context. As many requests as it has slots are served at a time, their tokens in one batch; each
/// may keep its KV cache in its slot.
pub struct GgufModel {
    info: ModelInfo,
    memory: MemoryUsage,
    vocab: Vocab,
    batcher: Batcher,
}

impl GgufModel {
    /// Loads the GGUF file or the Hugging Face folder that `request` names, a folder in its own precision. May be called
    /// from any thread.
    ///
    /// # Errors
    /// `InvalidModel` for a file that is damaged, cut short or no GGUF; `Unsupported` for a model that cannot generate;
    /// `OutOfMemory` with the sizes; `InvalidRequest` for settings out of range; `Cancelled`; `Io`; for a folder, those
    /// of the converter.
    pub fn load(request: &LoadRequest, progress: &Progress, cancel: &CancelToken) -> Result<Self> {
        cancel.check()?;
        let mut settings = Settings::new(request)?;
        let asked = settings.gpu_layers;
        let source = Source::open(&request.path)?;
        placement::place(&source, &mut settings)?;
        loop {
            match Self::load_as(&source, &settings, progress, cancel) {
                Err(error) if placement::retreat(&mut settings, asked, source.layer_sizes()?.blocks.len(), &error) => {}
                result => return result.map_err(|error| placement::where_it_ran_out(&settings, error)),
            }
        }
    }

    fn load_as(source: &Source, settings: &Settings, progress: &Progress, cancel: &CancelToken) -> Result<Self> {
        let model = Arc::new(source.load(settings, progress, cancel)?);
        check_generates(&model)?;
        cancel.check()?;
        let vocab = Vocab::new(Arc::clone(&model))?;
        let trained = trained_context(&model);
        let context_length = settings.context_length(trained)?;
        if trained > 0 && context_length > trained {
            let message = format!(
                "a context of {context_length} tokens is longer than the {trained} that the model was trained with; \
                 expect worse answers beyond them"
            );
            host().log(LogLevel::Warn, "pajamas_gguf", &message);
        }
        let info = model_info(&model, &vocab, context_length);
        let kv_forecast = memory::kv_cache_bytes(&model, settings, context_length);
        let (engine, lines) = Engine::new(model, settings, context_length, vocab.count(), None)?;
        let memory = memory::usage(info.size_bytes, kv_forecast, &lines);
        Ok(Self { info, memory, vocab, batcher: Batcher::new(engine, settings.slots as usize) })
    }
}

impl Model for GgufModel {
    fn info(&self) -> ModelInfo {
        self.info.clone()
    }

    fn generate(&self, request: &GenerateRequest, sink: &mut TokenSink<'_>) -> Result<()> {
        let prompt = self.vocab.prompt_tokens(&request.prompt)?;
        let context_length = self.info.context_length as usize;
        if prompt.len() >= context_length {
            return Err(Error::context_overflow("a prompt", prompt.len(), self.info.context_length));
        }
        generate::generate(&self.batcher, &self.vocab, &prompt, context_length, request, sink)
    }

    fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        self.vocab.tokenize(text, add_special, parse_special)
    }

    fn detokenize(&self, tokens: &[u32]) -> Result<Vec<u8>> {
        self.vocab.check(tokens)?;
        Ok(tokens.iter().flat_map(|id| self.vocab.piece(*id)).collect())
    }

    fn logits(
        &self,
        tokens: &[u32],
        first_row: usize,
        rows: &mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>,
        cancel: &CancelToken,
    ) -> Result<()> {
        self.vocab.check(tokens)?;
        if tokens.len() > self.info.context_length as usize {
            return Err(Error::context_overflow("a text", tokens.len(), self.info.context_length));
        }
        if first_row >= tokens.len() {
            return Ok(());
        }
        let mut seat = self.batcher.seat(None, &[], cancel)?;
        seat.alone(cancel, |engine, slot| engine.rows_of(slot, tokens, first_row, rows, cancel))
    }

    fn memory_usage(&self) -> MemoryUsage {
        self.memory
    }
}

/// Refuses models that llama.cpp loads for other purposes than continuing a text.
pub(super) fn check_generates(model: &ModelHandle) -> Result<()> {
    // SAFETY: the model is loaded; these only read.
    let (encoder, decoder, diffusion) = unsafe {
        let pointer = model.as_ptr();
        (
            sys::llama_model_has_encoder(pointer),
            sys::llama_model_has_decoder(pointer),
            sys::llama_model_is_diffusion(pointer),
        )
    };
    if encoder || !decoder {
        return Err(Error::unsupported("the model has an encoder; only models that continue a text are run"));
    }
    if diffusion {
        return Err(Error::unsupported("the model generates by diffusion; only models that go token by token are run"));
    }
    Ok(())
}
