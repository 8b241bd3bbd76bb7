//! What is refused, each with the file, what was expected, and what to do; nothing is written then.

mod common;

use common::{Source, SourceTensor, convert, fixture};
use pajamas_plugin_api::{Error, ErrorKind};
use serde_json::json;
use std::path::Path;

/// Writes the smallest model with a change, and gives the reason for which it is refused.
fn refusal(recipe: &str, change: impl FnOnce(&mut Source), after: impl FnOnce(&Path)) -> Error {
    let scratch = tempfile::tempdir().expect("a folder");
    let (dir, made) = (scratch.path().join("source"), scratch.path().join("made"));
    let mut source = Source::small();
    change(&mut source);
    source.write(&dir);
    after(&dir);
    let error = convert(&dir, recipe, &made).expect_err("refused");
    assert!(!made.exists(), "something was written before: {error}");
    assert!(error.message.contains(&*dir.to_string_lossy()), "the file is named: {error}");
    assert!(!error.message.contains('\n'), "one line: {error}");
    error
}

fn check(error: &Error, kind: ErrorKind, message: &str, hint: &str) {
    let actual = error.hint.as_deref().unwrap_or_default();
    assert_eq!(error.kind, kind, "{error}");
    assert!(error.message.contains(message), "{error}");
    assert!(actual.contains(hint), "{actual}");
}

#[test]
fn weights_that_are_quantized_already() {
    let hint = "use the original, unquantized model";
    for (key, value, said) in [
        ("quantization", json!({"group_size": 64, "bits": 4}), "MLX, 4 bits"),
        ("quantization_config", json!({"quant_method": "gptq"}), "gptq"),
        ("quantization_config", json!({"group_size": 64, "bits": 4}), "an unnamed method"),
    ] {
        let error = refusal("4bit", |source| source.config[key] = value, |_| ());
        check(&error, ErrorKind::Unsupported, &format!("quantized already ({said})"), hint);
    }
    let model_opt = |dir: &Path| std::fs::write(dir.join("hf_quant_config.json"), "{}").expect("file");
    check(&refusal("4bit", |_| (), model_opt), ErrorKind::Unsupported, "hf_quant_config.json", hint);
    for dtype in ["F8_E4M3", "U32", "I8"] {
        let path = "model.layers.1.mlp.up_proj.weight";
        let error = refusal("4bit", |source| source.tensor(path).dtype = dtype.into(), |_| ());
        check(&error, ErrorKind::Unsupported, &format!("`{path}`"), hint);
        assert!(error.message.contains(&format!("stored as {dtype}; only F16, BF16 and F32")), "{error}");
    }
    let scratch = tempfile::tempdir().expect("a folder");
    let (once, twice) = (scratch.path().join("once"), scratch.path().join("twice"));
    convert(&fixture("pajama-tiny"), "8bit", &once).expect("made");
    let error = convert(&once, "4bit", &twice).expect_err("quantized already");
    check(&error, ErrorKind::Unsupported, "quantized already (MLX, 8 bits)", hint);
}

#[test]
fn other_families() {
    let error = refusal("4bit", |source| source.config["model_type"] = json!("gemma3"), |_| ());
    check(&error, ErrorKind::Unsupported, "model_type `gemma3`", "llama, mistral, qwen2, qwen3");
    let error = refusal("4bit", |source| source.config["model_type"] = json!(null), |_| ());
    check(&error, ErrorKind::Unsupported, "model_type ``", "llama");
}

#[test]
fn tensors_that_are_missing_unknown_or_misshapen() {
    let name = "model.layers.1.self_attn.k_proj.weight";
    let error = refusal("4bit", |source| source.tensors.retain(|tensor| tensor.name != name), |_| ());
    check(&error, ErrorKind::InvalidModel, &format!("lacks tensor `{name}` of shape [32, 64]"), "incomplete");

    let output = "lm_head.weight";
    let error = refusal("4bit", |source| source.tensors.retain(|tensor| tensor.name != output), |_| ());
    check(&error, ErrorKind::InvalidModel, &format!("lacks tensor `{output}`"), "incomplete");

    let extra = |name: &str| SourceTensor { name: name.into(), dtype: "F16".into(), shape: vec![64] };
    let error = refusal("4bit", |source| source.tensors.push(extra("model.layers.2.norm\n.weight")), |_| ());
    check(
        &error,
        ErrorKind::InvalidModel,
        r"`model.layers.2.norm\n.weight`, which llama models do not have",
        "differs",
    );

    let error = refusal("4bit", |source| source.tensor(name).shape = vec![64, 32], |_| ());
    check(&error, ErrorKind::InvalidModel, "has shape [64, 32], its config.json asks for [32, 64]", "config.json");
    let error = refusal("4bit", |source| source.config["vocab_size"] = json!(17), |_| ());
    check(&error, ErrorKind::InvalidModel, "has shape [16, 64], its config.json asks for [17, 64]", "config.json");
}

#[test]
fn damaged_files() {
    let cut = |dir: &Path| {
        let file = std::fs::File::options().write(true).open(dir.join("model.safetensors")).expect("file");
        file.set_len(5000).expect("cut");
    };
    check(&refusal("4bit", |_| (), cut), ErrorKind::InvalidModel, "is truncated", "fetch this file again");
    let damage = |dir: &Path| std::fs::write(dir.join("tokenizer.json"), "{").expect("file");
    check(&refusal("4bit", |_| (), damage), ErrorKind::InvalidModel, "tokenizer.json` is not valid JSON", "fetch");
    let remove = |dir: &Path| std::fs::remove_file(dir.join("tokenizer.json")).expect("removed");
    check(&refusal("4bit", |_| (), remove), ErrorKind::InvalidModel, "has no tokenizer.json", "save_pretrained");
    for (key, value) in [
        ("num_hidden_layers", json!(5000)),
        ("hidden_size", json!(0)),
        ("head_dim", json!(u32::MAX)),
        ("num_attention_heads", json!("four")),
    ] {
        let error = refusal("4bit", |source| source.config[key] = value, |_| ());
        assert_eq!(error.kind, ErrorKind::InvalidModel, "{error}");
    }
}

#[test]
fn requests_that_cannot_be_met() {
    let error = refusal("4bit/128", |_| (), |_| ());
    check(&error, ErrorKind::Unsupported, "groups of 128 divide, so nothing would be quantized", "smaller group_size");

    let scratch = tempfile::tempdir().expect("a folder");
    let (dir, made) = (fixture("pajama-tiny"), scratch.path().join("made"));
    let error = convert(&dir, "Q4_K_M", &made).expect_err("not one of MLX's");
    check(&error, ErrorKind::Unsupported, "no MLX method `Q4_K_M`; there are 4bit, 8bit", "");
    let error = convert(&dir, "4bit/48", &made).expect_err("no such group size");
    check(&error, ErrorKind::InvalidRequest, "`48`, expected one of 32, 64, 128", "");
    let error = convert(&dir.join("config.json"), "4bit", &made).expect_err("a file");
    check(&error, ErrorKind::Unsupported, "is a file; MLX models are made from Hugging Face folders", "folder");
    let error = convert(&scratch.path().join("nothing"), "4bit", &made).expect_err("nothing there");
    check(&error, ErrorKind::InvalidModel, "does not exist", "config.json");
    assert!(!made.exists());
    std::fs::create_dir(&made).expect("folder");
    let error = convert(&dir, "4bit", &made).expect_err("in the way");
    check(&error, ErrorKind::Io, "creating", "");
}

/// These show only in the data, which is read while the output is written.
#[test]
fn values_that_the_type_cannot_hold() {
    let scratch = tempfile::tempdir().expect("a folder");
    let made = |name: &str| scratch.path().join(name);
    let mut source = Source::small();
    for tensor in &mut source.tensors {
        tensor.dtype = "F32".into();
    }
    let dir = made("source");
    source.write(&dir);
    // Overwrites the weight at the end of the file, in the last row of the last tensor.
    let spoil = |value: f32| {
        let path = dir.join("model.safetensors");
        let mut bytes = std::fs::read(&path).expect("file");
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&value.to_le_bytes());
        std::fs::write(&path, bytes).expect("file");
    };
    spoil(70_000.0);
    let error = convert(&dir, "f16", &made("a")).expect_err("too large for half precision");
    check(&error, ErrorKind::InvalidModel, "in row 0 from column 63 on, that is not finite as float16", "bfloat16");
    convert(&dir, "4bit/64/bfloat16", &made("b")).expect("brain floats hold it");

    let last = source.tensors.pop().expect("a norm");
    let position = source.tensors.iter().position(|tensor| tensor.name.contains("1.mlp.down_proj")).expect("there");
    let down = source.tensors.remove(position);
    source.tensors.extend([last, down]);
    std::fs::remove_dir_all(&dir).expect("removed");
    source.write(&dir);
    spoil(f32::NAN);
    let error = convert(&dir, "4bit/32/float32", &made("c")).expect_err("not a number");
    check(&error, ErrorKind::InvalidModel, "`model.layers.1.mlp.down_proj.weight`", "damaged");
    assert!(error.message.contains("in row 63 from column 64 on"), "{error}");
}
