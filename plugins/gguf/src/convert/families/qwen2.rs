//! Qwen2 and Qwen2.5: biases on q, k and v, rows in transformers' order.

use super::{DecoderTraits, Family, TensorRule, decoder_tensors};
use pajamas_hf_model::Config;
use pajamas_plugin_api::Result;

/// See the module.
pub(super) struct Qwen2;

impl Family for Qwen2 {
    fn architectures(&self) -> &'static [&'static str] {
        &["Qwen2ForCausalLM"]
    }

    fn gguf_architecture(&self) -> &'static str {
        "qwen2"
    }

    fn tensors(&self, config: &Config) -> Result<Vec<TensorRule>> {
        let traits =
            DecoderTraits { qkv_bias: true, output_bias: false, feed_forward_bias: false, interleave_q_k: false };
        decoder_tensors(config, traits)
    }

    fn notes(&self, config: &Config) -> Vec<String> {
        if !config.flag("use_sliding_window") {
            return Vec::new();
        }
        vec![
            "the model asks for sliding-window attention, which llama.cpp's qwen2 does not have: long texts differ"
                .into(),
        ]
    }
}
