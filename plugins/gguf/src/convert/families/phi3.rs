//! Phi-3 and Phi-3.5: q, k and v in one tensor, gate and up in one, LongRoPE's divisors as tensors.

use super::decoder::{Decoder, PLAIN, linear};
use super::{Family, GeneratedTensor, TensorRule};
use crate::gguf_file::Metadata;
use crate::rows::Arrangement;
use pajamas_hf_model::{Config, HfModel, RopeScaling};
use pajamas_plugin_api::{Error, Result};

/// See the module.
pub(super) struct Phi3;

/// Tokens of context before stretching, where the configuration does not say.
const ORIGINAL_CONTEXT_LENGTH: u64 = 4096;

impl Family for Phi3 {
    fn architectures(&self) -> &'static [&'static str] {
        &["Phi3ForCausalLM"]
    }

    fn gguf_architecture(&self) -> &'static str {
        "phi3"
    }

    fn tensors(&self, source: &HfModel) -> Result<Vec<TensorRule>> {
        let config = source.config();
        let (hidden, wide) = (config.hidden_size()?, config.intermediate_size()?);
        Decoder { fused_qkv: true, ..PLAIN }.tensors(source, |layer, rules| {
            let (from, to) = (format!("model.layers.{layer}.mlp"), format!("blk.{layer}"));
            let (up, down) = (format!("{from}.gate_up_proj"), format!("{from}.down_proj"));
            linear(rules, &up, &format!("{to}.ffn_up"), [2 * wide, hidden], false, Arrangement::Plain);
            linear(rules, &down, &format!("{to}.ffn_down"), [hidden, wide], false, Arrangement::Plain);
            Ok(())
        })
    }

    fn add_leading_metadata(&self, config: &Config, metadata: &mut Metadata) -> Result<()> {
        let rope = config.rope()?;
        if let RopeScaling::LongRope { long_factors, .. } = &rope.scaling
            && !long_factors.is_empty()
        {
            let original = original_context_length(config)? as f64;
            if original < 2.0 {
                return Err(Error::invalid_model(format!(
                    "`{}` stretches a context of {original} tokens",
                    config.path().display()
                )));
            }
            let scale = config.context_length()? as f64 / original;
            let factor = if scale > 1.0 { (1.0 + scale.ln() / original.ln()).sqrt() } else { 1.0 };
            metadata.set("phi3.rope.scaling.attn_factor", factor as f32);
        }
        Ok(())
    }

    fn add_hyper_parameters(
        &self,
        config: &Config,
        file_type: u32,
        metadata: &mut Metadata,
        _notes: &mut Vec<String>,
    ) -> Result<()> {
        let rope = config.rope()?;
        if !matches!(rope.scaling, RopeScaling::None | RopeScaling::LongRope { .. }) {
            return Err(super::super::metadata::unknown_scaling(config, rope.scaling.name(), "phi3"));
        }
        let counts = [
            ("context_length", config.context_length()?),
            ("rope.scaling.original_context_length", original_context_length(config)?),
            ("embedding_length", config.hidden_size()?),
            ("feed_forward_length", config.intermediate_size()?),
            ("block_count", config.layers()?),
            ("attention.head_count", config.attention_heads()?),
            ("attention.head_count_kv", config.key_value_heads()?),
        ];
        for (name, count) in counts {
            metadata.set(format!("phi3.{name}"), count as u32);
        }
        metadata.set("phi3.attention.layer_norm_rms_epsilon", config.rms_norm_epsilon()? as f32);
        metadata.set("phi3.rope.dimension_count", rotated(config)? as u32);
        metadata.set("phi3.rope.freq_base", rope.theta as f32);
        metadata.set("general.file_type", file_type);
        // Without a window, zero tells Phi-4 from the others.
        metadata.set("phi3.attention.sliding_window", config.number("sliding_window")?.unwrap_or(0) as u32);
        Ok(())
    }

    fn generated_tensors(&self, config: &Config) -> Result<Vec<GeneratedTensor>> {
        let RopeScaling::LongRope { short_factors, long_factors, .. } = config.rope()?.scaling else {
            return Ok(Vec::new());
        };
        let pairs = rotated(config)? as usize / 2;
        let tensors = [("rope_factors_long.weight", long_factors), ("rope_factors_short.weight", short_factors)];
        let generated = tensors.into_iter().map(|(target, factors)| {
            if factors.len() != pairs {
                return Err(Error::invalid_model(format!(
                    "`{}` has {} factors for {pairs} pairs of dimensions in its rope scaling",
                    config.path().display(),
                    factors.len()
                )));
            }
            Ok(GeneratedTensor { target: target.into(), values: factors.iter().map(|factor| *factor as f32).collect() })
        });
        generated.collect()
    }

    fn mends_added_tokens(&self) -> bool {
        false
    }
}

/// Dimensions of a head that are rotated.
fn rotated(config: &Config) -> Result<u64> {
    let factor = config.partial_rotary_factor();
    if !(factor > 0.0 && factor <= 1.0) {
        return Err(Error::invalid_model(format!(
            "`{}`: `partial_rotary_factor` is {factor}, a part of a head was expected",
            config.path().display()
        )));
    }
    Ok((factor * config.hidden_size()? as f64) as u64 / config.attention_heads()?)
}

fn original_context_length(config: &Config) -> Result<u64> {
    if let RopeScaling::LongRope { original_context_length, .. } = config.rope()?.scaling {
        return Ok(original_context_length);
    }
    Ok(config.number("original_max_position_embeddings")?.unwrap_or(ORIGINAL_CONTEXT_LENGTH))
}
