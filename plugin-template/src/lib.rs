//! `ngram`: a small and complete backend for pajamas, to be read, run, and then filled with an engine of yours.
//!
//! Its engine is an n-gram model over bytes, with n = 2: each token has a row of logits, one for each token that may
//! follow it. `pajamas quantize corpus.txt` makes a model of a text, in 8 bits or, with `-m f32`, in 32.

use pajamas_plugin_api::*;
use std::{collections::BTreeMap, fs, ops::ControlFlow, path::Path};

/// Tokens are the 256 bytes and `END`, which ends a text and begins the next. It has no bytes: nobody can type it.
const VOCABULARY: usize = 257;
const END: u32 = 256;
/// A model file is this line, then its contents in MessagePack: recipe, provenance, and rows in eighths of a logit.
const MAGIC: &[u8] = b"n-gram 1\n";
const FILE_BYTES_MAX: u64 = 1 << 20;
type Contents = (String, BTreeMap<String, String>, Vec<Vec<f32>>);
/// Takes a position and its logits, and says whether to go on.
type OnRow<'a> = &'a mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>;

/// The backend. Made once per process; every method may be called from any thread, several at a time.
pub struct Ngram;

impl Backend for Ngram {
    fn is_available(&self) -> Availability {
        // Yours looks for its driver and devices here; without them it says `Availability::no(reason, remedy)`.
        Availability::on([Device::new("CPU", DeviceClass::Cpu)])
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::new("cpu", &["ngram"]);
        (capabilities.logits, capabilities.logprobs) = (true, true);
        let kind = OptionKind::Float { min: 0.1, max: 10.0 };
        capabilities.options = vec![OptionSpec::new("sharpness", kind, "1", "Above 1, the likely becomes likelier.")];
        capabilities
    }

    fn load_model(&self, request: &LoadRequest, progress: &Progress, cancel: &CancelToken) -> Result<Box<dyn Model>> {
        let (quantization, metadata, mut rows) = read(&request.path, progress, cancel)?;
        // The host has checked it against `capabilities`: a number in its range, or not set.
        let sharpness = request.options.float("sharpness").unwrap_or(1.0) as f32;
        rows.iter_mut().flatten().for_each(|value| *value *= sharpness / 8.0);
        let info = ModelInfo {
            architecture: "ngram".into(),
            quantization,
            context_length: request.context_length.unwrap_or(4096),
            vocabulary_size: VOCABULARY as u32,
            end_of_generation_tokens: vec![END],
            metadata,
            ..ModelInfo::default()
        };
        Ok(Box::new(NgramModel { info, rows }))
    }

    fn quantizer(&self) -> Option<&dyn Quantizer> {
        Some(self)
    }
}

/// A loaded model. Nothing in it changes, so threads need no lock. Dropping it gives its memory back.
struct NgramModel {
    info: ModelInfo,
    rows: Vec<Vec<f32>>,
}

impl Model for NgramModel {
    fn info(&self) -> ModelInfo {
        self.info.clone()
    }

    fn generate(&self, request: &GenerateRequest, sink: &mut TokenSink<'_>) -> Result<()> {
        let tokenize = &mut |text: &str, parse_special| self.tokenize(text, false, parse_special);
        let mut tokens = request.prompt.tokens(VOCABULARY as u32, Some(END), &[] as &[&str], tokenize)?;
        check_length(tokens.len() + 1, self.info.context_length)?;
        sink.prompt_started(tokens.len() as u32, 0);
        let mut sampler = Sampler::new(&request.sampling);
        tokens.iter().for_each(|id| sampler.accept(*id));
        // An engine asks between the pieces of a prompt; this one has nothing to compute for it.
        if sink.is_cancelled() {
            return Err(Error::cancelled());
        }
        while tokens.len() < self.info.context_length as usize {
            let logits = &self.rows[tokens[tokens.len() - 1] as usize];
            let id = sampler.sample(logits);
            sampler.accept(id);
            tokens.push(id);
            let (logprob, top) = log_probabilities(logits, id, request.top_logprobs as usize);
            let token = Token { id, bytes: self.detokenize(&[id])?, logprob: Some(logprob), top };
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

    fn logits(&self, tokens: &[u32], first_row: usize, on_row: OnRow<'_>, cancel: &CancelToken) -> Result<()> {
        check_ids(tokens, VOCABULARY as u32)?;
        check_length(tokens.len(), self.info.context_length)?;
        for (position, id) in tokens.iter().enumerate().skip(first_row) {
            cancel.check()?;
            if on_row(position, &self.rows[*id as usize]).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn memory_usage(&self) -> MemoryUsage {
        let mut usage = MemoryUsage::default();
        usage.weights_bytes = (4 * VOCABULARY * VOCABULARY) as u64;
        usage
    }
}

/// It runs in a process of its own, and works without the backend's device.
impl Quantizer for Ngram {
    fn recipes(&self) -> Vec<Recipe> {
        let q8 = Recipe::new("q8", "ngram", 8.0, "8-bit logits: nearly four times smaller, hardly worse");
        let f32 = Recipe::new("f32", "ngram", 32.0, "full precision, to compare with and to quantize later");
        vec![q8.from_sources(&["txt", "ngram"]), f32.from_sources(&["txt"])]
    }

    fn quantize(&self, job: &QuantizeJob, progress: &Progress, cancel: &CancelToken) -> Result<QuantizeReport> {
        let make = if job.source_format == "txt" { count } else { read };
        let (recipe, _, rows) = make(&job.source, progress, cancel)?;
        if recipe == "q8" {
            let error = Error::unsupported(format!("`{}` is quantized already", job.source.display()));
            return Err(error.with_hint("start from the text, or from a model made by `-m f32`"));
        }
        // Whole numbers below 128 take one byte in MessagePack, any f32 takes five. Both are read as f32.
        let q8: Vec<Vec<u8>> = rows.iter().map(|row| row.iter().map(|value| value.round() as u8).collect()).collect();
        let body = match job.recipe.as_str() {
            "q8" => rmp_serde::to_vec(&("q8", &job.provenance, q8)),
            _ => rmp_serde::to_vec(&("f32", &job.provenance, rows)),
        }
        .map_err(|error| Error::other("encoding failed").with_cause(&error))?;
        fs::write(&job.output, [MAGIC, &body].concat()).map_err(|error| Error::io("writing", &job.output, &error))?;
        let mut report = QuantizeReport::default();
        report.source_precision = "f32".into();
        report.source_bytes = (4 * VOCABULARY * VOCABULARY) as u64;
        report.output_bytes = (MAGIC.len() + body.len()) as u64;
        Ok(report)
    }
}

/// Counts which token follows which, and the others a little, for the logarithms. Blank lines part a file into texts.
fn count(path: &Path, progress: &Progress, cancel: &CancelToken) -> Result<Contents> {
    let text = fs::read_to_string(path).map_err(|error| Error::io("reading", path, &error))?;
    let texts: Vec<&str> = text.split("\n\n").map(str::trim).filter(|text| !text.is_empty()).collect();
    let mut rows = vec![vec![1.0_f32; VOCABULARY]; VOCABULARY];
    for (done, text) in texts.iter().enumerate() {
        cancel.check()?;
        progress.report("counting", done as f32 / texts.len() as f32, "");
        let mut last = END as usize;
        for next in text.bytes().map(usize::from).chain([END as usize]) {
            rows[last][next] += 1e4;
            last = next;
        }
    }
    rows.iter_mut().flatten().for_each(|count| *count = count.ln() * 8.0);
    Ok(("f32".into(), BTreeMap::new(), rows))
}

/// Reads a model that anybody may have made: nothing in it is believed before it is checked.
fn read(path: &Path, progress: &Progress, cancel: &CancelToken) -> Result<Contents> {
    progress.report("loading", 0.0, "");
    let invalid = |expected: &str| Error::invalid_model(format!("`{}`: expected {expected}", path.display()));
    if fs::metadata(path).map_err(|error| Error::io("opening", path, &error))?.len() > FILE_BYTES_MAX {
        return Err(invalid("1 MiB at the most"));
    }
    let file = fs::read(path).map_err(|error| Error::io("reading", path, &error))?;
    let mut rest = file.strip_prefix(MAGIC).ok_or_else(|| invalid("a file that begins with `n-gram 1`"))?;
    let (recipe, provenance, rows): Contents =
        rmp_serde::from_read(&mut rest).map_err(|error| invalid("a whole model").with_cause(&error))?;
    cancel.check()?;
    let is_row = |row: &Vec<f32>| row.len() == VOCABULARY && row.iter().all(|value| (0.0..=255.0).contains(value));
    if rows.len() != VOCABULARY || !rows.iter().all(is_row) || !rest.is_empty() {
        return Err(invalid("257 rows of 257 numbers from 0 to 255, and nothing else"));
    }
    Ok((recipe, provenance, rows))
}

/// Refuses what does not fit. It is never cut: an answer to half a prompt would be worse than an error.
fn check_length(tokens: usize, context_length: u32) -> Result<()> {
    let message = format!("{tokens} tokens do not fit the context of {context_length}");
    let error = Error::new(ErrorKind::ContextOverflow, message).with_hint("`--context-length` makes it longer");
    if tokens <= context_length as usize { Ok(()) } else { Err(error) }
}

export_plugin! { name: "ngram", formats: "ngram", backend: || Box::new(Ngram) }
