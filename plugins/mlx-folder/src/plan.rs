//! Matches a checkpoint's tensors with what its family expects and a recipe makes of them, before anything is written.

use crate::affine::Affine;
use crate::families::{Expected, Family, layer_count};
use crate::float_type::FloatType;
use crate::layout::OutputTensor;
use crate::recipes::{Choice, Method};
use pajamas_hf_model::{Config, HfModel, Tensor};
use pajamas_plugin_api::{Error, Result};
use std::collections::{BTreeMap, HashMap};

/// Buffers that old checkpoints carry and that are computed anew.
const IGNORED: &str = "self_attn.rotary_emb.inv_freq";
/// The output's weight, which a model that shares its embedding does not need.
const OUTPUT: &str = "lm_head.weight";

/// Every tensor of the output, in the order of mlx-lm's parameters, and where its data comes from.
#[derive(Debug)]
pub struct Plan<'a> {
    /// What is read and what becomes of it.
    pub steps: Vec<Step<'a>>,
    /// What is written. A step writes one of them, or three.
    pub outputs: Vec<OutputTensor>,
    /// Whether the output shares the embedding.
    pub tied: bool,
    /// Weights of the model, counted before quantization.
    pub parameters: u64,
    /// Things a user should know.
    pub notes: Vec<String>,
}

/// A tensor of the source and what becomes of it.
#[derive(Debug)]
pub struct Step<'a> {
    /// Where it is.
    pub source: &'a Tensor,
    /// The layer that it belongs to: `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// How it is stored.
    pub from: FloatType,
    /// How it, or its scales and biases, will be stored.
    pub to: FloatType,
    /// How it is quantized; none keeps its floats.
    pub affine: Option<Affine>,
    /// Its first output's place among [`Plan::outputs`]; a quantized one's scales and biases follow.
    pub output: usize,
}

/// Plans the conversion of `source`.
///
/// # Errors
/// `Unsupported` for weights that are not floats and for rows that no group fits; `InvalidModel` for tensors that the
/// family does not know, lacks, or has in another shape.
pub fn plan<'a>(source: &'a HfModel, family: &Family, choice: &Choice) -> Result<Plan<'a>> {
    let config = source.config();
    let tied = source.tied_embeddings();
    let expected = family.tensors(config, tied)?;
    let mut notes = check(source, family, &expected, tied)?;

    let layers = layer_count(config)?;
    let dtype = dtype(config, choice);
    let mut plan =
        Plan { steps: Vec::with_capacity(expected.len()), outputs: Vec::new(), tied, parameters: 0, notes: Vec::new() };
    let mut unfit: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for wanted in expected {
        let tensor = source.tensor(&wanted.name()).ok_or_else(|| missing(source, &wanted))?;
        let from = FloatType::of(tensor.dtype()).ok_or_else(|| not_float(tensor))?;
        let columns = wanted.shape.last().copied().unwrap_or(0);
        let affine = choice.affine(&wanted.path, layers).filter(|_| wanted.quantizable);
        let fits = affine.is_some_and(|affine| affine.groups(columns).is_some());
        if affine.is_some() && !fits {
            unfit.entry(columns).or_default().push(wanted.path.clone());
        }
        plan.add(tensor, wanted, from, dtype.unwrap_or(from), affine.filter(|_| fits));
    }
    if !matches!(choice.method, Method::Float(_)) && plan.steps.iter().all(|step| step.affine.is_none()) {
        return Err(nothing_fits(source, choice));
    }
    notes.extend(unfit.iter().map(|(columns, paths)| unfit_note(*columns, paths, choice)));
    plan.notes = notes;
    Ok(plan)
}

impl<'a> Plan<'a> {
    fn add(&mut self, source: &'a Tensor, wanted: Expected, from: FloatType, to: FloatType, affine: Option<Affine>) {
        let output = self.outputs.len();
        let floats = |name: &str, shape: Vec<u64>| OutputTensor {
            name: format!("{}.{name}", wanted.path),
            dtype: to.safetensors_name(),
            element_bytes: to.size_bytes() as u64,
            shape,
        };
        let columns = wanted.shape.last().copied().unwrap_or(0);
        let with_columns = |columns: u64| {
            let mut shape = wanted.shape.clone();
            if let Some(last) = shape.last_mut() {
                *last = columns;
            }
            shape
        };
        match affine.and_then(|affine| Some((affine.packed_columns(columns)?, affine.groups(columns)?))) {
            Some((packed, groups)) => self.outputs.extend([
                OutputTensor {
                    name: format!("{}.weight", wanted.path),
                    dtype: "U32",
                    element_bytes: 4,
                    shape: with_columns(packed),
                },
                floats("scales", with_columns(groups)),
                floats("biases", with_columns(groups)),
            ]),
            None => self.outputs.push(floats(wanted.parameter, wanted.shape.clone())),
        }
        self.parameters += source.elements();
        self.steps.push(Step { source, path: wanted.path, from, to, affine, output });
    }
}

/// The type that all tensors are cast to; none leaves each as it is. As in mlx-lm, what the configuration states under
/// transformers' older name is done, and what it states under the newer one is not.
fn dtype(config: &Config, choice: &Choice) -> Option<FloatType> {
    if let Method::Float(float_type) = choice.method {
        return Some(float_type);
    }
    let stated = || config.raw().get("torch_dtype").and_then(|word| FloatType::from_word(word.as_str()?));
    choice.dtype.or_else(stated)
}

/// Looks at every tensor that there is, and gives notes on those that are left out.
fn check(source: &HfModel, family: &Family, expected: &[Expected], tied: bool) -> Result<Vec<String>> {
    let shapes: HashMap<String, &[u64]> =
        expected.iter().map(|wanted| (wanted.name(), wanted.shape.as_slice())).collect();
    let mut notes = Vec::new();
    for tensor in source.tensors() {
        if tensor.name().contains(IGNORED) {
            continue;
        }
        // Before names and shapes: those of quantized weights differ, and that is not what is wrong with them.
        FloatType::of(tensor.dtype()).ok_or_else(|| not_float(tensor))?;
        match shapes.get(tensor.name()) {
            Some(shape) if *shape == tensor.shape() => {}
            Some(shape) => return Err(misshapen(tensor, shape)),
            None if tied && tensor.name() == OUTPUT => {
                notes.push(format!("`{OUTPUT}` was left out: the model shares it with its embedding"));
            }
            None => return Err(unknown(tensor, family)),
        }
    }
    Ok(notes)
}

fn not_float(tensor: &Tensor) -> Error {
    Error::unsupported(format!(
        "tensor `{}` in `{}` is stored as {}; only F16, BF16 and F32 weights can be converted",
        tensor.name().escape_debug(),
        tensor.file().display(),
        tensor.dtype().name()
    ))
    .with_hint("the weights may be quantized already; use the original, unquantized model")
}

fn unknown(tensor: &Tensor, family: &Family) -> Error {
    Error::invalid_model(format!(
        "`{}` holds tensor `{}`, which {} models do not have",
        tensor.file().display(),
        tensor.name().escape_debug(),
        family.model_type
    ))
    .with_hint("the model differs from its architecture, or config.json does not belong to it")
}

fn misshapen(tensor: &Tensor, shape: &[u64]) -> Error {
    Error::invalid_model(format!(
        "tensor `{}` in `{}` has shape {:?}, its config.json asks for {shape:?}",
        tensor.name(),
        tensor.file().display(),
        tensor.shape(),
    ))
    .with_hint("config.json does not belong to these weights")
}

fn missing(source: &HfModel, wanted: &Expected) -> Error {
    Error::invalid_model(format!(
        "`{}` lacks tensor `{}` of shape {:?}",
        source.dir().display(),
        wanted.name(),
        wanted.shape
    ))
    .with_hint("the checkpoint is incomplete, or config.json does not belong to it")
}

fn nothing_fits(source: &HfModel, choice: &Choice) -> Error {
    Error::unsupported(format!(
        "no matrix of `{}` has rows that groups of {} divide, so nothing would be quantized",
        source.dir().display(),
        choice.group_size
    ))
    .with_hint("choose a smaller group_size, or the method bf16")
}

fn unfit_note(columns: u64, paths: &[String], choice: &Choice) -> String {
    let (noun, verb) = if paths.len() == 1 { ("matrix has", "is") } else { ("matrices have", "are") };
    format!(
        "{} {noun} rows of {columns}, which groups of {} do not divide, and {verb} not quantized (the first is {})",
        paths.len(),
        choice.group_size,
        paths[0]
    )
}
