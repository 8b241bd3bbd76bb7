//! Mixtral: a Llama whose feed-forward part has several experts.

use super::decoder::{Decoder, PLAIN};
use super::{Family, SpacePrefix, TensorRule, experts, llama};
use crate::gguf_file::Metadata;
use pajamas_hf_model::{Config, HfModel};
use pajamas_plugin_api::Result;

/// See the module.
pub(super) struct Mixtral;

const EXPERTS: u64 = 8;
const EXPERTS_USED: u64 = 2;

impl Family for Mixtral {
    fn architectures(&self) -> &'static [&'static str] {
        &["MixtralForCausalLM"]
    }

    fn gguf_architecture(&self) -> &'static str {
        "llama"
    }

    fn tensors(&self, source: &HfModel) -> Result<Vec<TensorRule>> {
        let config = source.config();
        let (hidden, wide) = (config.hidden_size()?, config.intermediate_size()?);
        let count = experts::count(config, &["num_local_experts"], EXPERTS)?;
        Decoder { interleave_q_k: true, ..PLAIN }.tensors(source, |layer, rules| {
            let prefix = format!("model.layers.{layer}.block_sparse_moe");
            let router = format!("blk.{layer}.ffn_gate_inp.weight");
            rules.push(TensorRule::plain(format!("{prefix}.gate.weight"), router, &[count, hidden]));
            let targets = [
                ("w1", "ffn_gate_exps", [wide, hidden]),
                ("w2", "ffn_down_exps", [hidden, wide]),
                ("w3", "ffn_up_exps", [wide, hidden]),
            ];
            experts::separate(rules, layer, count, &targets, |expert, matrix| {
                format!("{prefix}.experts.{expert}.{matrix}.weight")
            });
            Ok(())
        })
    }

    fn experts(&self, config: &Config) -> Result<Option<(u64, u64)>> {
        let used = config.number("num_experts_per_tok")?.unwrap_or(EXPERTS_USED);
        Ok(Some((experts::count(config, &["num_local_experts"], EXPERTS)?, used)))
    }

    fn add_metadata(&self, config: &Config, metadata: &mut Metadata) -> Result<()> {
        llama::add_sizes(config, metadata)
    }

    fn space_prefix(&self) -> SpacePrefix {
        SpacePrefix::Configured
    }

    fn notes(&self, config: &Config) -> Vec<String> {
        llama::sliding_window_note(config)
    }
}
