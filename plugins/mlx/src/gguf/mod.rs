//! GGUF files on MLX, of the types that MLX itself reads: floats, those whose blocks fit MLX's affine format, and Q6_K,
//! which becomes half precision.
//!
//! - `config`: the metadata as the config.json that it came from
//! - `tokenizer`: the vocabulary as the tokenizer.json that it came from
//! - `tensors`, `blocks`: names, types and blocks as MLX has them

mod blocks;
mod config;
mod tensors;
mod tokenizer;

use crate::engine::weights::Weights;
use mlx_rs::Dtype;
use pajamas_gguf_file::GgufFile;
use pajamas_hf_model::{Config, TokenizerFiles};
use pajamas_plugin_api::{CancelToken, Error, Progress, Result};
use std::path::Path;

/// A GGUF file whose header was read.
pub(crate) struct Gguf {
    file: GgufFile,
    config: Config,
}

impl Gguf {
    /// Reads the header of the file at `path`.
    ///
    /// # Errors
    /// `InvalidModel` for a damaged file; `Unsupported` for an architecture that is not known.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = GgufFile::open(path)?;
        file.check_complete()?;
        let config = config::config(&file)?;
        Ok(Self { file, config })
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn name(&self) -> String {
        self.text("general.name").unwrap_or_default().to_owned()
    }

    /// How the weights are stored: the file's own word.
    pub(crate) fn describe(&self) -> String {
        let id = self.file.metadata().get("general.file_type").and_then(|value| value.as_u64());
        let known = id.and_then(|id| pajamas_gguf_file::FileType::from_id(u32::try_from(id).ok()?));
        known.map_or_else(String::new, |file_type| file_type.name.to_owned())
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.file.tensors().iter().map(|tensor| tensor.size_bytes).sum()
    }

    pub(crate) fn tokenizer(&self) -> Result<TokenizerFiles> {
        tokenizer::files(&self.file)
    }

    pub(crate) fn end_of_generation(&self) -> Vec<u32> {
        tokenizer::end_of_generation(&self.file)
    }

    pub(crate) fn weights(&self, compute: Option<Dtype>, progress: &Progress, cancel: &CancelToken) -> Result<Weights> {
        // Norms are F32 in these files whatever the rest is, so somebody has to say what is computed in.
        let own = match self.describe().as_str() {
            "F32" => Dtype::Float32,
            "BF16" => Dtype::Bfloat16,
            _ => Dtype::Float16,
        };
        tensors::weights(&self.file, Some(compute.unwrap_or(own)), progress, cancel)
    }

    /// By what each pair of dimensions is rotated more slowly (Llama 3's scaling), if the file says.
    pub(crate) fn rope_factors(&self) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.file.tensors().iter().find(|tensor| tensor.name == tensors::ROPE_FACTORS) else {
            return Ok(None);
        };
        let bytes = self.file.read_tensor(tensor)?;
        let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let head_dim = self.config.head_dim()?;
        let usable = values.iter().all(|value| value.is_finite() && *value > 0.0);
        if tensor.ggml_type.name != "F32" || values.len() as u64 * 2 != head_dim || !usable {
            return Err(Error::invalid_model(format!(
                "`{}`: `{}` has to hold {} positive F32 numbers",
                self.file.path().display(),
                tensor.name,
                head_dim / 2
            )));
        }
        Ok(Some(values))
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.file.metadata().get(key).and_then(|value| value.as_str())
    }
}
