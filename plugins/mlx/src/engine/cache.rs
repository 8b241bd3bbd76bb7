//! The KV cache of one sequence: grown in steps, cut back by moving its end.

use mlx_rs::error::{Exception, Result};
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
use mlx_rs::{Array, ops};

/// Positions that a cache grows by.
pub(crate) const STEP: i32 = 256;

/// Keys and values of every layer.
#[derive(Debug)]
pub(crate) struct Cache {
    layers: Vec<Option<Layer>>,
    /// Positions that hold a token.
    length: i32,
}

/// `[1, kv_heads, capacity, head_dim]` each.
#[derive(Debug)]
struct Layer {
    keys: Array,
    values: Array,
}

impl Cache {
    pub(crate) fn new(layers: usize) -> Self {
        Self { layers: (0..layers).map(|_| None).collect(), length: 0 }
    }

    /// Positions that hold a token.
    pub(crate) fn length(&self) -> i32 {
        self.length
    }

    /// Keeps the first `length` positions.
    pub(crate) fn truncate(&mut self, length: i32) {
        self.length = self.length.min(length);
        if self.length == 0 {
            // Nothing is worth keeping: the memory goes back.
            self.layers.iter_mut().for_each(|layer| *layer = None);
        }
    }

    /// After all layers have taken `count` positions.
    pub(crate) fn advance(&mut self, count: i32) {
        self.length += count;
    }

    /// Adds keys and values (`[1, kv_heads, count, head_dim]`) of layer `index` at the end, and gives all of them.
    pub(crate) fn extend(&mut self, index: usize, keys: &Array, values: &Array) -> Result<(Array, Array)> {
        let (start, end) = (self.length, self.length + keys.dim(2));
        let layer = match self.layers[index].take() {
            Some(layer) => layer.with_room_for(end)?,
            None => Layer { keys: room(keys, end)?, values: room(values, end)? },
        };
        let layer = self.layers[index].insert(layer);
        layer.keys.try_index_mut((.., .., start..end, ..), keys)?;
        layer.values.try_index_mut((.., .., start..end, ..), values)?;
        Ok((layer.keys.try_index((.., .., ..end, ..))?, layer.values.try_index((.., .., ..end, ..))?))
    }

    /// Every array, to be evaluated together.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.layers.iter().flatten().flat_map(|layer| [&layer.keys, &layer.values])
    }

    /// Bytes that the cache takes.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.arrays().map(|array| array.nbytes() as u64).sum()
    }
}

impl Layer {
    fn with_room_for(self, end: i32) -> Result<Self> {
        let missing = end - self.keys.dim(2);
        if missing <= 0 {
            return Ok(self);
        }
        let grown = |old: &Array| ops::concatenate(&[old, &room(old, missing)?], 2);
        Ok(Self { keys: grown(&self.keys)?, values: grown(&self.values)? })
    }
}

/// Zeroes for at least `positions` more, shaped and typed like `like` otherwise.
fn room(like: &Array, positions: i32) -> Result<Array> {
    let steps = positions.checked_add(STEP - 1).ok_or_else(|| Exception::custom("the KV cache is too long"))? / STEP;
    ops::zeros_dtype(&[1, like.dim(1), steps * STEP, like.dim(3)], like.dtype())
}
