//! The tensors of a model on their way into its layers: every one is asked for by name and shape, and none may be left.

use super::linear::{Embedding, Linear, Matrix};
use mlx_rs::{Array, Dtype};
use pajamas_plugin_api::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// How a layer's matrix is quantized: MLX's affine format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Affine {
    /// Weights that share a scale and a bias.
    pub(crate) group_size: i32,
    /// Bits of a weight.
    pub(crate) bits: i32,
}

/// The tensors that are not yet in a layer.
pub(crate) struct Weights {
    tensors: HashMap<String, Array>,
    /// Whether and how the layer of that name is quantized.
    quantization: HashMap<String, Affine>,
    /// The type that floats are computed in; none keeps each tensor's own.
    compute: Option<Dtype>,
    /// For error messages.
    path: PathBuf,
}

impl Weights {
    /// `tensors` by name, and the quantized layers by the name of their matrix without `.weight`.
    pub(crate) fn new(
        tensors: HashMap<String, Array>,
        quantization: HashMap<String, Affine>,
        compute: Option<Dtype>,
        path: &Path,
    ) -> Self {
        Self { tensors, quantization, compute, path: path.to_owned() }
    }

    /// Weights of the model, whatever bits each takes.
    pub(crate) fn parameter_count(&self) -> u64 {
        let count = |(name, tensor): (&String, &Array)| {
            let layer = name.rsplit_once('.').map_or("", |(layer, _)| layer);
            match (self.quantization.get(layer), name.ends_with(".weight")) {
                // Packed: so many bits in each 32-bit element. Scales and biases are no weights of the model's.
                (Some(affine), true) => tensor.size() as u64 * 32 / u64::from(affine.bits.unsigned_abs().max(1)),
                (Some(_), false) if name.ends_with(".scales") || name.ends_with(".biases") => 0,
                _ => tensor.size() as u64,
            }
        };
        self.tensors.iter().map(count).sum()
    }

    /// Bytes of all tensors.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.tensors.values().map(|tensor| tensor.nbytes() as u64).sum()
    }

    /// The tensor `name`, which must have `shape`.
    pub(crate) fn take(&mut self, name: &str, shape: &[i32]) -> Result<Array> {
        let Some(tensor) = self.tensors.remove(name) else {
            return Err(Error::invalid_model(format!("`{}` has no tensor `{name}`", self.path.display()))
                .with_hint("the model is incomplete, or of another architecture than its config.json says"));
        };
        if tensor.shape() != shape {
            return Err(Error::invalid_model(format!(
                "`{}`: tensor `{name}` has shape {:?}, config.json asks for {shape:?}",
                self.path.display(),
                tensor.shape()
            )));
        }
        Ok(tensor)
    }

    /// The vector `name`, of floats.
    pub(crate) fn vector(&mut self, name: &str, length: i32) -> Result<Array> {
        let vector = self.take(name, &[length])?;
        self.floats(name, vector)
    }

    /// The projection `layer` from `inputs` to `outputs` values.
    pub(crate) fn linear(&mut self, layer: &str, inputs: i32, outputs: i32, bias: bool) -> Result<Linear> {
        let matrix = self.matrix(layer, outputs, inputs)?;
        let bias = if bias { Some(self.vector(&format!("{layer}.bias"), outputs)?) } else { None };
        Ok(Linear { matrix, bias })
    }

    /// The embedding `layer` of `rows` vectors.
    pub(crate) fn embedding(&mut self, layer: &str, rows: i32, width: i32) -> Result<Embedding> {
        if self.quantization.contains_key(layer) {
            return Ok(Embedding::Quantized(self.matrix(layer, rows, width)?));
        }
        let weight = self.plain(layer, rows, width)?;
        let transposed = weight.transpose().map_err(super::error)?;
        Ok(Embedding::Plain { weight, transposed })
    }

    fn matrix(&mut self, layer: &str, rows: i32, columns: i32) -> Result<Matrix> {
        let Some(Affine { group_size, bits }) = self.quantization.get(layer).copied() else {
            let weight = self.plain(layer, rows, columns)?;
            return Ok(Matrix::Plain(weight.transpose().map_err(super::error)?));
        };
        if columns % group_size != 0 || columns.checked_mul(bits).is_none_or(|bits| bits % 32 != 0) {
            return Err(Error::invalid_model(format!(
                "`{}`: the {columns} columns of `{layer}` do not divide into groups of {group_size} at {bits} bits",
                self.path.display()
            )));
        }
        let groups = columns / group_size;
        let weight = self.take(&format!("{layer}.weight"), &[rows, columns * bits / 32])?;
        if weight.dtype() != Dtype::Uint32 {
            return Err(self.wrong_type(&format!("{layer}.weight"), &weight, "packed unsigned 32-bit integers"));
        }
        let mut floats = |name: &str| {
            let name = format!("{layer}.{name}");
            let tensor = self.take(&name, &[rows, groups])?;
            self.floats(&name, tensor)
        };
        Ok(Matrix::Quantized { weight, scales: floats("scales")?, biases: floats("biases")?, group_size, bits })
    }

    fn plain(&mut self, layer: &str, rows: i32, columns: i32) -> Result<Array> {
        let name = format!("{layer}.weight");
        let weight = self.take(&name, &[rows, columns])?;
        self.floats(&name, weight)
    }

    fn floats(&self, name: &str, tensor: Array) -> Result<Array> {
        match tensor.dtype() {
            dtype @ (Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16) => match self.compute {
                Some(compute) if compute != dtype => {
                    let converted = tensor.as_dtype(compute).map_err(super::error)?;
                    // At once, so that the original is given back before the next one is converted.
                    converted.eval().map_err(super::error)?;
                    Ok(converted)
                }
                _ => Ok(tensor),
            },
            _ => Err(self.wrong_type(name, &tensor, "floats")),
        }
    }

    fn wrong_type(&self, name: &str, tensor: &Array, expected: &str) -> Error {
        Error::invalid_model(format!(
            "`{}`: tensor `{name}` holds {:?}, {expected} were expected",
            self.path.display(),
            tensor.dtype()
        ))
    }

    /// Every tensor must have found its layer: one that did not would be missing from the answers.
    pub(crate) fn finish(self) -> Result<()> {
        let mut left: Vec<&String> = self.tensors.keys().collect();
        left.sort();
        let Some(first) = left.first() else { return Ok(()) };
        Err(Error::invalid_model(format!(
            "`{}`: tensor `{}`{} belongs to no layer of this architecture",
            self.path.display(),
            first.escape_debug(),
            match left.len() {
                1 => String::new(),
                count => format!(" (and {} more)", count - 1),
            }
        ))
        .with_hint("the model has parts that this backend does not run"))
    }
}
