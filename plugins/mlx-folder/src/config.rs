//! The `config.json` of an MLX folder: the source's, with the quantization in it, as mlx-lm writes it.

use crate::plan::Plan;
use crate::recipes::{Choice, Method};
use pajamas_hf_model::{Config, HfModel, RopeScaling};
use pajamas_plugin_api::{Error, Result};
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Map, Value, json};

/// Keys that no reader of an MLX folder uses.
const DROPPED: [&str; 2] = ["_name_or_path", "vision_config"];
/// The bits that mlx-lm names for the whole of a mixed model, in which each layer has its own.
const MIXED_BITS: u32 = 4;

/// The configuration of what `plan` makes of `source`, keys in order.
///
/// # Errors
/// `InvalidModel` where the source's has impossible values.
pub(crate) fn output_config(source: &HfModel, plan: &Plan, choice: &Choice) -> Result<Value> {
    let raw = source.config().raw();
    let Value::Object(mut config) = raw.clone() else {
        return Err(Error::invalid_model(format!("`{}` is not a JSON object", source.config().path().display())));
    };
    config.retain(|key, _| !DROPPED.contains(&key.as_str()));
    if let Some(ids) = source.generation_config().and_then(|generation| generation.get("eos_token_id"))
        && is_set(ids)
    {
        config.insert("eos_token_id".into(), ids.clone());
    }
    complete(&mut config, source.config(), plan.tied)?;
    if let Some(quantization) = quantization(plan, choice) {
        // The second is where Hugging Face's hub looks for it.
        for key in ["quantization", "quantization_config"] {
            config.insert(key.into(), quantization.clone());
        }
    }
    let mut entries: Vec<(String, Value)> = config.into_iter().collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Value::Object(entries.into_iter().collect()))
}

/// Adds what mlx-lm reads and transformers leaves out, or writes elsewhere since its version 5: mlx-lm would take
/// defaults of its own, and the model would run wrong or not at all.
fn complete(config: &mut Map<String, Value>, source: &Config, tied: bool) -> Result<()> {
    let rope = source.rope()?;
    let missing = |key: &str| config.get(key).is_none_or(Value::is_null);
    let mut added: Vec<(&str, Value)> = vec![
        ("tie_word_embeddings", json!(tied)),
        ("num_key_value_heads", json!(source.key_value_heads()?)),
        ("max_position_embeddings", json!(source.context_length()?)),
        ("rms_norm_eps", json!(source.rms_norm_epsilon()?)),
        ("rope_theta", json!(rope.theta)),
    ];
    if source.has_head_dim() {
        added.push(("head_dim", json!(source.head_dim()?)));
    }
    if rope.scaling != RopeScaling::None
        && let Some(parameters) = config.get("rope_parameters")
    {
        added.push(("rope_scaling", parameters.clone()));
    }
    added.retain(|(key, _)| missing(key));
    config.extend(added.into_iter().map(|(key, value)| (key.to_owned(), value)));
    Ok(())
}

/// How the layers are quantized; none where none is.
fn quantization(plan: &Plan, choice: &Choice) -> Option<Value> {
    let parameters = |bits: u32| json!({ "group_size": choice.group_size, "bits": bits, "mode": "affine" });
    match choice.method {
        Method::Float(_) => None,
        Method::Uniform { bits } => Some(parameters(bits)),
        Method::Mixed { .. } => {
            let mut all = parameters(MIXED_BITS);
            for step in &plan.steps {
                if let Some(affine) = step.affine {
                    all[&step.path] = parameters(affine.bits());
                }
            }
            Some(all)
        }
    }
}

/// Whether Python finds `value` true: mlx-lm takes no end of text from a null, a zero or an empty list.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    }
}

/// `value` as a text file, indented by four spaces.
pub(crate) fn to_text(value: &Value) -> Vec<u8> {
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"    "));
    // Writing a JSON value to memory cannot fail: its keys are text, and memory takes every byte.
    let _ = serde::Serialize::serialize(value, &mut serializer);
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn completed(raw: Value, tied: bool) -> Value {
        let source = Config::new(raw.clone(), Path::new("config.json")).unwrap();
        let Value::Object(mut config) = raw else { unreachable!("made above") };
        complete(&mut config, &source, tied).unwrap();
        Value::Object(config)
    }

    #[test]
    fn what_mlx_lm_would_guess_wrongly_is_written_down() {
        let config = completed(
            json!({
                "model_type": "llama", "hidden_size": 64, "num_attention_heads": 4,
                "rope_parameters": { "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0 }
            }),
            false,
        );
        assert_eq!(config["tie_word_embeddings"], json!(false));
        assert_eq!((&config["num_key_value_heads"], &config["head_dim"]), (&json!(4), &json!(16)));
        assert_eq!(config["rope_theta"], json!(500_000.0));
        assert_eq!(config["rope_scaling"]["factor"], json!(8.0));
    }

    #[test]
    fn what_is_there_stays() {
        let raw = json!({
            "model_type": "qwen2", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "tie_word_embeddings": true,
            "rope_parameters": { "rope_type": "default", "rope_theta": 5.0 }
        });
        assert_eq!(completed(raw.clone(), true), raw);
    }

    #[test]
    fn ends_of_text_are_set_as_python_sees_it() {
        for (value, set) in [(json!(0), false), (json!([]), false), (json!(null), false), (json!([0]), true)] {
            assert_eq!(is_set(&value), set, "{value}");
        }
    }
}
