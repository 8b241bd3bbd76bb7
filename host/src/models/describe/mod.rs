//! Reads what a model says of itself into a description: headers and small files only, never its weights.

mod folder;
mod gguf;

use super::format::{GGUF, HUGGING_FACE, MLX};
use super::provenance;
use super::source::Source;
use super::store::{self, Record};
use crate::config::Config;
use crate::error::Result;
use crate::validate::Summary;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Characters of a text from a model's metadata that are kept: a name needs fewer.
const TEXT_CHARS_MAX: usize = 500;

/// What a model is. What it does not tell is none.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Description {
    /// Its file or folder.
    pub path: PathBuf,
    /// `gguf`, `mlx`, `huggingface`, or what a plugin adds.
    pub format: String,
    /// Its own name.
    pub name: Option<String>,
    /// `qwen2`, `llama`, …
    pub architecture: Option<String>,
    /// Weights, those that are shared counted once.
    pub parameter_count: Option<u64>,
    /// Bytes of its file, or of the files of its folder.
    pub size_bytes: u64,
    /// Bytes of its tensors.
    pub weights_bytes: Option<u64>,
    /// Bits of its tensors by weights.
    pub bits_per_weight: Option<f64>,
    /// How most of its weights are stored, as its maker calls it: `Q4_K_M`, `4-bit`, `BF16`.
    pub quantization: Option<String>,
    /// Its tensors by type, the type with the most bytes first.
    pub tensor_types: Vec<TensorType>,
    /// Blocks of attention and feed-forward.
    pub layer_count: Option<u64>,
    /// Width of the stream between the blocks.
    pub hidden_size: Option<u64>,
    /// Attention heads.
    pub head_count: Option<u64>,
    /// Heads of keys and values; the greatest, where layers differ.
    pub kv_head_count: Option<u64>,
    /// Width of a head's keys.
    pub head_size: Option<u64>,
    /// Numbers that the KV cache holds for each token, keys and values of every layer.
    pub kv_values_per_token: Option<u64>,
    /// Tokens it knows.
    pub vocabulary_size: Option<u64>,
    /// Tokens of context that it was trained with.
    pub context_length_trained: Option<u64>,
    /// What kind of tokenizer it has: `gpt2 (qwen2)`, `BPE`, …
    pub tokenizer: Option<String>,
    /// Whether it has a chat template.
    pub chat_template: bool,
    /// Its licence, as its metadata names it.
    pub license: Option<String>,
    /// Where it came from and how it was made, by its own account and by the store's record.
    pub provenance: BTreeMap<String, String>,
    /// What validating it came to, if that was done.
    pub validation: Option<Summary>,
}

/// The tensors of one type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TensorType {
    /// `Q4_K`, `BF16`, `4-bit`, …
    pub name: String,
    /// How many tensors.
    pub count: u64,
    /// Their bytes together.
    pub size_bytes: u64,
}

/// Describes the model `source`. Of a format that only a plugin knows, little is known.
///
/// # Errors
/// When a file of it is damaged; the error names the file.
pub fn describe(source: &Source, config: &Config) -> Result<Description> {
    let mut description = match source.format.as_str() {
        GGUF => gguf::describe(&source.path)?,
        HUGGING_FACE | MLX => folder::describe(&source.path)?,
        _ => Description { size_bytes: store::size_on_disk(&source.path), ..Description::default() },
    };
    description.path.clone_from(&source.path);
    description.format.clone_from(&source.format);
    if let (Some(bytes), Some(count @ 1..)) = (description.weights_bytes, description.parameter_count) {
        description.bits_per_weight = Some(bytes as f64 * 8.0 / count as f64);
    }
    description.provenance = provenance::read(&source.path)?;
    let validation = description.provenance.remove(provenance::VALIDATION);
    description.validation = validation.and_then(|summary| Summary::from_compact(&summary));
    if let Some((id, commit)) = &source.hub {
        description.provenance.insert("huggingface.repository".into(), id.clone());
        description.provenance.insert("huggingface.commit".into(), commit.clone());
    }
    if let Some(record) = store::record_of(config, &source.path).filter(Record::is_ours) {
        description.provenance.insert("record.method".into(), record.method);
        description.provenance.insert("record.source".into(), record.source);
        description.validation = description.validation.or(record.validation);
        if record.created_unix_s > 0 {
            description.provenance.insert("record.created_unix_s".into(), record.created_unix_s.to_string());
        }
    }
    Ok(description)
}

/// Counts tensors by type.
#[derive(Debug, Default)]
struct Tally(BTreeMap<String, TensorType>);

impl Tally {
    fn add(&mut self, name: &str, size_bytes: u64) {
        let entry = self.0.entry(name.to_owned()).or_default();
        entry.count += 1;
        entry.size_bytes = entry.size_bytes.saturating_add(size_bytes);
    }

    /// The types, the one with the most bytes first.
    fn finish(self) -> Vec<TensorType> {
        let mut types: Vec<TensorType> = self.0.into_iter().map(|(name, tally)| TensorType { name, ..tally }).collect();
        types.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.name.cmp(&b.name)));
        types
    }
}

/// A text from metadata, if there is any in it, and not more than a reader can use.
fn text(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.chars().take(TEXT_CHARS_MAX).collect())
}

#[cfg(test)]
mod tests;
