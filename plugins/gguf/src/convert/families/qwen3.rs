//! Qwen3: no biases, the heads of q and k normalised.

use super::decoder::{self, Decoder, PLAIN};
use super::{Family, TensorRule, qwen2};
use pajamas_hf_model::{Config, HfModel};
use pajamas_plugin_api::Result;

/// See the module.
pub(super) struct Qwen3;

impl Family for Qwen3 {
    fn architectures(&self) -> &'static [&'static str] {
        &["Qwen3ForCausalLM"]
    }

    fn gguf_architecture(&self) -> &'static str {
        "qwen3"
    }

    fn tensors(&self, source: &HfModel) -> Result<Vec<TensorRule>> {
        let config = source.config();
        let sizes = (config.hidden_size()?, config.intermediate_size()?);
        let bias = config.flag("attention_bias");
        let decoder = Decoder { qkv_bias: bias, output_bias: bias, q_k_norms: true, ..PLAIN };
        decoder.tensors(source, |layer, rules| {
            decoder::gated(rules, layer, ("mlp", ""), sizes, false);
            Ok(())
        })
    }

    fn notes(&self, config: &Config) -> Vec<String> {
        qwen2::sliding_window_note(config)
    }
}
