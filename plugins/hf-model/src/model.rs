//! A model folder that was opened and checked: the entry point of this crate.

use crate::config::Config;
use crate::json::read_json_if_present;
use crate::shard::open_shard;
use crate::tensor::Tensor;
use crate::tokenizer::TokenizerFiles;
use pajamas_plugin_api::{Error, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The single-file checkpoint's name.
const SINGLE_FILE: &str = "model.safetensors";
/// The index of a sharded checkpoint.
const INDEX_FILE: &str = "model.safetensors.index.json";

/// A Hugging Face model folder: its configuration and its tensors, all of them known to be in their files.
#[derive(Debug)]
pub struct HfModel {
    dir: PathBuf,
    config: Config,
    generation_config: Option<Value>,
    metadata: BTreeMap<String, String>,
    tensors: Vec<Tensor>,
    by_name: BTreeMap<String, usize>,
}

impl HfModel {
    /// Opens the folder `dir` and reads every header in it, no tensor data.
    ///
    /// # Errors
    ///
    /// `InvalidModel` where files are missing, damaged or cut short (each named); `Unsupported` for checkpoints
    /// that hold pickles or weights that are quantized already.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        Self::open_checked(dir.into(), |config, dir| refuse_quantized(config, dir, &[]))
    }

    /// The same for folders whose weights may be quantized by one of `methods` (`quant_method` in config.json), for those
    /// who know how to read these.
    ///
    /// # Errors
    ///
    /// As [`HfModel::open`].
    pub fn open_quantized(dir: impl Into<PathBuf>, methods: &[&str]) -> Result<Self> {
        Self::open_checked(dir.into(), |config, dir| refuse_quantized(config, dir, methods))
    }

    /// The same for folders whose weights may be quantized, for those who know how to read them.
    ///
    /// # Errors
    ///
    /// As [`HfModel::open`], but for the refusal of quantized weights.
    pub fn open_any(dir: impl Into<PathBuf>) -> Result<Self> {
        Self::open_checked(dir.into(), |_, _| Ok(()))
    }

    fn open_checked(dir: PathBuf, check: impl Fn(&Config, &Path) -> Result<()>) -> Result<Self> {
        if !dir.is_dir() {
            let what = if dir.exists() { "is not a folder" } else { "does not exist" };
            return Err(Error::invalid_model(format!("model folder `{}` {what}", dir.display()))
                .with_hint("give a folder that holds config.json and *.safetensors files"));
        }
        let config = Config::read(&dir)?;
        check(&config, &dir)?;
        let generation_config = read_json_if_present(&dir.join("generation_config.json"))?;

        let mut tensors = Vec::new();
        let mut metadata = BTreeMap::new();
        for shard in shard_files(&dir)? {
            let shard = open_shard(&shard)?;
            tensors.extend(shard.tensors);
            // The shards of a model say the same; where they do not, the first one counts.
            for (key, value) in shard.metadata {
                metadata.entry(key).or_insert(value);
            }
        }
        let mut by_name = BTreeMap::new();
        for (index, tensor) in tensors.iter().enumerate() {
            if let Some(first) = by_name.insert(tensor.name.clone(), index) {
                let first: &Tensor = &tensors[first];
                return Err(Error::invalid_model(format!(
                    "tensor `{}` is in both `{}` and `{}`",
                    tensor.name,
                    first.file().display(),
                    tensor.file().display()
                )));
            }
        }
        let model = Self { dir, config, generation_config, metadata, tensors, by_name };
        model.check_index()?;
        Ok(model)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What `config.json` says.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// `generation_config.json`, if there is one.
    pub fn generation_config(&self) -> Option<&Value> {
        self.generation_config.as_ref()
    }

    /// What the safetensors files say of themselves under `key`: `format` is `pt` or `mlx`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// Every token id that `generation_config.json` or else `config.json` names as ending a text.
    pub fn eos_token_ids(&self) -> Vec<u32> {
        let from = |value: &Value| -> Vec<u32> {
            match value.get("eos_token_id") {
                Some(Value::Array(ids)) => ids.iter().filter_map(as_u32).collect(),
                Some(id) => as_u32(id).into_iter().collect(),
                None => Vec::new(),
            }
        };
        let ids = self.generation_config.as_ref().map(from).unwrap_or_default();
        if ids.is_empty() { from(self.config.raw()) } else { ids }
    }

    /// Every tensor, in the order of llama.cpp's converter: files by name, then tensors by name as text.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor named `name`.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name).map(|index| &self.tensors[*index])
    }

    /// Bytes of all tensors.
    pub fn size_bytes(&self) -> u64 {
        self.tensors.iter().map(Tensor::size_bytes).sum()
    }

    /// Reads and checks the tokenizer's files.
    pub fn tokenizer(&self) -> Result<TokenizerFiles> {
        TokenizerFiles::read(&self.dir)
    }

    /// Whether the output layer is the embedding. Where config.json does not say, the tensors do.
    pub fn tied_embeddings(&self) -> bool {
        let stated = self.config.raw().get("tie_word_embeddings").and_then(Value::as_bool);
        stated.unwrap_or_else(|| self.tensor("lm_head.weight").is_none())
    }

    /// The source's own tokenizer, to compare others with.
    pub fn load_tokenizer(&self) -> Result<tokenizers::Tokenizer> {
        self.tokenizer()?.load()
    }

    /// What the model is called: `org/name` or `name`. Taken from the folder; a snapshot in the hub's cache
    /// (`models--org--name/snapshots/<commit>`) gives the repository's name, not the commit's.
    pub fn model_id(&self) -> String {
        // A path such as `.` has no name of its own; links are kept as they are unless that is so.
        let named =
            if self.dir.file_name().is_some() { self.dir.clone() } else { self.dir.canonicalize().unwrap_or_default() };
        let name = |path: Option<&Path>| {
            path.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let snapshots = named.parent();
        if name(snapshots) == "snapshots"
            && let Some(repository) = name(snapshots.and_then(Path::parent)).strip_prefix("models--")
        {
            return repository.replacen("--", "/", 1);
        }
        name(Some(&named))
    }

    /// Compares the index of a sharded checkpoint with what the shards hold.
    fn check_index(&self) -> Result<()> {
        let Some(weight_map) = read_weight_map(&self.dir)? else { return Ok(()) };
        let path = self.dir.join(INDEX_FILE);
        for (name, file) in &weight_map {
            if !self.by_name.contains_key(name) {
                return Err(Error::invalid_model(format!(
                    "`{}` promises tensor `{name}` in `{file}`, which does not hold it",
                    path.display()
                ))
                .with_hint("the shards belong to different versions of the model; fetch the folder again"));
            }
        }
        match self.tensors.iter().find(|tensor| !weight_map.contains_key(&tensor.name)) {
            None => Ok(()),
            Some(extra) => Err(Error::invalid_model(format!(
                "`{}` holds tensor `{}`, which is not in `{}`",
                extra.file().display(),
                extra.name,
                path.display()
            ))
            .with_hint("the shards belong to different versions of the model; fetch the folder again")),
        }
    }
}

fn as_u32(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// The safetensors files of the checkpoint, by name.
fn shard_files(dir: &Path) -> Result<Vec<PathBuf>> {
    if let Some(weight_map) = read_weight_map(dir)? {
        let names: BTreeSet<&String> = weight_map.values().collect();
        let missing: Vec<&str> =
            names.iter().filter(|name| !dir.join(name).is_file()).map(|name| name.as_str()).collect();
        if !missing.is_empty() {
            return Err(Error::invalid_model(format!(
                "`{}` lacks {} of its {} shards: {}",
                dir.display(),
                missing.len(),
                names.len(),
                missing.join(", ")
            ))
            .with_hint("fetch the missing files, or the whole folder again"));
        }
        return Ok(names.into_iter().map(|name| dir.join(name)).collect());
    }
    let single = dir.join(SINGLE_FILE);
    if single.is_file() {
        return Ok(vec![single]);
    }
    Err(explain_no_weights(dir))
}

/// The index's map from tensor to file, or none for a checkpoint of one file.
fn read_weight_map(dir: &Path) -> Result<Option<BTreeMap<String, String>>> {
    let path = dir.join(INDEX_FILE);
    let Some(index) = read_json_if_present(&path)? else { return Ok(None) };
    let malformed = || Error::invalid_model(format!("`{}` has no usable `weight_map`", path.display()));
    let map = index.get("weight_map").and_then(Value::as_object).filter(|map| !map.is_empty()).ok_or_else(malformed)?;
    let mut weight_map = BTreeMap::new();
    for (name, file) in map {
        let file = file.as_str().ok_or_else(malformed)?;
        // A shard is a file in this very folder: an index must not reach out of it.
        if file.is_empty() || file.contains(['/', '\\']) || file == ".." {
            return Err(Error::invalid_model(format!(
                "`{}` names a shard outside of its folder: `{file}`",
                path.display()
            )));
        }
        weight_map.insert(name.clone(), file.to_owned());
    }
    Ok(Some(weight_map))
}

/// Says why a folder without `model.safetensors` cannot be used.
fn explain_no_weights(dir: &Path) -> Error {
    let mut pickles = Vec::new();
    let mut loose = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let lower = name.to_lowercase();
        if [".bin", ".pt", ".pth", ".ckpt"].iter().any(|end| lower.ends_with(end)) {
            pickles.push(name);
        } else if lower.ends_with(".safetensors") {
            loose.push(name);
        }
    }
    pickles.sort();
    loose.sort();
    if let Some(pickle) = pickles.first() {
        return Error::unsupported(format!(
            "`{}` holds pickle checkpoints only (`{pickle}`); they can run code when read, so they are refused",
            dir.display()
        ))
        .with_hint("use a revision of the model that has safetensors files");
    }
    if let Some(name) = loose.first() {
        return Error::invalid_model(format!(
            "`{}` holds `{name}` but neither {SINGLE_FILE} nor {INDEX_FILE}",
            dir.display()
        ))
        .with_hint(format!("a sharded model needs its {INDEX_FILE}; fetch it too"));
    }
    Error::invalid_model(format!("`{}` has no {SINGLE_FILE} and no {INDEX_FILE}", dir.display()))
        .with_hint("fetch the model's safetensors files")
}

/// Weights that are quantized already are refused: to quantize them again would lose quality unseen.
fn refuse_quantized(config: &Config, dir: &Path, allowed: &[&str]) -> Result<()> {
    let present = |key: &str| config.raw().get(key).filter(|value| !value.is_null());
    let (path, method) = if let Some(quantization) = present("quantization") {
        let bits = quantization.get("bits").and_then(Value::as_u64);
        (config.path().to_owned(), bits.map_or("MLX".to_owned(), |bits| format!("MLX, {bits} bits")))
    } else if let Some(quantization) = present("quantization_config") {
        let method = ["quant_method", "quant_algo"]
            .iter()
            .find_map(|key| quantization.get(key).and_then(Value::as_str))
            .unwrap_or("an unnamed method");
        if allowed.contains(&method) {
            return Ok(());
        }
        (config.path().to_owned(), method.to_owned())
    } else {
        // ModelOpt describes its quantization beside config.json.
        let path = dir.join("hf_quant_config.json");
        if !path.exists() {
            return Ok(());
        }
        (path, "ModelOpt".to_owned())
    };
    Err(Error::unsupported(format!(
        "`{}` says that the weights are quantized already ({}); only F32, F16 and BF16 weights can be converted",
        path.display(),
        method.escape_debug()
    ))
    .with_hint("use the original, unquantized model"))
}
