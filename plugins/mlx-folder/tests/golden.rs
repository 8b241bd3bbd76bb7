//! Every recipe, group size and type of four models, compared with what mlx-lm made of them.

mod common;

use common::{Source, compact_digest, convert, fixture, golden, json_file, tensors_digest};
use serde_json::Value;
use std::path::Path;

/// Keys that the configuration may have beyond mlx-lm's: what mlx-lm reads and the source does not state there.
const COMPLETED: [&str; 7] = [
    "head_dim",
    "max_position_embeddings",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
];

fn check(name: &str) {
    let golden = golden();
    let golden = &golden["models"][name];
    let scratch = tempfile::tempdir().expect("a folder");
    let source = if name == "pajama-tiny" {
        fixture(name)
    } else {
        let source = scratch.path().join(name);
        Source::golden(name).write(&source);
        source
    };
    let conversions = golden["conversions"].as_object().expect("conversions");
    assert_eq!(conversions.len(), 87);
    for (recipe, expected) in conversions {
        let made = scratch.path().join("made");
        convert(&source, recipe, &made).unwrap_or_else(|error| panic!("{name}, {recipe}: {error}"));
        let mut config = json_file(&made, "config.json");
        let index = json_file(&made, "model.safetensors.index.json");
        let quantization = config.as_object_mut().and_then(|config| config.remove("quantization")).unwrap_or_default();
        let got = [tensors_digest(&made), compact_digest(&quantization), compact_digest(&index)];
        for (what, (got, expected)) in
            ["tensors", "quantization", "index"].iter().zip(got.iter().zip(expected.as_array().expect("digests")))
        {
            assert_eq!(got, expected, "{what} of {name}, {recipe}");
        }
        check_config(&config, &quantization, &golden["config"], &format!("{name}, {recipe}"));
        check_order(&made);
        std::fs::remove_dir_all(&made).expect("removed");
    }
}

fn check_config(config: &Value, quantization: &Value, expected: &Value, what: &str) {
    let config = config.as_object().expect("an object");
    assert_eq!(config.get("quantization_config").unwrap_or(&Value::Null), quantization, "{what}");
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(config.get(key), Some(value), "{key} of {what}");
    }
    for key in config.keys().filter(|key| *key != "quantization_config") {
        assert!(expected.get(key).is_some() || COMPLETED.contains(&key.as_str()), "{key} of {what}");
    }
}

/// Keys are sorted, as mlx-lm sorts them.
fn check_order(made: &Path) {
    let config = json_file(made, "config.json");
    let keys: Vec<&String> = config.as_object().expect("an object").keys().collect();
    assert!(keys.is_sorted(), "{keys:?}");
}

#[test]
fn pajama_tiny_is_made_as_mlx_lm_makes_it() {
    check("pajama-tiny");
}

#[test]
fn llama_is_made_as_mlx_lm_makes_it() {
    check("llama");
}

#[test]
fn mistral_is_made_as_mlx_lm_makes_it() {
    check("mistral");
}

#[test]
fn qwen3_is_made_as_mlx_lm_makes_it() {
    check("qwen3");
}
