//! Converts a Hugging Face folder to GGUF in full or half precision, byte for byte as llama.cpp's converter does.
//!
//! The stages, one file each: [`families`] says what an architecture's tensors are called, `plan` matches them with
//! what the folder holds, `metadata` and `vocabulary` fill the header (with `naming` and `pre_tokenizer`),
//! `transfer` streams the data. [`verify_tokenizer`] compares tokenizers afterwards. `view` is the file without a file:
//! the same bytes, made when they are asked for.

pub mod families;
mod metadata;
mod naming;
mod plan;
mod pre_tokenizer;
mod transfer;
pub mod verify_tokenizer;
mod view;
mod vocabulary;

use crate::gguf_file::{FileType, GgmlType, GgufWriter, Metadata};
use families::Family;
use pajamas_hf_model::{Dtype, HfModel};
use pajamas_plugin_api::{CancelToken, Error, Progress, Result};
use plan::Plan;
use std::collections::BTreeMap;
use std::path::Path;

pub(crate) use view::View;

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
/// `provenance` is stored as text; its keys must begin with `pajamas.` or `general.source.`. One chunk of a tensor is
/// held in memory at a time, and `cancel` is polled for each.
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
    progress: &Progress,
    cancel: &CancelToken,
) -> Result<ConvertReport> {
    let conversion = Conversion::plan(source, target, provenance)?;
    cancel.check()?;
    let output_bytes = conversion.write(output, progress, cancel).inspect_err(|_| {
        // What is left is useless; that it cannot be removed either would hide the cause.
        let _ = std::fs::remove_file(output);
    })?;
    Ok(ConvertReport {
        architecture: conversion.family.gguf_architecture().into(),
        source_precision: conversion.source_type.file_type().name.into(),
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
    /// Plans the conversion of `source`: reads its configuration, its tokenizer and its tensors' headers.
    ///
    /// # Errors
    /// Those of [`convert`], but for `Cancelled`.
    pub(crate) fn plan(source: &'a HfModel, target: FloatType, provenance: &BTreeMap<String, String>) -> Result<Self> {
        check_provenance(provenance)?;
        let family = families::find(source.config())?;
        let source_type = source_type(source)?;
        let float_type = match target {
            FloatType::Auto => source_type,
            chosen => chosen,
        };
        let mut notes = Vec::new();
        let plan = plan::plan(source, family, float_type.ggml_type(), &mut notes)?;
        let mut metadata = metadata::metadata(source, family, float_type.file_type(), plan.parameters(), &mut notes)?;
        vocabulary::add(source, family, &mut metadata, &mut notes)?;
        for (key, value) in provenance {
            metadata.set(key.as_str(), value.as_str());
        }
        Ok(Self { family, source_type, float_type, plan, metadata, notes })
    }

    /// Things a user should know.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    fn write(&self, output: &Path, progress: &Progress, cancel: &CancelToken) -> Result<u64> {
        let mut writer = GgufWriter::create(output, &self.metadata, &self.plan.specs())?;
        transfer::transfer(&self.plan, &mut writer, progress, cancel)?;
        writer.finish()
    }
}

/// The type of the first tensor with two dimensions: `config.json` is wrong about it in some fine-tunes.
fn source_type(source: &HfModel) -> Result<FloatType> {
    let matrix = source
        .tensors()
        .iter()
        .find(|tensor| tensor.shape().len() >= 2)
        .ok_or_else(|| Error::invalid_model(format!("`{}` holds no matrix", source.dir().display())))?;
    match matrix.dtype() {
        Dtype::F32 => Ok(FloatType::F32),
        Dtype::F16 => Ok(FloatType::F16),
        Dtype::Bf16 => Ok(FloatType::Bf16),
        Dtype::Other(_) => Err(plan::unreadable(matrix)),
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
