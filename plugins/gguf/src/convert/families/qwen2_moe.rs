//! Qwen1.5-MoE and Qwen2-MoE: Qwen2 with experts, and one expert that every token goes through.

use super::decoder::{self, Decoder, PLAIN};
use super::{Family, TensorRule, experts, qwen2};
use crate::gguf_file::Metadata;
use pajamas_hf_model::{Config, HfModel};
use pajamas_plugin_api::{Error, Result};

/// See the module.
pub(super) struct Qwen2Moe;

const EXPERTS: u64 = 60;
const EXPERTS_USED: u64 = 4;
const EXPERT_WIDTH: u64 = 1408;
const SHARED_WIDTH: u64 = 5632;

impl Family for Qwen2Moe {
    fn architectures(&self) -> &'static [&'static str] {
        &["Qwen2MoeForCausalLM"]
    }

    fn gguf_architecture(&self) -> &'static str {
        "qwen2moe"
    }

    fn tensors(&self, source: &HfModel) -> Result<Vec<TensorRule>> {
        let config = source.config();
        refuse_dense_layers(config)?;
        let hidden = config.hidden_size()?;
        let wide = config.number("moe_intermediate_size")?.unwrap_or(EXPERT_WIDTH);
        let shared = config.number("shared_expert_intermediate_size")?.unwrap_or(SHARED_WIDTH);
        let count = experts::count(config, &["num_local_experts", "num_experts"], EXPERTS)?;
        let fused = source.tensor("model.layers.0.mlp.experts.gate_up_proj").is_some();
        Decoder { qkv_bias: true, ..PLAIN }.tensors(source, |layer, rules| {
            let (from, to) = (format!("model.layers.{layer}.mlp"), format!("blk.{layer}"));
            let plain = |source: &str, target: &str, shape: &[u64]| {
                TensorRule::plain(format!("{from}.{source}.weight"), format!("{to}.{target}.weight"), shape)
            };
            rules.push(plain("gate", "ffn_gate_inp", &[count, hidden]));
            rules.push(plain("shared_expert_gate", "ffn_gate_inp_shexp", &[1, hidden]));
            decoder::gated(rules, layer, ("mlp.shared_expert", "_shexp"), (hidden, shared), false);
            experts::qwen(rules, layer, count, (hidden, wide), fused);
            Ok(())
        })
    }

    fn experts(&self, config: &Config) -> Result<Option<(u64, u64)>> {
        let used = config.number("num_experts_per_tok")?.unwrap_or(EXPERTS_USED);
        Ok(Some((experts::count(config, &["num_local_experts", "num_experts"], EXPERTS)?, used)))
    }

    fn add_metadata(&self, config: &Config, metadata: &mut Metadata) -> Result<()> {
        let width = |key, default| config.number(key).map(|width| width.unwrap_or(default) as u32);
        metadata.set("qwen2moe.expert_feed_forward_length", width("moe_intermediate_size", EXPERT_WIDTH)?);
        let shared = width("shared_expert_intermediate_size", SHARED_WIDTH)?;
        metadata.set("qwen2moe.expert_shared_feed_forward_length", shared);
        Ok(())
    }

    fn reads_sentencepiece(&self) -> bool {
        false
    }

    fn notes(&self, config: &Config) -> Vec<String> {
        qwen2::sliding_window_note(config)
    }
}

/// llama.cpp knows these architectures with experts in every layer only.
pub(super) fn refuse_dense_layers(config: &Config) -> Result<()> {
    let step = config.number("decoder_sparse_step")?.unwrap_or(1);
    let dense = config.raw().get("mlp_only_layers").and_then(|layers| layers.as_array()).map_or(0, Vec::len);
    if step == 1 && dense == 0 {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "`{}` describes layers without experts (`decoder_sparse_step`, `mlp_only_layers`), which llama.cpp does not know",
        config.path().display()
    )))
}
