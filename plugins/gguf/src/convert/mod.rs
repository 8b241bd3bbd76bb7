//! Converts a Hugging Face folder to GGUF in full or half precision, byte for byte as llama.cpp's converter does.
//!
//! The stages, one file each: [`families`] says what an architecture's tensors are called, `plan` matches them with
//! what the folder holds, `metadata` and `vocabulary` fill the header (with `naming` and `pre_tokenizer`). What is planned
//! is a header and, for each tensor, its rows: `transfer` writes them, as they are or quantized. [`verify_tokenizer`]
//! compares tokenizers afterwards. `view` is the file without a file: the same bytes, made when they are asked for.

pub mod families;
mod metadata;
mod model_card;
mod naming;
mod plan;
mod pre_tokenizer;
pub mod verify_tokenizer;
mod view;
mod vocabulary;
mod yaml;

use crate::gguf_file::{FileType, GgmlType, Header, Metadata, TensorSpec};
use crate::transfer::{self, Target};
use families::Family;
use pajamas_hf_model::{Dtype, HfModel};
use pajamas_plugin_api::{CancelToken, Error, Progress, Result};
use plan::Plan;
use std::collections::BTreeMap;
use std::path::Path;

pub(crate) use plan::PlannedTensor;
pub(crate) use view::View;

/// How `quant_method` in config.json calls weights that are quantized and can be converted all the same, their bits kept.
pub(crate) const KEPT_QUANTIZATIONS: [&str; 1] = ["mxfp4"];

/// What matrices are stored as. Vectors and norms are F32 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatType {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// What the source's first matrix is stored as.
    Auto,
}

/// What a conversion did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertReport {
    /// llama.cpp's name of the architecture: `qwen2`.
    pub architecture: String,
    /// What the source's first matrix is stored as: `BF16`.
    pub source_precision: String,
    /// Bytes of the source's tensors.
    pub source_bytes: u64,
    /// What matrices were stored as; never [`FloatType::Auto`].
    pub float_type: FloatType,
    /// Bytes written.
    pub output_bytes: u64,
    /// Tensors written.
    pub tensor_count: u64,
    /// Things a user should know.
    pub notes: Vec<String>,
}

impl FloatType {
    fn ggml_type(self) -> GgmlType {
        match self {
            Self::F32 | Self::Auto => GgmlType::F32,
            Self::F16 => GgmlType::F16,
            Self::Bf16 => GgmlType::BF16,
        }
    }

    fn file_type(self) -> FileType {
        match self {
            Self::F32 | Self::Auto => FileType::F32,
            Self::F16 => FileType::F16,
            Self::Bf16 => FileType::BF16,
        }
    }
}

/// Converts `source` to the GGUF file `output`, which is replaced if it exists and removed again on failure.
///
/// `provenance` is stored as text; its keys must begin with `pajamas.` or `general.source.`. A piece of a tensor for each
/// thread is held in memory at a time, and `cancel` is polled for each.
///
/// # Errors
///
/// `Unsupported` for architectures and tokenizers that are not known, `InvalidModel` where tensors are missing, have
/// the wrong shape, or were not expected; `Cancelled`; `Io`.
pub fn convert(
    source: &HfModel,
    output: &Path,
    target: FloatType,
    provenance: &BTreeMap<String, String>,
    threads: u32,
    progress: &Progress,
    cancel: &CancelToken,
) -> Result<ConvertReport> {
    let conversion = Conversion::plan(source, target, None, provenance)?;
    cancel.check()?;
    let output_bytes = conversion.write(output, threads, progress, cancel).inspect_err(|_| {
        // What is left is useless; that it cannot be removed either would hide the cause.
        let _ = std::fs::remove_file(output);
    })?;
    Ok(ConvertReport {
        architecture: conversion.architecture().into(),
        source_precision: conversion.source_precision().into(),
        source_bytes: source.size_bytes(),
        float_type: conversion.float_type,
        output_bytes,
        tensor_count: conversion.plan.tensors.len() as u64,
        notes: conversion.notes,
    })
}

/// A conversion of which everything is known but the tensors' data.
pub(crate) struct Conversion<'a> {
    family: &'static dyn Family,
    source_type: FloatType,
    /// Never [`FloatType::Auto`].
    float_type: FloatType,
    plan: Plan<'a>,
    metadata: Metadata,
    notes: Vec<String>,
}

impl<'a> Conversion<'a> {
    /// Plans the conversion of `source`: reads its configuration, its tokenizer and its tensors' headers. `pre_tokenizer`
    /// is llama.cpp's name of it, where the user knows better.
    ///
    /// # Errors
    /// Those of [`convert`], but for `Cancelled`.
    pub(crate) fn plan(
        source: &'a HfModel,
        target: FloatType,
        pre_tokenizer: Option<&str>,
        provenance: &BTreeMap<String, String>,
    ) -> Result<Self> {
        check_provenance(provenance)?;
        let family = families::find(source.config())?;
        let source_type = source_type(source)?;
        let float_type = match target {
            FloatType::Auto => source_type,
            chosen => chosen,
        };
        let mut notes = Vec::new();
        let plan = plan::plan(source, family, float_type.ggml_type(), &mut notes)?;
        let keeps_blocks = plan.tensors.iter().any(|tensor| tensor.spec.ggml_type == GgmlType::MXFP4);
        let file_type = if keeps_blocks { FileType::MXFP4_MOE } else { float_type.file_type() };
        let mut metadata = metadata::metadata(source, family, file_type, plan.parameters(), &mut notes)?;
        vocabulary::add(source, family, pre_tokenizer, &mut metadata, &mut notes)?;
        for (key, value) in provenance {
            metadata.set(key.as_str(), value.as_str());
        }
        Ok(Self { family, source_type, float_type, plan, metadata, notes })
    }

    /// llama.cpp's name of the architecture.
    pub(crate) fn architecture(&self) -> &'static str {
        self.family.gguf_architecture()
    }

    /// What the source's first matrix is stored as: `BF16`.
    pub(crate) fn source_precision(&self) -> &'static str {
        self.source_type.file_type().name
    }

    /// Things a user should know.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The file's metadata.
    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The file's tensors, in its order.
    pub(crate) fn tensors(&self) -> &[PlannedTensor<'a>] {
        &self.plan.tensors
    }

    pub(crate) fn header(&self) -> Result<Header> {
        let specs: Vec<TensorSpec> = self.plan.tensors.iter().map(|tensor| tensor.spec.clone()).collect();
        Header::new(&self.metadata, &specs)
    }

    fn targets(&self) -> Vec<Target<'_>> {
        let tensors = self.plan.tensors.iter();
        tensors.map(|tensor| Target { spec: tensor.spec.clone(), rows: &tensor.rows, importance: None }).collect()
    }

    fn write(&self, output: &Path, threads: u32, progress: &Progress, cancel: &CancelToken) -> Result<u64> {
        transfer::write(output, &self.metadata, &self.targets(), threads, "converting", progress, cancel)
    }
}

/// The type of the first matrix in half precision, or else of the first: `config.json` is wrong about it in some fine-tunes,
/// and some keep a matrix or two in single precision.
fn source_type(source: &HfModel) -> Result<FloatType> {
    let matrices = || source.tensors().iter().filter(|tensor| tensor.shape().len() >= 2);
    // Codes of quantized matrices say nothing of the others; without any others, they are the reason to refuse.
    let matrix = matrices()
        .find(|tensor| tensor.dtype().size_bytes() == Some(2))
        .or_else(|| matrices().find(|tensor| tensor.dtype().size_bytes().is_some()))
        .or_else(|| matrices().next())
        .ok_or_else(|| Error::invalid_model(format!("`{}` holds no matrix", source.dir().display())))?;
    match matrix.dtype() {
        Dtype::F32 => Ok(FloatType::F32),
        Dtype::F16 => Ok(FloatType::F16),
        Dtype::Bf16 => Ok(FloatType::Bf16),
        Dtype::Other(_) => Err(crate::rows::unreadable(matrix)),
    }
}

fn check_provenance(provenance: &BTreeMap<String, String>) -> Result<()> {
    match provenance.keys().find(|key| !key.starts_with("pajamas.") && !key.starts_with("general.source.")) {
        None => Ok(()),
        Some(key) => Err(Error::invalid_request(format!(
            "provenance key `{key}` begins neither with `pajamas.` nor with `general.source.`"
        ))),
    }
}

#[cfg(test)]
mod tests;
