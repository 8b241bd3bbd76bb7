//! Recognises a byte-level BPE tokenizer's pre-tokenizer by its structure, and gives llama.cpp's name for it.

use crate::gguf_file::PreTokenizer;
use pajamas_hf_model::TokenizerFiles;
use pajamas_plugin_api::{Error, Result};
use serde_json::Value;

/// llama.cpp's name of the pre-tokenizer: `tokenizer.ggml.pre`.
pub(super) fn recognize(tokenizer: &TokenizerFiles) -> Result<&'static str> {
    let unknown = |what: String| {
        Error::unsupported(format!("the pre-tokenizer of `{}` is not known: {what}", tokenizer.path().display()))
            .with_hint("known are those of Qwen2, Llama 3 and GPT-2; for others, start from a GGUF file made elsewhere")
    };
    let structure = Structure::read(tokenizer.pre_tokenizer()).map_err(&unknown)?;
    let ignore_merges = tokenizer.model_flag("ignore_merges");
    PreTokenizer::ALL
        .iter()
        .find(|known| {
            known.patterns == structure.patterns
                && known.patterns.is_empty() == structure.byte_level_splits
                && known.ignore_merges.is_none_or(|wanted| wanted == ignore_merges)
        })
        .map(|known| known.name)
        .ok_or_else(|| unknown(format!("it splits at {}", structure.describe())))
}

/// What a byte-level pre-tokenizer does, whichever way it is written.
#[derive(Debug, Default)]
struct Structure {
    patterns: Vec<String>,
    byte_level_splits: bool,
}

impl Structure {
    fn read(pre_tokenizer: &Value) -> Result<Self, String> {
        let kind = |step: &Value| step.get("type").and_then(Value::as_str).unwrap_or("nothing").to_owned();
        let single = std::slice::from_ref(pre_tokenizer);
        let steps = match kind(pre_tokenizer).as_str() {
            "Sequence" => pre_tokenizer.get("pretokenizers").and_then(Value::as_array).map_or(single, Vec::as_slice),
            _ => single,
        };
        let (last, splits) = steps.split_last().ok_or("it has no steps")?;
        if kind(last) != "ByteLevel" {
            return Err(format!("its last step is {}, not ByteLevel", kind(last)));
        }
        if last.get("add_prefix_space").and_then(Value::as_bool) == Some(true) {
            return Err("it adds a space in front of text".into());
        }
        let mut structure = Self {
            patterns: Vec::new(),
            // The field is newer than GPT-2's tokenizer, which splits.
            byte_level_splits: last.get("use_regex").and_then(Value::as_bool).unwrap_or(true),
        };
        for step in splits {
            let pattern = step.pointer("/pattern/Regex").and_then(Value::as_str);
            let isolated = step.get("behavior").and_then(Value::as_str) == Some("Isolated");
            let inverted = step.get("invert").and_then(Value::as_bool).unwrap_or(false);
            match (kind(step).as_str(), pattern) {
                ("Split", Some(pattern)) if isolated && !inverted => structure.patterns.push(pattern.to_owned()),
                (kind, _) => return Err(format!("it has a step {kind} that is not understood")),
            }
        }
        Ok(structure)
    }

    fn describe(&self) -> String {
        let mut parts: Vec<String> = self.patterns.iter().map(|pattern| format!("`{pattern}`")).collect();
        if self.byte_level_splits {
            parts.push("GPT-2's words".into());
        }
        if parts.is_empty() { "nothing".into() } else { parts.join(", then ") }
    }
}
