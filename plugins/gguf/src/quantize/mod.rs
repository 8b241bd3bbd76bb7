//! Making GGUF files: a Hugging Face folder or a GGUF file in full precision becomes a GGUF file of a chosen type.
//!
//! Stages: convert (folders only) -> quantize (`run`) -> check the file -> compare the tokenizers (folders only).

mod recipes;
mod run;

use crate::convert::{self, FloatType, verify_tokenizer};
use crate::engine::handle::ModelHandle;
use crate::engine::vocab::Vocab;
use crate::gguf_file::{FileType, GgufFile};
use llama_cpp_sys_2 as sys;
use pajamas_hf_model::HfModel;
use pajamas_plugin_api::{CancelToken, Error, Progress, QuantizeJob, QuantizeReport, Quantizer, Recipe, Result, host};
use recipes::GgufRecipe;
use run::Run;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// llama.cpp's quantizer with pajamas' converter before it. Needs no device; may be used from any thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct GgufQuantizer;

impl Quantizer for GgufQuantizer {
    fn recipes(&self) -> Vec<Recipe> {
        recipes::all()
    }

    fn quantize(&self, job: &QuantizeJob, progress: &Progress, cancel: &CancelToken) -> Result<QuantizeReport> {
        let recipe = GgufRecipe::find(&job.recipe)?;
        cancel.check()?;
        if job.source.is_dir() {
            from_folder(job, recipe, progress, cancel)
        } else {
            from_gguf(job, recipe, progress, cancel)
        }
    }
}

fn from_folder(
    job: &QuantizeJob,
    recipe: GgufRecipe,
    progress: &Progress,
    cancel: &CancelToken,
) -> Result<QuantizeReport> {
    let source = HfModel::open(&job.source)?;
    let convert =
        |output: &Path, float_type| convert::convert(&source, output, float_type, &job.provenance, progress, cancel);
    let direct = match recipe.file_type {
        sys::LLAMA_FTYPE_ALL_F32 => Some(FloatType::F32),
        sys::LLAMA_FTYPE_MOSTLY_F16 => Some(FloatType::F16),
        sys::LLAMA_FTYPE_MOSTLY_BF16 => Some(FloatType::Bf16),
        _ => None,
    };
    let tied = source.config().tied_embeddings() || source.tensor("lm_head.weight").is_none();
    refuse_leaving_output(job, direct.is_none() && !tied)?;
    let (converted, more_notes) = match direct {
        Some(float_type) => (convert(&job.output, float_type)?, Vec::new()),
        None => {
            let intermediate = job.scratch_dir.join("converted.gguf");
            let converted = convert(&intermediate, FloatType::Auto)?;
            // The converter has stored the provenance already, and llama.cpp copies it.
            let outcome = run(job, recipe, &intermediate, &BTreeMap::new(), progress, cancel);
            // As large as the model, so it goes at once; after a failure the host empties the scratch folder.
            let removed = std::fs::remove_file(&intermediate);
            let notes = outcome?;
            removed.map_err(|error| Error::io("removing", &intermediate, &error))?;
            (converted, notes)
        }
    };
    let (output_bytes, tensor_count) = check_output(&job.output)?;
    let tokenizer_checks = check_tokenizer(&source, &job.output, progress, cancel)?;
    let mut notes = converted.notes;
    notes.extend(more_notes);
    let mut report = QuantizeReport::default();
    report.architecture = converted.architecture;
    report.source_precision = converted.source_precision;
    report.source_bytes = converted.source_bytes;
    report.output_bytes = output_bytes;
    report.tensor_count = tensor_count;
    report.tokenizer_checks = tokenizer_checks;
    report.notes = notes;
    Ok(report)
}

fn from_gguf(
    job: &QuantizeJob,
    recipe: GgufRecipe,
    progress: &Progress,
    cancel: &CancelToken,
) -> Result<QuantizeReport> {
    let source = GgufFile::open(&job.source)?;
    source.check_complete()?;
    refuse_quantized(&source)?;
    refuse_leaving_output(job, source.tensors().iter().any(|tensor| tensor.name == "output.weight"))?;
    let notes = run(job, recipe, &job.source, &job.provenance, progress, cancel)?;
    let (output_bytes, tensor_count) = check_output(&job.output)?;
    let mut report = QuantizeReport::default();
    report.architecture = source.architecture().into();
    report.source_precision = precision(&source);
    report.source_bytes = source.tensors().iter().map(|tensor| tensor.size_bytes).sum();
    report.output_bytes = output_bytes;
    report.tensor_count = tensor_count;
    report.notes = notes;
    Ok(report)
}

fn leaves_output(job: &QuantizeJob) -> bool {
    job.options.bool(recipes::LEAVE_OUTPUT_TENSOR).unwrap_or(false)
}

/// An option that would change nothing is an error, before anything is written.
fn refuse_leaving_output(job: &QuantizeJob, has_effect: bool) -> Result<()> {
    if !leaves_output(job) || has_effect {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "`--leave-output-tensor` would change nothing: `{}` has no output tensor of its own, or {} quantizes none",
        job.source.display(),
        job.recipe
    ))
    .with_hint("leave the option out"))
}

fn run(
    job: &QuantizeJob,
    recipe: GgufRecipe,
    input: &Path,
    metadata: &BTreeMap<String, String>,
    progress: &Progress,
    cancel: &CancelToken,
) -> Result<Vec<String>> {
    let threads = job.threads.unwrap_or_else(|| host().thread_budget());
    let run = Run {
        input,
        output: &job.output,
        file_type: recipe.file_type,
        threads,
        leave_output_tensor: leaves_output(job),
        metadata,
    };
    run.execute(progress, cancel)
}

/// A quantized model quantized again loses twice; the second loss shows nowhere but in the answers.
fn refuse_quantized(source: &GgufFile) -> Result<()> {
    let Some(tensor) = source.tensors().iter().find(|tensor| tensor.ggml_type.block_size > 1) else { return Ok(()) };
    let message = format!(
        "`{}` is quantized already (`{}` is {}); quantizing it again would add a second loss to the first",
        source.path().display(),
        tensor.name,
        tensor.ggml_type.name
    );
    Err(Error::unsupported(message)
        .with_hint("quantize the original instead: a Hugging Face id, its folder, or an F16, BF16 or F32 GGUF"))
}

/// What the file says its type is, or the type of its first matrix.
fn precision(source: &GgufFile) -> String {
    let stated = source.metadata().get("general.file_type").and_then(|value| value.as_u64());
    let stated = stated.and_then(|id| FileType::from_id(u32::try_from(id).ok()?));
    let matrix = || source.tensors().iter().find(|tensor| tensor.shape.len() > 1);
    stated.map_or_else(|| matrix().map_or("", |tensor| tensor.ggml_type.name), |file_type| file_type.name).into()
}

/// Reads the finished file's header and checks that it is complete; gives its bytes and its tensors.
fn check_output(output: &Path) -> Result<(u64, u64)> {
    let file = GgufFile::open(output)?;
    file.check_complete()?;
    Ok((file.file_bytes(), file.tensors().len() as u64))
}

/// Compares llama.cpp's tokens, from the finished file, with those of the source's own tokenizer.
fn check_tokenizer(source: &HfModel, output: &Path, progress: &Progress, cancel: &CancelToken) -> Result<u64> {
    let tokenizer = source.load_tokenizer()?;
    // SAFETY: gives a plain value.
    let mut parameters = unsafe { sys::llama_model_default_params() };
    parameters.vocab_only = true;
    let quiet = Progress::default();
    progress.report("checking tokenizer", 0.0, "");
    let vocab = Vocab::new(Arc::new(ModelHandle::load(output, parameters, &quiet, cancel)?))?;
    let checked =
        verify_tokenizer::check(&tokenizer, &|text, parse_special| vocab.tokenize(text, false, parse_special))?;
    progress.report("checking tokenizer", 1.0, "");
    Ok(checked)
}
