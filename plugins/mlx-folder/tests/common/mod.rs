//! Small models made from a formula, the same that `tests/oracle/mlx_quantize_golden.py` gives to mlx-lm, and helpers to
//! convert them and to look at what came out.

#![allow(dead_code, reason = "each test binary uses its share")]

use pajamas_hf_model::HfModel;
use pajamas_mlx_folder::{FloatType, MlxQuantizer};
use pajamas_plugin_api::{CancelToken, OptionValue, Progress, QuantizeJob, QuantizeReport, Quantizer, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The file of `tests/fixtures` at `path`.
pub fn fixture(path: &str) -> PathBuf {
    // Tests of several crates use this file.
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let fixtures = above.map(|folder| folder.join("tests/fixtures")).find(|folder| folder.is_dir());
    fixtures.expect("the fixtures").join(path)
}

/// What mlx-lm made.
pub fn golden() -> Value {
    let text = std::fs::read_to_string(fixture("golden/mlx-quantize.json")).expect("golden file");
    serde_json::from_str(&text).expect("JSON")
}

/// A tensor of a model to be written.
pub struct SourceTensor {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<u64>,
}

/// A model to be written.
pub struct Source {
    pub config: Value,
    pub generation_config: Value,
    pub tensors: Vec<SourceTensor>,
}

impl Source {
    /// A model of the golden file: `llama`, `mistral` or `qwen3`.
    pub fn golden(name: &str) -> Self {
        let source = &golden()["models"][name]["source"];
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let tensors = source["tensors"].as_array().expect("tensors").iter();
        Self {
            config: source["config"].clone(),
            generation_config: source["generation_config"].clone(),
            tensors: tensors
                .map(|tensor| SourceTensor {
                    name: text(&tensor[0]),
                    dtype: text(&tensor[1]),
                    shape: tensor[2].as_array().expect("shape").iter().filter_map(Value::as_u64).collect(),
                })
                .collect(),
        }
    }

    /// The smallest Llama: two blocks, 64 wide, in half precision.
    pub fn small() -> Self {
        let mut tensors = Vec::new();
        let mut add = |name: &str, shape: &[u64]| {
            tensors.push(SourceTensor { name: name.into(), dtype: "F16".into(), shape: shape.into() });
        };
        for name in ["model.embed_tokens.weight", "lm_head.weight"] {
            add(name, &[16, 64]);
        }
        add("model.norm.weight", &[64]);
        for layer in 0..2 {
            for (path, shape) in [
                ("self_attn.q_proj", &[64, 64][..]),
                ("self_attn.k_proj", &[32, 64]),
                ("self_attn.v_proj", &[32, 64]),
                ("self_attn.o_proj", &[64, 64]),
                ("mlp.gate_proj", &[96, 64]),
                ("mlp.up_proj", &[96, 64]),
                ("mlp.down_proj", &[64, 96]),
                ("input_layernorm", &[64]),
                ("post_attention_layernorm", &[64]),
            ] {
                add(&format!("model.layers.{layer}.{path}.weight"), shape);
            }
        }
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64,
            "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 16,
            "tie_word_embeddings": false, "torch_dtype": "float16"
        });
        Self { config, generation_config: Value::Null, tensors }
    }

    /// The tensor `name`, to be changed.
    pub fn tensor(&mut self, name: &str) -> &mut SourceTensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("a tensor of that name")
    }

    /// Writes the model, with pajama-tiny's tokenizer, into the folder `dir`, which does not exist yet.
    pub fn write(&self, dir: &Path) {
        std::fs::create_dir(dir).expect("folder");
        let write = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).expect("file");
        write("config.json", self.config.to_string().as_bytes());
        if !self.generation_config.is_null() {
            write("generation_config.json", self.generation_config.to_string().as_bytes());
        }
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            write(name, &std::fs::read(fixture("pajama-tiny").join(name)).expect("fixture"));
        }
        let mut header = json!({ "__metadata__": { "format": "pt" } });
        let mut data = Vec::new();
        for tensor in &self.tensors {
            let start = data.len();
            data.extend(tensor.stored());
            header[&tensor.name] =
                json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()] });
        }
        let header = header.to_string();
        let length = (header.len() as u64).to_le_bytes();
        write("model.safetensors", &[&length, header.as_bytes(), &data].concat());
    }
}

impl SourceTensor {
    fn stored(&self) -> Vec<u8> {
        let count = self.shape.iter().product();
        let values = values(&self.name, count);
        let mut bytes = Vec::new();
        match self.dtype.as_str() {
            "F16" => FloatType::F16.encode(&values, &mut bytes),
            "F32" => FloatType::F32.encode(&values, &mut bytes),
            // The upper halves, not rounded.
            "BF16" => bytes.extend(values.iter().flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes())),
            "U8" | "I8" | "F8_E4M3" => bytes.resize(count as usize, 7),
            "U32" | "I32" => bytes.resize(count as usize * 4, 7),
            "F64" => bytes.resize(count as usize * 8, 7),
            other => panic!("{other} is not written here"),
        }
        bytes
    }
}

/// The weights of a tensor: 24-bit numbers by name and index, in runs of 32 of which some are special.
pub fn values(name: &str, count: u64) -> Vec<f32> {
    let seed = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |seed, byte| (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let draw = |index: u64| mix(seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let number = |bits: u64| ((bits >> 40) as i64 - (1 << 23)) as f32 / 134_217_728.0;
    (0..count)
        .map(|index| {
            let run = index / 32;
            let bits = draw(index);
            let value = number(bits);
            match draw(run + (1 << 40)) >> 60 {
                0 => 0.0,
                1 => number(draw(run * 32)),
                2 => value.abs(),
                3 => -value.abs(),
                4 => value / 1_048_576.0,
                5 => value * 64.0,
                6 if bits & 1 == 0 => -0.0,
                _ => value,
            }
        })
        .collect()
}

/// The finalizer of SplitMix64.
fn mix(x: u64) -> u64 {
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// A job that makes `recipe` (`4bit`, `4bit/64` or `4bit/64/float16`) of `source`.
pub fn job(source: &Path, recipe: &str, output: &Path) -> QuantizeJob {
    let mut parts = recipe.split('/');
    let name = parts.next().expect("a name");
    let mut job = QuantizeJob::new(source, name, output, std::env::temp_dir());
    job.options = ["group_size", "dtype"]
        .into_iter()
        .zip(parts)
        .map(|(option, value)| (option, OptionValue::Text(value.to_owned())))
        .collect();
    job
}

/// Makes `recipe` of `source`.
pub fn convert(source: &Path, recipe: &str, output: &Path) -> Result<QuantizeReport> {
    MlxQuantizer.quantize(&job(source, recipe, output), &Progress::default(), &CancelToken::never())
}

/// SHA-256 over names, types, dimensions and bytes of all tensors in the folder `dir`, by name.
pub fn tensors_digest(dir: &Path) -> String {
    let model = HfModel::open_any(dir).expect("a model");
    let mut tensors: Vec<_> = model.tensors().iter().collect();
    tensors.sort_by_key(|tensor| tensor.name());
    let mut digest = Sha256::new();
    for tensor in tensors {
        let dimensions: Vec<String> = tensor.shape().iter().map(u64::to_string).collect();
        digest.update(format!("{}\n{}\n{}\n", tensor.name(), tensor.dtype().name(), dimensions.join("x")));
        digest.update(tensor.read(0..tensor.size_bytes()).expect("data"));
    }
    hex(&digest.finalize())
}

/// The first 16 digits of the SHA-256 of `value` as compact JSON with sorted keys.
pub fn compact_digest(value: &Value) -> String {
    hex(&Sha256::digest(sorted(value).to_string()))[..16].to_owned()
}

/// The JSON in the file `name` of the folder `dir`.
pub fn json_file(dir: &Path, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join(name)).expect("a file")).expect("JSON")
}

fn sorted(value: &Value) -> Value {
    let Value::Object(map) = value else { return value.clone() };
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_key(|(key, _)| key.as_str());
    Value::Object(entries.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
