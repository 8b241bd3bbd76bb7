//! What a model is loaded from: a GGUF file, or a Hugging Face folder that is converted on its way into memory.

use super::handle::{ModelHandle, start_library};
use super::{memory, options::Settings};
use crate::convert::{Conversion, FloatType, View};
use crate::gguf_file::GgufFile;
use llama_cpp_sys_2 as sys;
use pajamas_hf_model::HfModel;
use pajamas_plugin_api::{CancelToken, LogLevel, Progress, Result, host};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A model on the disk whose headers were read and found to be in order.
pub(crate) enum Source {
    /// A GGUF file, complete.
    File(PathBuf),
    /// A Hugging Face folder.
    Folder(Box<HfModel>),
}

impl Source {
    /// Reads the headers of the file or folder at `path`.
    ///
    /// # Errors
    /// `InvalidModel` for one that is damaged, cut short or of another kind; `Unsupported`; `Io`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Ok(Self::Folder(Box::new(HfModel::open(path)?)));
        }
        GgufFile::open(path)?.check_complete()?;
        Ok(Self::File(path.to_owned()))
    }

    /// Loads the model, weights and all.
    ///
    /// # Errors
    /// `OutOfMemory`, `Cancelled`, `InvalidModel`, `Io`; for folders, those of the converter.
    pub(crate) fn load(&self, settings: &Settings, progress: &Progress, cancel: &CancelToken) -> Result<ModelHandle> {
        start_library();
        match self {
            Self::File(path) => ModelHandle::load(path, parameters(settings), progress, cancel),
            Self::Folder(model) => load_folder(model, settings, progress, cancel),
        }
    }
}

/// Loads a folder in its own precision: what llama.cpp reads is the GGUF file that the converter would write, so that
/// there is one way from a checkpoint to llama.cpp's tensors.
fn load_folder(model: &HfModel, settings: &Settings, progress: &Progress, cancel: &CancelToken) -> Result<ModelHandle> {
    let conversion = Conversion::plan(model, FloatType::Auto, &BTreeMap::new())?;
    for note in conversion.notes() {
        host().log(LogLevel::Info, "pajamas_gguf", note);
    }
    let mut view = View::new(&conversion, cancel)?;
    let config = model.config();
    let context_length = settings.context_length(u32::try_from(config.context_length()?).unwrap_or(u32::MAX))?;
    let width = config.key_value_heads()?.saturating_mul(config.head_dim()?);
    let kv_bytes = memory::attention_cache_bytes(config.layers()?, width, settings, context_length);
    memory::check_room(model.dir(), view.tensor_bytes(), kv_bytes)?;
    ModelHandle::load_bytes(model.dir(), &mut view, parameters(settings), progress, cancel)
}

fn parameters(settings: &Settings) -> sys::llama_model_params {
    // SAFETY: gives a plain value.
    let mut parameters = unsafe { sys::llama_model_default_params() };
    parameters.load_mode = settings.load_mode;
    parameters.n_gpu_layers = settings.gpu_layers;
    parameters
}
