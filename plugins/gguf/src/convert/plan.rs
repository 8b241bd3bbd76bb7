//! Matches a checkpoint's tensors with what its family expects, before anything is written.

use super::families::{Family, TensorRule};
use crate::gguf_file::{GgmlType, TensorSpec};
use pajamas_hf_model::{HfModel, Tensor};
use pajamas_plugin_api::{Error, Result};
use std::collections::HashMap;

/// Endings of buffers that old checkpoints carry and no engine needs.
const IGNORED_ENDINGS: [&str; 3] = [".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq"];

/// Every tensor of the output, in the order of the file.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) tensors: Vec<PlannedTensor<'a>>,
}

/// A tensor of the output and where its data comes from.
#[derive(Debug)]
pub(super) struct PlannedTensor<'a> {
    pub(super) spec: TensorSpec,
    pub(super) data: Data<'a>,
}

/// Where data comes from.
#[derive(Debug)]
pub(super) enum Data<'a> {
    Generated(Vec<f32>),
    Source { tensor: &'a Tensor, interleave_heads: Option<u64> },
}

impl Plan<'_> {
    pub(super) fn specs(&self) -> Vec<TensorSpec> {
        self.tensors.iter().map(|tensor| tensor.spec.clone()).collect()
    }

    /// Elements of all tensors.
    pub(super) fn parameters(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.spec.shape.iter().product::<u64>()).sum()
    }
}

/// Plans the conversion of `source` with matrices as `matrix_type`.
pub(super) fn plan<'a>(
    source: &'a HfModel,
    family: &dyn Family,
    matrix_type: GgmlType,
    notes: &mut Vec<String>,
) -> Result<Plan<'a>> {
    let config = source.config();
    let rules = family.tensors(config)?;
    let by_name: HashMap<&str, &TensorRule> = rules.iter().map(|rule| (rule.source.as_str(), rule)).collect();

    let mut tensors: Vec<PlannedTensor> = family
        .generated_tensors(config)?
        .into_iter()
        .map(|generated| PlannedTensor {
            spec: TensorSpec {
                name: generated.target,
                shape: vec![generated.values.len() as u64],
                ggml_type: GgmlType::F32,
            },
            data: Data::Generated(generated.values),
        })
        .collect();
    for tensor in source.tensors() {
        if IGNORED_ENDINGS.iter().any(|ending| tensor.name().ends_with(ending)) {
            continue;
        }
        let Some(rule) = by_name.get(tensor.name()) else {
            return Err(Error::invalid_model(format!(
                "`{}` holds tensor `{}`, which {} models do not have",
                tensor.file().display(),
                tensor.name().escape_debug(),
                family.gguf_architecture()
            ))
            .with_hint("the model differs from its architecture, or config.json does not belong to it"));
        };
        if rule.shape != tensor.shape() {
            return Err(Error::invalid_model(format!(
                "tensor `{}` in `{}` has shape {:?}, its config.json asks for {:?}",
                tensor.name(),
                tensor.file().display(),
                tensor.shape(),
                rule.shape
            ))
            .with_hint("config.json does not belong to these weights"));
        }
        if tensor.dtype().size_bytes().is_none() {
            return Err(unreadable(tensor));
        }
        let Some(target) = &rule.target else {
            notes.push(format!("`{}` was left out: the model shares it with its embedding", tensor.name()));
            continue;
        };
        tensors.push(PlannedTensor {
            spec: TensorSpec {
                name: target.clone(),
                shape: tensor.shape().iter().rev().copied().collect(),
                ggml_type: tensor_type(target, tensor, matrix_type),
            },
            data: Data::Source { tensor, interleave_heads: rule.interleave_heads },
        });
    }
    match rules.iter().find(|rule| rule.required && source.tensor(&rule.source).is_none()) {
        None => Ok(Plan { tensors }),
        Some(missing) => Err(Error::invalid_model(format!(
            "`{}` lacks tensor `{}` of shape {:?}",
            source.dir().display(),
            missing.source,
            missing.shape
        ))
        .with_hint("the checkpoint is incomplete, or config.json does not belong to it")),
    }
}

/// Vectors, norms and biases stay in F32: llama.cpp's operations on them take nothing else.
fn tensor_type(target: &str, tensor: &Tensor, matrix_type: GgmlType) -> GgmlType {
    let small = tensor.shape().len() <= 1 || target.ends_with("_norm.weight") || !target.ends_with(".weight");
    if small { GgmlType::F32 } else { matrix_type }
}

/// The error for a tensor whose elements are no floats that can be read.
pub(super) fn unreadable(tensor: &Tensor) -> Error {
    Error::unsupported(format!(
        "tensor `{}` in `{}` is stored as {}; F32, F16 and BF16 can be converted",
        tensor.name(),
        tensor.file().display(),
        tensor.dtype().name()
    ))
    .with_hint("use the original, unquantized model")
}
