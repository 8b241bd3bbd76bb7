//! Qwen3-MoE: Qwen3 with experts.

use super::decoder::{Decoder, PLAIN};
use super::{Family, TensorRule, experts, qwen2, qwen2_moe};
use crate::gguf_file::Metadata;
use pajamas_hf_model::{Config, HfModel};
use pajamas_plugin_api::Result;

/// See the module.
pub(super) struct Qwen3Moe;

const EXPERTS: u64 = 128;
const EXPERTS_USED: u64 = 8;
const EXPERT_WIDTH: u64 = 768;

impl Family for Qwen3Moe {
    fn architectures(&self) -> &'static [&'static str] {
        &["Qwen3MoeForCausalLM"]
    }

    fn gguf_architecture(&self) -> &'static str {
        "qwen3moe"
    }

    fn tensors(&self, source: &HfModel) -> Result<Vec<TensorRule>> {
        let config = source.config();
        qwen2_moe::refuse_dense_layers(config)?;
        let hidden = config.hidden_size()?;
        let wide = config.number("moe_intermediate_size")?.unwrap_or(EXPERT_WIDTH);
        let count = experts::count(config, &["num_local_experts", "num_experts"], EXPERTS)?;
        let fused = source.tensor("model.layers.0.mlp.experts.gate_up_proj").is_some();
        let bias = config.flag("attention_bias");
        let decoder = Decoder { qkv_bias: bias, output_bias: bias, q_k_norms: true, ..PLAIN };
        decoder.tensors(source, |layer, rules| {
            let router = format!("blk.{layer}.ffn_gate_inp.weight");
            rules.push(TensorRule::plain(format!("model.layers.{layer}.mlp.gate.weight"), router, &[count, hidden]));
            experts::qwen(rules, layer, count, (hidden, wide), fused);
            Ok(())
        })
    }

    fn experts(&self, config: &Config) -> Result<Option<(u64, u64)>> {
        let used = config.number("num_experts_per_tok")?.unwrap_or(EXPERTS_USED);
        Ok(Some((experts::count(config, &["num_local_experts", "num_experts"], EXPERTS)?, used)))
    }

    fn add_metadata(&self, config: &Config, metadata: &mut Metadata) -> Result<()> {
        let width = config.number("moe_intermediate_size")?.unwrap_or(EXPERT_WIDTH);
        metadata.set("qwen3moe.expert_feed_forward_length", width as u32);
        Ok(())
    }

    fn reads_sentencepiece(&self) -> bool {
        false
    }

    fn notes(&self, config: &Config) -> Vec<String> {
        qwen2::sliding_window_note(config)
    }
}
