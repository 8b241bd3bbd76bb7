//! The transformer: one block, parametrized by the family, stacked.

use super::architecture::Architecture;
use super::cache::Cache;
use super::linear::{Embedding, Linear};
use super::rope::Rope;
use super::weights::Weights;
use mlx_rs::fast::{self, ScaledDotProductAttentionMask as Mask};
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype, ops};
use pajamas_plugin_api as api;

/// A model's layers, with their weights.
#[derive(Debug)]
pub(crate) struct Network {
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: Norm,
    /// None where the embedding is the output layer too.
    output: Option<Linear>,
}

/// Which positions' logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    None,
    Last,
    All,
}

#[derive(Debug)]
struct Block {
    attention_norm: Norm,
    attention: Attention,
    feed_forward_norm: Norm,
    feed_forward: FeedForward,
}

#[derive(Debug)]
struct Norm {
    weight: Array,
    epsilon: f32,
}

#[derive(Debug)]
struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    /// Of each head's queries and keys, in families that have it.
    head_norms: Option<(Norm, Norm)>,
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
    rope: Rope,
    window: Option<i32>,
}

#[derive(Debug)]
struct FeedForward {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Network {
    /// Takes every tensor out of `weights`.
    ///
    /// # Errors
    /// `InvalidModel` for tensors that are missing, misshapen or left over.
    pub(crate) fn new(architecture: &Architecture, mut weights: Weights) -> api::Result<Self> {
        let a = architecture;
        let embedding = weights.embedding("model.embed_tokens", a.vocabulary_size, a.hidden_size)?;
        let blocks = (0..a.layers).map(|index| Block::new(a, index, &mut weights)).collect::<api::Result<_>>()?;
        let norm = Norm::new("model.norm", a.hidden_size, a, &mut weights)?;
        let output =
            if a.tied { None } else { Some(weights.linear("lm_head", a.hidden_size, a.vocabulary_size, false)?) };
        weights.finish()?;
        Ok(Self { embedding, blocks, norm, output })
    }

    /// Processes `tokens` (`[1, count]`, u32) after what `cache` holds, and adds them to it. Gives the logits that are
    /// wanted: `[1, vocabulary]` of the last position, or `[count, vocabulary]`, in f32. Nothing is evaluated yet.
    pub(crate) fn forward(
        &self,
        tokens: &Array,
        cache: &mut Cache,
        rows: Rows,
    ) -> mlx_rs::error::Result<Option<Array>> {
        let count = tokens.dim(1);
        let mut x = self.embedding.forward(tokens)?;
        for (index, block) in self.blocks.iter().enumerate() {
            // The last block has to answer for the position that is wanted only; before it, all are looked at.
            let wanted = if rows == Rows::Last && index + 1 == self.blocks.len() { 1 } else { count };
            x = block.forward(&x, cache, index, wanted)?;
        }
        cache.advance(count);
        let x = match rows {
            Rows::None => return Ok(None),
            Rows::Last | Rows::All => x.try_index((0, .., ..))?,
        };
        let x = self.norm.forward(&x)?;
        let logits = match &self.output {
            Some(output) => output.forward(&x)?,
            None => self.embedding.as_output(&x)?,
        };
        Ok(Some(logits.as_dtype(Dtype::Float32)?))
    }
}

impl Block {
    fn new(a: &Architecture, index: usize, weights: &mut Weights) -> api::Result<Self> {
        let name = format!("model.layers.{index}");
        Ok(Self {
            attention_norm: Norm::new(&format!("{name}.input_layernorm"), a.hidden_size, a, weights)?,
            attention: Attention::new(a, index, &format!("{name}.self_attn"), weights)?,
            feed_forward_norm: Norm::new(&format!("{name}.post_attention_layernorm"), a.hidden_size, a, weights)?,
            feed_forward: FeedForward::new(a, &format!("{name}.mlp"), weights)?,
        })
    }

    /// `x` is `[1, count, hidden]`; the answer is that for the last `wanted` positions.
    fn forward(&self, x: &Array, cache: &mut Cache, index: usize, wanted: i32) -> mlx_rs::error::Result<Array> {
        let attended = self.attention.forward(&self.attention_norm.forward(x)?, cache, index, wanted)?;
        let x = last(x, wanted)?.add(attended)?;
        x.add(self.feed_forward.forward(&self.feed_forward_norm.forward(&x)?)?)
    }
}

impl Norm {
    fn new(name: &str, width: i32, a: &Architecture, weights: &mut Weights) -> api::Result<Self> {
        Ok(Self { weight: weights.vector(&format!("{name}.weight"), width)?, epsilon: a.rms_norm_epsilon })
    }

    fn forward(&self, x: &Array) -> mlx_rs::error::Result<Array> {
        fast::rms_norm(x, Some(&self.weight), self.epsilon)
    }
}

impl Attention {
    fn new(a: &Architecture, index: usize, name: &str, weights: &mut Weights) -> api::Result<Self> {
        let (queries, keys) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
        let head_norms = if a.qk_norm {
            let mut norm = |role| Norm::new(&format!("{name}.{role}"), a.head_dim, a, weights);
            Some((norm("q_norm")?, norm("k_norm")?))
        } else {
            None
        };
        Ok(Self {
            query: weights.linear(&format!("{name}.q_proj"), a.hidden_size, queries, a.qkv_bias)?,
            key: weights.linear(&format!("{name}.k_proj"), a.hidden_size, keys, a.qkv_bias)?,
            value: weights.linear(&format!("{name}.v_proj"), a.hidden_size, keys, a.qkv_bias)?,
            output: weights.linear(&format!("{name}.o_proj"), queries, a.hidden_size, a.output_bias)?,
            head_norms,
            heads: a.heads,
            kv_heads: a.kv_heads,
            head_dim: a.head_dim,
            rope: Rope::new(&a.rope, a.rope_factors.as_deref(), a.head_dim, a.rope_traditional),
            window: a.windows.get(index).copied().flatten(),
        })
    }

    /// `x` is `[1, count, hidden]`; the answer is that for the last `wanted` positions.
    fn forward(&self, x: &Array, cache: &mut Cache, index: usize, wanted: i32) -> mlx_rs::error::Result<Array> {
        // To [1, heads, positions, head_dim].
        let by_head = |x: Array, heads: i32| x.reshape(&[1, x.dim(1), heads, self.head_dim]);
        let (mut queries, mut keys) = (
            by_head(self.query.forward(&last(x, wanted)?)?, self.heads)?,
            by_head(self.key.forward(x)?, self.kv_heads)?,
        );
        if let Some((query_norm, key_norm)) = &self.head_norms {
            (queries, keys) = (query_norm.forward(&queries)?, key_norm.forward(&keys)?);
        }
        let values = by_head(self.value.forward(x)?, self.kv_heads)?.swap_axes(1, 2)?;
        let offset = cache.length();
        // Of the first position that is wanted.
        let first = offset + x.dim(1) - wanted;
        let queries = self.rope.forward(&queries.swap_axes(1, 2)?, first)?;
        let keys = self.rope.forward(&keys.swap_axes(1, 2)?, offset)?;
        let (keys, values) = cache.extend(index, &keys, &values)?;
        let scale = (self.head_dim as f32).powf(-0.5);
        let attend =
            |mask: Option<Mask<'_>>| fast::scaled_dot_product_attention(&queries, &keys, &values, scale, mask, None);
        let mixed = match self.window {
            Some(window) if first + wanted > window => attend(Some(Mask::Array(&window_mask(first, wanted, window)?)))?,
            // One query sees everything there is.
            _ if wanted == 1 => attend(None)?,
            _ => attend(Some(Mask::Causal))?,
        };
        self.output.forward(&mixed.swap_axes(1, 2)?.reshape(&[1, wanted, self.heads * self.head_dim])?)
    }
}

/// The last `count` positions of `x` (`[1, positions, width]`).
fn last(x: &Array, count: i32) -> mlx_rs::error::Result<Array> {
    match x.dim(1) - count {
        0 => Ok(x.clone()),
        others => x.try_index((.., others.., ..)),
    }
}

/// Which of the `offset + count` keys each of the last `count` queries sees: itself and the `window - 1` before it.
fn window_mask(offset: i32, count: i32, window: i32) -> mlx_rs::error::Result<Array> {
    let queries = ops::arange::<_, i32>(offset, offset + count, None)?.expand_dims(1)?;
    let keys = ops::arange::<_, i32>(0, offset + count, None)?.expand_dims(0)?;
    let distance = queries.subtract(&keys)?;
    distance.ge(Array::from_int(0))?.logical_and(distance.lt(Array::from_int(window))?)
}

impl FeedForward {
    fn new(a: &Architecture, name: &str, weights: &mut Weights) -> api::Result<Self> {
        let (hidden, inner) = (a.hidden_size, a.intermediate_size);
        Ok(Self {
            gate: weights.linear(&format!("{name}.gate_proj"), hidden, inner, a.mlp_bias)?,
            up: weights.linear(&format!("{name}.up_proj"), hidden, inner, a.mlp_bias)?,
            down: weights.linear(&format!("{name}.down_proj"), inner, hidden, a.mlp_bias)?,
        })
    }

    fn forward(&self, x: &Array) -> mlx_rs::error::Result<Array> {
        let gate = self.gate.forward(x)?;
        let activated = gate.multiply(ops::sigmoid(&gate)?)?;
        self.down.forward(&activated.multiply(self.up.forward(x)?)?)
    }
}
