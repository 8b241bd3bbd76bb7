//! Qwen2 and Qwen2.5: biases on q, k and v, rows in transformers' order.

use super::decoder::{self, Decoder, PLAIN};
use super::{Family, TensorRule};
use pajamas_hf_model::{Config, HfModel};
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

    fn tensors(&self, source: &HfModel) -> Result<Vec<TensorRule>> {
        let config = source.config();
        let sizes = (config.hidden_size()?, config.intermediate_size()?);
        Decoder { qkv_bias: true, ..PLAIN }.tensors(source, |layer, rules| {
            decoder::gated(rules, layer, ("mlp", ""), sizes, false);
            Ok(())
        })
    }

    fn notes(&self, config: &Config) -> Vec<String> {
        sliding_window_note(config)
    }
}

/// llama.cpp's Qwen architectures see everything at every layer.
pub(super) fn sliding_window_note(config: &Config) -> Vec<String> {
    if !config.flag("use_sliding_window") {
        return Vec::new();
    }
    vec!["the model asks for sliding-window attention, which llama.cpp does not have for it: long texts differ".into()]
}
