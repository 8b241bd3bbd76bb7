//! The header's `general.*` keys and the architecture's hyper-parameters, in the order of llama.cpp's converter.

use super::families::Family;
use super::model_card::ModelCard;
use super::naming;
use crate::gguf_file::{FileType, Metadata, Value};
use pajamas_hf_model::{Config, HfModel, RopeScaling};
use pajamas_plugin_api::{Error, Result};
use serde_json::Value as Json;

/// The version of ggml's block formats that files are made for.
const QUANTIZATION_VERSION: u32 = 2;

/// What a sampling default is stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Whole,
    Real,
}

/// Sampling defaults: the keys in `generation_config.json`, of which the first that is there counts, the key in the file, and
/// what it is stored as.
const SAMPLING: [(&[&str], &str, Kind); 12] = [
    (&["sequence"], "sequence", Kind::Text),
    (&["top_k"], "top_k", Kind::Whole),
    (&["top_p"], "top_p", Kind::Real),
    (&["min_p"], "min_p", Kind::Real),
    (&["xtc_probability"], "xtc_probability", Kind::Real),
    (&["xtc_threshold"], "xtc_threshold", Kind::Real),
    (&["temperature"], "temp", Kind::Real),
    (&["penalty_last_n"], "penalty_last_n", Kind::Whole),
    (&["penalty_repeat", "repetition_penalty"], "penalty_repeat", Kind::Real),
    (&["mirostat"], "mirostat", Kind::Whole),
    (&["mirostat_tau"], "mirostat_tau", Kind::Real),
    (&["mirostat_eta"], "mirostat_eta", Kind::Real),
];

/// How many elements all tensors have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) total: u64,
    /// Those of one expert of each layer.
    pub(super) one_expert: u64,
    /// Those that belong to no expert.
    pub(super) shared: u64,
    /// Experts of a layer; none without.
    pub(super) experts: u64,
}

impl Parameters {
    /// `7.6B`, or `8x7.2B` for eight experts.
    fn size_label(self) -> String {
        match self.experts {
            0 => naming::size_label(self.total),
            experts => format!("{experts}x{}", naming::size_label(self.shared + self.one_expert)),
        }
    }
}

/// Everything but the tokenizer.
pub(super) fn metadata(
    source: &HfModel,
    family: &dyn Family,
    file_type: FileType,
    parameters: Parameters,
    notes: &mut Vec<String>,
) -> Result<Metadata> {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", family.gguf_architecture());
    family.add_leading_metadata(source.config(), &mut metadata)?;
    metadata.set("general.type", "model");
    add_sampling(source, &mut metadata);
    add_authorship(source, parameters, &mut metadata);
    family.add_hyper_parameters(source.config(), file_type.id, &mut metadata, notes)?;
    family.add_metadata(source.config(), &mut metadata)?;
    metadata.set("general.quantization_version", QUANTIZATION_VERSION);
    notes.extend(family.notes(source.config()));
    Ok(metadata)
}

fn add_sampling(source: &HfModel, metadata: &mut Metadata) {
    let Some(generation) = source.generation_config() else { return };
    for (keys, name, kind) in SAMPLING {
        // One that is null counts too.
        let Some(value) = keys.iter().find_map(|key| generation.get(key)) else { continue };
        let value = match kind {
            Kind::Text => value.as_str().filter(|text| !text.is_empty()).map(Value::from),
            Kind::Whole => value.as_f64().map(|number| Value::I32(number as i32)),
            Kind::Real => value.as_f64().map(|number| Value::F32(number as f32)),
        };
        if let Some(value) = value {
            metadata.set(format!("general.sampling.{name}"), value);
        }
    }
}

/// What the model is called, who made it, and from what. The name comes from the source alone: a user's name for the file
/// never becomes the model's. What the model's card says counts most, then the name that the model was loaded by, then the
/// folder's.
fn add_authorship(source: &HfModel, parameters: Parameters, metadata: &mut Metadata) {
    let card = ModelCard::read(source.dir(), parameters.total);
    let folder = naming::parse(&source.model_id(), parameters.total);
    // transformers leaves the id it loaded from; a path there says nothing about the model.
    let stated = source
        .config()
        .raw()
        .get("_name_or_path")
        .and_then(Json::as_str)
        .filter(|name| !name.is_empty() && name.matches('/').count() <= 1)
        .map(|name| naming::parse(name, parameters.total))
        .unwrap_or_default();
    let name = card.name.unwrap_or_else(|| naming::title(&stated.name.or(folder.name).unwrap_or_default()));
    metadata.set("general.name", if name.is_empty() { "model".to_owned() } else { name });
    let organization = || stated.organization.or(folder.organization).map(|name| naming::title(&name));
    let size_label = || stated.size_label.or(folder.size_label).or_else(|| Some(parameters.size_label()));
    let texts = [
        ("author", card.author),
        ("version", card.version.or(stated.version).or(folder.version)),
        ("organization", card.organization.or_else(organization)),
        ("finetune", card.finetune.or(stated.finetune).or(folder.finetune)),
        ("basename", card.basename.or(stated.basename).or(folder.basename)),
        ("description", card.description),
        ("size_label", card.size_label.or_else(size_label)),
        ("license", card.license),
        ("license.name", card.license_name),
        ("license.link", card.license_link),
        ("source.url", card.source_url),
        ("source.doi", card.source_doi),
        ("source.uuid", card.source_uuid),
        ("source.repo_url", card.source_repo_url),
    ];
    for (key, text) in texts {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            metadata.set(format!("general.{key}"), text);
        }
    }
    for (kind, sources) in [("base_model", card.base_models), ("dataset", card.datasets)] {
        let Some(sources) = sources else { continue };
        metadata.set(format!("general.{kind}.count"), sources.len() as u32);
        for (number, source) in sources.into_iter().enumerate() {
            for (field, text) in source.into_iter().filter(|(_, text)| !text.is_empty()) {
                metadata.set(format!("general.{kind}.{number}.{field}"), text);
            }
        }
    }
    for (key, texts) in [("tags", card.tags), ("languages", card.languages)] {
        if !texts.is_empty() {
            metadata.set(format!("general.{key}"), Value::strings(texts));
        }
    }
}

/// The hyper-parameters that most architectures have. `experts` are those of a layer and those of a token.
pub(super) fn add_hyper_parameters(
    config: &Config,
    architecture: &str,
    experts: Option<(u64, u64)>,
    metadata: &mut Metadata,
    notes: &mut Vec<String>,
) -> Result<()> {
    let key = |name: &str| format!("{architecture}.{name}");
    // `Config` refuses what does not fit 32 bits.
    let counts = [
        ("block_count", config.layers()?),
        ("context_length", config.context_length()?),
        ("embedding_length", config.hidden_size()?),
        ("feed_forward_length", config.intermediate_size()?),
        ("attention.head_count", config.attention_heads()?),
        ("attention.head_count_kv", config.key_value_heads()?),
    ];
    for (name, count) in counts {
        metadata.set(key(name), count as u32);
    }
    add_rope(config, architecture, metadata, notes)?;
    if let Some(theta) = config.local_rope_theta() {
        metadata.set(key("rope.freq_base_swa"), theta as f32);
    }
    metadata.set(key("attention.layer_norm_rms_epsilon"), config.rms_norm_epsilon()? as f32);
    if let Some((count, used)) = experts {
        if used > count {
            return Err(Error::invalid_model(format!(
                "`{}` sends a token through {used} experts, and there are {count}",
                config.path().display()
            )));
        }
        metadata.set(key("expert_count"), count as u32);
        metadata.set(key("expert_used_count"), used as u32);
    }
    if config.has_head_dim() {
        let head_dim = config.head_dim()? as u32;
        metadata.set(key("attention.key_length"), head_dim);
        metadata.set(key("attention.value_length"), head_dim);
    }
    Ok(())
}

fn add_rope(config: &Config, architecture: &str, metadata: &mut Metadata, notes: &mut Vec<String>) -> Result<()> {
    let key = |name: &str| format!("{architecture}.rope.{name}");
    let rope = config.rope()?;
    match &rope.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => {
            metadata.set(key("scaling.type"), "linear");
            metadata.set(key("scaling.factor"), *factor as f32);
        }
        RopeScaling::Yarn {
            factor,
            original_context_length,
            extrapolation_factor,
            attention_factor,
            beta_fast,
            beta_slow,
        } => {
            metadata.set(key("scaling.type"), "yarn");
            metadata.set(key("scaling.factor"), *factor as f32);
            metadata.set(key("scaling.original_context_length"), *original_context_length as u32);
            let optional = [
                ("yarn_ext_factor", extrapolation_factor),
                ("yarn_attn_factor", attention_factor),
                ("yarn_beta_fast", beta_fast),
                ("yarn_beta_slow", beta_slow),
            ];
            for (name, value) in optional {
                if let Some(value) = value {
                    metadata.set(key(&format!("scaling.{name}")), *value as f32);
                }
            }
        }
        RopeScaling::Llama3 { .. } if architecture == "llama" => {}
        RopeScaling::Other(kind) if kind == "dynamic" => {
            notes.push("dynamic rope scaling is left out: beyond the trained context, answers differ".into());
        }
        other => return Err(unknown_scaling(config, other.name(), architecture)),
    }
    metadata.set(key("freq_base"), rope.theta as f32);
    Ok(())
}

/// The error for a rope scaling that llama.cpp does not know for `architecture`.
pub(super) fn unknown_scaling(config: &Config, kind: &str, architecture: &str) -> Error {
    Error::unsupported(format!(
        "`{}` asks for rope scaling `{}`, which cannot be converted for {architecture}",
        config.path().display(),
        kind.escape_debug()
    ))
    .with_hint("linear and yarn can be converted, llama3 for Llama models, and longrope for Phi-3")
}
