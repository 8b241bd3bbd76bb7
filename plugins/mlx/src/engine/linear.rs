//! The two layers that hold nearly all weights, plain or quantized: projections and the embedding.

use mlx_rs::error::Result;
use mlx_rs::{Array, ops};

/// A matrix of `[outputs, inputs]`.
#[derive(Debug)]
pub(crate) enum Matrix {
    /// In the model's own precision, transposed once for all: `[inputs, outputs]`.
    Plain(Array),
    /// In MLX's affine format: rows in groups of `group_size` values of `bits` bits, each with a scale and a bias.
    Quantized { weight: Array, scales: Array, biases: Array, group_size: i32, bits: i32 },
}

impl Matrix {
    /// `x` (`[…, inputs]`) times the matrix: `[…, outputs]`.
    fn apply(&self, x: &Array) -> Result<Array> {
        match self {
            Self::Plain(transposed) => ops::matmul(x, transposed),
            Self::Quantized { weight, scales, biases, group_size, bits } => {
                ops::quantized_matmul(x, weight, scales, biases, true, *group_size, *bits)
            }
        }
    }
}

/// A projection, with or without bias.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) matrix: Matrix,
    /// `[outputs]`.
    pub(crate) bias: Option<Array>,
}

impl Linear {
    /// `x` (`[…, inputs]`) projected: `[…, outputs]`.
    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        match (&self.matrix, &self.bias) {
            (Matrix::Plain(transposed), Some(bias)) => ops::addmm(bias, x, transposed, None, None),
            (matrix, Some(bias)) => matrix.apply(x)?.add(bias),
            (matrix, None) => matrix.apply(x),
        }
    }
}

/// The embedding, which is the output layer too in many models.
#[derive(Debug)]
pub(crate) enum Embedding {
    /// `[vocabulary, hidden]`.
    Plain { weight: Array, transposed: Array },
    /// As [`Matrix::Quantized`].
    Quantized(Matrix),
}

impl Embedding {
    /// The rows of `tokens` (`[batch, length]`): `[batch, length, hidden]`.
    pub(crate) fn forward(&self, tokens: &Array) -> Result<Array> {
        match self {
            Self::Plain { weight, .. } => weight.take_axis(tokens, 0),
            Self::Quantized(Matrix::Quantized { weight, scales, biases, group_size, bits }) => {
                let (weight, scales, biases) =
                    (weight.take_axis(tokens, 0)?, scales.take_axis(tokens, 0)?, biases.take_axis(tokens, 0)?);
                ops::dequantize(&weight, &scales, &biases, *group_size, *bits)
            }
            Self::Quantized(Matrix::Plain(transposed)) => transposed.transpose()?.take_axis(tokens, 0),
        }
    }

    /// The output layer: `[…, hidden]` to `[…, vocabulary]`.
    pub(crate) fn as_output(&self, x: &Array) -> Result<Array> {
        match self {
            Self::Plain { transposed, .. } => ops::matmul(x, transposed),
            Self::Quantized(matrix) => matrix.apply(x),
        }
    }
}
