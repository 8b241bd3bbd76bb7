//! Making models: recipes, jobs, reports.

use super::option_spec::{OptionSpec, Options};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One thing that a quantizer can make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Recipe {
    /// `Q4_K_M`, `4bit`, …; matched without regard to case.
    pub name: String,
    /// The format it makes: `gguf`, `mlx`, …
    pub format: String,
    /// Bits per weight on a typical model.
    pub bits_per_weight: f32,
    /// One sentence: what it is good for.
    pub description: String,
    /// What it can be made from: `huggingface` for a folder in Hugging Face's layout, else formats as in
    /// [`Capabilities::formats`](crate::Capabilities::formats).
    #[serde(default = "hugging_face")]
    pub sources: Vec<String>,
    /// Whether it makes a file or a folder.
    #[serde(default)]
    pub artifact: ArtifactKind,
    /// Options it takes.
    #[serde(default)]
    pub options: Vec<OptionSpec>,
}

fn hugging_face_name() -> String {
    "huggingface".into()
}

fn hugging_face() -> Vec<String> {
    vec![hugging_face_name()]
}

impl Recipe {
    /// A recipe that makes one file of `format` from a Hugging Face folder.
    pub fn new(name: &str, format: &str, bits_per_weight: f32, description: &str) -> Self {
        Self {
            name: name.into(),
            format: format.into(),
            bits_per_weight,
            description: description.into(),
            sources: hugging_face(),
            artifact: ArtifactKind::File,
            options: Vec::new(),
        }
    }

    /// The same, made from `sources`.
    pub fn from_sources(self, sources: &[&str]) -> Self {
        Self { sources: sources.iter().map(|source| (*source).into()).collect(), ..self }
    }

    /// The same, with options.
    pub fn with_options(self, options: Vec<OptionSpec>) -> Self {
        Self { options, ..self }
    }

    /// The same, making a folder.
    pub fn folder(self) -> Self {
        Self { artifact: ArtifactKind::Folder, ..self }
    }
}

/// What an artifact is on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ArtifactKind {
    /// One file, `NAME.FORMAT`.
    #[default]
    File,
    /// A folder, `NAME`.
    Folder,
    /// A kind that this build does not know, and so cannot ask for.
    #[serde(other)]
    Unknown,
}

/// What [`Quantizer::quantize`](crate::Quantizer::quantize) gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QuantizeJob {
    /// What to make it from.
    pub source: PathBuf,
    /// Its format, one of the recipe's sources.
    #[serde(default = "hugging_face_name")]
    pub source_format: String,
    /// The name of one of its recipes, spelled as the recipe spells it.
    pub recipe: String,
    /// The file or folder to write; does not exist yet, but its parent does.
    pub output: PathBuf,
    /// An empty folder for intermediate files, on the same file system as the output.
    pub scratch_dir: PathBuf,
    /// Threads to compute with; none takes the host's thread budget.
    #[serde(default)]
    pub threads: Option<u32>,
    /// Options of the recipe, checked against [`Recipe::options`].
    #[serde(default)]
    pub options: Options,
    /// Provenance to store in the artifact, as `pajamas.*` and `general.source.*` keys. Into a folder the host writes it,
    /// as `pajamas.json`.
    #[serde(default)]
    pub provenance: BTreeMap<String, String>,
}

impl QuantizeJob {
    /// A job on a Hugging Face folder, without options.
    pub fn new(
        source: impl Into<PathBuf>,
        recipe: &str,
        output: impl Into<PathBuf>,
        scratch_dir: impl Into<PathBuf>,
    ) -> Self {
        Self {
            source: source.into(),
            source_format: hugging_face_name(),
            recipe: recipe.into(),
            output: output.into(),
            scratch_dir: scratch_dir.into(),
            threads: None,
            options: Options::default(),
            provenance: BTreeMap::new(),
        }
    }
}

/// What a quantizer did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QuantizeReport {
    /// `qwen2`, `llama`, …
    pub architecture: String,
    /// Precision of the source's weights: `BF16`, …
    pub source_precision: String,
    /// Bytes of the source's weights.
    pub source_bytes: u64,
    /// Bytes written.
    pub output_bytes: u64,
    /// Tensors written.
    pub tensor_count: u64,
    /// Texts whose token ids were compared with the source's own tokenizer, all alike.
    #[serde(default)]
    pub tokenizer_checks: u64,
    /// Things a user should know: fallbacks, differences that are known and harmless.
    #[serde(default)]
    pub notes: Vec<String>,
}
