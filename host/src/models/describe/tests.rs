//! Descriptions of made-up models.

use super::*;
use pajamas_gguf_file::{GgmlType, GgufWriter, Metadata, TensorSpec, Value};
use std::path::Path;

fn describe_at(path: &Path, format: &str) -> Result<Description> {
    let home = path.parent().unwrap().join("home");
    let config = Config::of_home(home);
    let source = Source { path: path.into(), format: format.into(), name: "m".into(), hub: None };
    describe(&source, &config)
}

fn metadata() -> Metadata {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", "llama");
    metadata.set("general.name", "Loom\u{1b}[31m");
    metadata.set("general.license", "apache-2.0");
    metadata.set("general.file_type", 15_u32);
    metadata.set("pajamas.method", "Q4_K_M");
    metadata.set("llama.block_count", 2_u32);
    metadata.set("llama.embedding_length", 512_u32);
    metadata.set("llama.attention.head_count", 8_u32);
    metadata.set("llama.attention.head_count_kv", 2_u32);
    metadata.set("llama.context_length", 8192_u32);
    metadata.set("tokenizer.ggml.model", "gpt2");
    metadata.set("tokenizer.ggml.pre", "qwen2");
    metadata.set("tokenizer.ggml.tokens", Value::strings(["a", "b", "c"]));
    metadata.set("tokenizer.chat_template", "{{ x }}");
    metadata
}

fn write_gguf(path: &Path, metadata: &Metadata, tensors: &[(&str, &[u64], GgmlType)]) {
    let spec = |(name, shape, ggml_type): &(&str, &[u64], GgmlType)| TensorSpec {
        name: (*name).into(),
        shape: shape.to_vec(),
        ggml_type: *ggml_type,
    };
    let specs: Vec<_> = tensors.iter().map(spec).collect();
    let mut writer = GgufWriter::create(path, metadata, &specs).unwrap();
    for spec in &specs {
        writer.write(&vec![0; spec.ggml_type.tensor_bytes(&spec.shape).unwrap() as usize]).unwrap();
        writer.end_tensor().unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn a_gguf_file_tells_its_shape_its_types_and_its_origin() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let tensors: [(&str, &[u64], GgmlType); 3] =
        [("a", &[512, 4], GgmlType::Q4_K), ("b", &[512, 4], GgmlType::Q4_K), ("n", &[512], GgmlType::F32)];
    write_gguf(&path, &metadata(), &tensors);
    let model = describe_at(&path, "gguf").unwrap();
    assert_eq!(model.architecture.as_deref(), Some("llama"));
    assert_eq!((model.parameter_count, model.weights_bytes), (Some(4608), Some(2 * 1152 + 2048)));
    assert!((model.bits_per_weight.unwrap() - 7.555).abs() < 0.01);
    assert_eq!(model.quantization.as_deref(), Some("Q4_K_M"));
    let types: Vec<_> = model.tensor_types.iter().map(|t| (t.name.as_str(), t.count)).collect();
    assert_eq!(types, [("Q4_K", 2), ("F32", 1)]);
    assert_eq!((model.layer_count, model.hidden_size, model.head_count), (Some(2), Some(512), Some(8)));
    assert_eq!((model.kv_head_count, model.head_size), (Some(2), Some(64)));
    assert_eq!(model.kv_values_per_token, Some(2 * 2 * 64 * 2));
    assert_eq!((model.vocabulary_size, model.context_length_trained), (Some(3), Some(8192)));
    assert_eq!(model.tokenizer.as_deref(), Some("gpt2 (qwen2)"));
    assert_eq!((model.chat_template, model.license.as_deref()), (true, Some("apache-2.0")));
    assert_eq!(model.provenance["pajamas.method"], "Q4_K_M");
    assert_eq!(model.size_bytes, std::fs::metadata(&path).unwrap().len());
}

#[test]
fn layers_with_heads_of_their_own_are_added_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let mut metadata = metadata();
    metadata.set("llama.attention.head_count_kv", Value::i32s([4, 0]));
    metadata.set("llama.attention.key_length", 100_u32);
    metadata.set("llama.attention.value_length", 50_u32);
    write_gguf(&path, &metadata, &[]);
    let model = describe_at(&path, "gguf").unwrap();
    assert_eq!((model.kv_head_count, model.head_size, model.kv_values_per_token), (Some(4), Some(100), Some(600)));
    assert_eq!((model.parameter_count, model.bits_per_weight), (Some(0), None));
}

#[test]
fn a_model_in_parts_is_one_and_a_missing_part_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("m-00001-of-00002.gguf"), dir.path().join("m-00002-of-00002.gguf"));
    let mut head = metadata();
    head.set("split.count", 2_u32);
    write_gguf(&first, &head, &[("a", &[512, 4], GgmlType::F16)]);
    let error = describe_at(&first, "gguf").unwrap_err().to_string();
    assert!(error.contains("m-00002-of-00002.gguf") && error.contains("part 2 of 2 is missing"), "{error}");
    write_gguf(&second, &Metadata::default(), &[("b", &[512, 4], GgmlType::F16)]);
    assert_eq!(describe_at(&first, "gguf").unwrap().parameter_count, Some(4096));
}

#[test]
fn a_damaged_gguf_gives_the_readers_error_with_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    write_gguf(&path, &metadata(), &[("a", &[512, 4], GgmlType::F32)]);
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(3000).unwrap();
    let error = describe_at(&path, "gguf").unwrap_err().to_string();
    assert!(error.contains("m.gguf") && error.contains("is truncated"), "{error}");
}

fn write_folder(dir: &Path, config: &str, header: &str, data_bytes: usize) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("config.json"), config).unwrap();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data_bytes]].concat();
    std::fs::write(dir.join("model.safetensors"), bytes).unwrap();
}

#[test]
fn a_folder_tells_the_same_by_its_config_and_its_headers() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("m");
    let config = r#"{"model_type":"qwen2","num_hidden_layers":3,"hidden_size":64,"num_attention_heads":4,
        "num_key_value_heads":2,"vocab_size":99,"max_position_embeddings":2048}"#;
    let header = r#"{"a":{"dtype":"BF16","shape":[10,3],"data_offsets":[0,60]}}"#;
    write_folder(&folder, config, header, 60);
    std::fs::write(folder.join("tokenizer.json"), r#"{"added_tokens":[],"model":{"type":"BPE","vocab":{}}}"#).unwrap();
    std::fs::write(folder.join("tokenizer_config.json"), r#"{"chat_template":"x"}"#).unwrap();
    std::fs::write(folder.join("README.md"), "---\nlanguage: en\nlicense: \"mit\"\n---\n# Loom\n").unwrap();
    std::fs::write(folder.join("pajamas.json"), r#"{"pajamas.method":"4bit"}"#).unwrap();
    let model = describe_at(&folder, "huggingface").unwrap();
    assert_eq!((model.architecture.as_deref(), model.quantization.as_deref()), (Some("qwen2"), Some("BF16")));
    assert_eq!((model.parameter_count, model.bits_per_weight), (Some(30), Some(16.0)));
    assert_eq!((model.head_size, model.kv_values_per_token), (Some(16), Some(3 * 2 * 16 * 2)));
    assert_eq!((model.tokenizer.as_deref(), model.chat_template), (Some("BPE"), true));
    assert_eq!(model.license.as_deref(), Some("mit"));
    assert_eq!(model.provenance.len(), 1);
    std::fs::write(folder.join("config.json"), "{").unwrap();
    assert!(describe_at(&folder, "huggingface").unwrap_err().to_string().contains("config.json"));
}

#[test]
fn packed_words_count_as_the_weights_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("m");
    // 4 rows of 64 weights: 4 bits each in the first layer, 8 in the second; one scale and one bias a row.
    let config = r#"{"model_type":"llama","quantization":{"group_size":64,"bits":4,"b":{"bits":8,"group_size":64}}}"#;
    let header = r#"{"a.weight":{"dtype":"U32","shape":[4,8],"data_offsets":[0,128]},
        "a.scales":{"dtype":"F16","shape":[4,1],"data_offsets":[128,136]},
        "a.biases":{"dtype":"F16","shape":[4,1],"data_offsets":[136,144]},
        "b.weight":{"dtype":"U32","shape":[4,16],"data_offsets":[144,400]},
        "b.scales":{"dtype":"F16","shape":[4,1],"data_offsets":[400,408]},
        "n.weight":{"dtype":"F16","shape":[64],"data_offsets":[408,536]}}"#;
    write_folder(&folder, config, header, 536);
    let model = describe_at(&folder, "mlx").unwrap();
    assert_eq!((model.parameter_count, model.quantization.as_deref()), (Some(256 + 256 + 64), Some("4-bit")));
    let types: Vec<_> = model.tensor_types.iter().map(|t| (t.name.as_str(), t.count)).collect();
    assert_eq!(types, [("8-bit", 1), ("F16", 4), ("4-bit", 1)]);
    let gptq = r#"{"quantization_config":{"quant_method":"gptq","bits":4}}"#;
    write_folder(&folder, gptq, r#"{"q":{"dtype":"I32","shape":[8],"data_offsets":[0,32]}}"#, 32);
    let model = describe_at(&folder, "huggingface").unwrap();
    assert_eq!((model.parameter_count, model.quantization.as_deref()), (None, Some("gptq 4-bit")));
}

#[test]
fn of_a_plugins_own_format_the_size_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.ngram");
    std::fs::write(&path, "12345").unwrap();
    let model = describe_at(&path, "ngram").unwrap();
    assert_eq!((model.size_bytes, model.parameter_count), (5, None));
}
