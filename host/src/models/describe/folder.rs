//! A folder in Hugging Face's or MLX's layout into a description: config.json, the headers of the weights, the small files.

use super::{Description, Tally, text};
use crate::error::{Error, Result};
use crate::models::safetensors::{self, Header, Tensor, read_capped};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

pub(super) fn describe(folder: &Path) -> Result<Description> {
    let config = json(&folder.join("config.json"))?.unwrap_or_default();
    let mut description = Description { size_bytes: size(folder), ..hyper_parameters(&config) };
    add_weights(folder, &config, &mut description)?;
    let tokenizer_config = json(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
    description.tokenizer = tokenizer(folder)?;
    description.chat_template = !tokenizer_config["chat_template"].is_null()
        || ["chat_template.jinja", "chat_template.json"].iter().any(|file| folder.join(file).is_file());
    description.license = license(folder)?;
    Ok(description)
}

fn json(path: &Path) -> Result<Option<Value>> {
    parsed(path)
}

fn parsed<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>> {
    let Some(bytes) = read_capped(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::Invalid {
        path: path.to_owned(),
        message: format!("it is not as expected: {error}"),
        hint: "fetch this file again".into(),
    })
}

/// Bytes of the folder's files. In Hugging Face's cache they are links.
fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| std::fs::metadata(entry.path()).ok()).filter(std::fs::Metadata::is_file);
    files.map(|file| file.len()).sum()
}

fn hyper_parameters(config: &Value) -> Description {
    // Models that see as well keep what their language part is below a key of its own.
    let parts = [config, &config["text_config"], &config["llm_config"]];
    let number = |names: &[&str]| parts.iter().find_map(|part| names.iter().find_map(|name| part.get(name)?.as_u64()));
    let string = |value: &Value| value.as_str().and_then(text);
    let layers = number(&["num_hidden_layers", "n_layer", "n_layers", "num_layers"]);
    let hidden = number(&["hidden_size", "n_embd", "d_model"]);
    let heads = number(&["num_attention_heads", "n_head", "n_heads"]);
    let kv_heads = number(&["num_key_value_heads", "n_kv_heads", "multi_query_group_num"]).or(heads);
    let head_size = number(&["head_dim"]).or_else(|| Some(hidden? / heads.filter(|heads| *heads > 0)?));
    let kv_values = || layers?.checked_mul(kv_heads?)?.checked_mul(head_size?)?.checked_mul(2);
    Description {
        name: string(&config["_name_or_path"]).filter(|name| !name.starts_with(['/', '.'])),
        architecture: string(&config["model_type"]).or_else(|| string(&config["architectures"][0])),
        layer_count: layers,
        hidden_size: hidden,
        head_count: heads,
        kv_head_count: kv_heads,
        head_size,
        kv_values_per_token: kv_values(),
        vocabulary_size: number(&["vocab_size"]),
        context_length_trained: number(&["max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx"]),
        ..Description::default()
    }
}

/// Reads the headers of all weight files.
fn add_weights(folder: &Path, config: &Value, description: &mut Description) -> Result<()> {
    let files = safetensors::weight_files(folder)?;
    if files.is_empty() {
        return Ok(());
    }
    let mut all = Header::default();
    for path in &files {
        if !path.is_file() {
            let message = "a file of the model's weights is missing".into();
            return Err(Error::Invalid { path: path.clone(), message, hint: "fetch the model again".into() });
        }
        all.tensors.extend(safetensors::read_header(path)?.tensors);
    }
    let packing = Packing::of(config);
    let (mut tally, mut bytes, mut count) = (Tally::default(), 0_u64, Some(0_u64));
    for (name, tensor) in &all.tensors {
        let role = packing.role(name, tensor, &all.tensors);
        tally.add(&role.label, tensor.size_bytes());
        bytes = bytes.saturating_add(tensor.size_bytes());
        count = count.and_then(|sum| sum.checked_add(role.weights?));
    }
    description.tensor_types = tally.finish();
    description.weights_bytes = Some(bytes);
    description.parameter_count = count;
    description.quantization =
        packing.name().or_else(|| description.tensor_types.first().map(|tensors| tensors.name.clone()));
    Ok(())
}

/// How weights are packed into integers, by `config.json`.
enum Packing<'a> {
    /// They are not.
    None,
    /// As MLX does: in words of 32 bits, with scales and biases beside them.
    Mlx(&'a Value),
    /// As `quantization_config` names it: gptq, awq, fp8, …
    Other(&'a Value),
}

/// What a tensor is.
struct Role {
    label: String,
    /// The weights it stands for; none if unknown.
    weights: Option<u64>,
}

impl<'a> Packing<'a> {
    fn of(config: &'a Value) -> Self {
        match (&config["quantization"], &config["quantization_config"]) {
            (mlx, _) if mlx.is_object() => Self::Mlx(mlx),
            // MLX writes its own a second time under this name.
            (_, other) if other.is_object() => Self::Other(other),
            _ => Self::None,
        }
    }

    fn name(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Mlx(mlx) => Some(match mlx["mode"].as_str().filter(|mode| *mode != "affine") {
                Some(mode) => mode.to_owned(),
                None => format!("{}-bit", mlx["bits"].as_u64()?),
            }),
            Self::Other(other) => {
                let method = text(other["quant_method"].as_str()?)?;
                Some(other["bits"].as_u64().map_or(method.clone(), |bits| format!("{method} {bits}-bit")))
            }
        }
    }

    fn role(&self, name: &str, tensor: &Tensor, all: &BTreeMap<String, Tensor>) -> Role {
        let as_it_is = || Role { label: tensor.dtype.clone(), weights: tensor.elements() };
        match self {
            Self::None => as_it_is(),
            Self::Mlx(mlx) => {
                let packed = |layer: &str| all.get(&format!("{layer}.weight")).is_some_and(|t| t.dtype == "U32");
                let (layer, part) = name.rsplit_once('.').unwrap_or((name, ""));
                match part {
                    "weight" if packed(layer) && all.contains_key(&format!("{layer}.scales")) => {
                        let bits = mlx[layer]["bits"].as_u64().or_else(|| mlx["bits"].as_u64());
                        let bits = bits.filter(|bits| (1..=32).contains(bits));
                        Role {
                            label: bits.map_or_else(|| tensor.dtype.clone(), |bits| format!("{bits}-bit")),
                            weights: bits.and_then(|bits| Some(tensor.elements()?.checked_mul(32)? / bits)),
                        }
                    }
                    // They belong to the weights beside them.
                    "scales" | "biases" if packed(layer) => Role { weights: Some(0), ..as_it_is() },
                    _ => as_it_is(),
                }
            }
            // Each method packs its own way, so what a word of integers stands for is unknown.
            Self::Other(_) if ["I32", "U32", "U8", "I8"].contains(&tensor.dtype.as_str()) => {
                Role { weights: None, ..as_it_is() }
            }
            Self::Other(_) => as_it_is(),
        }
    }
}

/// The kind of tokenizer.
fn tokenizer(folder: &Path) -> Result<Option<String>> {
    #[derive(Deserialize)]
    struct File {
        model: Option<Model>,
    }
    #[derive(Deserialize)]
    struct Model {
        #[serde(rename = "type")]
        kind: Option<String>,
    }
    if let Some(file) = parsed::<File>(&folder.join("tokenizer.json"))? {
        return Ok(file.model.and_then(|model| text(&model.kind?)));
    }
    Ok(folder.join("tokenizer.model").is_file().then(|| "SentencePiece".into()))
}

/// The licence that the model card names in its head: YAML between two lines of `---`.
fn license(folder: &Path) -> Result<Option<String>> {
    let Some(bytes) = read_capped(&folder.join("README.md"))? else { return Ok(None) };
    let card = String::from_utf8_lossy(&bytes);
    let head = card.strip_prefix("---").and_then(|rest| rest.split_once("\n---")).map(|(head, _)| head);
    let value = |name: &str| {
        let line = head?.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        text(line.trim().trim_matches(['"', '\'']))
    };
    Ok(match value("license") {
        Some(license) if license == "other" => value("license_name").or(Some(license)),
        license => license,
    })
}
