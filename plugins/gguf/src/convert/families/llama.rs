//! Llama 1 to 3 and Mistral: rows of q and k interleaved, Llama 3's rope scaling as a tensor.

use super::decoder::{self, Decoder, PLAIN};
use super::{Family, GeneratedTensor, SpacePrefix, TensorRule};
use crate::gguf_file::Metadata;
use pajamas_hf_model::{Config, HfModel, RopeScaling};
use pajamas_plugin_api::Result;

/// See the module.
pub(super) struct Llama;

impl Family for Llama {
    fn architectures(&self) -> &'static [&'static str] {
        &["LlamaForCausalLM", "MistralForCausalLM"]
    }

    fn gguf_architecture(&self) -> &'static str {
        "llama"
    }

    fn tensors(&self, source: &HfModel) -> Result<Vec<TensorRule>> {
        let config = source.config();
        let sizes = (config.hidden_size()?, config.intermediate_size()?);
        let bias = config.flag("attention_bias");
        Decoder { qkv_bias: bias, output_bias: bias, interleave_q_k: true, ..PLAIN }.tensors(source, |layer, rules| {
            decoder::gated(rules, layer, ("mlp", ""), sizes, config.flag("mlp_bias"));
            Ok(())
        })
    }

    fn add_metadata(&self, config: &Config, metadata: &mut Metadata) -> Result<()> {
        add_sizes(config, metadata)
    }

    fn generated_tensors(&self, config: &Config) -> Result<Vec<GeneratedTensor>> {
        rope_factors(config)
    }

    fn space_prefix(&self) -> SpacePrefix {
        SpacePrefix::Configured
    }

    fn notes(&self, config: &Config) -> Vec<String> {
        sliding_window_note(config)
    }
}

/// What llama.cpp's `llama` has beyond other architectures.
pub(super) fn add_sizes(config: &Config, metadata: &mut Metadata) -> Result<()> {
    metadata.set("llama.vocab_size", config.vocabulary_size()? as u32);
    metadata.set("llama.rope.dimension_count", config.head_dim()? as u32);
    Ok(())
}

/// llama.cpp's `llama` sees everything at every layer.
pub(super) fn sliding_window_note(config: &Config) -> Vec<String> {
    let (window, context) = (config.number("sliding_window"), config.context_length());
    match (window, context) {
        (Ok(Some(window)), Ok(context)) if window < context => vec![format!(
            "the model's attention slides over {window} tokens, llama.cpp's sees all: texts longer than that differ"
        )],
        _ => Vec::new(),
    }
}

/// Llama 3's rope scaling, as the divisors of frequencies that it comes to.
fn rope_factors(config: &Config) -> Result<Vec<GeneratedTensor>> {
    let rope = config.rope()?;
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context_length } = rope.scaling
    else {
        return Ok(Vec::new());
    };
    let head_dim = config.head_dim()?;
    let original = original_context_length as f32;
    let values = (0..head_dim)
        .step_by(2)
        .map(|index| {
            // In single precision throughout, with divisions of constants done as products with reciprocals: the
            // same roundings as in PyTorch, so that the bytes are the same.
            let exponent = index as f32 / head_dim as f32;
            let power = rope.theta.powf(f64::from(exponent)) as f32;
            let frequency = power.recip();
            let wavelength = frequency.recip() * std::f64::consts::TAU as f32;
            if wavelength < (original_context_length as f64 / high_freq_factor) as f32 {
                1.0
            } else if wavelength > (original_context_length as f64 / low_freq_factor) as f32 {
                factor as f32
            } else {
                let span = (high_freq_factor - low_freq_factor) as f32;
                let smooth = (wavelength.recip() * original - low_freq_factor as f32) / span;
                ((1.0 - smooth) / factor as f32 + smooth).recip()
            }
        })
        .collect();
    Ok(vec![GeneratedTensor { target: "rope_freqs.weight".into(), values }])
}
