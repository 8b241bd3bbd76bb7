//! An MLX folder that was opened: its configuration, its tensors, and how each layer is quantized.

use crate::affine::Affine;
use crate::quantization::{LayerQuantization, Mode, Quantization, Stated};
use pajamas_hf_model::{Config, Dtype, HfModel, Tensor};
use pajamas_plugin_api::{Error, Result};
use std::path::Path;

/// An MLX folder: a Hugging Face folder whose weights may be quantized as MLX does it.
#[derive(Debug)]
pub struct MlxFolder {
    model: HfModel,
    quantization: Option<Quantization>,
}

impl MlxFolder {
    /// Opens the folder `dir` and reads every header in it, no tensor data. A Hugging Face folder in full or half
    /// precision is one too, with no layer quantized.
    ///
    /// # Errors
    /// As [`HfModel::open`]; `Unsupported` for weights that something other than MLX has quantized.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let config = Config::read(dir)?;
        match config.raw().get("quantization").filter(|value| !value.is_null()) {
            Some(value) => {
                let quantization = Quantization::read(value, config.path())?;
                Ok(Self { model: HfModel::open_any(dir)?, quantization: Some(quantization) })
            }
            None => Ok(Self { model: HfModel::open(dir)?, quantization: None }),
        }
    }

    /// Its configuration, tensors and tokenizer.
    pub fn model(&self) -> &HfModel {
        &self.model
    }

    /// What `config.json` says of the quantization; none for a model that has none.
    pub fn quantization(&self) -> Option<&Quantization> {
        self.quantization.as_ref()
    }

    /// How the layer `path` (`model.layers.0.self_attn.q_proj`) is quantized; none if it is not. As in mlx-lm, an entry
    /// for the layer decides, and where there is none, whether the layer has scales.
    ///
    /// `in_features` is the layer's width before quantization, where it is known. With it, bits and group size of a
    /// layer without an entry are taken from its tensors, as in mlx-lm; without it, they are the model's.
    ///
    /// # Errors
    /// `InvalidModel` where the layer's tensors contradict what is said of them.
    pub fn layer_quantization(&self, path: &str, in_features: Option<u64>) -> Result<Option<LayerQuantization>> {
        let Some(quantization) = &self.quantization else { return Ok(None) };
        let scales = self.model.tensor(&format!("{path}.scales"));
        let chosen = match (quantization.stated(path), scales) {
            (Stated::Layer(None), _) | (Stated::Model(_), None) => return Ok(None),
            (Stated::Layer(Some(own)), scales) => {
                scales.ok_or_else(|| {
                    self.contradiction(path, "its config.json says it is quantized, but has no scales")
                })?;
                own.clone()
            }
            (Stated::Model(model), Some(scales)) => match in_features {
                Some(width) => self.infer(path, scales, width)?,
                None => model.clone(),
            },
        };
        self.check(path, &chosen)?;
        Ok(Some(chosen))
    }

    /// Bits, group size and mode from the tensors of the layer `path`, which is `width` wide.
    fn infer(&self, path: &str, scales: &Tensor, width: u64) -> Result<LayerQuantization> {
        let wrong = || self.contradiction(path, &format!("its tensors fit no quantization of rows of {width}"));
        let packed = self.columns(path, "weight").ok_or_else(wrong)?;
        let groups = scales.shape().last().copied().unwrap_or(0);
        let (total_bits, group_size) = match (packed.checked_mul(32), width.checked_div(groups)) {
            (Some(bits), Some(size)) if width > 0 => (bits, size),
            _ => return Err(wrong()),
        };
        let (bits, group_size) = match (u32::try_from(total_bits / width), u32::try_from(group_size)) {
            (Ok(bits), Ok(group_size)) if total_bits.is_multiple_of(width) => (bits, group_size),
            _ => return Err(wrong()),
        };
        // Only the scales of the affine mode are floats; the others allow one combination each.
        let bytes = matches!(scales.dtype(), Dtype::Other(_));
        let mode = match (bytes, bits, group_size) {
            (false, ..) if Affine::new(bits, group_size).is_some() => Mode::Affine,
            (true, 4, 16) => Mode::Nvfp4,
            (true, 4, 32) => Mode::Mxfp4,
            (true, 8, 32) => Mode::Mxfp8,
            _ => return Err(wrong()),
        };
        Ok(LayerQuantization { bits, group_size, mode })
    }

    /// Checks that packed weights and scales are for rows of the same width.
    fn check(&self, path: &str, chosen: &LayerQuantization) -> Result<()> {
        let width = |columns: Option<u64>, factor: u64| columns.and_then(|columns| columns.checked_mul(factor));
        let packed_bits = width(self.columns(path, "weight"), 32);
        let scaled = width(self.columns(path, "scales"), u64::from(chosen.group_size));
        if packed_bits.is_some() && packed_bits == width(scaled, u64::from(chosen.bits)) {
            return Ok(());
        }
        let what = format!(
            "its weights and scales are not those of {} bits in groups of {} ({})",
            chosen.bits,
            chosen.group_size,
            chosen.mode.word().escape_debug()
        );
        Err(self.contradiction(path, &what))
    }

    fn columns(&self, path: &str, parameter: &str) -> Option<u64> {
        self.model.tensor(&format!("{path}.{parameter}"))?.shape().last().copied()
    }

    fn contradiction(&self, path: &str, what: &str) -> Error {
        Error::invalid_model(format!("layer `{}` in `{}`: {what}", path.escape_debug(), self.model.dir().display()))
            .with_hint("config.json does not belong to these weights; fetch the folder again")
    }
}
