//! One view of `config.json`, whichever version of transformers wrote it.

use crate::json::read_json_if_present;
use pajamas_plugin_api::{Error, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What a class of models has where its `config.json` says nothing: the defaults of transformers' own classes.
struct Defaults {
    model_type: &'static str,
    context_length: u64,
    /// Whether the class fills in `head_dim` itself.
    always_has_head_dim: bool,
    /// The width of a head that a configuration does not name; none divides the hidden size among the heads.
    head_dim: Option<u64>,
    /// The KV heads of a configuration that does not name any; none takes the attention heads.
    key_value_heads: Option<u64>,
    rope_theta: f64,
    /// The base in layers whose attention slides, where those have one of their own.
    local_rope_theta: Option<f64>,
    rms_norm_epsilon: f64,
    tied_embeddings: bool,
}

/// What most classes have.
const COMMON: Defaults = Defaults {
    model_type: "",
    context_length: 32_768,
    always_has_head_dim: false,
    head_dim: None,
    key_value_heads: None,
    rope_theta: 10_000.0,
    local_rope_theta: None,
    rms_norm_epsilon: 1e-6,
    tied_embeddings: false,
};

const DEFAULTS: [Defaults; 11] = [
    Defaults { model_type: "llama", context_length: 2048, always_has_head_dim: true, ..COMMON },
    Defaults {
        model_type: "mistral",
        context_length: 131_072,
        always_has_head_dim: true,
        key_value_heads: Some(8),
        ..COMMON
    },
    Defaults {
        model_type: "mixtral",
        context_length: 131_072,
        key_value_heads: Some(8),
        rope_theta: 1_000_000.0,
        rms_norm_epsilon: 1e-5,
        ..COMMON
    },
    Defaults { model_type: "qwen2", key_value_heads: Some(32), ..COMMON },
    Defaults { model_type: "qwen2_moe", key_value_heads: Some(16), ..COMMON },
    Defaults {
        model_type: "qwen3",
        always_has_head_dim: true,
        head_dim: Some(128),
        key_value_heads: Some(32),
        ..COMMON
    },
    Defaults { model_type: "qwen3_moe", key_value_heads: Some(4), ..COMMON },
    Defaults {
        model_type: "gemma2",
        context_length: 8192,
        always_has_head_dim: true,
        head_dim: Some(256),
        key_value_heads: Some(4),
        tied_embeddings: true,
        ..COMMON
    },
    Defaults {
        model_type: "gemma3_text",
        context_length: 131_072,
        always_has_head_dim: true,
        head_dim: Some(256),
        key_value_heads: Some(4),
        rope_theta: 1_000_000.0,
        local_rope_theta: Some(10_000.0),
        tied_embeddings: true,
        ..COMMON
    },
    Defaults { model_type: "phi3", context_length: 4096, rms_norm_epsilon: 1e-5, ..COMMON },
    Defaults {
        model_type: "gpt_oss",
        context_length: 131_072,
        always_has_head_dim: true,
        head_dim: Some(64),
        key_value_heads: Some(8),
        rope_theta: 150_000.0,
        rms_norm_epsilon: 1e-5,
        ..COMMON
    },
];

/// Sizes that published configurations of a class leave out, for it fills them in. Those of other classes have them all.
const SIZES: [(&str, &str, u64); 5] = [
    ("gemma3_text", "vocab_size", 262_208),
    ("gemma3_text", "num_attention_heads", 8),
    ("gemma3_text", "hidden_size", 2304),
    ("gemma3_text", "intermediate_size", 9216),
    ("gemma3_text", "num_hidden_layers", 26),
];

/// `config.json`, with accessors that know both layouts and the defaults of the model's class.
#[derive(Debug, Clone)]
pub struct Config {
    raw: Value,
    /// `text_config` of a model that takes images too, laid over the whole file.
    text: Option<Value>,
    path: PathBuf,
}

/// The rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Its base frequency.
    pub theta: f64,
    /// How positions beyond the original context are reached.
    pub scaling: RopeScaling,
}

/// How a rotary embedding is stretched to longer contexts.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions are divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// YaRN (arXiv 2309.00071).
    Yarn {
        /// New context over original context.
        factor: f64,
        /// Tokens of context before stretching.
        original_context_length: u64,
        /// `extrapolation_factor`.
        extrapolation_factor: Option<f64>,
        /// `attention_factor`.
        attention_factor: Option<f64>,
        /// `beta_fast`.
        beta_fast: Option<f64>,
        /// `beta_slow`.
        beta_slow: Option<f64>,
    },
    /// Llama 3's: low frequencies are divided, high ones kept, those between are blended.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths longer than the original context over this are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths shorter than the original context over this are high frequencies.
        high_freq_factor: f64,
        /// Tokens of context before stretching.
        original_context_length: u64,
    },
    /// LongRoPE (arXiv 2402.13753): each frequency has divisors of its own, for short and for long texts.
    LongRope {
        /// Divisors up to the original context, one for each pair of a head's dimensions.
        short_factors: Vec<f64>,
        /// Divisors beyond it.
        long_factors: Vec<f64>,
        /// Tokens of context before stretching.
        original_context_length: u64,
    },
    /// A kind that this crate does not know, by its name.
    Other(String),
}

/// The most divisors of a rotary embedding that are read; heads have some hundred dimensions.
const ROPE_FACTORS_MAX: usize = 4096;

impl RopeScaling {
    /// What configurations call it.
    pub fn name(&self) -> &str {
        match self {
            Self::None => "default",
            Self::Linear { .. } => "linear",
            Self::Yarn { .. } => "yarn",
            Self::Llama3 { .. } => "llama3",
            Self::LongRope { .. } => "longrope",
            Self::Other(name) => name,
        }
    }
}

impl Config {
    /// Reads `config.json` in the model folder `dir`.
    ///
    /// # Errors
    /// `InvalidModel` where it is missing, too large or no JSON object.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let Some(raw) = read_json_if_present(&path)? else {
            return Err(Error::invalid_model(format!("`{}` has no config.json", dir.display()))
                .with_hint("a Hugging Face model folder holds config.json, tokenizer.json and *.safetensors"));
        };
        Self::new(raw, &path)
    }

    /// Takes the parsed file; `path` is for error messages.
    pub fn new(raw: Value, path: &Path) -> Result<Self> {
        if !raw.is_object() {
            return Err(Error::invalid_model(format!("`{}` is not a JSON object", path.display())));
        }
        let text = raw.get("text_config").and_then(Value::as_object).map(|text| {
            let mut all = raw.as_object().cloned().unwrap_or_default();
            all.extend(text.iter().map(|(key, value)| (key.clone(), value.clone())));
            // The class of the whole is what the file is named for.
            all.insert("architectures".into(), raw.get("architectures").cloned().unwrap_or_default());
            Value::Object(all)
        });
        Ok(Self { raw, text, path: path.to_owned() })
    }

    /// The file, with what it says of the language model of several at its top level.
    fn values(&self) -> &Value {
        self.text.as_ref().unwrap_or(&self.raw)
    }

    /// The file as it is.
    pub fn raw(&self) -> &Value {
        &self.raw
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `architectures[0]`: `Qwen2ForCausalLM`.
    pub fn architecture(&self) -> Result<&str> {
        self.raw
            .pointer("/architectures/0")
            .and_then(Value::as_str)
            .ok_or_else(|| Error::invalid_model(format!("`{}` names no `architectures`", self.path.display())))
    }

    /// `model_type`: `qwen2`; empty if missing.
    pub fn model_type(&self) -> &str {
        self.values().get("model_type").and_then(Value::as_str).unwrap_or_default()
    }

    /// What the file says the weights are stored as: `bfloat16`. Some files are wrong: the tensors know better.
    pub fn dtype(&self) -> Option<&str> {
        self.present("dtype").or_else(|| self.present("torch_dtype")).and_then(Value::as_str)
    }

    /// Transformer blocks.
    pub fn layers(&self) -> Result<u64> {
        self.required("num_hidden_layers")
    }

    /// Width of the residual stream.
    pub fn hidden_size(&self) -> Result<u64> {
        self.required("hidden_size")
    }

    /// Width of the feed-forward layer.
    pub fn intermediate_size(&self) -> Result<u64> {
        self.required("intermediate_size")
    }

    /// Query heads.
    pub fn attention_heads(&self) -> Result<u64> {
        self.required("num_attention_heads")
    }

    /// Key and value heads.
    pub fn key_value_heads(&self) -> Result<u64> {
        match self.number("num_key_value_heads")? {
            Some(heads) => Ok(heads),
            // `null` means one KV head per query head in every class; a missing key means the class's default.
            None if self.values().get("num_key_value_heads").is_some() => self.attention_heads(),
            None => {
                self.defaults().and_then(|defaults| defaults.key_value_heads).map_or_else(|| self.attention_heads(), Ok)
            }
        }
    }

    /// Width of a head.
    pub fn head_dim(&self) -> Result<u64> {
        match self.number("head_dim")? {
            Some(size) => Ok(size),
            None => match self.defaults().and_then(|defaults| defaults.head_dim) {
                Some(size) => Ok(size),
                None => match (self.hidden_size()?, self.attention_heads()?) {
                    (width, heads) if width < heads => Err(Error::invalid_model(format!(
                        "`{}`: {heads} attention heads cannot share a hidden size of {width}",
                        self.path.display()
                    ))),
                    (width, heads) => Ok(width / heads),
                },
            },
        }
    }

    /// Whether `head_dim` is set, by the file or by the model's class.
    pub fn has_head_dim(&self) -> bool {
        self.present("head_dim").is_some() || self.defaults().is_some_and(|defaults| defaults.always_has_head_dim)
    }

    /// Tokens of context that the model was trained with.
    pub fn context_length(&self) -> Result<u64> {
        match self.number("max_position_embeddings")? {
            Some(length) => Ok(length),
            None => match self.defaults() {
                Some(defaults) => Ok(defaults.context_length),
                None => self.required("max_position_embeddings"),
            },
        }
    }

    /// Rows of the embedding.
    pub fn vocabulary_size(&self) -> Result<u64> {
        self.required("vocab_size")
    }

    /// Epsilon of RMS normalisation, a positive number.
    ///
    /// # Errors
    /// `InvalidModel` for anything else.
    pub fn rms_norm_epsilon(&self) -> Result<f64> {
        let default = self.defaults().map_or(COMMON.rms_norm_epsilon, |defaults| defaults.rms_norm_epsilon);
        let Some(value) = self.present("rms_norm_eps") else { return Ok(default) };
        value.as_f64().filter(|epsilon| *epsilon > 0.0).ok_or_else(|| {
            let path = self.path.display();
            Error::invalid_model(format!("`{path}`: `rms_norm_eps` is {value}, a positive number was expected"))
        })
    }

    /// Whether the output layer shares the embedding's weights.
    pub fn tied_embeddings(&self) -> bool {
        let stated = self.present("tie_word_embeddings").and_then(Value::as_bool);
        stated.unwrap_or_else(|| self.defaults().is_some_and(|defaults| defaults.tied_embeddings))
    }

    /// A number, if it is there.
    pub fn float(&self, key: &str) -> Option<f64> {
        self.present(key).and_then(Value::as_f64)
    }

    /// A text, if it is there.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.present(key).and_then(Value::as_str)
    }

    /// A boolean; false if missing.
    pub fn flag(&self, key: &str) -> bool {
        self.values().get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The base frequency of the rotary embedding in layers whose attention slides, where it is another one there.
    pub fn local_rope_theta(&self) -> Option<f64> {
        let nested = self.present("rope_parameters").and_then(|all| all.get("sliding_attention"));
        let nested = nested.and_then(|local| local.get("rope_theta")).and_then(Value::as_f64);
        nested
            .or_else(|| self.float("rope_local_base_freq"))
            .or_else(|| self.defaults().and_then(|defaults| defaults.local_rope_theta))
    }

    /// The part of a head that is rotated, 1 for all of it.
    pub fn partial_rotary_factor(&self) -> f64 {
        let nested = self.present("rope_parameters").and_then(|all| all.get("partial_rotary_factor"));
        nested.and_then(Value::as_f64).or_else(|| self.float("partial_rotary_factor")).unwrap_or(1.0)
    }

    /// The rotary embedding, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (4). Where layers
    /// differ, that of those which see everything.
    pub fn rope(&self) -> Result<Rope> {
        let parameters = self.present("rope_parameters").or_else(|| self.present("rope_scaling"));
        let parameters = parameters.map(|all| all.get("full_attention").unwrap_or(all));
        let get = |key: &str| parameters.and_then(|parameters| parameters.get(key)).filter(|value| !value.is_null());
        let float = |key: &str| get(key).and_then(Value::as_f64);
        let theta = float("rope_theta")
            .or_else(|| self.float("rope_theta"))
            .unwrap_or_else(|| self.defaults().map_or(COMMON.rope_theta, |defaults| defaults.rope_theta));
        if theta <= 0.0 {
            return Err(Error::invalid_model(format!(
                "`{}`: `rope_theta` is {theta}, a positive number was expected",
                self.path.display()
            )));
        }
        let context = |key: &str| match get(key).or_else(|| self.present(key)) {
            None => Ok(None),
            // Some files hold it as 8192.0.
            Some(value) => {
                self.count(key, value, value.as_u64().or_else(|| value.as_f64().map(|tokens| tokens as u64))).map(Some)
            }
        };
        let kind = get("rope_type").or_else(|| get("type")).and_then(Value::as_str).unwrap_or("default");
        // Positions or frequencies are divided by them.
        let factor_or = |key: &str, default: Option<f64>| {
            let factor = get(key).map_or(default, Value::as_f64);
            factor.filter(|factor| *factor > 0.0).ok_or_else(|| {
                Error::invalid_model(format!(
                    "`{}` asks for {kind} rope scaling without a positive `{key}`",
                    self.path.display()
                ))
            })
        };
        let factor = |key: &str| factor_or(key, None);
        let scaling = match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: factor("factor")? },
            "yarn" => RopeScaling::Yarn {
                factor: factor("factor")?,
                original_context_length: match context("original_max_position_embeddings")? {
                    Some(length) => length,
                    None => self.context_length()?,
                },
                extrapolation_factor: float("extrapolation_factor"),
                attention_factor: float("attention_factor").or_else(|| float("attn_factor")),
                beta_fast: float("beta_fast"),
                beta_slow: float("beta_slow"),
            },
            "llama3" => RopeScaling::Llama3 {
                factor: factor_or("factor", Some(8.0))?,
                low_freq_factor: factor_or("low_freq_factor", Some(1.0))?,
                high_freq_factor: factor_or("high_freq_factor", Some(4.0))?,
                original_context_length: context("original_max_position_embeddings")?.unwrap_or(8192),
            },
            // `su` is what Phi-3 called it first.
            "longrope" | "su" => {
                let factors = |key: &str| {
                    let list = get(key).and_then(Value::as_array).filter(|list| list.len() <= ROPE_FACTORS_MAX);
                    let positive = |factor: &Value| factor.as_f64().filter(|factor| *factor > 0.0);
                    list.and_then(|list| list.iter().map(positive).collect::<Option<Vec<f64>>>()).ok_or_else(|| {
                        Error::invalid_model(format!(
                            "`{}` asks for {kind} rope scaling without a list of positive numbers as `{key}`",
                            self.path.display()
                        ))
                    })
                };
                RopeScaling::LongRope {
                    short_factors: factors("short_factor")?,
                    long_factors: factors("long_factor")?,
                    // The default of Phi-3's class, the only one that has this scaling.
                    original_context_length: context("original_max_position_embeddings")?.unwrap_or(4096),
                }
            }
            other => RopeScaling::Other(other.to_owned()),
        };
        Ok(Rope { theta, scaling })
    }

    fn defaults(&self) -> Option<&'static Defaults> {
        DEFAULTS.iter().find(|defaults| defaults.model_type == self.model_type())
    }

    fn present(&self, key: &str) -> Option<&Value> {
        self.values().get(key).filter(|value| !value.is_null())
    }

    /// A positive whole number that fits GGUF's 32 bits, or none if missing.
    ///
    /// # Errors
    /// `InvalidModel` for anything else.
    pub fn number(&self, key: &str) -> Result<Option<u64>> {
        self.present(key).map(|value| self.count(key, value, value.as_u64())).transpose()
    }

    /// `number`, which was read from `value`, if it is positive and fits 32 bits.
    fn count(&self, key: &str, value: &Value, number: Option<u64>) -> Result<u64> {
        number.filter(|number| (1..=u64::from(u32::MAX)).contains(number)).ok_or_else(|| {
            Error::invalid_model(format!(
                "`{}`: `{key}` is {value}, a positive whole number was expected",
                self.path.display()
            ))
        })
    }

    /// A positive whole number that fits GGUF's 32 bits, or what the class fills in.
    ///
    /// # Errors
    /// `InvalidModel` for anything else, or where it is missing.
    pub fn required(&self, key: &str) -> Result<u64> {
        let filled_in = || SIZES.iter().find(|(class, name, _)| *class == self.model_type() && *name == key);
        self.number(key)?
            .or_else(|| filled_in().map(|(.., size)| *size))
            .ok_or_else(|| Error::invalid_model(format!("`{}` has no `{key}`", self.path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(raw: Value) -> Config {
        Config::new(raw, Path::new("config.json")).unwrap()
    }

    #[test]
    fn both_layouts_give_the_same_rope() {
        let four = config(json!({
            "rope_theta": 500000.0, "rope_scaling": {"type": "linear", "factor": 2.0}
        }));
        let five = config(json!({
            "rope_parameters": {"rope_theta": 500000.0, "rope_type": "linear", "factor": 2.0}
        }));
        let expected = Rope { theta: 500_000.0, scaling: RopeScaling::Linear { factor: 2.0 } };
        assert_eq!(four.rope().unwrap(), expected);
        assert_eq!(five.rope().unwrap(), expected);
        assert_eq!(config(json!({"torch_dtype": "float16"})).dtype(), Some("float16"));
        assert_eq!(config(json!({"dtype": "bfloat16"})).dtype(), Some("bfloat16"));
    }

    #[test]
    fn missing_values_take_the_class_defaults() {
        let llama = config(json!({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}));
        assert_eq!(llama.key_value_heads().unwrap(), 4);
        assert_eq!(llama.head_dim().unwrap(), 16);
        assert!(llama.has_head_dim());
        assert_eq!(llama.context_length().unwrap(), 2048);
        assert_eq!(llama.rope().unwrap().theta, 10_000.0);
        assert_eq!(llama.rms_norm_epsilon().unwrap(), 1e-6);
        assert!(!config(json!({"model_type": "qwen2"})).has_head_dim());
        let qwen3 = config(json!({"model_type": "qwen3", "hidden_size": 1024, "num_attention_heads": 16}));
        assert_eq!((qwen3.head_dim().unwrap(), qwen3.has_head_dim()), (128, true));
    }

    #[test]
    fn a_nested_configuration_of_few_words_is_filled_in() {
        let gemma = config(json!({
            "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
            "text_config": {
                "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024
            },
            "vision_config": {"hidden_size": 1152, "num_attention_heads": 16}
        }));
        assert_eq!(gemma.architecture().unwrap(), "Gemma3ForConditionalGeneration");
        let sizes = [gemma.hidden_size(), gemma.attention_heads(), gemma.key_value_heads(), gemma.head_dim()];
        assert_eq!(sizes.map(Result::unwrap), [2560, 8, 4, 256]);
        assert_eq!((gemma.vocabulary_size().unwrap(), gemma.context_length().unwrap()), (262_208, 131_072));
        assert_eq!(gemma.rope().unwrap().scaling, RopeScaling::Linear { factor: 8.0 });
        assert_eq!((gemma.local_rope_theta(), gemma.tied_embeddings()), (Some(10_000.0), true));
        assert!(config(json!({"model_type": "llama"})).vocabulary_size().is_err());
    }

    #[test]
    fn impossible_numbers_are_refused() {
        for value in [json!(0), json!(-1), json!("four"), json!(1.5), json!(1_u64 << 40)] {
            let error = config(json!({"num_hidden_layers": value})).layers().unwrap_err();
            assert!(error.message.contains("num_hidden_layers"), "{error}");
        }
    }
}
