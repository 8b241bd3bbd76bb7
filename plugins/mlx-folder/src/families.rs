//! The architectures that can be converted, as a table of their tensors. A further one is a row in [`FAMILIES`], and
//! a list of parts if its blocks are built differently.

use Bias::{Always, If, Never};
use Size::{Head, Hidden, Intermediate, KeysValues, Queries};
use pajamas_hf_model::Config;
use pajamas_plugin_api::{Error, Result};

/// The largest number of blocks: a damaged file must not make it enormous.
const LAYERS_MAX: u64 = 4096;

/// Every family, in the order in which errors list them.
pub const FAMILIES: [Family; 4] = [
    Family { model_type: "llama", block: &LLAMA },
    // mlx-lm runs Mistral as a Llama.
    Family { model_type: "mistral", block: &LLAMA },
    Family { model_type: "qwen2", block: &QWEN2 },
    Family { model_type: "qwen3", block: &QWEN3 },
];

/// An architecture: an embedding, blocks of the same parts, a norm, and an output that may share the embedding.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// The parts of a block, in the order of mlx-lm's parameters: shards are filled in that order.
    block: &'static [Part],
}

/// A part of a block.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// A matrix that can be quantized, and maybe a bias.
    Linear { path: &'static str, rows: Size, columns: Size, bias: Bias },
    /// The weights of a normalisation, which cannot.
    Norm { path: &'static str, size: Size },
}

/// A size that the configuration gives.
#[derive(Debug, Clone, Copy)]
enum Size {
    Hidden,
    Intermediate,
    Queries,
    KeysValues,
    Head,
}

/// Whether a linear layer has a bias.
#[derive(Debug, Clone, Copy)]
enum Bias {
    Never,
    Always,
    /// If this flag of the configuration is set.
    If(&'static str),
}

const fn linear(path: &'static str, rows: Size, columns: Size, bias: Bias) -> Part {
    Part::Linear { path, rows, columns, bias }
}

const fn norm(path: &'static str, size: Size) -> Part {
    Part::Norm { path, size }
}

const LLAMA: [Part; 9] = [
    linear("self_attn.q_proj", Queries, Hidden, If("attention_bias")),
    linear("self_attn.k_proj", KeysValues, Hidden, If("attention_bias")),
    linear("self_attn.v_proj", KeysValues, Hidden, If("attention_bias")),
    linear("self_attn.o_proj", Hidden, Queries, If("attention_bias")),
    linear("mlp.gate_proj", Intermediate, Hidden, If("mlp_bias")),
    linear("mlp.down_proj", Hidden, Intermediate, If("mlp_bias")),
    linear("mlp.up_proj", Intermediate, Hidden, If("mlp_bias")),
    norm("input_layernorm", Hidden),
    norm("post_attention_layernorm", Hidden),
];

const QWEN2: [Part; 9] = [
    linear("self_attn.q_proj", Queries, Hidden, Always),
    linear("self_attn.k_proj", KeysValues, Hidden, Always),
    linear("self_attn.v_proj", KeysValues, Hidden, Always),
    linear("self_attn.o_proj", Hidden, Queries, Never),
    linear("mlp.gate_proj", Intermediate, Hidden, Never),
    linear("mlp.down_proj", Hidden, Intermediate, Never),
    linear("mlp.up_proj", Intermediate, Hidden, Never),
    norm("input_layernorm", Hidden),
    norm("post_attention_layernorm", Hidden),
];

const QWEN3: [Part; 11] = [
    linear("self_attn.q_proj", Queries, Hidden, Never),
    linear("self_attn.k_proj", KeysValues, Hidden, Never),
    linear("self_attn.v_proj", KeysValues, Hidden, Never),
    linear("self_attn.o_proj", Hidden, Queries, Never),
    norm("self_attn.q_norm", Head),
    norm("self_attn.k_norm", Head),
    linear("mlp.gate_proj", Intermediate, Hidden, Never),
    linear("mlp.down_proj", Hidden, Intermediate, Never),
    linear("mlp.up_proj", Intermediate, Hidden, Never),
    norm("input_layernorm", Hidden),
    norm("post_attention_layernorm", Hidden),
];

/// A tensor that a checkpoint must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The layer that it belongs to: `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// Its name within the layer: `weight` or `bias`.
    pub parameter: &'static str,
    /// Its shape, outermost dimension first.
    pub shape: Vec<u64>,
    /// Whether it is the weight of a linear layer or an embedding.
    pub quantizable: bool,
}

impl Expected {
    /// Its name in the checkpoint.
    pub fn name(&self) -> String {
        format!("{}.{}", self.path, self.parameter)
    }
}

impl Family {
    /// The family of a model.
    ///
    /// # Errors
    /// `Unsupported`, with the families that there are.
    pub fn find(config: &Config) -> Result<Self> {
        let model_type = config.model_type();
        FAMILIES.into_iter().find(|family| family.model_type == model_type).ok_or_else(|| {
            let known = FAMILIES.map(|family| family.model_type).join(", ");
            Error::unsupported(format!(
                "`{}` has model_type `{}`; MLX models are made of {known}",
                config.path().display(),
                model_type.escape_debug()
            ))
            .with_hint(format!("use a model whose model_type is one of {known}"))
        })
    }

    /// Every tensor that a checkpoint must have, in the order of mlx-lm's parameters. `tied` says whether the output
    /// shares the embedding.
    ///
    /// # Errors
    /// `InvalidModel` where the configuration lacks a size or has an impossible one.
    pub fn tensors(&self, config: &Config, tied: bool) -> Result<Vec<Expected>> {
        let sizes = Sizes::read(config)?;
        let embedding = [config.vocabulary_size()?, sizes.of(Hidden)];
        let mut tensors = vec![weight("model.embed_tokens".into(), &embedding, true)];
        for layer in 0..layer_count(config)? {
            for part in self.block {
                match *part {
                    Part::Norm { path, size } => {
                        tensors.push(weight(format!("model.layers.{layer}.{path}"), &[sizes.of(size)], false));
                    }
                    Part::Linear { path, rows, columns, bias } => {
                        let path = format!("model.layers.{layer}.{path}");
                        let rows = sizes.of(rows);
                        tensors.push(weight(path.clone(), &[rows, sizes.of(columns)], true));
                        let has_bias = match bias {
                            Never => false,
                            Always => true,
                            If(flag) => config.flag(flag),
                        };
                        if has_bias {
                            tensors.push(Expected { path, parameter: "bias", shape: vec![rows], quantizable: false });
                        }
                    }
                }
            }
        }
        tensors.push(weight("model.norm".into(), &[sizes.of(Hidden)], false));
        if !tied {
            tensors.push(weight("lm_head".into(), &embedding, true));
        }
        Ok(tensors)
    }
}

/// The number of blocks.
///
/// # Errors
/// `InvalidModel` where the configuration has none or too many.
pub fn layer_count(config: &Config) -> Result<u64> {
    let layers = config.layers()?;
    if layers > LAYERS_MAX {
        let path = config.path().display();
        return Err(Error::invalid_model(format!("`{path}` claims {layers} layers, at most {LAYERS_MAX} are allowed")));
    }
    Ok(layers)
}

fn weight(path: String, shape: &[u64], quantizable: bool) -> Expected {
    Expected { path, parameter: "weight", shape: shape.to_vec(), quantizable }
}

/// The sizes of a configuration.
struct Sizes {
    hidden: u64,
    intermediate: u64,
    queries: u64,
    keys_values: u64,
    head: u64,
}

impl Sizes {
    fn read(config: &Config) -> Result<Self> {
        let head = config.head_dim()?;
        let width = |heads: u64| {
            heads.checked_mul(head).ok_or_else(|| {
                Error::invalid_model(format!("`{}` describes heads of an impossible size", config.path().display()))
            })
        };
        Ok(Self {
            hidden: config.hidden_size()?,
            intermediate: config.intermediate_size()?,
            queries: width(config.attention_heads()?)?,
            keys_values: width(config.key_value_heads()?)?,
            head,
        })
    }

    fn of(&self, size: Size) -> u64 {
        match size {
            Hidden => self.hidden,
            Intermediate => self.intermediate,
            Queries => self.queries,
            KeysValues => self.keys_values,
            Head => self.head,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    fn config(model_type: &str) -> Config {
        let raw = json!({
            "model_type": model_type, "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 10,
            "attention_bias": true
        });
        Config::new(raw, Path::new("config.json")).unwrap()
    }

    #[test]
    fn each_family_has_its_biases_and_norms() {
        for (model_type, biases, norms) in [("llama", 8, 5), ("mistral", 8, 5), ("qwen2", 6, 5), ("qwen3", 0, 9)] {
            let config = config(model_type);
            let family = Family::find(&config).unwrap();
            let tensors = family.tensors(&config, false).unwrap();
            let count = |ending: &str| tensors.iter().filter(|tensor| tensor.name().ends_with(ending)).count();
            assert_eq!((count(".bias"), count("norm.weight")), (biases, norms), "{model_type}");
            assert_eq!(tensors.iter().filter(|tensor| tensor.quantizable).count(), 16);
            assert_eq!(family.tensors(&config, true).unwrap().len() + 1, tensors.len());
            let keys = tensors.iter().find(|tensor| tensor.path.ends_with("k_proj")).unwrap();
            assert_eq!(keys.shape, [16, 64]);
        }
    }

    #[test]
    fn an_unknown_family_is_told_the_known_ones() {
        let error = Family::find(&config("gpt2")).unwrap_err();
        assert!(error.message.contains("`gpt2`; MLX models are made of llama, mistral, qwen2, qwen3"), "{error}");
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let mut raw = config("llama").raw().clone();
        raw["num_hidden_layers"] = json!(5000);
        let config = Config::new(raw, Path::new("config.json")).unwrap();
        assert!(FAMILIES[0].tensors(&config, true).unwrap_err().message.contains("5000 layers"));
    }
}
