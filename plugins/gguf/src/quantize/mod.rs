//! Making GGUF files: a Hugging Face folder or a GGUF file becomes a GGUF file of a chosen type, in one pass.
//!
//! Stages: plan what the file would hold in its own precision (`convert`, or `file` for a GGUF file) -> weigh its columns
//! (`importance`, where asked for) -> let llama.cpp choose the `types` -> write it (`transfer`) -> `check` what was made.

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
use std::collections::BTreeMap;
use std::path::Path;
use types::Decision;

/// The name of the file, in a job's scratch folder, that belongs beside the artifact.
const IMATRIX_FILE: &str = "imatrix.gguf";

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
        if job.source.is_dir() { work.from_folder() } else { work.from_gguf() }
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

/// What is quantized: a model as its file would be in its own precision.
struct Material<'a> {
    metadata: &'a Metadata,
    tensors: &'a [PlannedTensor<'a>],
}

impl Work<'_, '_> {
    fn from_folder(&self) -> Result<QuantizeReport> {
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
        let tied = source.config().tied_embeddings() || source.tensor("lm_head.weight").is_none();
        self.refuse_leaving_output(!tied)?;
        let importance = self.importance()?;
        let (target, pre_tokenizer) = (direct.unwrap_or(FloatType::Auto), self.settings.pre_tokenizer.as_deref());
        let conversion = Conversion::plan(&source, target, pre_tokenizer, &self.provenance(importance.as_ref())?)?;
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
                self.make(&material, &decisions, material.metadata.clone(), None)?
            }
            None => self.make_quantized(&material, importance.as_ref(), &BTreeMap::new())?,
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

    fn from_gguf(&self) -> Result<QuantizeReport> {
        if self.settings.pre_tokenizer.is_some() {
            return Err(self.without_effect("pre_tokenizer", "a GGUF file names its own"));
        }
        let source = GgufSource::open(&self.job.source)?;
        if !self.settings.requantize {
            source.refuse_quantized()?;
        }
        self.refuse_leaving_output(source.tensors().iter().any(|tensor| tensor.spec.name == "output.weight"))?;
        let importance = self.importance()?;
        let material = Material { metadata: source.metadata(), tensors: source.tensors() };
        let provenance = self.provenance(importance.as_ref())?;
        let mut report = self.make_quantized(&material, importance.as_ref(), &provenance)?;
        report.architecture = source.architecture().into();
        report.source_precision = source.precision();
        report.source_bytes = source.size_bytes();
        Ok(report)
    }

    /// The importance matrix that was asked for. A dry run makes none, but knows that there will be one.
    fn importance(&self) -> Result<Option<ImportanceMatrix>> {
        let made = match (&self.settings.imatrix, &self.settings.calibration) {
            (Some(path), _) => ImportanceMatrix::read(path)?,
            (None, Some(_)) if self.job.dry_run => ImportanceMatrix::default(),
            (None, Some(text)) => {
                let tokens = self.settings.calibration_tokens;
                let source = &self.job.source;
                let made = importance::collect(source, text, tokens, self.threads, self.progress, self.cancel)?;
                made.write(&self.job.scratch_dir.join(IMATRIX_FILE))?;
                made
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(made))
    }

    /// The job's provenance, and what the columns were weighed by.
    fn provenance(&self, importance: Option<&ImportanceMatrix>) -> Result<BTreeMap<String, String>> {
        let mut keys = self.job.provenance.clone();
        let mut set = |key: &str, value: String| keys.insert(format!("pajamas.{key}"), value);
        if let Some(path) = &self.settings.imatrix {
            set("imatrix.sha256", sha256_of(path)?);
        }
        if let Some(path) = &self.settings.calibration {
            set("calibration.sha256", sha256_of(path)?);
            let tokens = importance.map_or(0, |matrix| u64::from(matrix.chunk_count) * u64::from(matrix.chunk_tokens));
            set("calibration.tokens", tokens.to_string());
        }
        Ok(keys)
    }

    /// Makes a file of the types that llama.cpp chooses. Keys in `more` are added to its metadata.
    fn make_quantized(
        &self,
        material: &Material<'_>,
        importance: Option<&ImportanceMatrix>,
        more: &BTreeMap<String, String>,
    ) -> Result<QuantizeReport> {
        let specs: Vec<TensorSpec> = material.tensors.iter().map(|tensor| tensor.spec.clone()).collect();
        let (file_type, scratch) = (self.recipe.file_type, &self.job.scratch_dir);
        let decisions = types::decide(material.metadata, &specs, file_type, &self.settings, importance, scratch)?;
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
        let mut report = self.make(material, &decisions, metadata, importance)?;
        if self.settings.calibration.is_some() && !self.job.dry_run {
            report.companions.push(IMATRIX_FILE.into());
        }
        if let Some(importance) = importance.filter(|_| !self.job.dry_run) {
            let unused = importance.unused_experts();
            if unused > 0 {
                report.notes.push(format!(
                    "no token of the calibration text went through {unused} matrices of experts; their columns weigh the same"
                ));
            }
        }
        Ok(report)
    }

    /// Writes the file, or says what would be written.
    fn make(
        &self,
        material: &Material<'_>,
        decisions: &[Decision],
        metadata: Metadata,
        importance: Option<&ImportanceMatrix>,
    ) -> Result<QuantizeReport> {
        let mut targets = Vec::with_capacity(decisions.len());
        let mut missing = Vec::new();
        for decision in decisions {
            let tensor = &material.tensors[decision.tensor];
            let weights = self.weights(tensor, decision, importance, &mut missing)?;
            let spec = TensorSpec { ggml_type: decision.ggml_type, ..tensor.spec.clone() };
            targets.push(Target { spec, rows: &tensor.rows, importance: weights });
        }
        let specs: Vec<TensorSpec> = targets.iter().map(|target| target.spec.clone()).collect();
        let output_bytes = Header::new(&metadata, &specs)?.file_bytes;
        let mut report = QuantizeReport::default();
        report.tensor_count = targets.len() as u64;
        report.output_bytes = output_bytes;
        let tensors = decisions.iter().zip(&targets).map(|(decision, target)| {
            tensor_report(&material.tensors[decision.tensor], decision, target)
        });
        report.tensors = tensors.filter(|tensor| self.job.dry_run || !tensor.fallback_from.is_empty()).collect();
        report.notes.extend(fallback_notes(decisions));
        if self.job.dry_run {
            if let Some(name) = missing.first() {
                report.notes.push(format!("{}; the first is `{name}`", needs_weights(missing.len())));
            }
            return Ok(report);
        }
        if let Some(name) = missing.first() {
            return Err(Error::unsupported(format!(
                "{} needs an importance matrix for {} tensors, `{name}` first: without one the result is useless",
                self.recipe.name,
                missing.len()
            ))
            .with_hint("--calibration TEXT makes one, --imatrix FILE reads one"));
        }
        check::room(&self.job.output, output_bytes)?;
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
        if from.block_size > 1 && !self.settings.requantize {
            return Err(Error::unsupported(format!(
                "`{name}` is {} already; making it {} would add a second loss to the first",
                from.name, to.name
            ))
            .with_hint("MXFP4_MOE keeps experts in MXFP4 as they are; --requantize does it all the same"));
        }
        let shape = &tensor.spec.shape;
        let wanted = shape.first().copied().unwrap_or(1) * shape.get(2).copied().unwrap_or(1);
        let embedding = name == "token_embd.weight";
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
    const ALWAYS: [GgmlType; 6] = [
        GgmlType::IQ3_XXS,
        GgmlType::IQ2_XXS,
        GgmlType::IQ2_XS,
        GgmlType::IQ2_S,
        GgmlType::IQ1_M,
        GgmlType::IQ1_S,
    ];
    let spared = ["token_embd.weight", "output.weight"].contains(&name);
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
