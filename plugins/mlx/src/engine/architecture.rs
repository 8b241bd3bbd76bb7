//! What a family of models has and lacks, so that one transformer block serves them all.

use pajamas_hf_model::{Config, Rope, RopeScaling};
use pajamas_plugin_api::{Error, Result};

/// A model's shapes and switches, with every default resolved and every number checked.
#[derive(Debug, Clone)]
pub(crate) struct Architecture {
    /// `model_type` in config.json.
    pub(crate) name: &'static str,
    pub(crate) layers: usize,
    pub(crate) hidden_size: i32,
    pub(crate) intermediate_size: i32,
    pub(crate) heads: i32,
    pub(crate) kv_heads: i32,
    pub(crate) head_dim: i32,
    pub(crate) vocabulary_size: i32,
    pub(crate) context_length: u32,
    pub(crate) rms_norm_epsilon: f32,
    pub(crate) rope: Rope,
    /// Stored instead of computed: by what each pair of dimensions is rotated more slowly.
    pub(crate) rope_factors: Option<Vec<f32>>,
    /// Whether rotated pairs are neighbours (as in GGUF files of Llama) and not half a head apart.
    pub(crate) rope_traditional: bool,
    /// Whether the output layer is the embedding.
    pub(crate) tied: bool,
    /// Biases of the query, key and value projections.
    pub(crate) qkv_bias: bool,
    /// Bias of the attention's output projection.
    pub(crate) output_bias: bool,
    /// Biases of the feed-forward layer.
    pub(crate) mlp_bias: bool,
    /// RMS normalisation of each head's queries and keys.
    pub(crate) qk_norm: bool,
    /// For each layer, how many positions back it looks; none looks at all of them.
    pub(crate) windows: Vec<Option<i32>>,
}

/// What tells one family from another, before a configuration has its say.
struct Family {
    model_type: &'static str,
    /// Whether its configuration may switch biases on (`attention_bias`, `mlp_bias`).
    configurable_bias: bool,
    qkv_bias: bool,
    qk_norm: bool,
    /// Whether `sliding_window` counts for every layer, or only where `use_sliding_window` says so.
    always_slides: bool,
}

const FAMILIES: [Family; 4] = [
    Family { model_type: "llama", configurable_bias: true, qkv_bias: false, qk_norm: false, always_slides: false },
    Family { model_type: "mistral", configurable_bias: true, qkv_bias: false, qk_norm: false, always_slides: true },
    Family { model_type: "qwen2", configurable_bias: false, qkv_bias: true, qk_norm: false, always_slides: false },
    Family { model_type: "qwen3", configurable_bias: true, qkv_bias: false, qk_norm: true, always_slides: false },
];

/// Layers that a model has at the most; a damaged file must not make us allocate for more.
const LAYERS_MAX: u64 = 4096;
/// Any other size in a configuration: shapes are 32-bit in MLX.
const SIZE_MAX: u64 = 1 << 24;

impl Architecture {
    /// The values that go into the layer of that name, where it is one of ours.
    pub(crate) fn input_width(&self, layer: &str) -> Option<u64> {
        let width = match layer.rsplit('.').next()? {
            "o_proj" => self.heads * self.head_dim,
            "down_proj" => self.intermediate_size,
            "q_proj" | "k_proj" | "v_proj" | "gate_proj" | "up_proj" | "embed_tokens" | "lm_head" => self.hidden_size,
            _ => return None,
        };
        u64::try_from(width).ok()
    }

    /// Reads `config`.
    ///
    /// # Errors
    /// `Unsupported` for a family or a rope that is not known; `InvalidModel` for numbers that cannot be.
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let family = FAMILIES.iter().find(|family| family.model_type == config.model_type()).ok_or_else(|| {
            let known: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
            Error::unsupported(format!(
                "`{}` is a model of type `{}`; this backend runs {}",
                config.path().display(),
                config.model_type().escape_debug(),
                known.join(", ")
            ))
        })?;
        let invalid = |what: String| Error::invalid_model(format!("`{}`: {what}", config.path().display()));
        let size = |name: &str, value: u64| {
            i32::try_from(value)
                .ok()
                .filter(|_| value <= SIZE_MAX)
                .ok_or_else(|| invalid(format!("{name} is {value}, at most {SIZE_MAX} is supported")))
        };
        if let Some(activation) = config.raw().get("hidden_act").and_then(|value| value.as_str())
            && activation != "silu"
        {
            return Err(Error::unsupported(format!(
                "`{}`: the activation `{}` is not supported, only `silu` is",
                config.path().display(),
                activation.escape_debug()
            )));
        }
        let layers = config.layers()?;
        if layers > LAYERS_MAX {
            return Err(invalid(format!("num_hidden_layers is {layers}, at most {LAYERS_MAX} is supported")));
        }
        let heads = size("num_attention_heads", config.attention_heads()?)?;
        let kv_heads = size("num_key_value_heads", config.key_value_heads()?)?;
        if heads % kv_heads != 0 {
            return Err(invalid(format!("{heads} attention heads cannot share {kv_heads} key-value heads evenly")));
        }
        let head_dim = size("head_dim", config.head_dim()?)?;
        if head_dim % 2 != 0 {
            return Err(invalid(format!("head_dim is {head_dim}; rotary embeddings need an even one")));
        }
        // Rows of the projections: two sizes that are possible alone need not be together.
        size("num_attention_heads times head_dim", config.attention_heads()?.saturating_mul(config.head_dim()?))?;
        let attention_bias = family.configurable_bias && config.flag("attention_bias");
        Ok(Self {
            name: family.model_type,
            layers: usize::try_from(layers).unwrap_or_default(),
            hidden_size: size("hidden_size", config.hidden_size()?)?,
            intermediate_size: size("intermediate_size", config.intermediate_size()?)?,
            heads,
            kv_heads,
            head_dim,
            vocabulary_size: size("vocab_size", config.vocabulary_size()?)?,
            context_length: u32::try_from(config.context_length()?).unwrap_or(u32::MAX),
            rms_norm_epsilon: config.rms_norm_epsilon()? as f32,
            rope: checked_rope(config)?,
            rope_factors: None,
            rope_traditional: config.flag("rope_traditional"),
            tied: config.tied_embeddings(),
            qkv_bias: family.qkv_bias || attention_bias,
            output_bias: attention_bias,
            mlp_bias: family.configurable_bias && config.flag("mlp_bias"),
            qk_norm: family.qk_norm,
            windows: windows(config, family, usize::try_from(layers).unwrap_or_default()),
        })
    }
}

fn checked_rope(config: &Config) -> Result<Rope> {
    let rope = config.rope()?;
    if !(rope.theta.is_finite() && rope.theta > 0.0) {
        let message =
            format!("`{}`: rope_theta is {}, a positive number was expected", config.path().display(), rope.theta);
        return Err(Error::invalid_model(message));
    }
    if let RopeScaling::Yarn { beta_fast, beta_slow, attention_factor, extrapolation_factor, .. } = &rope.scaling {
        let given = [beta_fast, beta_slow, attention_factor, extrapolation_factor];
        let possible = given.into_iter().flatten().all(|number| number.is_finite() && *number > 0.0);
        if !possible || rope.theta <= 1.0 {
            let path = config.path().display();
            return Err(Error::invalid_model(format!("`{path}`: its yarn rope scaling has impossible numbers")));
        }
    }
    let kind = match &rope.scaling {
        RopeScaling::Other(kind) => kind,
        RopeScaling::LongRope { .. } => "longrope",
        _ => return Ok(rope),
    };
    Err(Error::unsupported(format!(
        "`{}`: rope scaling of type `{}` is not supported; default, linear, llama3 and yarn are",
        config.path().display(),
        kind.escape_debug()
    )))
}

/// `layer_types` says it layer by layer; older files have `sliding_window` for all, or for those from
/// `max_window_layers` on where `use_sliding_window` is set.
fn windows(config: &Config, family: &Family, layers: usize) -> Vec<Option<i32>> {
    let raw = config.raw();
    let window = raw.get("sliding_window").and_then(|value| value.as_i64()).and_then(|value| i32::try_from(value).ok());
    let window = window.filter(|window| *window > 0);
    let first = raw.get("max_window_layers").and_then(|value| value.as_u64()).unwrap_or(0);
    let types = raw.get("layer_types").and_then(|value| value.as_array());
    (0..layers)
        .map(|layer| {
            let slides = match types.and_then(|types| types.get(layer)).and_then(|value| value.as_str()) {
                Some(kind) => kind == "sliding_attention",
                None if family.always_slides => true,
                None => config.flag("use_sliding_window") && layer as u64 >= first,
            };
            window.filter(|_| slides)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    fn architecture(change: serde_json::Value) -> Result<Architecture> {
        let mut raw = json!({
            "model_type": "llama", "num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 128,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100
        });
        for (key, value) in change.as_object().unwrap() {
            raw[key] = value.clone();
        }
        Architecture::new(&Config::new(raw, Path::new("config.json"))?)
    }

    #[test]
    fn families_differ_in_biases_and_norms() {
        let switches = |model_type: &str| {
            let a = architecture(json!({"model_type": model_type, "attention_bias": true})).unwrap();
            (a.qkv_bias, a.output_bias, a.qk_norm)
        };
        assert_eq!(switches("llama"), (true, true, false));
        assert_eq!(switches("mistral"), (true, true, false));
        assert_eq!(switches("qwen2"), (true, false, false));
        assert_eq!(switches("qwen3"), (true, true, true));
    }

    #[test]
    fn windows_come_from_layer_types_or_the_older_keys() {
        let windows = |change| architecture(change).unwrap().windows;
        assert_eq!(windows(json!({"model_type": "mistral", "sliding_window": 8})), [Some(8); 4]);
        assert_eq!(windows(json!({"model_type": "mistral", "sliding_window": null})), [None; 4]);
        let qwen =
            json!({"model_type": "qwen2", "sliding_window": 8, "use_sliding_window": true, "max_window_layers": 3});
        assert_eq!(windows(qwen), [None, None, None, Some(8)]);
        assert_eq!(windows(json!({"model_type": "qwen2", "sliding_window": 8})), [None; 4]);
        let types = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"];
        let typed = json!({"model_type": "qwen3", "sliding_window": 8, "layer_types": types});
        assert_eq!(windows(typed), [None, Some(8), None, Some(8)]);
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_the_reason() {
        let refused = |change, reason: &str| {
            let error = architecture(change).unwrap_err();
            assert!(error.message.contains(reason), "{error}");
        };
        refused(json!({"model_type": "loom"}), "runs llama, mistral, qwen2, qwen3");
        refused(json!({"hidden_act": "gelu"}), "activation `gelu`");
        refused(json!({"num_key_value_heads": 3}), "cannot share");
        refused(json!({"head_dim": 7}), "even");
        refused(
            json!({"num_attention_heads": 65536, "num_key_value_heads": 65536, "head_dim": 65536}),
            "times head_dim",
        );
        refused(json!({"num_hidden_layers": 5000}), "at most 4096");
        let yarn = json!({"type": "yarn", "factor": 2.0, "beta_fast": 0.0});
        refused(json!({"rope_scaling": yarn}), "impossible numbers");
        refused(json!({"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}}), "longrope");
    }
}
