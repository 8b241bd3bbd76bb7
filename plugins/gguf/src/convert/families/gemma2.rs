//! Gemma 2: norms around both parts of a block and stored one too small, logits softly capped.

use super::decoder::{self, Decoder, PLAIN};
use super::{Family, SpacePrefix, TensorRule};
use crate::gguf_file::Metadata;
use pajamas_hf_model::{Config, HfModel};
use pajamas_plugin_api::Result;

/// See the module.
pub(super) struct Gemma2;

/// The four norms of a block.
pub(super) const NORMS: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

impl Family for Gemma2 {
    fn architectures(&self) -> &'static [&'static str] {
        &["Gemma2ForCausalLM"]
    }

    fn gguf_architecture(&self) -> &'static str {
        "gemma2"
    }

    fn activation(&self) -> (&'static str, &'static [&'static str]) {
        ("hidden_activation", &["gelu_pytorch_tanh"])
    }

    fn tensors(&self, source: &HfModel) -> Result<Vec<TensorRule>> {
        let config = source.config();
        let sizes = (config.hidden_size()?, config.intermediate_size()?);
        Decoder { norms: NORMS, norms_plus_one: true, ..PLAIN }.tensors(source, |layer, rules| {
            decoder::gated(rules, layer, ("mlp", ""), sizes, false);
            Ok(())
        })
    }

    fn add_hyper_parameters(
        &self,
        config: &Config,
        file_type: u32,
        metadata: &mut Metadata,
        _notes: &mut Vec<String>,
    ) -> Result<()> {
        let head_dim = config.head_dim()?;
        let counts = [
            ("context_length", config.context_length()?),
            ("embedding_length", config.hidden_size()?),
            ("block_count", config.layers()?),
            ("feed_forward_length", config.intermediate_size()?),
            ("attention.head_count", config.attention_heads()?),
            ("attention.head_count_kv", config.key_value_heads()?),
        ];
        for (name, count) in counts {
            metadata.set(format!("gemma2.{name}"), count as u32);
        }
        metadata.set("gemma2.attention.layer_norm_rms_epsilon", config.rms_norm_epsilon()? as f32);
        metadata.set("gemma2.attention.key_length", head_dim as u32);
        metadata.set("gemma2.attention.value_length", head_dim as u32);
        metadata.set("general.file_type", file_type);
        Ok(())
    }

    fn add_metadata(&self, config: &Config, metadata: &mut Metadata) -> Result<()> {
        let cap = |key, default| config.float(key).unwrap_or(default) as f32;
        metadata.set("gemma2.attn_logit_softcapping", cap("attn_logit_softcapping", 50.0));
        metadata.set("gemma2.final_logit_softcapping", cap("final_logit_softcapping", 30.0));
        let window = config.number("sliding_window")?.unwrap_or(4096);
        metadata.set("gemma2.attention.sliding_window", window as u32);
        Ok(())
    }

    fn space_prefix(&self) -> SpacePrefix {
        SpacePrefix::Never
    }
}
