//! Conversion of the test model against what llama.cpp's converter made of it, and one refusal per defect.

use super::*;
use crate::gguf_file::{GgufFile, Metadata, Value};
use pajamas_plugin_api::ErrorKind;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::sync::Mutex;

mod families;
use tempfile::TempDir;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A copy of the test model whose files can be changed.
fn model_copy() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    {
        std::fs::copy(fixtures().join("pajama-tiny").join(name), dir.path().join(name)).unwrap();
    }
    dir
}

fn edit(dir: &TempDir, file: &str, change: impl FnOnce(&mut Json)) {
    let path = dir.path().join(file);
    let mut value: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

fn convert_to(source: &Path, output: &Path, target: FloatType) -> Result<ConvertReport> {
    let provenance = BTreeMap::new();
    let source = HfModel::open_quantized(source, &KEPT_QUANTIZATIONS)?;
    convert(&source, output, target, &provenance, 2, &Progress::default(), &CancelToken::never())
}

fn refusal(dir: &TempDir) -> Error {
    let output = dir.path().join("out.gguf");
    let error = convert_to(dir.path(), &output, FloatType::Auto).unwrap_err();
    assert!(!output.exists(), "a failed conversion leaves nothing behind");
    error
}

/// The golden file's form of a value: its types, and the value or the length and hash of a long array.
fn as_json(value: &Value) -> Json {
    let scalar = |value: &Value| match value {
        Value::String(text) => json!(text),
        Value::Bool(value) => json!(value),
        Value::F32(value) => json!(f64::from(*value)),
        Value::I32(value) => json!(value),
        other => json!(other.as_u64()),
    };
    match value.as_array() {
        Some(items) if items.len() > 16 => {
            let text: String = items
                .iter()
                .map(|item| match item {
                    Value::I32(value) => format!("{value}\n"),
                    Value::F32(value) => format!("{:?}\n", f64::from(*value)),
                    other => format!("{}\n", other.as_str().unwrap()),
                })
                .collect();
            json!({"length": items.len(), "sha256": sha256(text.as_bytes())})
        }
        Some(items) => items.iter().map(scalar).collect(),
        None => scalar(value),
    }
}

fn golden(name: &str) -> Json {
    serde_json::from_slice(&std::fs::read(fixtures().join("golden").join(name)).unwrap()).unwrap()
}

/// How a finished file differs from what llama.cpp's converter made, `expected`, a line each.
fn differences(output: &Path, expected: &Json) -> Vec<String> {
    let file = GgufFile::open(output).unwrap();
    file.check_complete().unwrap();
    let mut found = Vec::new();
    let keys: Vec<&str> = file.metadata().iter().map(|(key, _)| key).collect();
    let wanted: Vec<&str> = expected["metadata"].as_object().unwrap().keys().map(String::as_str).collect();
    if keys != wanted {
        found.push(format!("keys {keys:?}, the converter has {wanted:?}"));
    }
    for (key, value) in file.metadata().iter() {
        let wanted = &expected["metadata"][key]["value"];
        if as_json(value) != *wanted {
            found.push(format!("{key} is {}, the converter has {wanted}", as_json(value)));
        }
    }
    let tensors: Vec<Json> = file
        .tensors()
        .iter()
        .map(|tensor| {
            json!({
                "name": tensor.name, "type": tensor.ggml_type.name, "shape": tensor.shape,
                "sha256": sha256(&file.read_tensor(tensor).unwrap()),
            })
        })
        .collect();
    let wanted = expected["tensors"].as_array().unwrap();
    let names = |tensors: &[Json]| tensors.iter().map(|tensor| tensor["name"].to_string()).collect::<Vec<_>>();
    if names(&tensors) != names(wanted) {
        found.push(format!("tensors {:?}, the converter has {:?}", names(&tensors), names(wanted)));
    }
    for tensor in &tensors {
        let wanted = wanted.iter().find(|wanted| wanted["name"] == tensor["name"]);
        if Some(tensor) != wanted {
            found.push(format!("{tensor}, the converter has {wanted:?}"));
        }
    }
    if found.is_empty() && json!(sha256(&std::fs::read(output).unwrap())) != expected["file_sha256"] {
        found.push("the bytes of the file".into());
    }
    found
}

#[test]
fn the_test_model_comes_out_as_from_llama_cpp() {
    let golden = golden("converter-pajama-tiny.json");
    let dir = tempfile::tempdir().unwrap();
    for (name, target) in [("auto", FloatType::Auto), ("f16", FloatType::F16), ("f32", FloatType::F32)] {
        let output = dir.path().join(format!("{name}.gguf"));
        let report = convert_to(&fixtures().join("pajama-tiny"), &output, target).unwrap();
        assert_eq!((report.architecture.as_str(), report.source_precision.as_str()), ("qwen2", "BF16"));
        assert_eq!(differences(&output, &golden[name]), [""; 0], "{name}");
        assert_eq!(report.output_bytes, std::fs::metadata(&output).unwrap().len());
    }
}

/// The test model as a Llama with Llama 3's rope scaling: rows are interleaved, and a tensor is computed.
fn llama_copy() -> TempDir {
    let dir = model_copy();
    edit(&dir, "config.json", |config| {
        config["architectures"][0] = json!("LlamaForCausalLM");
        config["attention_bias"] = json!(true);
        config["rope_scaling"] = json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        });
    });
    // Llama has a bias on the attention's output where it has one on q, k and v.
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let (length, rest) = bytes.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    let (mut header, mut data): (Json, _) = (serde_json::from_slice(header).unwrap(), data.to_vec());
    for layer in 0..4 {
        let bias = vec![0; 2 * 256];
        let offsets = json!([data.len(), data.len() + bias.len()]);
        header[format!("model.layers.{layer}.self_attn.o_proj.bias")] =
            json!({"dtype": "BF16", "shape": [256], "data_offsets": offsets});
        data.extend(bias);
    }
    let header = header.to_string();
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()).unwrap();
    dir
}

#[test]
fn the_view_has_the_bytes_of_the_file_wherever_it_is_read() {
    let output = tempfile::tempdir().unwrap();
    let output = output.path().join("out.gguf");
    for dir in [model_copy(), llama_copy()] {
        for target in [FloatType::Auto, FloatType::F16, FloatType::F32] {
            convert_to(dir.path(), &output, target).unwrap();
            let expected = std::fs::read(&output).unwrap();
            let source = HfModel::open(dir.path()).unwrap();
            let conversion = Conversion::plan(&source, target, None, &BTreeMap::new()).unwrap();
            let cancel = CancelToken::never();
            let mut view = View::new(&conversion, &cancel).unwrap();
            assert_eq!(view.file_bytes(), expected.len() as u64);
            let (mut all, mut buffer) = (Vec::new(), vec![0; 100_003]);
            loop {
                let count = view.read_at(all.len() as u64, &mut buffer).unwrap();
                if count == 0 {
                    break;
                }
                all.extend_from_slice(&buffer[..count]);
            }
            assert!(all == expected, "{target:?}");
            // And backwards, in steps that fall into every kind of place.
            for start in (0..expected.len()).rev().step_by(70_001) {
                let count = view.read_at(start as u64, &mut buffer[..1000]).unwrap();
                assert!(count > 0 && buffer[..count] == expected[start..start + count], "{target:?} at {start}");
            }
        }
    }
}

#[test]
fn provenance_is_kept_and_fenced_in() {
    let dir = model_copy();
    let source = HfModel::open(dir.path()).unwrap();
    let output = dir.path().join("out.gguf");
    let run = |key: &str| {
        let provenance = BTreeMap::from([(key.to_owned(), "value".to_owned())]);
        convert(&source, &output, FloatType::Auto, &provenance, 1, &Progress::default(), &CancelToken::never())
    };
    run("pajamas.version").unwrap();
    let file = GgufFile::open(&output).unwrap();
    assert_eq!(file.metadata().get("pajamas.version").and_then(Value::as_str), Some("value"));
    assert_eq!(run("general.name").unwrap_err().kind, ErrorKind::InvalidRequest);
}

#[test]
fn progress_rises_to_the_end_and_cancelling_leaves_nothing() {
    let dir = model_copy();
    let source = HfModel::open(dir.path()).unwrap();
    let output = dir.path().join("out.gguf");
    let fractions = Mutex::new(Vec::new());
    let record = |update: &pajamas_plugin_api::ProgressUpdate| fractions.lock().unwrap().push(update.fraction);
    let provenance = BTreeMap::new();
    let progress = Progress::new(&record);
    convert(&source, &output, FloatType::F16, &provenance, 1, &progress, &CancelToken::never()).unwrap();
    let seen = fractions.lock().unwrap().clone();
    assert!(seen.is_sorted() && seen.last() == Some(&1.0), "{seen:?}");

    let polls = std::sync::atomic::AtomicU32::new(0);
    let cancel = CancelToken::new(move || polls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 5);
    let error = convert(&source, &output, FloatType::F16, &provenance, 2, &progress, &cancel).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Cancelled);
    assert!(!output.exists());
}

#[test]
fn unknown_architectures_are_named() {
    let dir = model_copy();
    edit(&dir, "config.json", |config| config["architectures"][0] = json!("MambaForCausalLM"));
    let error = refusal(&dir);
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.message.contains("MambaForCausalLM"));
    let hint = error.hint.unwrap();
    assert!(hint.contains("Qwen2ForCausalLM") && hint.contains("LlamaForCausalLM"), "{hint}");
}

#[test]
fn tensors_that_do_not_fit_the_configuration_are_named() {
    let dir = model_copy();
    edit(&dir, "config.json", |config| config["num_hidden_layers"] = json!(5));
    assert!(refusal(&dir).message.contains("lacks tensor `model.layers.4."));
    edit(&dir, "config.json", |config| config["num_hidden_layers"] = json!(3));
    assert!(refusal(&dir).message.contains("holds tensor `model.layers.3."));
    edit(&dir, "config.json", |config| {
        config["num_hidden_layers"] = json!(4);
        config["intermediate_size"] = json!(512);
    });
    assert!(refusal(&dir).message.contains("has shape [256, 768]"));
    edit(&dir, "config.json", |config| {
        config["intermediate_size"] = json!(768);
        config["tie_word_embeddings"] = json!(false);
    });
    assert!(refusal(&dir).message.contains("lacks tensor `lm_head.weight`"));
}

#[test]
fn tokenizers_that_llama_cpp_would_read_wrongly_are_refused() {
    let unsupported = |change: fn(&mut Json), says: &str| {
        let dir = model_copy();
        edit(&dir, "tokenizer.json", change);
        let error = refusal(&dir);
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.message.contains(says), "{error}");
    };
    unsupported(|t| t["model"]["type"] = json!("WordPiece"), "WordPiece");
    unsupported(|t| t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("[a-z]+"), "`[a-z]+`");
    unsupported(|t| t["pre_tokenizer"]["pretokenizers"][1]["type"] = json!("Metaspace"), "Metaspace");
    unsupported(|t| t["pre_tokenizer"] = Json::Null, "not known");
    let dir = model_copy();
    edit(&dir, "config.json", |config| config["rope_scaling"] = json!({"rope_type": "longrope", "factor": 2.0}));
    assert!(refusal(&dir).message.contains("longrope"));
}

#[test]
fn pre_tokenizers_are_recognized_by_their_structure() {
    let pre = |change: fn(&mut Json)| {
        let dir = model_copy();
        edit(&dir, "tokenizer.json", change);
        let tokenizer = HfModel::open(dir.path()).unwrap().tokenizer().unwrap();
        pre_tokenizer::recognize(&tokenizer, None).unwrap()
    };
    assert_eq!(pre(|_| {}), "qwen2");
    assert_eq!(
        pre(|t| {
            let pattern = t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"].as_str().unwrap();
            let pattern = pattern.replace(r"|\p{N}| ", r"|\p{N}{1,3}| ");
            t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(pattern);
            t["model"]["ignore_merges"] = json!(true);
        }),
        "llama-bpe"
    );
    let smollm = |t: &mut Json| {
        let digits = json!({"type": "Digits", "individual_digits": true});
        let steps = json!([digits, {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}]);
        t["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": steps});
    };
    assert_eq!(pre(smollm), "smollm");
    let gpt2 = |t: &mut Json| t["pre_tokenizer"] = json!({"type": "ByteLevel", "add_prefix_space": false});
    assert_eq!(pre(gpt2), "gpt-2");
}

#[test]
fn a_pre_tokenizer_can_be_chosen_by_name() {
    let tokenizer = HfModel::open(model_copy().path()).unwrap().tokenizer().unwrap();
    assert_eq!(pre_tokenizer::recognize(&tokenizer, Some("tekken")).unwrap(), "tekken");
    let error = pre_tokenizer::recognize(&tokenizer, Some("llama-pbe")).unwrap_err();
    let hint = error.hint.unwrap_or_default();
    assert!(hint.starts_with("did you mean `llama-bpe`?") && hint.contains("tekken"), "{hint}");
}

#[test]
fn merges_and_special_tokens_are_read_in_both_layouts() {
    let dir = model_copy();
    let read = |dir: &TempDir| {
        let output = dir.path().join("out.gguf");
        convert_to(dir.path(), &output, FloatType::Auto).unwrap();
        GgufFile::open(&output).unwrap().metadata().clone()
    };
    let tokenizer_keys = |metadata: &Metadata| {
        let ours = metadata.iter().filter(|(key, _)| key.starts_with("tokenizer."));
        ours.map(|(key, value)| (key.to_owned(), value.clone())).collect::<Vec<_>>()
    };
    let expected = tokenizer_keys(&read(&dir));
    edit(&dir, "tokenizer.json", |tokenizer| {
        let merges = tokenizer["model"]["merges"].as_array_mut().unwrap();
        for merge in merges {
            *merge = json!(format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()));
        }
    });
    edit(&dir, "tokenizer_config.json", |config| {
        config["eos_token"] = json!({"content": config["eos_token"], "special": true});
        let template = config["chat_template"].take();
        std::fs::write(dir.path().join("chat_template.jinja"), template.as_str().unwrap()).unwrap();
        config.as_object_mut().unwrap().remove("chat_template");
    });
    assert_eq!(tokenizer_keys(&read(&dir)), expected);
}
