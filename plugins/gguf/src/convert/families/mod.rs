//! The architectures that can be converted. A further one is one small file here and one line in [`FAMILIES`].

mod llama;
mod qwen2;

use crate::gguf_file::Metadata;
use pajamas_hf_model::Config;
use pajamas_plugin_api::{Error, Result};

/// Every family, in the order in which errors list them.
pub const FAMILIES: [&dyn Family; 2] = [&llama::Llama, &qwen2::Qwen2];

/// What is particular to an architecture.
pub trait Family: Sync {
    /// The values of `architectures` in `config.json` that it serves.
    fn architectures(&self) -> &'static [&'static str];

    /// llama.cpp's name for it.
    fn gguf_architecture(&self) -> &'static str;

    /// Every tensor that a checkpoint has or may have.
    fn tensors(&self, config: &Config) -> Result<Vec<TensorRule>>;

    /// Metadata beyond what all architectures have.
    fn add_metadata(&self, _config: &Config, _metadata: &mut Metadata) -> Result<()> {
        Ok(())
    }

    /// Tensors that are computed from the configuration; they come first in the file.
    fn generated_tensors(&self, _config: &Config) -> Result<Vec<GeneratedTensor>> {
        Ok(Vec::new())
    }

    /// Whether the file says if text gets a space in front (`tokenizer.ggml.add_space_prefix`).
    fn says_space_prefix(&self) -> bool {
        false
    }

    /// Things a user should know about this model.
    fn notes(&self, _config: &Config) -> Vec<String> {
        Vec::new()
    }
}

/// What a checkpoint's tensor becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorRule {
    /// Its name in the checkpoint.
    pub source: String,
    /// Its name in the file; none leaves it out.
    pub target: Option<String>,
    /// Its shape in the checkpoint, outermost dimension first.
    pub shape: Vec<u64>,
    /// Whether a checkpoint without it is incomplete.
    pub required: bool,
    /// The heads whose rows are interleaved, where llama.cpp rotates neighbours and transformers rotates halves.
    pub interleave_heads: Option<u64>,
}

/// A tensor that is computed.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratedTensor {
    /// Its name in the file.
    pub target: String,
    /// Its elements, one-dimensional.
    pub values: Vec<f32>,
}

/// The family of a model.
pub fn find(config: &Config) -> Result<&'static dyn Family> {
    let architecture = config.architecture()?;
    FAMILIES.into_iter().find(|family| family.architectures().contains(&architecture)).ok_or_else(|| {
        let known: Vec<&str> = FAMILIES.iter().flat_map(|family| family.architectures()).copied().collect();
        Error::unsupported(format!("architecture `{}` cannot be converted", architecture.escape_debug()))
            .with_hint(format!("supported are {}; for others, start from a GGUF file made elsewhere", known.join(", ")))
    })
}

/// How the common decoder differs from family to family.
#[derive(Debug, Clone, Copy)]
struct DecoderTraits {
    /// Whether q, k and v have biases.
    qkv_bias: bool,
    /// Whether the attention's output has a bias.
    output_bias: bool,
    /// Whether the feed-forward matrices have biases.
    feed_forward_bias: bool,
    /// Whether the rows of q and k are interleaved.
    interleave_q_k: bool,
}

/// The tensors of the decoder that Llama introduced and most families share.
fn decoder_tensors(config: &Config, traits: DecoderTraits) -> Result<Vec<TensorRule>> {
    let (hidden, wide) = (config.hidden_size()?, config.intermediate_size()?);
    let (heads, kv_heads) = (config.attention_heads()?, config.key_value_heads()?);
    let head_dim = config.head_dim()?;
    let size = |heads: u64| {
        heads.checked_mul(head_dim).ok_or_else(|| {
            Error::invalid_model(format!("`{}` describes heads of an impossible size", config.path().display()))
        })
    };
    let (q, kv) = (size(heads)?, size(kv_heads)?);
    let vocabulary = config.vocabulary_size()?;
    if traits.interleave_q_k && head_dim % 2 != 0 {
        return Err(Error::invalid_model(format!("`{}` has heads of odd size {head_dim}", config.path().display())));
    }

    let mut rules = vec![
        rule("model.embed_tokens.weight", Some("token_embd.weight"), &[vocabulary, hidden]),
        rule("model.norm.weight", Some("output_norm.weight"), &[hidden]),
    ];
    // With tied embeddings, llama.cpp takes the embedding for the output, and a stored copy is left out.
    let tied = config.tied_embeddings();
    let output = rule("lm_head.weight", (!tied).then_some("output.weight"), &[vocabulary, hidden]);
    rules.push(TensorRule { required: !tied, ..output });

    // (name, name in the file, rows, columns, whether it has a bias, heads)
    let interleave = |heads: u64| traits.interleave_q_k.then_some(heads);
    let matrices = [
        ("self_attn.q_proj", "attn_q", q, hidden, traits.qkv_bias, interleave(heads)),
        ("self_attn.k_proj", "attn_k", kv, hidden, traits.qkv_bias, interleave(kv_heads)),
        ("self_attn.v_proj", "attn_v", kv, hidden, traits.qkv_bias, None),
        ("self_attn.o_proj", "attn_output", hidden, q, traits.output_bias, None),
        ("mlp.gate_proj", "ffn_gate", wide, hidden, traits.feed_forward_bias, None),
        ("mlp.up_proj", "ffn_up", wide, hidden, traits.feed_forward_bias, None),
        ("mlp.down_proj", "ffn_down", hidden, wide, traits.feed_forward_bias, None),
    ];
    for layer in 0..checked_layers(config)? {
        for (name, target) in [("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")] {
            rules.push(rule(
                &format!("model.layers.{layer}.{name}.weight"),
                Some(&format!("blk.{layer}.{target}.weight")),
                &[hidden],
            ));
        }
        for (name, target, rows, columns, bias, interleave_heads) in matrices {
            let part = |part: &str, shape: &[u64]| TensorRule {
                interleave_heads,
                ..rule(
                    &format!("model.layers.{layer}.{name}.{part}"),
                    Some(&format!("blk.{layer}.{target}.{part}")),
                    shape,
                )
            };
            rules.push(part("weight", &[rows, columns]));
            if bias {
                rules.push(part("bias", &[rows]));
            }
        }
    }
    Ok(rules)
}

/// The number of layers, which a damaged file must not make enormous.
fn checked_layers(config: &Config) -> Result<u64> {
    const LAYERS_MAX: u64 = 4096;
    let layers = config.layers()?;
    if layers > LAYERS_MAX {
        let path = config.path().display();
        return Err(Error::invalid_model(format!("`{path}` claims {layers} layers, at most {LAYERS_MAX} are allowed")));
    }
    Ok(layers)
}

fn rule(source: &str, target: Option<&str>, shape: &[u64]) -> TensorRule {
    TensorRule {
        source: source.to_owned(),
        target: target.map(str::to_owned),
        shape: shape.to_vec(),
        required: true,
        interleave_heads: None,
    }
}
