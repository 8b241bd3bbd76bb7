//! Feed-forward parts of many experts, of which a router picks a few for each token.

use super::{Part, TensorRule};
use crate::rows::Arrangement;
use pajamas_hf_model::Config;
use pajamas_plugin_api::{Error, Result};

/// The most experts of a layer, and of all layers; published models have some hundred, and some ten thousand.
const EXPERTS_MAX: u64 = 4096;
const EXPERTS_OF_ALL_LAYERS_MAX: u64 = 1 << 17;

/// How many experts a layer has, by the configuration's `keys`, or the class's default.
pub(super) fn count(config: &Config, keys: &[&str], default: u64) -> Result<u64> {
    let mut experts = default;
    for key in keys.iter().rev() {
        experts = config.number(key)?.unwrap_or(experts);
    }
    // Both fit 32 bits.
    let of_all_layers = experts * config.layers()?;
    if experts > EXPERTS_MAX || of_all_layers > EXPERTS_OF_ALL_LAYERS_MAX {
        let path = config.path().display();
        return Err(Error::invalid_model(format!(
            "`{path}` claims {experts} experts in a layer and {of_all_layers} in all, at most {EXPERTS_MAX} and \
             {EXPERTS_OF_ALL_LAYERS_MAX} are allowed"
        )));
    }
    Ok(experts)
}

/// The matrices of all experts of a layer, each stored by itself. `name` gives the names of one expert's matrices;
/// `targets` are their names in the file, with rows and columns, in the order in which they are written.
pub(super) fn separate(
    rules: &mut Vec<TensorRule>,
    layer: u64,
    experts: u64,
    targets: &[(&str, &str, [u64; 2])],
    name: impl Fn(u64, &str) -> String,
) {
    for (matrix, target, [rows, columns]) in targets {
        let part = |expert| Part { name: name(expert, matrix), shape: vec![*rows, *columns] };
        rules.push(TensorRule {
            target: Some(format!("blk.{layer}.{target}.weight")),
            shape: vec![experts, *rows, *columns],
            parts: (0..experts).map(part).collect(),
            arrangement: Arrangement::Plain,
            required: true,
            group: Some(layer),
            leading: false,
        });
    }
}

/// The matrices of all Qwen experts of a layer, which are stored one by one or, by transformers 5, in two tensors.
pub(super) fn qwen(rules: &mut Vec<TensorRule>, layer: u64, experts: u64, (hidden, wide): (u64, u64), fused: bool) {
    let prefix = format!("model.layers.{layer}.mlp.experts");
    if !fused {
        let targets = [
            ("down_proj", "ffn_down_exps", [hidden, wide]),
            ("gate_proj", "ffn_gate_exps", [wide, hidden]),
            ("up_proj", "ffn_up_exps", [wide, hidden]),
        ];
        separate(rules, layer, experts, &targets, |expert, matrix| format!("{prefix}.{expert}.{matrix}.weight"));
        return;
    }
    let down = format!("{prefix}.down_proj");
    rules.push(TensorRule::plain(down, format!("blk.{layer}.ffn_down_exps.weight"), &[experts, hidden, wide]));
    for (target, first) in [("ffn_gate_exps", 0), ("ffn_up_exps", wide)] {
        let part = Part { name: format!("{prefix}.gate_up_proj"), shape: vec![experts, 2 * wide, hidden] };
        rules.push(TensorRule {
            parts: vec![part],
            arrangement: Arrangement::SomeRows { first, step: 1, of: 2 * wide },
            ..TensorRule::plain("", format!("blk.{layer}.{target}.weight"), &[experts, wide, hidden])
        });
    }
}
