//! One job from end to end: open, match, lay out, write, check.

use crate::companions;
use crate::config::{output_config, to_text};
use crate::families::Family;
use crate::float_type::FloatType;
use crate::folder::MlxFolder;
use crate::layout::{Layout, SHARD_BYTES_MAX};
use crate::plan::{Plan, plan};
use crate::recipes::{self, Choice, Method};
use crate::transfer::Transfer;
use pajamas_hf_model::HfModel;
use pajamas_plugin_api::{CancelToken, Error, Progress, QuantizeJob, QuantizeReport, Quantizer, Recipe, Result, host};
use std::fs;
use std::path::Path;

/// Makes MLX folders from Hugging Face folders. Needs no device; may be used from any thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct MlxQuantizer;

impl Quantizer for MlxQuantizer {
    fn recipes(&self) -> Vec<Recipe> {
        recipes::all()
    }

    fn quantize(&self, job: &QuantizeJob, progress: &Progress, cancel: &CancelToken) -> Result<QuantizeReport> {
        quantize(job, SHARD_BYTES_MAX, progress, cancel)
    }
}

/// Makes the folder `job.output`, with at most `shard_bytes_max` bytes of tensors in a file. Whatever can be found
/// wrong with the source is found before the folder exists; after a failure, what was written stays.
///
/// # Errors
/// `InvalidModel` for a damaged source; `Unsupported` for one that is quantized already, for an unknown family and for
/// an unknown recipe; `InvalidRequest` for an option that the recipe does not have; `Io`; `Cancelled`.
pub fn quantize(
    job: &QuantizeJob,
    shard_bytes_max: u64,
    progress: &Progress,
    cancel: &CancelToken,
) -> Result<QuantizeReport> {
    let choice = Choice::read(&job.recipe, &job.options)?;
    cancel.check()?;
    refuse_file(&job.source)?;
    let source = HfModel::open(&job.source)?;
    let family = Family::find(source.config())?;
    let plan = plan(&source, &family, &choice)?;
    let config = output_config(&source, &plan, &choice)?;
    companions::check_tokenizer(&source)?;
    let layout = Layout::new(&plan.outputs, shard_bytes_max);
    cancel.check()?;

    let dir = &job.output;
    fs::create_dir(dir).map_err(|error| Error::io("creating", dir, &error))?;
    let threads = job.threads.unwrap_or_else(|| host().thread_budget()) as usize;
    let stage = if matches!(choice.method, Method::Float(_)) { "converting" } else { "quantizing" };
    Transfer { plan: &plan, layout: &layout, dir, threads, stage }.run(progress, cancel)?;
    let index = layout.index(&plan.outputs, plan.parameters);
    companions::write(&dir.join("model.safetensors.index.json"), &to_text(&index))?;
    companions::copy(&source, dir)?;
    // Last, because it is what makes the folder a model.
    companions::write(&dir.join("config.json"), &to_text(&config))?;
    check_output(dir, &plan)?;
    progress.report(stage, 1.0, "");

    let mut report = QuantizeReport::default();
    report.architecture = family.model_type.into();
    report.source_precision = precision(&plan).into();
    report.source_bytes = source.size_bytes();
    report.output_bytes = folder_bytes(dir)?;
    report.tensor_count = plan.outputs.len() as u64;
    report.notes = plan.notes;
    Ok(report)
}

fn refuse_file(source: &Path) -> Result<()> {
    if !source.is_file() {
        return Ok(());
    }
    Err(Error::unsupported(format!("`{}` is a file; MLX models are made from Hugging Face folders", source.display()))
        .with_hint("give the model's folder or its Hugging Face id"))
}

/// Reads what was written: the headers must be sound, the files complete, and the tensors those of the plan.
fn check_output(dir: &Path, plan: &Plan) -> Result<()> {
    let written = MlxFolder::open(dir)?;
    let (count, planned) = (written.model().tensors().len(), plan.outputs.len());
    if count != planned {
        return Err(Error::other(format!("`{}` has {count} tensors, {planned} were to be written", dir.display())));
    }
    Ok(())
}

/// The type of most of the source's weights.
fn precision(plan: &Plan) -> &'static str {
    let bytes = |float_type: FloatType| {
        plan.steps.iter().filter(|step| step.from == float_type).map(|step| step.source.size_bytes()).sum::<u64>()
    };
    FloatType::ALL.into_iter().max_by_key(|float_type| bytes(*float_type)).map_or("", FloatType::safetensors_name)
}

/// Bytes of all files in the folder.
fn folder_bytes(dir: &Path) -> Result<u64> {
    let failed = |error| Error::io("reading", dir, &error);
    let mut bytes = 0;
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let info = entry.metadata().map_err(failed)?;
        bytes += if info.is_dir() { folder_bytes(&entry.path())? } else { info.len() };
    }
    Ok(bytes)
}
