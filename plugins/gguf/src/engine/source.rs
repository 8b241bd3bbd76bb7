//! What a model is loaded from: a GGUF file, or a Hugging Face folder that is converted on its way into memory.

use super::handle::{ModelHandle, start_library};
use super::placement::LayerSizes;
use super::{memory, options::Settings};
use crate::convert::{Conversion, FloatType, KEPT_QUANTIZATIONS, View};
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
    /// A Hugging Face folder, and llama.cpp's name of its pre-tokenizer, where the user knows better.
    Folder(Box<HfModel>, Option<String>),
}

impl Source {
    /// Reads the headers of the file or folder at `path`.
    ///
    /// # Errors
    /// `InvalidModel` for one that is damaged, cut short or of another kind; `Unsupported`; `Io`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Ok(Self::Folder(Box::new(HfModel::open_quantized(path, &KEPT_QUANTIZATIONS)?), None));
        }
        GgufFile::open(path)?.check_complete()?;
        Ok(Self::File(path.to_owned()))
    }

    /// The same, with a folder's pre-tokenizer named.
    pub(crate) fn with_pre_tokenizer(self, name: Option<&str>) -> Self {
        match self {
            Self::Folder(model, _) => Self::Folder(model, name.map(str::to_owned)),
            file => file,
        }
    }

    /// Loads the model, weights and all.
    ///
    /// # Errors
    /// `OutOfMemory`, `Cancelled`, `InvalidModel`, `Io`; for folders, those of the converter.
    pub(crate) fn load(&self, settings: &Settings, progress: &Progress, cancel: &CancelToken) -> Result<ModelHandle> {
        start_library();
        let parameters = parameters(settings);
        match self {
            Self::File(path) => ModelHandle::load(path, parameters.raw, progress, cancel),
            Self::Folder(model, pre_tokenizer) => {
                let conversion = plan(model, pre_tokenizer.as_deref())?;
                for note in conversion.notes() {
                    host().log(LogLevel::Info, "pajamas_gguf", note);
                }
                let mut view = View::new(&conversion, cancel)?;
                check_room(model, &view, settings)?;
                ModelHandle::load_bytes(model.dir(), &mut view, parameters.raw, progress, cancel)
            }
        }
    }

    /// Bytes of the model's layers.
    ///
    /// # Errors
    /// As [`Source::open`]; for folders, those of the converter.
    pub(super) fn layer_sizes(&self) -> Result<LayerSizes> {
        match self {
            Self::File(path) => {
                let file = GgufFile::open(path)?;
                Ok(LayerSizes::new(file.tensors().iter().map(|tensor| (tensor.name.as_str(), tensor.size_bytes))))
            }
            Self::Folder(model, pre_tokenizer) => {
                let header = plan(model, pre_tokenizer.as_deref())?.header()?;
                Ok(LayerSizes::new(header.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.size_bytes))))
            }
        }
    }

    /// The model with everything but its weights, which are neither read nor given room: nothing can be computed.
    ///
    /// # Errors
    /// As [`Source::load`].
    pub(crate) fn load_hollow(&self, settings: &Settings) -> Result<ModelHandle> {
        start_library();
        let (progress, cancel) = (Progress::default(), CancelToken::never());
        let mut parameters = parameters(settings);
        parameters.raw.no_alloc = true;
        // llama.cpp aborts where it is to map weights without giving them room.
        parameters.raw.load_mode = sys::LLAMA_LOAD_MODE_NONE;
        match self {
            Self::File(path) => ModelHandle::load(path, parameters.raw, &progress, &cancel),
            Self::Folder(model, pre_tokenizer) => {
                let conversion = plan(model, pre_tokenizer.as_deref())?;
                let mut view = View::new(&conversion, &cancel)?;
                ModelHandle::load_bytes(model.dir(), &mut view, parameters.raw, &progress, &cancel)
            }
        }
    }
}

/// How a folder is loaded: in its own precision. What llama.cpp then reads is the GGUF file that the converter would
/// write, so that there is one way from a checkpoint to llama.cpp's tensors.
fn plan<'a>(model: &'a HfModel, pre_tokenizer: Option<&str>) -> Result<Conversion<'a>> {
    Conversion::plan(model, FloatType::Auto, pre_tokenizer, &BTreeMap::new())
}

/// Refuses a folder for which there is no memory: nothing of it is mapped.
fn check_room(model: &HfModel, view: &View<'_>, settings: &Settings) -> Result<()> {
    let config = model.config();
    let context_length = settings.context_length(u32::try_from(config.context_length()?).unwrap_or(u32::MAX))?;
    let width = config.key_value_heads()?.saturating_mul(config.head_dim()?);
    let kv_bytes = memory::attention_cache_bytes(config.layers()?, width, settings, context_length);
    memory::check_room(model.dir(), view.tensor_bytes(), kv_bytes, settings)
}

/// What llama.cpp is told about a model, with what that points to.
struct Parameters {
    raw: sys::llama_model_params,
    _devices: Vec<sys::ggml_backend_dev_t>,
    _tensor_split: Vec<f32>,
}

fn parameters(settings: &Settings) -> Parameters {
    // SAFETY: gives a plain value.
    let mut raw = unsafe { sys::llama_model_default_params() };
    raw.load_mode = settings.load_mode;
    raw.n_gpu_layers = if settings.gpus.is_empty() { 0 } else { settings.gpu_layers };
    raw.split_mode = settings.split_mode;
    raw.main_gpu = settings.main_gpu;
    let mut devices: Vec<_> = settings.gpus.iter().map(|gpu| gpu.as_ptr()).collect();
    devices.push(std::ptr::null_mut());
    raw.devices = devices.as_mut_ptr();
    let mut tensor_split = settings.tensor_split.clone();
    if !tensor_split.is_empty() {
        // llama.cpp reads as many as it could have devices.
        // SAFETY: gives a constant.
        tensor_split.resize(unsafe { sys::llama_max_devices() }, 0.0);
        raw.tensor_split = tensor_split.as_ptr();
    }
    Parameters { raw, _devices: devices, _tensor_split: tensor_split }
}
