//! The architectures that can be converted. A further one is one small file here and one line in [`FAMILIES`].

mod decoder;
mod experts;
mod gemma2;
mod gemma3;
mod gpt_oss;
mod llama;
mod mixtral;
mod phi3;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_moe;

use super::metadata;
use crate::gguf_file::Metadata;
use crate::rows::Arrangement;
use pajamas_hf_model::{Config, HfModel};
use pajamas_plugin_api::{Error, Result};

/// Every family, in the order in which errors list them.
pub const FAMILIES: [&dyn Family; 10] = [
    &llama::Llama,
    &mixtral::Mixtral,
    &qwen2::Qwen2,
    &qwen2_moe::Qwen2Moe,
    &qwen3::Qwen3,
    &qwen3_moe::Qwen3Moe,
    &gemma2::Gemma2,
    &gemma3::Gemma3,
    &phi3::Phi3,
    &gpt_oss::GptOss,
];

/// What is particular to an architecture.
pub trait Family: Sync {
    /// The values of `architectures` in `config.json` that it serves.
    fn architectures(&self) -> &'static [&'static str];

    /// llama.cpp's name for it.
    fn gguf_architecture(&self) -> &'static str;

    /// Every tensor that the file has or may have. Among those whose last part a checkpoint holds at the same place, this
    /// is their order in the file.
    fn tensors(&self, source: &HfModel) -> Result<Vec<TensorRule>>;

    /// Metadata that stands in front of everything but the architecture's name.
    fn add_leading_metadata(&self, _config: &Config, _metadata: &mut Metadata) -> Result<()> {
        Ok(())
    }

    /// The hyper-parameters, up to the file's type.
    fn add_hyper_parameters(
        &self,
        config: &Config,
        file_type: u32,
        metadata: &mut Metadata,
        notes: &mut Vec<String>,
    ) -> Result<()> {
        metadata::add_hyper_parameters(config, self.gguf_architecture(), self.experts(config)?, metadata, notes)?;
        metadata.set("general.file_type", file_type);
        Ok(())
    }

    /// How many experts a layer has, and how many of them a token goes through.
    fn experts(&self, _config: &Config) -> Result<Option<(u64, u64)>> {
        Ok(None)
    }

    /// Metadata after the hyper-parameters that all architectures have.
    fn add_metadata(&self, _config: &Config, _metadata: &mut Metadata) -> Result<()> {
        Ok(())
    }

    /// Tensors that are computed from the configuration; they come first in the file.
    fn generated_tensors(&self, _config: &Config) -> Result<Vec<GeneratedTensor>> {
        Ok(Vec::new())
    }

    /// The key under which a configuration names the activation of the feed-forward part, and the names of the only one
    /// that llama.cpp computes for this architecture.
    fn activation(&self) -> (&'static str, &'static [&'static str]) {
        ("hidden_act", &["silu", "swish"])
    }

    /// What the file says of spaces in front of text (`tokenizer.ggml.add_space_prefix`).
    fn space_prefix(&self) -> SpacePrefix {
        SpacePrefix::Unsaid
    }

    /// Whether its `tokenizer.model` is taken where there is one; else `tokenizer.json` alone counts.
    fn reads_sentencepiece(&self) -> bool {
        true
    }

    /// Whether tokens that only look like control tokens are taken for such, and spaces in added tokens are written as
    /// spaces, in SentencePiece vocabularies.
    fn mends_added_tokens(&self) -> bool {
        true
    }

    /// The name of a checkpoint's tensor as [`Family::tensors`] has it; none for one that is left out.
    fn tensor_name<'n>(&self, name: &'n str) -> Option<std::borrow::Cow<'n, str>> {
        Some(name.into())
    }

    /// Things a user should know about this model.
    fn notes(&self, _config: &Config) -> Vec<String> {
        Vec::new()
    }
}

/// What a file says of spaces in front of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpacePrefix {
    /// Nothing.
    Unsaid,
    /// What `add_prefix_space` in `tokenizer_config.json` says, in front of everything else about the tokenizer.
    Configured,
    /// That there are none, after everything else about a SentencePiece tokenizer.
    Never,
}

/// A tensor of the file, and what it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorRule {
    /// Its name in the file; none leaves the parts out.
    pub target: Option<String>,
    /// Its shape in the file, outermost dimension first.
    pub shape: Vec<u64>,
    /// The tensors of the checkpoint that it is made of, with their shapes, outermost dimension first.
    pub parts: Vec<Part>,
    /// How they make it.
    pub arrangement: Arrangement,
    /// Whether a checkpoint without it is incomplete.
    pub required: bool,
    /// Tensors of one group are written together, where the last part of any of them is.
    pub group: Option<u64>,
    /// Whether it is written before the others.
    pub leading: bool,
}

/// A tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its shape, outermost dimension first.
    pub shape: Vec<u64>,
}

/// A tensor that is computed.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratedTensor {
    /// Its name in the file.
    pub target: String,
    /// Its elements, one-dimensional.
    pub values: Vec<f32>,
}

/// The family of a model.
pub fn find(config: &Config) -> Result<&'static dyn Family> {
    let architecture = config.architecture()?;
    let family =
        FAMILIES.into_iter().find(|family| family.architectures().contains(&architecture)).ok_or_else(|| {
            let known: Vec<&str> = FAMILIES.iter().flat_map(|family| family.architectures()).copied().collect();
            Error::unsupported(format!("architecture `{}` cannot be converted", architecture.escape_debug())).with_hint(
                format!("supported are {}; for others, start from a GGUF file made elsewhere", known.join(", ")),
            )
        })?;
    let (key, names) = family.activation();
    match config.text(key) {
        Some(name) if !names.contains(&name) => Err(Error::unsupported(format!(
            "`{}` wants the activation `{}`, llama.cpp computes {} for `{architecture}`",
            config.path().display(),
            name.escape_debug(),
            names[0]
        ))),
        _ => Ok(family),
    }
}

impl TensorRule {
    /// The tensor `target`, as it is stored under the name `source`.
    fn plain(source: impl Into<String>, target: impl Into<String>, shape: &[u64]) -> Self {
        let part = Part { name: source.into(), shape: shape.to_vec() };
        Self {
            target: Some(target.into()),
            shape: shape.to_vec(),
            parts: vec![part],
            arrangement: Arrangement::Plain,
            required: true,
            group: None,
            leading: false,
        }
    }
}
