//! The importance matrix: how strongly each column of each matrix is used, by which a quantizer weighs its errors.
//!
//! `collect` makes one by reading a text with the model, `file` reads and writes it as llama.cpp does.

mod collect;
mod file;

use pajamas_plugin_api::{Error, Result};
use std::collections::BTreeMap;

pub(super) use collect::collect;

/// Sums of squares of what was multiplied with the columns of matrices, and the weights that they come to.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ImportanceMatrix {
    sums: BTreeMap<String, Sums>,
    /// Mean squares, by the name of the tensor: for each matrix of it as many as that has columns.
    weights: BTreeMap<String, Vec<f32>>,
    /// What was read to make it.
    pub(super) datasets: Vec<String>,
    /// Pieces of text that were read.
    pub(super) chunk_count: u32,
    /// Tokens of each.
    pub(super) chunk_tokens: u32,
}

/// What is known of a tensor.
#[derive(Debug, Clone, Default, PartialEq)]
struct Sums {
    /// Sums of squares; for each matrix of the tensor as many as that has columns.
    squares: Vec<f32>,
    /// Rows that were summed up, for each matrix.
    counts: Vec<u64>,
}

impl ImportanceMatrix {
    /// Takes the sums.
    ///
    /// # Errors
    /// `InvalidModel` for sums that are no finite numbers, or not as many for each matrix.
    fn new(sums: BTreeMap<String, Sums>) -> Result<Self> {
        let mut weights = BTreeMap::new();
        for (name, entry) in &sums {
            weights.insert(name.clone(), entry.weights(name)?);
        }
        Ok(Self { sums, weights, ..Self::default() })
    }

    /// The weights of the tensor `name`.
    pub(super) fn get(&self, name: &str) -> Option<&[f32]> {
        self.weights.get(name).map(Vec::as_slice)
    }

    /// Every tensor with its weights.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &[f32])> {
        self.weights.iter().map(|(name, weights)| (name.as_str(), weights.as_slice()))
    }

    /// Experts that no token of the text went through, over all tensors; their columns weigh the same.
    pub(super) fn unused_experts(&self) -> usize {
        let experts = self.sums.values().filter(|sums| sums.counts.len() > 1);
        experts.map(|sums| sums.counts.iter().filter(|count| **count == 0).count()).sum()
    }
}

impl Sums {
    fn weights(&self, name: &str) -> Result<Vec<f32>> {
        let invalid = |what: &str| {
            Error::invalid_model(format!("the importance matrix has {what} for `{}`", name.escape_debug()))
        };
        let matrices = self.counts.len();
        if matrices == 0 || self.squares.is_empty() || !self.squares.len().is_multiple_of(matrices) {
            return Err(invalid("sums and counts that do not go together"));
        }
        let columns = self.squares.len() / matrices;
        let mean = |(squares, count): (&[f32], &u64)| match *count {
            // Nothing is known of them, so none counts more than another.
            0 => vec![1.0; columns],
            count => squares.iter().map(|square| square / count as f32).collect(),
        };
        let weights: Vec<f32> = self.squares.chunks_exact(columns).zip(&self.counts).flat_map(mean).collect();
        if weights.iter().any(|weight| !weight.is_finite()) {
            return Err(invalid("values that are not finite numbers"));
        }
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn sums(entries: &[(&str, &[f32], &[u64])]) -> BTreeMap<String, Sums> {
        let entry = |(name, squares, counts): &(&str, &[f32], &[u64])| {
            ((*name).to_owned(), Sums { squares: squares.to_vec(), counts: counts.to_vec() })
        };
        entries.iter().map(entry).collect()
    }

    #[test]
    fn sums_become_means() {
        let matrix = ImportanceMatrix::new(sums(&[
            ("blk.0.attn_q.weight", &[8.0, 2.0], &[4]),
            ("blk.0.ffn_up_exps.weight", &[8.0, 2.0, 5.0, 6.0], &[2, 0]),
        ]))
        .expect("sound");
        assert_eq!(matrix.get("blk.0.attn_q.weight"), Some(&[2.0, 0.5][..]));
        assert_eq!(matrix.get("blk.0.ffn_up_exps.weight"), Some(&[4.0, 1.0, 1.0, 1.0][..]));
        assert_eq!((matrix.entries().count(), matrix.unused_experts(), matrix.get("x")), (2, 1, None));
    }

    #[test]
    fn senseless_sums_are_refused() {
        let error = |squares: &[f32], counts: &[u64]| {
            ImportanceMatrix::new(sums(&[("a", squares, counts)])).unwrap_err().message
        };
        assert!(error(&[f32::NAN], &[1]).contains("not finite"));
        assert!(error(&[1.0, 2.0, 3.0], &[1, 1]).contains("do not go together"));
        assert!(error(&[], &[]).contains("do not go together"));
    }
}
