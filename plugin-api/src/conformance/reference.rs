//! Logits that an independent implementation computed, and how far others may be from them.

use crate::abi::client::LoadedModel;
use crate::{CancelToken, Result};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// What a model's logits must come to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Reference {
    /// What is read.
    pub tokens: Vec<u32>,
    /// The position of the first row.
    pub first_row: usize,
    /// Rows of logits, one after the other.
    #[serde(with = "as_bytes")]
    pub logits: Vec<f32>,
    /// The normalized mean square error that is taken for rounding.
    pub nmse_max: f64,
}

impl Reference {
    /// The rows `logits` after `tokens`, from position `first_row` on.
    pub fn new(tokens: Vec<u32>, first_row: usize, logits: Vec<f32>, nmse_max: f64) -> Self {
        Self { tokens, first_row, logits, nmse_max }
    }

    /// Values in a row; 0 if there are no rows.
    pub fn vocabulary(&self) -> usize {
        self.logits.len().checked_div(self.tokens.len().saturating_sub(self.first_row)).unwrap_or(0)
    }

    /// The error of `model`'s logits, see [`nmse`].
    ///
    /// # Errors
    /// The model's.
    pub fn error_of(&self, model: &LoadedModel) -> Result<f64> {
        let mut rows = Vec::with_capacity(self.logits.len());
        let mut on_row = |_: usize, row: &[f32]| {
            rows.extend_from_slice(row);
            ControlFlow::Continue(())
        };
        model.logits(&self.tokens, self.first_row, &mut on_row, &CancelToken::never())?;
        Ok(nmse(&rows, &self.logits, self.vocabulary()))
    }
}

/// The normalized mean square error of rows of `vocabulary` logits: the square of the difference over the square of what
/// is expected, each row's mean taken away, for only differences of logits matter. 0 is equal, 1 is as bad as silence; rows
/// that are too many, too few or not finite are infinitely bad.
pub fn nmse(got: &[f32], expected: &[f32], vocabulary: usize) -> f64 {
    if got.len() != expected.len() || expected.is_empty() || vocabulary == 0 || !got.iter().all(|v| v.is_finite()) {
        return f64::INFINITY;
    }
    let centred = |row: &[f32]| -> Vec<f64> {
        let mean = row.iter().copied().map(f64::from).sum::<f64>() / row.len() as f64;
        row.iter().map(|&value| f64::from(value) - mean).collect()
    };
    let (mut error, mut power) = (0.0, 0.0);
    for (got, expected) in got.chunks(vocabulary).zip(expected.chunks(vocabulary)) {
        for (got, expected) in centred(got).into_iter().zip(centred(expected)) {
            error += (got - expected).powi(2);
            power += expected.powi(2);
        }
    }
    if power > 0.0 { error / power } else { f64::INFINITY }
}

/// As little-endian bytes: 20,000 values one by one would be twice as long.
mod as_bytes {
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(values: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        serde_bytes::serialize(&bytes, serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
        let bytes: Vec<u8> = serde_bytes::deserialize(deserializer)?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_is_0_shifted_too_and_silence_is_1() {
        let rows = [1.0, 2.0, 6.0, -1.0, 0.0, 4.0];
        assert_eq!(nmse(&rows, &rows, 3), 0.0);
        let shifted = rows.map(|value| value + 10.0);
        assert!(nmse(&shifted, &rows, 3) < 1e-12, "a constant on all logits changes no probability");
        assert!((nmse(&[0.0; 6], &rows, 3) - 1.0).abs() < 1e-12);
        let off = rows.map(|value| value * 1.1);
        assert!((nmse(&off, &rows, 3) - 0.01).abs() < 1e-6);
    }

    #[test]
    fn what_cannot_be_compared_is_infinitely_bad() {
        assert_eq!(nmse(&[1.0], &[1.0, 2.0], 2), f64::INFINITY);
        assert_eq!(nmse(&[1.0, f32::NAN], &[1.0, 2.0], 2), f64::INFINITY);
        assert_eq!(nmse(&[], &[], 2), f64::INFINITY);
        assert_eq!(nmse(&[1.0, 1.0], &[1.0, 1.0], 2), f64::INFINITY, "nothing to compare with");
    }

    #[test]
    fn a_reference_crosses_as_it_is() {
        let reference = Reference::new(vec![1, 2, 3], 1, vec![0.5, -1.0, 2.0, 3.0], 0.01);
        assert_eq!(reference.vocabulary(), 2);
        let bytes = crate::abi::wire::encode(&reference);
        assert_eq!(crate::abi::wire::decode::<Reference>(&bytes, "it").unwrap(), reference);
    }
}
