//! How the layers of an MLX model are quantized, by the `quantization` of its `config.json`.

use pajamas_plugin_api::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The largest group size and the most bits that are believed.
const GROUP_SIZE_MAX: u64 = 65_536;
const BITS_MAX: u64 = 32;

/// How numbers become weights again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// A scale and a bias per group.
    Affine,
    /// Microscaling floats of 4 bits, a power of two per 32.
    Mxfp4,
    /// Microscaling floats of 8 bits, a power of two per 32.
    Mxfp8,
    /// NVIDIA's floats of 4 bits, an 8-bit float per 16.
    Nvfp4,
    /// A mode that this crate does not know, by its name.
    Other(String),
}

impl Mode {
    fn read(word: &str) -> Self {
        match word {
            "affine" => Self::Affine,
            "mxfp4" => Self::Mxfp4,
            "mxfp8" => Self::Mxfp8,
            "nvfp4" => Self::Nvfp4,
            other => Self::Other(other.to_owned()),
        }
    }

    /// As `config.json` names it.
    pub fn word(&self) -> &str {
        match self {
            Self::Affine => "affine",
            Self::Mxfp4 => "mxfp4",
            Self::Mxfp8 => "mxfp8",
            Self::Nvfp4 => "nvfp4",
            Self::Other(word) => word,
        }
    }

    /// Group size and bits where a configuration names none, as MLX has them.
    fn defaults(&self) -> Option<(u32, u32)> {
        match self {
            Self::Affine => Some((64, 4)),
            Self::Mxfp4 => Some((32, 4)),
            Self::Mxfp8 => Some((32, 8)),
            Self::Nvfp4 => Some((16, 4)),
            Self::Other(_) => None,
        }
    }
}

/// How a layer is quantized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerQuantization {
    /// Bits per number.
    pub bits: u32,
    /// Weights per scale.
    pub group_size: u32,
    /// What the numbers mean.
    pub mode: Mode,
}

/// What a configuration says of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    /// `false`: it is not quantized.
    Off,
    /// `true`: as the whole model.
    On,
    /// In a way of its own.
    Own(LayerQuantization),
}

/// What a configuration says of a layer, taken together with what it says of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stated<'a> {
    /// The layer is named: quantized like this, or (none) not at all.
    Layer(Option<&'a LayerQuantization>),
    /// It is not named: if it is quantized, its tensors tell, and this is the model's usual way.
    Model(&'a LayerQuantization),
}

/// The `quantization` of a `config.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantization {
    model: LayerQuantization,
    layers: BTreeMap<String, Entry>,
}

impl Quantization {
    /// Reads the value of `quantization`; `path` is for error messages.
    ///
    /// # Errors
    /// `InvalidModel` for a value of another form, or impossible numbers.
    pub fn read(value: &Value, path: &Path) -> Result<Self> {
        let malformed = |what: &str| {
            Error::invalid_model(format!("`{}` has a `quantization` whose {what}", path.display()))
                .with_hint("config.json is damaged or of another kind of model; fetch the folder again")
        };
        let object = value.as_object().ok_or_else(|| malformed("value is not an object"))?;
        let model =
            layer(value).ok_or_else(|| malformed("`bits`, `group_size` or `mode` is not what MLX writes there"))?;
        let mut layers = BTreeMap::new();
        for (name, value) in object {
            // Beside the model's own parameters, which are numbers and words, stand the layers.
            let entry = match value {
                Value::Bool(false) => Entry::Off,
                Value::Bool(true) => Entry::On,
                Value::Object(_) => Entry::Own(
                    layer(value)
                        .ok_or_else(|| malformed(&format!("entry for `{}` is not usable", name.escape_debug())))?,
                ),
                _ => continue,
            };
            layers.insert(name.clone(), entry);
        }
        Ok(Self { model, layers })
    }

    /// How layers are quantized that are not named.
    pub fn model(&self) -> &LayerQuantization {
        &self.model
    }

    /// What is said of the layer `path`, such as `model.layers.0.self_attn.q_proj`.
    pub fn stated(&self, path: &str) -> Stated<'_> {
        match self.layers.get(path) {
            None => Stated::Model(&self.model),
            Some(Entry::Off) => Stated::Layer(None),
            Some(Entry::On) => Stated::Layer(Some(&self.model)),
            Some(Entry::Own(own)) => Stated::Layer(Some(own)),
        }
    }
}

/// Reads bits, group size and mode; what is missing or null has the mode's default.
fn layer(value: &Value) -> Option<LayerQuantization> {
    let present = |key: &str| value.get(key).filter(|value| !value.is_null());
    let mode = match present("mode") {
        Some(word) => Mode::read(word.as_str()?),
        None => Mode::Affine,
    };
    let defaults = mode.defaults();
    let number = |key: &str, most: u64, default: Option<u32>| match present(key) {
        Some(value) => {
            value.as_u64().filter(|number| (1..=most).contains(number)).and_then(|number| u32::try_from(number).ok())
        }
        None => default,
    };
    let group_size = number("group_size", GROUP_SIZE_MAX, defaults.map(|(group_size, _)| group_size))?;
    let bits = number("bits", BITS_MAX, defaults.map(|(_, bits)| bits))?;
    Some(LayerQuantization { bits, group_size, mode })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<Quantization> {
        Quantization::read(&value, Path::new("config.json"))
    }

    fn affine(bits: u32, group_size: u32) -> LayerQuantization {
        LayerQuantization { bits, group_size, mode: Mode::Affine }
    }

    #[test]
    fn layers_may_differ_from_the_model() {
        let quantization = read(json!({
            "group_size": 64, "bits": 4,
            "a": {"group_size": 32, "bits": 6, "mode": "affine"}, "b": false, "c": true,
            "d": {"group_size": null, "bits": 2}, "e": {"mode": "mxfp4"}, "f": {"mode": "new", "bits": 3, "group_size": 8}
        }))
        .unwrap();
        assert_eq!(quantization.stated("a"), Stated::Layer(Some(&affine(6, 32))));
        assert_eq!(quantization.stated("b"), Stated::Layer(None));
        assert_eq!(quantization.stated("c"), Stated::Layer(Some(&affine(4, 64))));
        assert_eq!(quantization.stated("d"), Stated::Layer(Some(&affine(2, 64))));
        assert_eq!(quantization.stated("bits"), Stated::Model(&affine(4, 64)));
        let Stated::Layer(Some(e)) = quantization.stated("e") else { panic!("named") };
        assert_eq!((e.bits, e.group_size, e.mode.word()), (4, 32, "mxfp4"));
        let Stated::Layer(Some(f)) = quantization.stated("f") else { panic!("named") };
        assert_eq!(f.mode, Mode::Other("new".into()));
    }

    #[test]
    fn impossible_values_are_refused() {
        for value in [
            json!("4bit"),
            json!({"bits": 0}),
            json!({"bits": 99}),
            json!({"group_size": -1}),
            json!({"mode": 4}),
            json!({"mode": "new"}),
            json!({"bits": 4, "a": {"bits": "four"}}),
        ] {
            let error = read(value.clone()).unwrap_err();
            assert!(error.message.contains("config.json") && error.hint.is_some(), "{value}");
        }
    }
}
