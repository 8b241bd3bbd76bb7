//! Each way in which a folder's files can be damaged, and the message that it has of its own.

use pajamas_hf_model::{Config, HfModel, TokenizerFiles};
use pajamas_plugin_api::{Error, ErrorKind};
use std::path::Path;
use tempfile::TempDir;

/// A safetensors file: its header, and zeroes for data.
fn safetensors(header: &str, data_bytes: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data_bytes, 0);
    bytes
}

/// A tensor `a` of two elements.
const TWO: &str = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
const INDEX: &str = "model.safetensors.index.json";

/// A file's name and its bytes.
type Named<'a> = (&'a str, &'a [u8]);

/// A sound folder of one tensor, with `files` written over it.
fn folder(files: &[Named]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let sound: [Named; 2] = [("config.json", b"{}"), ("model.safetensors", &safetensors(TWO, 8))];
    for (name, bytes) in sound.iter().chain(files) {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

/// The error must be of this kind, be one line, name the file or folder, and say `message`.
fn assert_says(error: &Error, kind: ErrorKind, named: &Path, message: &str) {
    assert_eq!(error.kind, kind, "{error}");
    assert!(!error.message.contains('\n'), "{error}");
    assert!(error.message.contains(&named.display().to_string()), "{error} does not name {}", named.display());
    assert!(error.message.contains(message), "{error}\ndoes not say: {message}");
}

#[test]
fn the_folder_itself() {
    let dir = folder(&[]);
    HfModel::open(dir.path()).unwrap();
    for (name, message) in [("config.json", "is not a folder"), ("nothing", "does not exist")] {
        let path = dir.path().join(name);
        assert_says(&HfModel::open(&path).unwrap_err(), ErrorKind::InvalidModel, &path, message);
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("config.json")).unwrap();
    let error = HfModel::open(dir.path()).unwrap_err();
    assert_says(&error, ErrorKind::InvalidModel, &dir.path().join("config.json"), "is not a regular file");
}

#[test]
fn json_files() {
    let (deep, many) = ("[".repeat(200), ",".repeat((4 << 20) + 1));
    let cases: [(&str, &[u8], &str); 8] = [
        ("config.json", b"{\"a\":\"\xff\"}", "is not UTF-8 text"),
        ("config.json", b"{\"hidden_size\":", "is not valid JSON: EOF while parsing a value"),
        ("config.json", deep.as_bytes(), "is not valid JSON: recursion limit exceeded"),
        ("config.json", many.as_bytes(), "holds more than 4194304 values"),
        ("config.json", b"[]", "is not a JSON object"),
        ("generation_config.json", b"{]", "is not valid JSON"),
        (INDEX, b"\xff\xfe", "is not UTF-8 text"),
        (INDEX, b"{", "is not valid JSON"),
    ];
    for (name, bytes, message) in cases {
        let dir = folder(&[(name, bytes)]);
        let error = HfModel::open(dir.path()).unwrap_err();
        assert_says(&error, ErrorKind::InvalidModel, &dir.path().join(name), message);
    }
}

#[test]
fn safetensors_headers() {
    let pair = |b: &str| format!(r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}},"b":{b}}}"#);
    let many = safetensors(&",".repeat((4 << 20) + 1), 0);
    let cases: [(&str, Vec<u8>, &str); 16] = [
        ("no length", vec![1; 7], "is truncated: its header promises 8 bytes, the file has 7"),
        ("no header", vec![9, 0, 0, 0, 0, 0, 0, 0], "is truncated: its header promises 17 bytes, the file has 8"),
        ("no data", safetensors(TWO, 7), "is truncated: its header promises 70 bytes, the file has 69"),
        ("more data", safetensors(TWO, 9), "has 1 bytes after its last tensor"),
        ("a pointer", b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "is not a safetensors file"),
        ("no text", safetensors("", 0), "is damaged: EOF while parsing a value"),
        ("no object", safetensors("[]", 0), "is damaged: invalid type: sequence"),
        ("many values", many, "holds more than 4194304 values"),
        (
            "no shape",
            safetensors(r#"{"a":{"dtype":"F32","data_offsets":[0,8]}}"#, 8),
            "is damaged: missing field `shape`",
        ),
        ("odd type", safetensors(&TWO.replace("F32", "F23"), 8), "is damaged: unknown variant `F23`"),
        ("negative", safetensors(&TWO.replace("[2]", "[-2]"), 8), "is damaged: invalid value: integer `-2`"),
        ("odd size", safetensors(&TWO.replace("[2]", "[3]"), 8), "invalid shape, data type, or offset for tensor"),
        ("huge size", safetensors(&TWO.replace("[2]", "[4611686018427387904,8]"), 8), "overflow computing buffer size"),
        (
            "half bytes",
            safetensors(&TWO.replace("F32", "F4").replace("[2]", "[17]"), 8),
            "does not end up at a byte boundary",
        ),
        (
            "a hole",
            safetensors(&pair(r#"{"dtype":"F32","shape":[1],"data_offsets":[12,16]}"#), 16),
            "invalid offset for tensor `b`",
        ),
        (
            "an overlap",
            safetensors(&pair(r#"{"dtype":"F32","shape":[2],"data_offsets":[4,12]}"#), 12),
            "invalid offset for tensor `b`",
        ),
    ];
    for (what, bytes, message) in cases {
        let dir = folder(&[("model.safetensors", &bytes)]);
        let error = HfModel::open(dir.path()).unwrap_err();
        assert!(error.message.contains(message), "{what}: {error}");
        assert_says(&error, ErrorKind::InvalidModel, &dir.path().join("model.safetensors"), message);
    }
}

#[test]
fn weight_indices() {
    let shard = safetensors(TWO, 8);
    let cases = [
        (r#"{}"#, "has no usable `weight_map`"),
        (r#"{"weight_map":{}}"#, "has no usable `weight_map`"),
        (r#"{"weight_map":["1.safetensors"]}"#, "has no usable `weight_map`"),
        (r#"{"weight_map":{"a":1}}"#, "has no usable `weight_map`"),
        (r#"{"weight_map":{"a":""}}"#, "names a shard outside of its folder: ``"),
        (r#"{"weight_map":{"a":".."}}"#, "names a shard outside of its folder: `..`"),
        (r#"{"weight_map":{"a":"/1.safetensors"}}"#, "names a shard outside of its folder: `/1.safetensors`"),
        (r#"{"weight_map":{"a":"..\\1.safetensors"}}"#, "names a shard outside of its folder: `..\\1.safetensors`"),
        (r#"{"weight_map":{"a":"."}}"#, "lacks 1 of its 1 shards: ."),
        (r#"{"weight_map":{"a":"3.safetensors"}}"#, "lacks 1 of its 1 shards: 3.safetensors"),
        (r#"{"weight_map":{"b":"1.safetensors"}}"#, "promises tensor `b` in `1.safetensors`, which does not hold it"),
        (r#"{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"#, "tensor `a` is in both"),
    ];
    for (index, message) in cases {
        let dir = folder(&[(INDEX, index.as_bytes()), ("1.safetensors", &shard), ("2.safetensors", &shard)]);
        let error = HfModel::open(dir.path()).unwrap_err();
        assert_says(&error, ErrorKind::InvalidModel, dir.path(), message);
    }
    let b = r#""b":{"dtype":"U8","shape":[0],"data_offsets":[8,8]}}"#;
    let two = safetensors(&format!("{},{b}", &TWO[..TWO.len() - 1]), 8);
    let dir = folder(&[(INDEX, br#"{"weight_map":{"a":"1.safetensors"}}"#), ("1.safetensors", &two)]);
    let error = HfModel::open(dir.path()).unwrap_err();
    assert_says(&error, ErrorKind::InvalidModel, dir.path(), "holds tensor `b`, which is not in");
}

#[test]
fn weights_that_are_not_there_or_of_another_kind() {
    for (name, kind, message) in [
        ("model.bin", ErrorKind::Unsupported, "holds pickle checkpoints only (`model.bin`)"),
        ("consolidated.00.pth", ErrorKind::Unsupported, "holds pickle checkpoints only (`consolidated.00.pth`)"),
        ("a.pt", ErrorKind::Unsupported, "holds pickle checkpoints only (`a.pt`)"),
        ("a.CKPT", ErrorKind::Unsupported, "holds pickle checkpoints only (`a.CKPT`)"),
        ("adapter.safetensors", ErrorKind::InvalidModel, "holds `adapter.safetensors` but neither"),
        ("notes.txt", ErrorKind::InvalidModel, "has no model.safetensors and no model.safetensors.index.json"),
    ] {
        let dir = folder(&[(name, b"")]);
        std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
        assert_says(&HfModel::open(dir.path()).unwrap_err(), kind, dir.path(), message);
    }
    for (config, method) in [
        (r#"{"quantization":{"group_size":64}}"#, "quantized already (MLX);"),
        (r#"{"quantization":{"bits":4}}"#, "quantized already (MLX, 4 bits)"),
        (r#"{"quantization_config":{"quant_method":"g\u001bq"}}"#, "quantized already (g\\u{1b}q)"),
        (r#"{"quantization_config":{"quant_algo":"FP8"}}"#, "quantized already (FP8)"),
        (r#"{"quantization_config":{"bits":4}}"#, "quantized already (an unnamed method)"),
    ] {
        let dir = folder(&[("config.json", config.as_bytes())]);
        let error = HfModel::open(dir.path()).unwrap_err();
        assert_says(&error, ErrorKind::Unsupported, &dir.path().join("config.json"), method);
    }
}

#[test]
fn configurations() {
    type Read = fn(&Config) -> Result<(), Error>;
    let rope: Read = |config| config.rope().map(drop);
    let head: Read = |config| config.head_dim().map(drop);
    let cases: [(&str, Read, &str); 16] = [
        (r#"{"architectures":[]}"#, |config| config.architecture().map(drop), "names no `architectures`"),
        (r#"{"num_hidden_layers":null}"#, |config| config.layers().map(drop), "has no `num_hidden_layers`"),
        (
            r#"{"hidden_size":0}"#,
            |config| config.hidden_size().map(drop),
            "`hidden_size` is 0, a positive whole number",
        ),
        (r#"{"vocab_size":4294967296}"#, |config| config.vocabulary_size().map(drop), "`vocab_size` is 4294967296, a"),
        (
            r#"{"intermediate_size":"8"}"#,
            |config| config.intermediate_size().map(drop),
            r#"`intermediate_size` is "8""#,
        ),
        (r#"{"hidden_size":3,"num_attention_heads":4}"#, head, "4 attention heads cannot share a hidden size of 3"),
        (r#"{"rope_theta":0}"#, rope, "`rope_theta` is 0, a positive number was expected"),
        (r#"{"rope_scaling":{"type":"linear"}}"#, rope, "asks for linear rope scaling without a positive `factor`"),
        (
            r#"{"rope_scaling":{"type":"yarn","factor":-1}}"#,
            rope,
            "asks for yarn rope scaling without a positive `factor`",
        ),
        (
            r#"{"rope_scaling":{"type":"llama3","low_freq_factor":0.0}}"#,
            rope,
            "asks for llama3 rope scaling without a positive `low_freq_factor`",
        ),
        (
            r#"{"rope_scaling":{"type":"llama3","high_freq_factor":"4"}}"#,
            rope,
            "asks for llama3 rope scaling without a positive `high_freq_factor`",
        ),
        (
            r#"{"rope_scaling":{"type":"llama3","original_max_position_embeddings":0}}"#,
            rope,
            "`original_max_position_embeddings` is 0, a positive whole number",
        ),
        (
            r#"{"rope_scaling":{"type":"yarn","factor":2,"original_max_position_embeddings":1e300}}"#,
            rope,
            "`original_max_position_embeddings` is 1e+300, a positive whole number",
        ),
        (r#"{"rope_scaling":{"type":"yarn","factor":2}}"#, rope, "has no `max_position_embeddings`"),
        (
            r#"{"rope_scaling":{"type":"longrope","short_factor":[1]}}"#,
            rope,
            "asks for longrope rope scaling without a list of positive numbers as `long_factor`",
        ),
        (
            r#"{"rope_scaling":{"type":"su","short_factor":[1,0],"long_factor":[1,1]}}"#,
            rope,
            "asks for su rope scaling without a list of positive numbers as `short_factor`",
        ),
    ];
    for (text, read, message) in cases {
        let path = Path::new("some/config.json");
        let config = Config::parse(text.into(), path).unwrap();
        assert_says(&read(&config).unwrap_err(), ErrorKind::InvalidModel, path, message);
    }
}

#[test]
fn tokenizer_files() {
    let tokenizer = br#"{"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#;
    let large = vec![0; (16 << 20) + 1];
    let cases: [(&[Named], &str, &str); 14] = [
        (&[], "", "has no tokenizer.json and no tokenizer.model"),
        (&[("tokenizer.json", b"{")], "tokenizer.json", "is not valid JSON"),
        (&[("tokenizer.json", b"{}")], "tokenizer.json", "has no usable `model.vocab`"),
        (&[("tokenizer.json", br#"{"model":{"vocab":{"a":-1}}}"#)], "tokenizer.json", "has no usable `model.vocab`"),
        (&[("tokenizer.json", br#"{"model":{"vocab":[[1]]}}"#)], "tokenizer.json", "has no usable `model.vocab`"),
        (
            &[("tokenizer.json", br#"{"model":{"vocab":{},"merges":["ab"]}}"#)],
            "tokenizer.json",
            "has no usable `model.merges`",
        ),
        (
            &[("tokenizer.json", br#"{"model":{"vocab":{},"merges":[["a"]]}}"#)],
            "tokenizer.json",
            "has no usable `model.merges`",
        ),
        (
            &[("tokenizer.json", br#"{"model":{"vocab":{}},"added_tokens":[{"content":"a"}]}"#)],
            "tokenizer.json",
            "has no usable `added_tokens`",
        ),
        (
            &[("tokenizer.json", tokenizer), ("tokenizer_config.json", br#"{"added_tokens_decoder":{"x":{}}}"#)],
            "tokenizer.json",
            "has no usable `added_tokens`",
        ),
        (
            &[("tokenizer.json", tokenizer), ("tokenizer_config.json", b"{")],
            "tokenizer_config.json",
            "is not valid JSON",
        ),
        (
            &[("tokenizer.json", tokenizer), ("special_tokens_map.json", b"{")],
            "special_tokens_map.json",
            "is not valid JSON",
        ),
        (
            &[("tokenizer.json", tokenizer), ("chat_template.jinja", b"\xff")],
            "chat_template.jinja",
            "is not UTF-8 text",
        ),
        (
            &[("tokenizer.json", tokenizer), ("added_tokens.json", br#"{"a":"b"}"#)],
            "added_tokens.json",
            "is no map from texts to token ids",
        ),
        (&[("tokenizer.model", &large)], "tokenizer.model", "is larger than 16777216 bytes"),
    ];
    for (files, named, message) in cases {
        let dir = folder(files);
        let error = TokenizerFiles::read(dir.path()).unwrap_err();
        // An empty name stands for the folder.
        let named = if named.is_empty() { dir.path().to_owned() } else { dir.path().join(named) };
        assert_says(&error, ErrorKind::InvalidModel, &named, message);
    }
}

#[test]
fn tokenizers_that_cannot_be_made() {
    let with = |normalizer: &str| {
        format!(r#"{{"normalizer":{normalizer},"model":{{"type":"BPE","vocab":{{"a":0}},"merges":[]}}}}"#)
    };
    let cases = [
        (with(r#"{"type":"Nothing"}"#), "failed: "),
        // Here the library panics, and there it would ask for eight gigabytes.
        (with(r#"{"type":"Precompiled"}"#), "failed: the library for tokenizers does not understand it"),
        (
            with(r#"{"type":"Sequence","normalizers":[{"type":"Precompiled","precompiled_charsmap":"/P///wAA"}]}"#),
            "failed: the table of its normalizer is cut short",
        ),
        (r#"{"model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}}"#.to_owned(), "failed: "),
    ];
    let path = Path::new("some/tokenizer.json");
    for (text, message) in cases {
        let error = TokenizerFiles::parse(text.into(), b"{}".to_vec(), path).unwrap().load().unwrap_err();
        assert_says(&error, ErrorKind::InvalidModel, path, message);
    }
    // A table of one entry, and nothing to replace.
    let sound = with(r#"{"type":"Precompiled","precompiled_charsmap":"BAAAAAAAAAA="}"#);
    TokenizerFiles::parse(sound.into(), b"{}".to_vec(), path).unwrap().load().unwrap();
}

#[test]
fn tensors_read_beyond_their_end() {
    let dir = folder(&[]);
    let model = HfModel::open(dir.path()).unwrap();
    let tensor = model.tensor("a").unwrap();
    for (error, message) in [
        (tensor.read_into(4, &mut [0; 5]).unwrap_err(), "bytes 4+5 of tensor `a` were asked for, it has 8"),
        (tensor.read_f32(1..3).unwrap_err(), "elements 1..3 of tensor `a` lie outside of it"),
        (tensor.read_f32(u64::MAX / 2..u64::MAX).unwrap_err(), "of tensor `a` lie outside of it"),
    ] {
        assert_eq!(error.kind, ErrorKind::InvalidRequest, "{error}");
        assert!(error.message.contains(message), "{error}");
    }
    // Cut short while it was open.
    let path = dir.path().join("model.safetensors");
    std::fs::File::options().write(true).open(&path).unwrap().set_len(65).unwrap();
    assert_says(&tensor.read(0..8).unwrap_err(), ErrorKind::Io, &path, "reading tensor `a` from");

    let whole = safetensors(&TWO.replace("F32", "U32"), 8);
    let dir = folder(&[("model.safetensors", &whole)]);
    let model = HfModel::open(dir.path()).unwrap();
    let error = model.tensor("a").unwrap().read_f32(0..2).unwrap_err();
    assert_says(&error, ErrorKind::Unsupported, dir.path(), "is stored as U32; F32, F16 and BF16 can be read");
}

#[test]
fn many_added_tokens_take_no_time() {
    // One piece, `a`, and the mark of BPE.
    let model = [0x0a, 3, 0x0a, 1, b'a', 0x12, 2, 0x18, 2];
    let added: Vec<String> = (1..=60_000).map(|id| format!(r#""{id}":{{"content":"t{id}","special":true}}"#)).collect();
    let config = format!(r#"{{"added_tokens_decoder":{{{}}}}}"#, added.join(","));
    let dir = folder(&[
        ("tokenizer.model", &model),
        ("added_tokens.json", br#"{"x":70000,"y":5}"#),
        ("tokenizer_config.json", config.as_bytes()),
    ]);
    let files = TokenizerFiles::read(dir.path()).unwrap();
    let tokens = files.added_tokens();
    assert_eq!((tokens.len(), tokens[4].content.as_str()), (60_001, "t5"));
    assert_eq!((tokens[60_000].content.as_str(), tokens[60_000].id), ("x", 70_000));
}
