//! A GGUF file's vocabulary as the tokenizer.json that it came from.

use pajamas_gguf_file::{GgufFile, PreTokenizer, Value};
use pajamas_hf_model::{ChatTemplate, TokenizerFiles};
use pajamas_plugin_api::{Error, Result};
use serde_json::{Map, Value as Json, json};

/// llama.cpp's token types.
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
const UNUSED: u64 = 5;

/// Keys of ids that end an answer.
const END_KEYS: [&str; 3] = ["eos_token_id", "eot_token_id", "eom_token_id"];
/// Texts of control tokens that end an answer, whatever the keys say, as llama.cpp has it.
const END_TEXTS: [&str; 6] = ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>"];

const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// What would be in the tokenizer's files.
///
/// # Errors
/// `Unsupported` for vocabularies that are no byte-level BPE or are split in an unknown way; `InvalidModel`.
pub(super) fn files(file: &GgufFile) -> Result<TokenizerFiles> {
    let path = file.path();
    let word = |key: &str| get(file, key).and_then(Value::as_str).unwrap_or_default();
    let unsupported = |what: String| {
        Error::unsupported(format!("`{}` {what}", path.display()))
            .with_hint("run it on a gguf backend, or make an MLX model of the original")
    };
    if word("model") != "gpt2" {
        return Err(unsupported(format!(
            "has a `{}` vocabulary; this backend reads byte-level BPE",
            word("model").escape_debug()
        )));
    }
    let pre = PreTokenizer::ALL.into_iter().find(|known| known.name == word("pre")).ok_or_else(|| {
        unsupported(format!("splits text as `{}`, which this backend does not know", word("pre").escape_debug()))
    })?;
    let missing = |key: &str| Error::invalid_model(format!("`{}` has no usable tokenizer.ggml.{key}", path.display()));
    let tokens = strings(file, "tokens").ok_or_else(|| missing("tokens"))?;
    let merges = strings(file, "merges").ok_or_else(|| missing("merges"))?;
    let types: Vec<u64> = match get(file, "token_type").and_then(Value::as_array) {
        Some(types) => types.iter().map(|kind| kind.as_u64().unwrap_or(0)).collect(),
        None => vec![1; tokens.len()],
    };
    if types.len() != tokens.len() {
        return Err(missing("token_type"));
    }
    let (mut vocabulary, mut added) = (Map::new(), Vec::new());
    for (id, (text, kind)) in tokens.iter().zip(types).enumerate() {
        match kind {
            UNUSED => (),
            CONTROL | USER_DEFINED => added.push(json!({
                "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind == CONTROL
            })),
            _ => {
                vocabulary.insert((*text).to_owned(), json!(id));
            }
        }
    }
    let byte_level = |splits: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": splits});
    let mut steps: Vec<Json> = pre
        .patterns
        .iter()
        .map(|pattern| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}))
        .collect();
    steps.push(byte_level(pre.byte_level_splits));
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}, "post_processor": null,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre.ignore_merges.unwrap_or(false), "vocab": vocabulary, "merges": merges
        }
    });
    let mut config = Map::new();
    for role in ["bos", "eos", "pad"] {
        let text = id(file, &format!("{role}_token_id")).and_then(|id| tokens.get(id as usize));
        config.extend(text.map(|text| (format!("{role}_token"), json!(text))));
        let adds = get(file, &format!("add_{role}_token")).and_then(Value::as_bool);
        config.extend(adds.map(|adds| (format!("add_{role}_token"), json!(adds))));
    }
    // llama.cpp's default for such vocabularies: nothing is put before a text unless the file says so, or is Llama 3's.
    config.entry("add_bos_token").or_insert(json!(pre.name == "llama-bpe"));
    TokenizerFiles::new(path, tokenizer, config.into(), chat_templates(file))
}

/// Every id that ends an answer.
pub(super) fn end_of_generation(file: &GgufFile) -> Vec<u32> {
    let tokens = strings(file, "tokens").unwrap_or_default();
    let by_text = tokens.iter().zip(0..).filter(|(text, _)| END_TEXTS.contains(text)).map(|(_, id)| id);
    END_KEYS.iter().filter_map(|key| id(file, key)).chain(by_text).collect()
}

fn chat_templates(file: &GgufFile) -> Vec<ChatTemplate> {
    let named = |key: &str| match key.strip_prefix(CHAT_TEMPLATE)? {
        "" => Some("default".to_owned()),
        rest => rest.strip_prefix('.').map(str::to_owned),
    };
    let texts = file.metadata().iter().filter_map(|(key, value)| Some((named(key)?, value.as_str()?)));
    texts.map(|(name, template)| ChatTemplate { name, template: template.to_owned() }).collect()
}

fn get<'a>(file: &'a GgufFile, key: &str) -> Option<&'a Value> {
    file.metadata().get(&format!("tokenizer.ggml.{key}"))
}

fn id(file: &GgufFile, key: &str) -> Option<u32> {
    get(file, key).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok())
}

fn strings<'a>(file: &'a GgufFile, key: &str) -> Option<Vec<&'a str>> {
    get(file, key)?.as_array()?.iter().map(Value::as_str).collect()
}
