//! What is loaded: an MLX folder or a GGUF file, as the same parts.

use crate::engine::architecture::Architecture;
use crate::engine::weights::Weights;
use crate::folder;
use crate::gguf::Gguf;
use mlx_rs::Dtype;
use pajamas_hf_model::{Config, TokenizerFiles};
use pajamas_mlx_folder::MlxFolder;
use pajamas_plugin_api::{CancelToken, Progress, Result};
use std::path::Path;

/// A model whose headers were read.
pub(crate) enum Source {
    Folder(MlxFolder),
    Gguf(Gguf),
}

impl Source {
    /// Opens what is at `path`.
    ///
    /// # Errors
    /// `InvalidModel` where it is damaged or incomplete; `Unsupported`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Ok(if path.is_file() { Self::Gguf(Gguf::open(path)?) } else { Self::Folder(MlxFolder::open(path)?) })
    }

    pub(crate) fn config(&self) -> &Config {
        match self {
            Self::Folder(folder) => folder.model().config(),
            Self::Gguf(gguf) => gguf.config(),
        }
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::Folder(folder) => folder.model().model_id(),
            Self::Gguf(gguf) => gguf.name(),
        }
    }

    /// How the weights are stored, in words.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Folder(folder) => folder::describe(folder),
            Self::Gguf(gguf) => gguf.describe(),
        }
    }

    pub(crate) fn tokenizer(&self) -> Result<TokenizerFiles> {
        match self {
            Self::Folder(folder) => folder.model().tokenizer(),
            Self::Gguf(gguf) => gguf.tokenizer(),
        }
    }

    /// Every id that it names as ending an answer.
    pub(crate) fn end_of_generation(&self) -> Vec<u32> {
        match self {
            Self::Folder(folder) => folder.model().eos_token_ids(),
            Self::Gguf(gguf) => gguf.end_of_generation(),
        }
    }

    /// By what each pair of dimensions is rotated more slowly, where that is stored with the weights.
    pub(crate) fn rope_factors(&self) -> Result<Option<Vec<f32>>> {
        match self {
            Self::Folder(_) => Ok(None),
            Self::Gguf(gguf) => gguf.rope_factors(),
        }
    }

    /// Whether the output layer is the embedding.
    pub(crate) fn tied_embeddings(&self) -> bool {
        match self {
            Self::Folder(folder) => folder.model().tied_embeddings(),
            Self::Gguf(gguf) => gguf.config().tied_embeddings(),
        }
    }

    /// Bytes of all tensors, as they are stored.
    pub(crate) fn size_bytes(&self) -> u64 {
        match self {
            Self::Folder(folder) => folder.model().size_bytes(),
            Self::Gguf(gguf) => gguf.size_bytes(),
        }
    }

    /// Bytes of the tensors once they are loaded, where halves become singles if `compute` is that. For a GGUF file, whose
    /// blocks become MLX's, as they are stored.
    pub(crate) fn loaded_bytes(&self, compute: Option<Dtype>, tied: bool) -> u64 {
        match self {
            Self::Folder(folder) => folder::loaded_bytes(folder, compute, tied),
            Self::Gguf(gguf) => gguf.size_bytes(),
        }
    }

    pub(crate) fn weights(
        &self,
        architecture: &Architecture,
        compute: Option<Dtype>,
        progress: &Progress,
        cancel: &CancelToken,
    ) -> Result<Weights> {
        match self {
            Self::Folder(folder) => folder::weights(folder, architecture, compute, progress, cancel),
            Self::Gguf(gguf) => gguf.weights(compute, progress, cancel),
        }
    }
}
