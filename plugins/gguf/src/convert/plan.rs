//! Matches a checkpoint's tensors with what its family expects, before anything is written.

use super::families::{Family, Part, TensorRule};
use super::metadata::Parameters;
use crate::gguf_file::{GgmlType, TensorSpec};
use crate::rows::{Arrangement, Rows, unreadable};
use pajamas_hf_model::{HfModel, Tensor};
use pajamas_plugin_api::{Error, Result};
use std::collections::HashMap;

/// Endings of buffers that old checkpoints carry and no engine needs.
const IGNORED_ENDINGS: [&str; 3] = [".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq"];

/// Matrices that llama.cpp wants in single precision: the routers of experts.
const SINGLE_PRECISION: [&str; 2] = [".ffn_gate_inp.weight", ".ffn_gate_inp_shexp.weight"];

/// Every tensor of the output, in the order of the file.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) tensors: Vec<PlannedTensor<'a>>,
}

/// A tensor of the output and where its data comes from.
#[derive(Debug)]
pub(crate) struct PlannedTensor<'a> {
    pub(crate) spec: TensorSpec,
    pub(crate) rows: Rows<'a>,
}

impl Plan<'_> {
    /// Elements of all tensors.
    pub(super) fn parameters(&self) -> Parameters {
        let mut parameters = Parameters::default();
        let (mut experts, mut tensors) = (0, 0);
        for TensorSpec { name, shape, .. } in self.tensors.iter().map(|tensor| &tensor.spec) {
            let size: u64 = shape.iter().product();
            parameters.total += size;
            // Biases of experts, which have two dimensions, count as shared.
            match shape.get(2).filter(|_| name.contains("_exps.")) {
                Some(count) => {
                    parameters.one_expert += size / (*count).max(1);
                    experts += count;
                    tensors += 1;
                }
                None => parameters.shared += size,
            }
        }
        parameters.experts = experts.checked_div(tensors).unwrap_or(0);
        parameters
    }
}

/// The checkpoint's tensors, by the names that the family's rules have, with their places in it.
struct Stored<'a> {
    tensors: HashMap<String, (usize, &'a Tensor)>,
}

/// Plans the conversion of `source` with matrices as `matrix_type`.
pub(super) fn plan<'a>(
    source: &'a HfModel,
    family: &dyn Family,
    matrix_type: GgmlType,
    notes: &mut Vec<String>,
) -> Result<Plan<'a>> {
    let rules = family.tensors(source)?;
    let stored = Stored::new(source, family)?;
    stored.check(&rules, family)?;
    let mut found = Vec::new();
    for rule in &rules {
        let Some(parts) = stored.parts(rule, source)? else { continue };
        let last = parts.iter().map(|(place, _)| *place).max().unwrap_or(0);
        found.push((last, rule, parts.into_iter().map(|(_, tensor)| tensor).collect::<Vec<_>>()));
    }
    let mut last_of_group: HashMap<u64, usize> = HashMap::new();
    for (place, rule, _) in &found {
        if let Some(group) = rule.group {
            let last = last_of_group.entry(group).or_default();
            *last = (*last).max(*place);
        }
    }
    // Among equals the order of the rules stays.
    found.sort_by_key(|(place, rule, _)| {
        let place = rule.group.map_or(*place, |group| last_of_group[&group]);
        (!rule.leading, place)
    });

    let mut tensors: Vec<PlannedTensor> = Vec::new();
    for (_, rule, parts) in found.iter_mut().filter(|(_, rule, _)| rule.leading) {
        tensors.extend(planned(rule, std::mem::take(parts), matrix_type)?);
    }
    for generated in family.generated_tensors(source.config())? {
        let shape = vec![generated.values.len() as u64];
        tensors.push(PlannedTensor {
            spec: TensorSpec { name: generated.target, shape, ggml_type: GgmlType::F32 },
            rows: Rows::made(generated.values),
        });
    }
    for (_, rule, parts) in found.into_iter().filter(|(_, rule, _)| !rule.leading) {
        match planned(rule, parts, matrix_type)? {
            Some(tensor) => tensors.push(tensor),
            None => notes.push(format!(
                "`{}` was left out: the model shares it with its embedding",
                rule.parts.first().map_or("", |part| part.name.as_str())
            )),
        }
    }
    Ok(Plan { tensors })
}

fn planned<'a>(rule: &TensorRule, parts: Vec<&'a Tensor>, matrix_type: GgmlType) -> Result<Option<PlannedTensor<'a>>> {
    let Some(target) = &rule.target else { return Ok(None) };
    let rows = Rows::of_checkpoint(parts, rule.arrangement, &rule.shape)?;
    let shape = rule.shape.iter().rev().copied().collect();
    let ggml_type = match rule.arrangement {
        // These bits mean something in their own format only.
        Arrangement::Mxfp4 { .. } => GgmlType::MXFP4,
        _ => tensor_type(target, rule.shape.len(), matrix_type),
    };
    Ok(Some(PlannedTensor { spec: TensorSpec { name: target.clone(), shape, ggml_type }, rows }))
}

impl<'a> Stored<'a> {
    fn new(source: &'a HfModel, family: &dyn Family) -> Result<Self> {
        let mut tensors: HashMap<String, (usize, &Tensor)> = HashMap::new();
        for (place, tensor) in source.tensors().iter().enumerate() {
            let Some(name) = family.tensor_name(tensor.name()) else { continue };
            if IGNORED_ENDINGS.iter().any(|ending| name.ends_with(ending)) {
                continue;
            }
            if let Some((_, first)) = tensors.insert(name.into_owned(), (place, tensor)) {
                return Err(Error::invalid_model(format!(
                    "`{}` and `{}` in `{}` are the same tensor",
                    first.name().escape_debug(),
                    tensor.name().escape_debug(),
                    tensor.file().display()
                )));
            }
        }
        Ok(Self { tensors })
    }

    /// Refuses tensors that the family does not have, and shapes that its configuration does not give.
    fn check(&self, rules: &[TensorRule], family: &dyn Family) -> Result<()> {
        let known: HashMap<&str, &Part> =
            rules.iter().flat_map(|rule| &rule.parts).map(|part| (part.name.as_str(), part)).collect();
        let mut tensors: Vec<_> = self.tensors.iter().collect();
        tensors.sort_by_key(|(_, (place, _))| *place);
        for (name, (_, tensor)) in tensors {
            let Some(part) = known.get(name.as_str()) else {
                return Err(Error::invalid_model(format!(
                    "`{}` holds tensor `{}`, which {} models do not have",
                    tensor.file().display(),
                    tensor.name().escape_debug(),
                    family.gguf_architecture()
                ))
                .with_hint("the model differs from its architecture, or config.json does not belong to it"));
            };
            if part.shape != tensor.shape() {
                return Err(Error::invalid_model(format!(
                    "tensor `{}` in `{}` has shape {:?}, its config.json asks for {:?}",
                    tensor.name(),
                    tensor.file().display(),
                    tensor.shape(),
                    part.shape
                ))
                .with_hint("config.json does not belong to these weights"));
            }
            let codes = tensor.dtype().name() == "U8" && MXFP4_ENDINGS.iter().any(|ending| name.ends_with(ending));
            if tensor.dtype().size_bytes().is_none() && !codes {
                return Err(unreadable(tensor));
            }
        }
        Ok(())
    }

    /// The parts of the tensor that `rule` makes; none where the checkpoint need not have it and has not.
    fn parts(&self, rule: &TensorRule, source: &HfModel) -> Result<Option<Vec<(usize, &'a Tensor)>>> {
        let found: Vec<_> =
            rule.parts.iter().filter_map(|part| self.tensors.get(part.name.as_str())).copied().collect();
        if found.len() == rule.parts.len() {
            return Ok(Some(found));
        }
        match rule.parts.iter().find(|part| !self.tensors.contains_key(part.name.as_str())) {
            Some(missing) if rule.required || !found.is_empty() => Err(Error::invalid_model(format!(
                "`{}` lacks tensor `{}` of shape {:?}",
                source.dir().display(),
                missing.name,
                missing.shape
            ))
            .with_hint("the checkpoint is incomplete, or config.json does not belong to it")),
            _ => Ok(None),
        }
    }
}

/// How the names of the codes and scales of MXFP4 end.
const MXFP4_ENDINGS: [&str; 2] = ["_blocks", "_scales"];

/// Vectors, norms, biases and routers stay in F32: llama.cpp's operations on them take nothing else.
fn tensor_type(target: &str, dimensions: usize, matrix_type: GgmlType) -> GgmlType {
    let small = dimensions <= 1
        || target.ends_with("_norm.weight")
        || !target.ends_with(".weight")
        || SINGLE_PRECISION.iter().any(|ending| target.ends_with(ending));
    if small { GgmlType::F32 } else { matrix_type }
}
