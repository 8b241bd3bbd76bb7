//! gpt-oss: experts with biases, gate and up interleaved in one tensor, attention sinks. Published with experts in MXFP4,
//! whose bits are kept.

use super::decoder::{Decoder, PLAIN, linear};
use super::{Family, Part, TensorRule, experts};
use crate::gguf_file::{GgmlType, Metadata};
use crate::rows::Arrangement;
use pajamas_hf_model::{Config, HfModel};
use pajamas_plugin_api::{Error, Result};

/// See the module.
pub(super) struct GptOss;

const EXPERTS: u64 = 128;
const EXPERTS_USED: u64 = 4;
const NORMS: &[(&str, &str)] = &[("input_layernorm", "attn_norm"), ("post_attention_layernorm", "post_attention_norm")];

impl Family for GptOss {
    fn architectures(&self) -> &'static [&'static str] {
        &["GptOssForCausalLM"]
    }

    fn gguf_architecture(&self) -> &'static str {
        "gpt-oss"
    }

    fn tensors(&self, source: &HfModel) -> Result<Vec<TensorRule>> {
        let config = source.config();
        let (hidden, wide, heads) = (config.hidden_size()?, config.intermediate_size()?, config.attention_heads()?);
        let count = experts::count(config, &["num_local_experts"], EXPERTS)?;
        let mxfp4 = source.tensor("model.layers.0.mlp.experts.down_proj_blocks").is_some();
        let sizes = Experts { count, hidden, wide };
        if mxfp4 && [hidden, wide].iter().any(|size| size % GgmlType::MXFP4.block_size != 0) {
            return Err(Error::invalid_model(format!(
                "`{}` gives sizes that MXFP4's blocks of 32 do not divide",
                config.path().display()
            )));
        }
        Decoder { qkv_bias: true, output_bias: true, norms: NORMS, ..PLAIN }.tensors(source, |layer, rules| {
            let (from, to) = (format!("model.layers.{layer}"), format!("blk.{layer}"));
            let sinks = format!("{to}.attn_sinks.weight");
            rules.push(TensorRule::plain(format!("{from}.self_attn.sinks"), sinks, &[heads]));
            let (router, gate) = (format!("{from}.mlp.router"), format!("{to}.ffn_gate_inp"));
            linear(rules, &router, &gate, [count, hidden], true, Arrangement::Plain);
            sizes.biases(layer, rules);
            if mxfp4 {
                sizes.mxfp4(layer, rules)
            } else {
                sizes.floats(layer, rules)
            }
            Ok(())
        })
    }

    fn experts(&self, config: &Config) -> Result<Option<(u64, u64)>> {
        let used = config.number("num_experts_per_tok")?.or(config.number("experts_per_token")?);
        Ok(Some((experts::count(config, &["num_local_experts"], EXPERTS)?, used.unwrap_or(EXPERTS_USED))))
    }

    fn add_metadata(&self, config: &Config, metadata: &mut Metadata) -> Result<()> {
        metadata.set("gpt-oss.attention.sliding_window", config.number("sliding_window")?.unwrap_or(128) as u32);
        metadata.set("gpt-oss.expert_feed_forward_length", config.intermediate_size()? as u32);
        Ok(())
    }

    fn reads_sentencepiece(&self) -> bool {
        false
    }
}

/// The sizes of a layer's experts.
#[derive(Clone, Copy)]
struct Experts {
    count: u64,
    hidden: u64,
    wide: u64,
}

/// Gate and up, by the place of the first of them where they alternate.
const GATE_AND_UP: [(&str, u64); 2] = [("ffn_gate_exps", 0), ("ffn_up_exps", 1)];

impl Experts {
    fn biases(self, layer: u64, rules: &mut Vec<TensorRule>) {
        let Self { count, hidden, wide } = self;
        let prefix = format!("model.layers.{layer}.mlp.experts");
        let down = format!("blk.{layer}.ffn_down_exps.bias");
        rules.push(TensorRule::plain(format!("{prefix}.down_proj_bias"), down, &[count, hidden]));
        for (target, first) in GATE_AND_UP {
            rules.push(TensorRule {
                parts: vec![Part { name: format!("{prefix}.gate_up_proj_bias"), shape: vec![count, 2 * wide] }],
                arrangement: Arrangement::SomeElements { first, step: 2, of: 2 * wide },
                ..TensorRule::plain("", format!("blk.{layer}.{target}.bias"), &[count, wide])
            });
        }
    }

    /// Matrices are transposed in a checkpoint that transformers has written.
    fn floats(self, layer: u64, rules: &mut Vec<TensorRule>) {
        let Self { count, hidden, wide } = self;
        let prefix = format!("model.layers.{layer}.mlp.experts");
        let mut add = |name: &str, shape: [u64; 3], target: &str, of_file: [u64; 3], first, step| {
            rules.push(TensorRule {
                parts: vec![Part { name: format!("{prefix}.{name}"), shape: shape.to_vec() }],
                arrangement: Arrangement::SomeColumns { first, step, of: shape[2] },
                ..TensorRule::plain("", format!("blk.{layer}.{target}.weight"), &of_file)
            });
        };
        add("down_proj", [count, wide, hidden], "ffn_down_exps", [count, hidden, wide], 0, 1);
        for (target, first) in GATE_AND_UP {
            add("gate_up_proj", [count, hidden, 2 * wide], target, [count, wide, hidden], first, 2);
        }
    }

    fn mxfp4(self, layer: u64, rules: &mut Vec<TensorRule>) {
        let Self { count, hidden, wide } = self;
        let prefix = format!("model.layers.{layer}.mlp.experts");
        let block = GgmlType::MXFP4.block_size;
        let mut add = |name: &str, rows: u64, target: &str, of_file: [u64; 3], first, step| {
            let blocks = of_file[2] / block;
            rules.push(TensorRule {
                parts: vec![
                    Part { name: format!("{prefix}.{name}_blocks"), shape: vec![count, rows, blocks, 16] },
                    Part { name: format!("{prefix}.{name}_scales"), shape: vec![count, rows, blocks] },
                ],
                arrangement: Arrangement::Mxfp4 { first, step, of: rows },
                leading: true,
                ..TensorRule::plain("", format!("blk.{layer}.{target}.weight"), &of_file)
            });
        };
        add("down_proj", hidden, "ffn_down_exps", [count, hidden, wide], 0, 1);
        for (target, first) in GATE_AND_UP {
            add("gate_up_proj", 2 * wide, target, [count, wide, hidden], first, 2);
        }
    }
}
