//! Opening model folders: whole ones, sharded ones, and one test per kind of damage.

use pajamas_hf_model::{Dtype, HfModel};
use pajamas_plugin_api::{Error, ErrorKind};
use std::path::Path;
use tempfile::TempDir;

/// A safetensors file with F32 tensors of two elements.
fn safetensors(names: &[&str]) -> Vec<u8> {
    let entries: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(i, name)| format!(r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":[{},{}]}}"#, i * 8, i * 8 + 8))
        .collect();
    let header = format!("{{{}}}", entries.join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    for index in 0..names.len() * 2 {
        bytes.extend((index as f32).to_le_bytes());
    }
    bytes
}

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn refusal(files: &[(&str, &[u8])]) -> Error {
    let error = HfModel::open(folder(files).path()).unwrap_err();
    assert!(error.hint.is_some() || error.kind == ErrorKind::InvalidModel, "{error}");
    assert!(!error.message.contains('\n'), "one line: {error}");
    error
}

const CONFIG: (&str, &[u8]) = ("config.json", b"{}");

#[test]
fn the_test_model_opens() {
    let model = HfModel::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/pajama-tiny")).unwrap();
    assert_eq!(model.model_id(), "pajama-tiny");
    assert_eq!(model.config().architecture().unwrap(), "Qwen2ForCausalLM");
    assert_eq!(model.eos_token_ids(), [1103, 1101]);
    let embedding = model.tensor("model.embed_tokens.weight").unwrap();
    assert_eq!((embedding.dtype(), embedding.shape()), (Dtype::Bf16, [1280, 256].as_slice()));
    let bytes = embedding.read(512..516).unwrap();
    let values = embedding.read_f32(256..258).unwrap();
    assert_eq!(values[0], f32::from_bits(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])) << 16));
    assert!(embedding.read_f32(1280 * 256 - 1..1280 * 256 + 1).is_err());
    assert!(embedding.read(u64::MAX - 1..u64::MAX).is_err());
    let tokenizer = model.tokenizer().unwrap();
    assert_eq!((tokenizer.vocabulary().len(), tokenizer.merges().len()), (1101, 845));
    assert_eq!(tokenizer.added_token_id("<|im_end|>"), Some(1103));
    assert_eq!(tokenizer.special_token("eos"), Some("<|im_end|>"));
    assert_eq!(tokenizer.chat_templates()[0].name, "default");
    assert_eq!(model.load_tokenizer().unwrap().get_vocab_size(true), 1104);
}

#[test]
fn shards_come_by_file_and_then_by_name() {
    let index = br#"{"weight_map":{"b":"1.safetensors","a10":"2.safetensors","a2":"2.safetensors"}}"#;
    let dir = folder(&[
        CONFIG,
        ("model.safetensors.index.json", index),
        ("1.safetensors", &safetensors(&["b"])),
        ("2.safetensors", &safetensors(&["a2", "a10"])),
    ]);
    let model = HfModel::open(dir.path()).unwrap();
    let names: Vec<&str> = model.tensors().iter().map(|tensor| tensor.name()).collect();
    assert_eq!(names, ["b", "a10", "a2"]);
    assert_eq!(model.tensor("a10").unwrap().read_f32(0..2).unwrap(), [2.0, 3.0]);
}

#[test]
fn a_snapshot_of_the_hub_is_named_for_its_repository() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("models--Qwen--Qwen2.5-7B/snapshots/0123abcd");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::write(snapshot.join("config.json"), "{}").unwrap();
    std::fs::write(snapshot.join("model.safetensors"), safetensors(&["a"])).unwrap();
    assert_eq!(HfModel::open(snapshot).unwrap().model_id(), "Qwen/Qwen2.5-7B");
}

#[test]
fn missing_files_are_named() {
    let error = HfModel::open("/nowhere/at/all").unwrap_err();
    assert!(error.message.contains("does not exist"));
    assert!(refusal(&[]).message.contains("has no config.json"));
    assert!(refusal(&[CONFIG]).message.contains("has no model.safetensors"));
    let index = br#"{"weight_map":{"a":"1.safetensors","b":"2.safetensors","c":"3.safetensors"}}"#;
    let error = refusal(&[CONFIG, ("model.safetensors.index.json", index), ("2.safetensors", &safetensors(&["b"]))]);
    assert!(error.message.contains("lacks 2 of its 3 shards: 1.safetensors, 3.safetensors"), "{error}");
    let error = refusal(&[CONFIG, ("model-00001-of-00002.safetensors", &safetensors(&["a"]))]);
    assert!(error.message.contains("neither model.safetensors nor model.safetensors.index.json"), "{error}");
}

#[test]
fn pickles_and_quantized_weights_are_refused() {
    let error = refusal(&[CONFIG, ("pytorch_model.bin", b"\x80\x02")]);
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.message.contains("pickle"));
    for method in ["gptq", "awq", "fp8"] {
        let config = format!(r#"{{"quantization_config":{{"quant_method":"{method}"}}}}"#);
        let error = refusal(&[("config.json", config.as_bytes()), ("model.safetensors", &safetensors(&["a"]))]);
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.message.contains(method));
    }
}

#[test]
fn mlx_weights_are_refused_unless_they_are_asked_for() {
    let mut weights =
        br#"{"__metadata__":{"format":"mlx"},"a":{"dtype":"U32","shape":[1],"data_offsets":[0,4]}}"#.to_vec();
    let length = (weights.len() as u64).to_le_bytes();
    weights.splice(0..0, length);
    weights.extend([1, 2, 3, 4]);
    let config = br#"{"quantization":{"group_size":64,"bits":4}}"#;
    let files: [(&str, &[u8]); 2] = [("config.json", config), ("model.safetensors", &weights)];
    let error = refusal(&files);
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.message.contains("quantized already (MLX, 4 bits)"), "{error}");
    let model = HfModel::open_any(folder(&files).path()).unwrap();
    assert_eq!((model.metadata("format"), model.metadata("other")), (Some("mlx"), None));
    assert!(matches!(model.tensor("a").unwrap().dtype(), Dtype::Other(_)));

    let plain = safetensors(&["a"]);
    let error = refusal(&[CONFIG, ("model.safetensors", &plain), ("hf_quant_config.json", b"{}")]);
    assert!(error.message.contains("hf_quant_config.json") && error.message.contains("ModelOpt"), "{error}");
}

#[test]
fn an_index_that_lies_is_refused() {
    let with_index = |index: &[u8]| {
        refusal(&[CONFIG, ("model.safetensors.index.json", index), ("1.safetensors", &safetensors(&["a", "b"]))])
            .message
    };
    assert!(
        with_index(br#"{"weight_map":{"a":"1.safetensors","b":"1.safetensors","c":"1.safetensors"}}"#)
            .contains("promises tensor `c`")
    );
    assert!(with_index(br#"{"weight_map":{"a":"1.safetensors"}}"#).contains("holds tensor `b`"));
    assert!(with_index(br#"{"weight_map":{"a":"../1.safetensors"}}"#).contains("outside of its folder"));
    assert!(with_index(br#"{"weight_map":[]}"#).contains("no usable `weight_map`"));
    assert!(with_index(b"{").contains("not valid JSON"));
}

#[test]
fn a_file_cut_at_any_byte_is_truncated() {
    let bytes = safetensors(&["a", "b"]);
    for length in 0..bytes.len() {
        let error = refusal(&[CONFIG, ("model.safetensors", &bytes[..length])]);
        assert_eq!(error.kind, ErrorKind::InvalidModel);
        assert!(error.message.contains("model.safetensors` is truncated"), "{length}: {error}");
        assert!(error.message.ends_with(&format!("the file has {length}")), "{length}: {error}");
    }
}

#[test]
fn damaged_headers_are_refused() {
    let says = |bytes: &[u8]| refusal(&[CONFIG, ("model.safetensors", bytes)]).message;
    let raw = |header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    let mut longer = safetensors(&["a"]);
    longer.push(0);
    assert!(says(&longer).contains("1 bytes after its last tensor"));
    assert!(says(&u64::MAX.to_le_bytes()).contains("not a safetensors file"));
    assert!(says(b"version https://git-lfs.github.com/spec/v1\n").contains("not a safetensors file"));
    assert!(says(&raw("{", 0)).contains("damaged"));
    assert!(says(&raw(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, 4)).contains("damaged"));
    assert!(says(&raw(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#, 16)).contains("damaged"));
    assert!(
        says(&raw(r#"{"a":{"dtype":"F32","shape":[4611686018427387904,8],"data_offsets":[0,8]}}"#, 8))
            .contains("damaged")
    );
}
