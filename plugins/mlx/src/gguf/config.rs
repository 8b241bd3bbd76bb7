//! A GGUF file's metadata as the config.json that it came from.

use pajamas_gguf_file::GgufFile;
use pajamas_hf_model::Config;
use pajamas_plugin_api::{Error, Result};
use serde_json::{Map, Value, json};

/// Architectures whose GGUF files can be run: llama.cpp's name, which is the family's too. Mistral's files say `llama`.
const ARCHITECTURES: [&str; 3] = ["llama", "qwen2", "qwen3"];

/// Numbers: the key behind the architecture's name, and what config.json calls it.
const NUMBERS: [(&str, &str); 9] = [
    ("block_count", "num_hidden_layers"),
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("attention.sliding_window", "sliding_window"),
];

/// The same of the rope's scaling.
const SCALING: [(&str, &str); 6] = [
    ("factor", "factor"),
    ("original_context_length", "original_max_position_embeddings"),
    ("yarn_ext_factor", "extrapolation_factor"),
    ("yarn_attn_factor", "attention_factor"),
    ("yarn_beta_fast", "beta_fast"),
    ("yarn_beta_slow", "beta_slow"),
];

/// The configuration that `file` describes.
///
/// # Errors
/// `Unsupported` for an architecture that is not known. What is missing or impossible is found by who reads it.
pub(super) fn config(file: &GgufFile) -> Result<Config> {
    let architecture = file.architecture();
    if !ARCHITECTURES.contains(&architecture) {
        return Err(Error::unsupported(format!(
            "`{}` is a GGUF file of architecture `{}`; this backend runs {}",
            file.path().display(),
            architecture.escape_debug(),
            ARCHITECTURES.join(", ")
        )));
    }
    let number = |key: &str| -> Option<Value> {
        let value = file.metadata().get(&format!("{architecture}.{key}"))?;
        value.as_u64().map(Value::from).or_else(|| value.as_f64().map(Value::from))
    };
    let has = |tensor: &str| file.tensors().iter().any(|known| known.name == tensor);
    let mut raw = Map::new();
    for (key, name) in NUMBERS {
        raw.extend(number(key).map(|value| (name.to_owned(), value)));
    }
    let rows = file.tensors().iter().find(|tensor| tensor.name == "token_embd.weight").and_then(|t| t.shape.get(1));
    raw.extend(rows.map(|rows| ("vocab_size".to_owned(), json!(rows))));
    raw.extend(number("rope.freq_base").map(|value| ("rope_theta".to_owned(), value)));
    let kind = file.metadata().get(&format!("{architecture}.rope.scaling.type")).and_then(|value| value.as_str());
    if let Some(kind) = kind.filter(|kind| *kind != "none") {
        let mut scaling = Map::from_iter([("rope_type".to_owned(), json!(kind))]);
        for (key, name) in SCALING {
            scaling.extend(number(&format!("rope.scaling.{key}")).map(|value| (name.to_owned(), value)));
        }
        raw.insert("rope_scaling".into(), scaling.into());
    }
    raw.insert("model_type".into(), json!(architecture));
    raw.insert("tie_word_embeddings".into(), json!(!has("output.weight")));
    raw.insert("attention_bias".into(), json!(has("blk.0.attn_q.bias")));
    raw.insert("mlp_bias".into(), json!(has("blk.0.ffn_gate.bias")));
    // llama.cpp's converter interleaves the rows of these models' queries and keys, so that neighbours rotate.
    raw.insert("rope_traditional".into(), json!(architecture == "llama"));
    Config::new(raw.into(), file.path())
}
