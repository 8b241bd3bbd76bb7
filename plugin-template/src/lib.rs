//! `ngram`: a small and complete backend for pajamas, to be read, run, and then filled with an engine of yours.
//!
//! This file is the contract: the backend, a loaded model, the quantizer. `engine.rs` is what they work with: an n-gram
//! model over bytes. `pajamas quantize corpus.txt` makes one, in 8 bits or, with `-m f32`, in 32.

mod engine;

use engine::{END, ORDER_MAX, VOCABULARY, Weights};
use pajamas_plugin_api::*;
use std::ops::ControlFlow;

/// The backend. Made once per process; every method may be called from any thread, several at a time.
pub struct Ngram;

impl Backend for Ngram {
    fn is_available(&self) -> Availability {
        // Yours looks for its driver and devices here; without them it says `Availability::no(reason, remedy)`.
        Availability::on([Device::new("CPU", DeviceClass::Cpu)])
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::new("cpu", &["ngram"]);
        capabilities.precisions = vec!["f32".into(), "q8".into()];
        capabilities.logits = true;
        capabilities.logprobs = true;
        let order = OptionKind::Int { min: 1, max: ORDER_MAX as i64 };
        capabilities.options = vec![OptionSpec::new("order", order, "5", "Choose by one token less than this many.")];
        capabilities
    }

    fn load_model(&self, request: &LoadRequest, progress: &Progress, cancel: &CancelToken) -> Result<Box<dyn Model>> {
        progress.report("loading", 0.0, "");
        let weights = Weights::read(&request.path, cancel)?;
        progress.report("loading", 1.0, "");
        // The host has checked it against `capabilities`: a whole number in its range, or not set.
        let order = request.options.int("order").map_or(ORDER_MAX, |order| order as usize);
        Ok(Box::new(NgramModel { weights, order, context_length: request.context_length.unwrap_or(4096) }))
    }

    fn quantizer(&self) -> Option<&dyn Quantizer> {
        Some(self)
    }
}

/// A loaded model. Dropping it gives its memory back.
struct NgramModel {
    weights: Weights,
    order: usize,
    context_length: u32,
}

impl NgramModel {
    /// Checks that `tokens` fit. They are never cut instead: an answer to half a prompt would be worse than an error.
    fn check_length(&self, tokens: usize) -> Result<()> {
        if tokens <= self.context_length as usize {
            return Ok(());
        }
        let message = format!("{tokens} tokens do not fit the context of {}", self.context_length);
        Err(Error::new(ErrorKind::ContextOverflow, message).with_hint("`--context-length` makes it longer"))
    }
}

impl Model for NgramModel {
    fn info(&self) -> ModelInfo {
        let end = SpecialToken { id: END, text: String::new() };
        ModelInfo {
            architecture: "ngram".into(),
            quantization: format!("{} bits", self.weights.bits),
            size_bytes: self.weights.size_bytes(),
            context_length: self.context_length,
            vocabulary_size: VOCABULARY as u32,
            bos_token: Some(end.clone()),
            eos_token: Some(end),
            end_of_generation_tokens: vec![END],
            metadata: self.weights.provenance.clone(),
            ..ModelInfo::default()
        }
    }

    fn generate(&self, request: &GenerateRequest, sink: &mut TokenSink<'_>) -> Result<()> {
        let tokenize = &mut |text: &str, parse_special| self.tokenize(text, false, parse_special);
        let mut tokens = request.prompt.tokens(VOCABULARY as u32, Some(END), &[], tokenize)?;
        self.check_length(tokens.len() + 1)?;
        sink.prompt_started(tokens.len() as u32, 0);
        let mut sampler = Sampler::new(&request.sampling);
        tokens.iter().for_each(|id| sampler.accept(*id));
        while tokens.len() < self.context_length as usize {
            let logits = self.weights.row(&tokens, self.order);
            let id = sampler.sample(&logits);
            let mut token = Token::new(id, self.detokenize(&[id])?);
            if request.top_logprobs > 0 {
                let (logprob, top) = log_probabilities(&logits, id, request.top_logprobs as usize);
                (token.logprob, token.top) = (Some(logprob), top);
            }
            sampler.accept(id);
            tokens.push(id);
            // The sink joins characters, finds stop texts and the end token, counts, and hears of cancellation.
            if sink.token(token).is_break() {
                return Ok(());
            }
        }
        sink.context_full();
        Ok(())
    }

    fn tokenize(&self, text: &str, add_special: bool, _parse_special: bool) -> Result<Vec<u32>> {
        Ok(add_special.then_some(END).into_iter().chain(text.bytes().map(u32::from)).collect())
    }

    fn detokenize(&self, tokens: &[u32]) -> Result<Vec<u8>> {
        check_ids(tokens, VOCABULARY as u32)?;
        Ok(tokens.iter().filter_map(|id| u8::try_from(*id).ok()).collect())
    }

    fn logits(
        &self,
        tokens: &[u32],
        first_row: usize,
        rows: &mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>,
        cancel: &CancelToken,
    ) -> Result<()> {
        check_ids(tokens, VOCABULARY as u32)?;
        self.check_length(tokens.len())?;
        for position in first_row..tokens.len() {
            cancel.check()?;
            if rows(position, &self.weights.row(&tokens[..=position], self.order)).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn memory_usage(&self) -> MemoryUsage {
        let mut usage = MemoryUsage::default();
        usage.weights_bytes = self.weights.size_bytes();
        usage
    }
}

/// It runs in a process of its own, and works without the backend's device.
impl Quantizer for Ngram {
    fn recipes(&self) -> Vec<Recipe> {
        let q8 = Recipe::new("q8", "ngram", 8.0, "8-bit log-probabilities: nearly four times smaller, hardly worse");
        let f32 = Recipe::new("f32", "ngram", 32.0, "full precision, to compare with and to quantize later");
        vec![q8.from_sources(&["txt", "ngram"]), f32.from_sources(&["txt"])]
    }

    fn quantize(&self, job: &QuantizeJob, progress: &Progress, cancel: &CancelToken) -> Result<QuantizeReport> {
        let is_model = job.source.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("ngram"));
        let mut weights =
            if is_model { Weights::read(&job.source, cancel)? } else { Weights::count(&job.source, progress, cancel)? };
        if weights.bits < 32 {
            let message = format!("`{}` is quantized already", job.source.display());
            return Err(Error::unsupported(message).with_hint("start from the text, or from a model made by `-m f32`"));
        }
        let mut report = QuantizeReport::default();
        report.architecture = "ngram".into();
        report.source_precision = "f32".into();
        report.source_bytes = weights.size_bytes();
        report.tensor_count = 1;
        if job.recipe.eq_ignore_ascii_case("q8") {
            weights.quantize();
        }
        weights.provenance.extend(job.provenance.clone());
        report.output_bytes = weights.write(&job.output)?;
        Ok(report)
    }
}

export_plugin! {
    name: "ngram",
    formats: "ngram",
    backend: || Box::new(Ngram),
}
