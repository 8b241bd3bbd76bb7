//! Making GGUF files: a Hugging Face folder or a GGUF file becomes a GGUF file of a chosen type, in one pass.
//!
//! Stages: plan what the file would hold in its own precision (`convert`, or `file` for a GGUF file) -> let llama.cpp choose
//! the `types` -> weigh the columns (`importance`, where asked for) -> write it (`transfer`) -> `check` what was made.
//! Everything that can be refused is refused before the first step that takes long.

mod check;
mod file;
mod importance;
mod recipes;
mod settings;
mod types;

use crate::convert::{Conversion, FloatType, KEPT_QUANTIZATIONS, PlannedTensor};
use crate::gguf_file::{GgmlType, Header, Metadata, TensorSpec};
use crate::transfer::{self, Target};
use file::GgufSource;
use importance::ImportanceMatrix;
use llama_cpp_sys_2 as sys;
use pajamas_hf_model::HfModel;
use pajamas_plugin_api::{
    CancelToken, Error, Progress, QuantizeJob, QuantizeReport, Quantizer, Recipe, Result, TensorReport, host,
};
use recipes::GgufRecipe;
use settings::Settings;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use types::Decision;

/// The name of the file, in a job's scratch folder, that belongs beside the artifact.
const IMATRIX_FILE: &str = "imatrix.gguf";

/// Tables that rows are looked up in, and nothing is multiplied with: an importance matrix knows nothing of them.
const EMBEDDINGS: [&str; 2] = ["token_embd.weight", "per_layer_token_embd.weight"];

/// The version of ggml's block formats, which llama.cpp's quantizer sets anew.
const QUANTIZATION_VERSION: u32 = 2;

/// llama.cpp's types and arithmetic with pajamas' converter before them. Needs no device; may be used from any thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct GgufQuantizer;

impl Quantizer for GgufQuantizer {
    fn recipes(&self) -> Vec<Recipe> {
        recipes::all()
    }

    fn quantize(&self, job: &QuantizeJob, progress: &Progress, cancel: &CancelToken) -> Result<QuantizeReport> {
        let work = Work {
            job,
            recipe: GgufRecipe::find(&job.recipe)?,
            settings: Settings::read(&job.options)?,
            threads: job.threads.unwrap_or_else(|| host().thread_budget()),
            progress,
            cancel,
        };
        cancel.check()?;
        if job.source.is_dir() { work.convert_folder() } else { work.quantize_gguf() }
    }
}

/// A job in progress.
struct Work<'a, 'p> {
    job: &'a QuantizeJob,
    recipe: GgufRecipe,
    settings: Settings,
    threads: u32,
    progress: &'a Progress<'p>,
    cancel: &'a CancelToken,
}

/// By what columns are weighed.
enum Weighing<'a> {
    None,
    Known(ImportanceMatrix),
    /// A text that the model is to read.
    Text(&'a Path),
}

/// What is quantized: a model as its file would be in its own precision.
struct Material<'a> {
    metadata: &'a Metadata,
    tensors: &'a [PlannedTensor<'a>],
}

impl Work<'_, '_> {
    fn convert_folder(&self) -> Result<QuantizeReport> {
        let source = HfModel::open_quantized(&self.job.source, &KEPT_QUANTIZATIONS)?;
        let direct = match self.recipe.file_type {
            sys::LLAMA_FTYPE_ALL_F32 => Some(FloatType::F32),
            sys::LLAMA_FTYPE_MOSTLY_F16 => Some(FloatType::F16),
            sys::LLAMA_FTYPE_MOSTLY_BF16 => Some(FloatType::Bf16),
            _ => None,
        };
        if let (Some(_), Some(option)) = (direct, self.settings.of_quantizing()) {
            return Err(self.without_effect(option, "nothing is quantized"));
        }
        self.refuse_leaving_output(!source.config().tied_embeddings())?;
        let (target, pre_tokenizer) = (direct.unwrap_or(FloatType::Auto), self.settings.pre_tokenizer.as_deref());
        let conversion = Conversion::plan(&source, target, pre_tokenizer, &self.provenance()?)?;
        self.cancel.check()?;
        let material = Material { metadata: conversion.metadata(), tensors: conversion.tensors() };
        let mut report = match direct {
            Some(_) => {
                let kept = |(tensor, planned): (usize, &PlannedTensor)| Decision {
                    tensor,
                    ggml_type: planned.spec.ggml_type,
                    meant: None,
                };
                let decisions: Vec<_> = material.tensors.iter().enumerate().map(kept).collect();
                self.make(&material, &decisions, material.metadata.clone(), &Weighing::None)?
            }
            None => self.make_quantized(&material, &BTreeMap::new())?,
        };
        if !self.job.dry_run {
            let checked = check::tokenizer(&source, &self.job.output, self.progress, self.cancel)?;
            report.tokenizer_checks = checked.texts;
            report.notes.extend(checked.notes);
        }
        report.architecture = conversion.architecture().into();
        report.source_precision = conversion.source_precision().into();
        report.source_bytes = source.size_bytes();
        report.notes.splice(0..0, conversion.notes().iter().cloned());
        Ok(report)
    }

    fn quantize_gguf(&self) -> Result<QuantizeReport> {
        if self.settings.pre_tokenizer.is_some() {
            return Err(self.without_effect("pre_tokenizer", "a GGUF file names its own"));
        }
        let unmixed = [sys::LLAMA_FTYPE_ALL_F32, sys::LLAMA_FTYPE_MOSTLY_F16, sys::LLAMA_FTYPE_MOSTLY_BF16];
        if let Some(option) = self.settings.of_mixtures().filter(|_| unmixed.contains(&self.recipe.file_type)) {
            return Err(self.without_effect(option, "nothing is quantized"));
        }
        let source = GgufSource::open(&self.job.source)?;
        if !self.settings.requantize {
            source.refuse_quantized()?;
        }
        self.refuse_leaving_output(source.tensors().iter().any(|tensor| tensor.spec.name == "output.weight"))?;
        let material = Material { metadata: source.metadata(), tensors: source.tensors() };
        let mut report = self.make_quantized(&material, &self.provenance()?)?;
        report.architecture = source.architecture().into();
        report.source_precision = source.precision();
        report.source_bytes = source.size_bytes();
        Ok(report)
    }

    /// The job's provenance, and what the columns are weighed by.
    fn provenance(&self) -> Result<BTreeMap<String, String>> {
        let mut keys = self.job.provenance.clone();
        if let Some(path) = &self.settings.imatrix {
            keys.insert("pajamas.imatrix.sha256".into(), sha256_of(path)?);
        }
        if let Some(path) = &self.settings.calibration {
            keys.insert("pajamas.calibration.sha256".into(), sha256_of(path)?);
        }
        Ok(keys)
    }

    /// Makes a file of the types that llama.cpp chooses. Keys in `more` are added to its metadata.
    fn make_quantized(&self, material: &Material<'_>, more: &BTreeMap<String, String>) -> Result<QuantizeReport> {
        let specs: Vec<TensorSpec> = material.tensors.iter().map(|tensor| tensor.spec.clone()).collect();
        self.settings.check_patterns(specs.iter().map(|spec| spec.name.as_str()))?;
        let weighing = match (&self.settings.imatrix, &self.settings.calibration) {
            (Some(path), _) => Weighing::Known(ImportanceMatrix::read(path)?),
            (None, Some(text)) => Weighing::Text(text),
            (None, None) => Weighing::None,
        };
        let (file_type, scratch) = (self.recipe.file_type, &self.job.scratch_dir);
        // The choice depends on whether there are weights, not on what they are.
        let expected = ImportanceMatrix::default();
        let assumed = match &weighing {
            Weighing::Known(matrix) => Some(matrix),
            Weighing::Text(_) => Some(&expected),
            Weighing::None => None,
        };
        let decisions = types::decide(material.metadata, &specs, file_type, &self.settings, assumed, scratch)?;
        let mut metadata = material.metadata.clone();
        // llama.cpp's quantizer sets these two anew, which puts them behind all others.
        for (key, value) in [("general.quantization_version", QUANTIZATION_VERSION), ("general.file_type", file_type)] {
            metadata.remove(key);
            metadata.set(key, value);
        }
        for (key, value) in more {
            metadata.remove(key);
            metadata.set(key.as_str(), value.as_str());
        }
        self.make(material, &decisions, metadata, &weighing)
    }

    /// Writes the file, or says what would be written.
    fn make(
        &self,
        material: &Material<'_>,
        decisions: &[Decision],
        metadata: Metadata,
        weighing: &Weighing<'_>,
    ) -> Result<QuantizeReport> {
        let target = |decision: &Decision| {
            let tensor = &material.tensors[decision.tensor];
            let spec = TensorSpec { ggml_type: decision.ggml_type, ..tensor.spec.clone() };
            Target { spec, rows: &tensor.rows, importance: None }
        };
        let mut targets: Vec<Target<'_>> = decisions.iter().map(target).collect();
        let specs: Vec<TensorSpec> = targets.iter().map(|target| target.spec.clone()).collect();
        let mut report = QuantizeReport::default();
        report.tensor_count = targets.len() as u64;
        report.output_bytes = Header::new(&metadata, &specs)?.file_bytes;
        let tensors = decisions
            .iter()
            .zip(&targets)
            .map(|(decision, target)| tensor_report(&material.tensors[decision.tensor], decision, target));
        report.tensors = tensors.filter(|tensor| self.job.dry_run || !tensor.fallback_from.is_empty()).collect();
        report.notes.extend(fallback_notes(decisions));
        for decision in decisions {
            self.refuse_second_loss(&material.tensors[decision.tensor], decision)?;
        }
        let needing: Vec<&str> = targets
            .iter()
            .map(|target| (target.spec.name.as_str(), target.spec.ggml_type))
            .filter(|(name, to)| requires_weights(name, *to, self.recipe.file_type))
            .map(|(name, _)| name)
            .collect();
        if let (Weighing::None, Some(first)) = (weighing, needing.first()) {
            if !self.job.dry_run {
                return Err(self.useless(needing.len(), first));
            }
            report.notes.push(format!("{}; the first is `{first}`", needs_weights(needing.len())));
        }
        if self.job.dry_run {
            return Ok(report);
        }
        check::room(&self.job.output, report.output_bytes)?;

        let importance = match weighing {
            Weighing::None => None,
            Weighing::Known(matrix) => Some(Cow::Borrowed(matrix)),
            Weighing::Text(text) => Some(Cow::Owned(self.calibrate(text, &mut report)?)),
        };
        let mut missing = Vec::new();
        for (target, decision) in targets.iter_mut().zip(decisions) {
            let tensor = &material.tensors[decision.tensor];
            target.importance = self.weights(tensor, decision, importance.as_deref(), &mut missing)?;
        }
        if let Some(first) = missing.first() {
            return Err(self.useless(missing.len(), first));
        }
        let stage = if material.tensors.iter().zip(&specs).all(|(from, to)| from.spec.ggml_type == to.ggml_type) {
            "converting"
        } else {
            "quantizing"
        };
        let written =
            transfer::write(&self.job.output, &metadata, &targets, self.threads, stage, self.progress, self.cancel);
        written.inspect_err(|_| {
            // What is left is useless; that it cannot be removed either would hide the cause.
            let _ = std::fs::remove_file(&self.job.output);
        })?;
        check::complete(&self.job.output)?;
        Ok(report)
    }

    /// Makes an importance matrix by reading `text`, and keeps it for the artifact.
    fn calibrate(&self, text: &Path, report: &mut QuantizeReport) -> Result<ImportanceMatrix> {
        let (source, tokens) = (&self.job.source, self.settings.calibration_tokens);
        let pre_tokenizer = self.settings.pre_tokenizer.as_deref();
        let made = importance::collect(source, text, tokens, pre_tokenizer, self.threads, self.progress, self.cancel)?;
        made.write(&self.job.scratch_dir.join(IMATRIX_FILE))?;
        report.companions.push(IMATRIX_FILE.into());
        let unused = made.unused_experts();
        if unused > 0 {
            report.notes.push(format!(
                "no token of the calibration text went through {unused} matrices of experts; their columns weigh the same"
            ));
        }
        Ok(made)
    }

    /// What is quantized already is quantized again only where that was asked for.
    fn refuse_second_loss(&self, tensor: &PlannedTensor<'_>, decision: &Decision) -> Result<()> {
        let (from, to) = (tensor.spec.ggml_type, decision.ggml_type);
        if from == to || from.block_size == 1 || self.settings.requantize {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "`{}` is {} already; making it {} would add a second loss to the first",
            tensor.spec.name, from.name, to.name
        ))
        .with_hint("MXFP4_MOE keeps experts in MXFP4 as they are; --requantize does it all the same"))
    }

    fn useless(&self, count: usize, first: &str) -> Error {
        Error::unsupported(format!(
            "{} needs an importance matrix for {count} tensors, `{first}` first: without one the result is useless",
            self.recipe.name
        ))
        .with_hint("--calibration TEXT makes one, --imatrix FILE reads one")
    }

    /// The weights of a tensor's columns; `missing` gets the names of those that cannot do without and have none.
    fn weights<'i>(
        &self,
        tensor: &PlannedTensor<'_>,
        decision: &Decision,
        importance: Option<&'i ImportanceMatrix>,
        missing: &mut Vec<String>,
    ) -> Result<Option<&'i [f32]>> {
        let (name, from, to) = (&tensor.spec.name, tensor.spec.ggml_type, decision.ggml_type);
        if from == to {
            return Ok(None);
        }
        let shape = &tensor.spec.shape;
        let wanted = shape.first().copied().unwrap_or(1) * shape.get(2).copied().unwrap_or(1);
        let embedding = EMBEDDINGS.contains(&name.as_str());
        match importance.and_then(|matrix| matrix.get(name)) {
            Some(weights) if weights.len() as u64 == wanted => Ok(Some(weights)),
            Some(weights) if !embedding => Err(Error::invalid_model(format!(
                "the importance matrix has {} weights for `{name}`, which has {wanted} columns",
                weights.len()
            ))
            .with_hint("it was made with another model")),
            _ => {
                if requires_weights(name, to, self.recipe.file_type) {
                    missing.push(name.clone());
                }
                Ok(None)
            }
        }
    }

    fn refuse_leaving_output(&self, has_effect: bool) -> Result<()> {
        if !self.settings.leave_output_tensor || has_effect {
            return Ok(());
        }
        Err(self.without_effect("leave_output_tensor", "the model has no output tensor of its own"))
    }

    /// An option that would change nothing is an error, before anything is written.
    fn without_effect(&self, option: &str, why: &str) -> Error {
        Error::unsupported(format!("`{option}` would change nothing in {}: {why}", self.recipe.name))
            .with_hint("leave the option out")
    }
}

/// Whether llama.cpp's quantizer refuses to make such a tensor without weights.
fn requires_weights(name: &str, to: GgmlType, file_type: sys::llama_ftype) -> bool {
    const ALWAYS: [GgmlType; 6] =
        [GgmlType::IQ3_XXS, GgmlType::IQ2_XXS, GgmlType::IQ2_XS, GgmlType::IQ2_S, GgmlType::IQ1_M, GgmlType::IQ1_S];
    let spared = EMBEDDINGS.contains(&name) || name == "output.weight";
    let two_bits = to == GgmlType::Q2_K && file_type == sys::LLAMA_FTYPE_MOSTLY_Q2_K_S;
    !spared && (two_bits || ALWAYS.contains(&to))
}

fn needs_weights(count: usize) -> String {
    let (noun, verb) = if count == 1 { ("tensor", "needs") } else { ("tensors", "need") };
    format!("{count} {noun} {verb} an importance matrix (--calibration TEXT or --imatrix FILE)")
}

fn tensor_report(planned: &PlannedTensor<'_>, decision: &Decision, target: &Target<'_>) -> TensorReport {
    let spec = &target.spec;
    let mut report = TensorReport::default();
    report.name.clone_from(&spec.name);
    report.shape.clone_from(&spec.shape);
    report.source_type = planned.rows.element_type().name.into();
    report.output_type = spec.ggml_type.name.into();
    report.output_bytes = spec.ggml_type.tensor_bytes(&spec.shape).unwrap_or(0);
    if let Some(meant) = decision.meant {
        report.fallback_from = meant.name.into();
        let columns = spec.shape.first().copied().unwrap_or(1);
        report.fallback_reason = format!("its rows of {columns} do not divide into blocks of {}", meant.block_size);
    }
    report
}

/// Says which tensors could not have the type that was meant for them.
fn fallback_notes(decisions: &[Decision]) -> Vec<String> {
    let mut by_types: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for decision in decisions {
        if let Some(meant) = decision.meant {
            *by_types.entry((meant.name, decision.ggml_type.name)).or_default() += 1;
        }
    }
    let note = |((meant, stored), count): ((&str, &str), usize)| {
        let (noun, verb) = if count == 1 { ("tensor has", "is") } else { ("tensors have", "are") };
        format!("{count} {noun} rows that do not divide into the blocks of {meant} and {verb} stored as {stored}")
    };
    by_types.into_iter().map(note).collect()
}

fn sha256_of(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).map_err(|error| Error::io("opening", path, &error))?;
    let mut digest = Sha256::new();
    std::io::copy(&mut file, &mut digest).map_err(|error| Error::io("reading", path, &error))?;
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
