//! Models of every family, converted to F16 and run, against transformers: the same logits, and the same tokens.

use super::single_pass::{families, make};
use pajamas_gguf::GgufModel;
use pajamas_plugin_api::{CancelToken, LoadRequest, Model, OptionValue, Progress};
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::Path;

/// A family's model: its name, the golden logits that llama.cpp can be held against (what GGUF's metadata cannot say, or
/// llama.cpp does not heed, has an entry of its own there), and the largest difference of a logit.
const MODELS: [(&str, &str, f32); 18] = [
    ("llama-spm", "logits", 0.02),
    ("llama-spm-json", "logits", 0.02),
    ("llama3", "logits", 0.02),
    ("mistral", "logits_without_window", 0.02),
    ("mixtral", "logits", 0.02),
    ("qwen2", "logits", 0.02),
    ("qwen2-yarn", "logits", 0.02),
    ("qwen2moe", "logits", 0.02),
    ("qwen2moe-fused", "logits", 0.02),
    ("qwen3", "logits", 0.02),
    ("qwen3moe", "logits", 0.02),
    ("gemma2", "logits", 0.02),
    ("gemma3", "logits_with_pattern_6", 0.02),
    ("gemma3-f16", "logits_with_pattern_6", 0.02),
    ("phi3", "logits_without_window", 0.02),
    ("phi3-longrope", "logits", 0.02),
    ("gpt-oss", "logits_with_truncated_range", 0.02),
    // llama.cpp multiplies MXFP4 with activations in eight bits.
    ("gpt-oss-mxfp4", "logits_with_truncated_range", 0.3),
];

/// Whether llama.cpp is known to read `text` otherwise than the tokenizer of the model `name`: the differences of
/// docs/reference/conversion.md.
fn is_known_difference(name: &str, text: &str) -> bool {
    let composes = name.starts_with("qwen") && text.contains(['\u{301}', '\u{30a}']);
    let mark_of_a_space = name.starts_with("gemma") && text.contains('\u{2581}');
    // transformers 5 marks the beginning of the whole text only.
    let behind_control_tokens =
        name == "llama-spm" && ["<s>", "</s>", "<unk>"].iter().any(|token| text.contains(token));
    composes || mark_of_a_space || behind_control_tokens
}

fn golden(name: &str) -> Value {
    let path = families().with_file_name("golden").join(format!("families/{name}.json"));
    serde_json::from_slice(&std::fs::read(path).expect("the golden file")).expect("JSON")
}

/// The model in F16, but for experts in MXFP4, which stay that.
fn load(name: &str, dir: &Path) -> GgufModel {
    let path = dir.join(format!("{name}.gguf"));
    make(&families().join(name), "F16", &path, &[]).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut request = LoadRequest::new(path);
    request.context_length = Some(128);
    request.threads = Some(1);
    for (option, value) in [("cache_type_k", "f32"), ("cache_type_v", "f32")] {
        request.options.set(option, OptionValue::Text(value.into()));
    }
    GgufModel::load(&request, &Progress::default(), &CancelToken::never())
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn logits_are_those_of_transformers() {
    let dir = tempfile::tempdir().unwrap();
    let mut failures = Vec::new();
    println!("\n| model | largest difference of a logit | the same likeliest token |\n|---|---|---|");
    for (name, entry, allowed) in MODELS {
        let model = load(name, dir.path());
        let golden = &golden(name)[entry];
        let (count, vocabulary) = (golden["tokens"].as_u64().unwrap(), golden["vocabulary"].as_u64().unwrap());
        let tokens: Vec<u32> = (0..count).map(|i| ((7 * i * i + 3 * i) % vocabulary) as u32).collect();
        let mut rows = Vec::new();
        let mut keep = |_: usize, row: &[f32]| {
            rows.push(row.to_vec());
            ControlFlow::Continue(())
        };
        model.logits(&tokens, 0, &mut keep, &CancelToken::never()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (mut largest, mut same, expected) = (0_f32, 0, golden["rows"].as_array().unwrap());
        for row in expected {
            let found = &rows[row["row"].as_u64().unwrap() as usize];
            let logits = row["logits"].as_array().unwrap().iter().map(|logit| logit.as_f64().unwrap() as f32);
            largest = logits.zip(found).map(|(a, b)| (a - b).abs()).fold(largest, f32::max);
            let best = (0..vocabulary as usize).max_by(|a, b| found[*a].total_cmp(&found[*b]));
            same += usize::from(best == row["best"].as_u64().map(|best| best as usize));
        }
        println!("| {name} | {largest:.5} | {same} of {} |", expected.len());
        if largest.is_nan() || largest > allowed || same != expected.len() {
            failures.push(format!("{name}: {largest} apart, {same} of {} the same", expected.len()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn tokens_are_those_of_transformers() {
    let dir = tempfile::tempdir().unwrap();
    let mut failures = Vec::new();
    for (name, ..) in MODELS {
        let model = load(name, dir.path());
        let golden = golden(name);
        for entry in golden["tokens"].as_array().unwrap() {
            let text = entry["text"].as_str().unwrap();
            let found = model.tokenize(text, false, true).unwrap();
            // Where sentencepiece itself, or the file alone, disagrees with what transformers makes of it, they are right.
            let answers = ["sentencepiece", "tokenizer.json", "ids"].map(|key| &entry[key]);
            let ids = |answer: &Value| {
                answer.as_array().map(|ids| ids.iter().map(|id| id.as_u64().unwrap() as u32).collect::<Vec<_>>())
            };
            let mut answers = answers.iter().filter_map(|answer| ids(answer));
            if !answers.any(|ids| ids == found) && !is_known_difference(name, text) {
                failures.push(format!("{name} {text:?}: {found:?}, transformers has {}", entry["ids"]));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
