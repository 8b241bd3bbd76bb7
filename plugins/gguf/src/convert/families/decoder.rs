//! The decoder that Llama introduced and most families share, with the switches in which they differ.

use super::TensorRule;
use crate::rows::Arrangement;
use pajamas_hf_model::{Config, HfModel};
use pajamas_plugin_api::{Error, Result};

/// How the common decoder differs from family to family.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decoder {
    /// Whether q, k and v have biases.
    pub(super) qkv_bias: bool,
    /// Whether the attention's output has a bias.
    pub(super) output_bias: bool,
    /// Whether the rows of q and k are interleaved.
    pub(super) interleave_q_k: bool,
    /// Whether the heads of q and k are normalised.
    pub(super) q_k_norms: bool,
    /// Whether q, k and v are one tensor.
    pub(super) fused_qkv: bool,
    /// Norms of a block, by their names in the checkpoint and in the file.
    pub(super) norms: &'static [(&'static str, &'static str)],
    /// Whether norms are stored one too small.
    pub(super) norms_plus_one: bool,
}

/// What most families have.
pub(super) const PLAIN: Decoder = Decoder {
    qkv_bias: false,
    output_bias: false,
    interleave_q_k: false,
    q_k_norms: false,
    fused_qkv: false,
    norms: &[("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")],
    norms_plus_one: false,
};

/// The largest number of blocks: a damaged file must not make it enormous.
const LAYERS_MAX: u64 = 4096;

impl Decoder {
    /// Everything but the feed-forward part, which `feed_forward` adds for each block.
    pub(super) fn tensors(
        self,
        source: &HfModel,
        mut feed_forward: impl FnMut(u64, &mut Vec<TensorRule>) -> Result<()>,
    ) -> Result<Vec<TensorRule>> {
        let config = source.config();
        let (hidden, vocabulary) = (config.hidden_size()?, config.vocabulary_size()?);
        let head_dim = config.head_dim()?;
        let (heads, kv_heads) = (config.attention_heads()?, config.key_value_heads()?);
        let (q, kv) = (width(config, heads)?, width(config, kv_heads)?);
        if self.interleave_q_k && head_dim % 2 != 0 {
            return Err(Error::invalid_model(format!(
                "`{}` has heads of odd size {head_dim}",
                config.path().display()
            )));
        }
        let mut rules = vec![
            TensorRule::plain("model.embed_tokens.weight", "token_embd.weight", &[vocabulary, hidden]),
            self.norm("model.norm.weight", "output_norm.weight", hidden),
        ];
        // With tied embeddings, llama.cpp takes the embedding for the output, and a stored copy is left out.
        let tied = config.tied_embeddings();
        let output = TensorRule::plain("lm_head.weight", "output.weight", &[vocabulary, hidden]);
        let target = output.target.clone().filter(|_| !tied);
        rules.push(TensorRule { target, required: !tied, ..output });

        let heads_of = |heads| if self.interleave_q_k { Arrangement::Heads(heads) } else { Arrangement::Plain };
        for layer in 0..checked_layers(config)? {
            let (from, to) = (format!("model.layers.{layer}"), format!("blk.{layer}"));
            for (name, target) in self.norms {
                rules.push(self.norm(&format!("{from}.{name}.weight"), &format!("{to}.{target}.weight"), hidden));
            }
            if self.q_k_norms {
                for (name, target) in [("q_norm", "attn_q_norm"), ("k_norm", "attn_k_norm")] {
                    let name = format!("{from}.self_attn.{name}.weight");
                    rules.push(self.norm(&name, &format!("{to}.{target}.weight"), head_dim));
                }
            }
            // (name, name in the file, rows, columns, whether it has a bias, arrangement)
            let separate = [
                ("q_proj", "attn_q", q, hidden, self.qkv_bias, heads_of(heads)),
                ("k_proj", "attn_k", kv, hidden, self.qkv_bias, heads_of(kv_heads)),
                ("v_proj", "attn_v", kv, hidden, self.qkv_bias, Arrangement::Plain),
            ];
            let fused = [("qkv_proj", "attn_qkv", q + 2 * kv, hidden, self.qkv_bias, Arrangement::Plain)];
            let output = [("o_proj", "attn_output", hidden, q, self.output_bias, Arrangement::Plain)];
            let qkv = if self.fused_qkv { &fused[..] } else { &separate[..] };
            for (name, target, rows, columns, bias, arrangement) in qkv.iter().chain(&output) {
                let (name, target) = (format!("{from}.self_attn.{name}"), format!("{to}.{target}"));
                linear(&mut rules, &name, &target, [*rows, *columns], *bias, *arrangement);
            }
            feed_forward(layer, &mut rules)?;
        }
        Ok(rules)
    }

    fn norm(self, source: &str, target: &str, size: u64) -> TensorRule {
        let arrangement = if self.norms_plus_one { Arrangement::PlusOne } else { Arrangement::Plain };
        TensorRule { arrangement, ..TensorRule::plain(source, target, &[size]) }
    }
}

/// Adds a matrix of `[rows, columns]` and, where it has one, its bias.
pub(super) fn linear(
    rules: &mut Vec<TensorRule>,
    source: &str,
    target: &str,
    shape: [u64; 2],
    bias: bool,
    arrangement: Arrangement,
) {
    let part = |part: &str, shape: &[u64]| TensorRule {
        arrangement,
        ..TensorRule::plain(format!("{source}.{part}"), format!("{target}.{part}"), shape)
    };
    rules.push(part("weight", &shape));
    if bias {
        rules.push(part("bias", &shape[..1]));
    }
}

/// The feed-forward part of three matrices: `prefix` leads to them in the checkpoint, `suffix` ends their names in the
/// file (`""`, `"_shexp"`).
pub(super) fn gated(
    rules: &mut Vec<TensorRule>,
    layer: u64,
    (prefix, suffix): (&str, &str),
    (hidden, wide): (u64, u64),
    bias: bool,
) {
    for (name, target, shape) in [
        ("gate_proj", "ffn_gate", [wide, hidden]),
        ("up_proj", "ffn_up", [wide, hidden]),
        ("down_proj", "ffn_down", [hidden, wide]),
    ] {
        let source = format!("model.layers.{layer}.{prefix}.{name}");
        linear(rules, &source, &format!("blk.{layer}.{target}{suffix}"), shape, bias, Arrangement::Plain);
    }
}

/// The width of `heads` heads.
fn width(config: &Config, heads: u64) -> Result<u64> {
    let width = heads.checked_mul(config.head_dim()?).filter(|width| *width <= u64::from(u32::MAX));
    width.ok_or_else(|| {
        Error::invalid_model(format!("`{}` describes heads of an impossible size", config.path().display()))
    })
}

/// The number of layers, which a damaged file must not make enormous.
fn checked_layers(config: &Config) -> Result<u64> {
    let layers = config.layers()?;
    if layers > LAYERS_MAX {
        let path = config.path().display();
        return Err(Error::invalid_model(format!("`{path}` claims {layers} layers, at most {LAYERS_MAX} are allowed")));
    }
    Ok(layers)
}
