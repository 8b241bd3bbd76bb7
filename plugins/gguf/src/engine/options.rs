//! The load options of llama.cpp's backends: what is offered, and the settings that a request comes to.

use super::devices::{self, Gpu};
use llama_cpp_sys_2 as sys;
use pajamas_plugin_api::{Error, LoadRequest, OptionKind, OptionSpec, Result, host};

/// ggml's own limit on threads, which it asserts.
const THREADS_MAX: u32 = 512;

/// llama.cpp's own limit on sequences in one context.
const SLOTS_MAX: u32 = 256;

/// Tokens of all slots together: positions are 32-bit numbers in llama.cpp.
const CONTEXT_TOKENS_MAX: u64 = 1 << 30;

const CACHE_TYPES: [&str; 5] = ["f32", "f16", "bf16", "q8_0", "q4_0"];
const SPLIT_MODES: [&str; 3] = ["layer", "none", "row"];
const GPUS_MAX: i64 = 127;
const LISTED: &str = "`pajamas plugins info NAME` lists the GPUs that a backend has";
const FLASH_ATTENTION: [&str; 3] = ["auto", "on", "off"];

/// The options that a llama.cpp backend for `hardware` takes: a GPU has some that a CPU has no use for.
pub fn option_specs(hardware: &str) -> Vec<OptionSpec> {
    let tokens = OptionKind::Int { min: 1, max: 65_536 };
    let mut specs = vec![
        OptionSpec::new("mmap", OptionKind::Bool, "true", "Map the model's file into memory instead of reading it."),
        OptionSpec::new("mlock", OptionKind::Bool, "false", "Keep the model in RAM, so that it is never swapped out."),
        OptionSpec::new(
            "flash_attention",
            OptionKind::choice(&FLASH_ATTENTION),
            "auto",
            "Compute attention in fused blocks.",
        ),
        OptionSpec::new(
            "cache_type_k",
            OptionKind::choice(&CACHE_TYPES),
            "f16",
            "How keys are stored in the KV cache.",
        ),
        OptionSpec::new(
            "cache_type_v",
            OptionKind::choice(&CACHE_TYPES),
            "f16",
            "How values are stored in the KV cache; quantized ones need flash attention.",
        ),
        OptionSpec::new("batch_size", tokens.clone(), "512", "Prompt tokens handed over at a time."),
        OptionSpec::new("ubatch_size", tokens, "512", "Prompt tokens computed at a time; more takes more memory."),
    ];
    if hardware != "cpu" {
        // Only these can keep rows of one matrix on several devices.
        let modes = if matches!(hardware, "cuda" | "rocm") { &SPLIT_MODES[..] } else { &SPLIT_MODES[..2] };
        specs.push(OptionSpec::new(
            "n_gpu_layers",
            OptionKind::Int { min: -1, max: 100_000 },
            "-1",
            "Layers to keep on the GPU, the output among them; -1 keeps as many there as fit.",
        ));
        specs.push(OptionSpec::new(
            "split_mode",
            OptionKind::choice(modes),
            "layer",
            "How several GPUs share a model: by layers, not at all (then `main_gpu` has it), or by rows of each matrix.",
        ));
        specs.push(OptionSpec::new(
            "main_gpu",
            OptionKind::Int { min: 0, max: GPUS_MAX },
            "0",
            "The GPU that has the model with `split_mode=none`; the first is 0.",
        ));
        specs.push(OptionSpec::new(
            "tensor_split",
            OptionKind::Text,
            "",
            "How much of the model each GPU takes, such as `3,1`; nothing goes by their free memory.",
        ));
        specs.push(OptionSpec::new(
            "gpu_memory",
            OptionKind::Int { min: 0, max: 1 << 30 },
            "0",
            "MiB that the model may take on each GPU; 0 takes what is free.",
        ));
    }
    specs
}

/// A load request with every choice made, except the context's length, which the model has a say in.
pub(crate) struct Settings {
    /// Tokens per slot as asked for.
    pub(crate) context_length: Option<u32>,
    pub(crate) slots: u32,
    pub(crate) threads: i32,
    pub(crate) load_mode: sys::llama_load_mode,
    pub(crate) flash_attention: sys::llama_flash_attn_type,
    pub(crate) cache_type_k: CacheType,
    pub(crate) cache_type_v: CacheType,
    pub(crate) batch_size: u32,
    pub(crate) ubatch_size: u32,
    /// Layers to keep on the GPUs, the output among them; -1 for as many as fit.
    pub(crate) gpu_layers: i32,
    /// The GPUs to use; none for the CPU alone.
    pub(crate) gpus: Vec<Gpu>,
    pub(crate) split_mode: sys::llama_split_mode,
    pub(crate) main_gpu: i32,
    /// Proportions, one for each GPU; empty for those of their free memory.
    pub(crate) tensor_split: Vec<f32>,
    /// Bytes that may be taken on each GPU; none for what is free.
    pub(crate) gpu_memory: Option<u64>,
}

/// How one half of the KV cache is stored.
#[derive(Clone, Copy)]
pub(crate) struct CacheType {
    pub(crate) ggml: sys::ggml_type,
    /// Bytes of 32 values, the smallest common block.
    pub(crate) block_bytes: u64,
}

impl Settings {
    /// The settings that `request` comes to.
    ///
    /// # Errors
    /// `InvalidRequest` for a value out of range.
    pub(crate) fn new(request: &LoadRequest) -> Result<Self> {
        let threads = request.threads.unwrap_or_else(|| host().thread_budget().min(THREADS_MAX));
        let flag = |name: &str, default: bool| request.options.bool(name).unwrap_or(default);
        let gpus = devices::gpus();
        let split_mode = match request.options.text("split_mode").unwrap_or("layer") {
            "layer" => sys::LLAMA_SPLIT_MODE_LAYER,
            "row" => sys::LLAMA_SPLIT_MODE_ROW,
            "none" => sys::LLAMA_SPLIT_MODE_NONE,
            other => return Err(unknown_word("split_mode", other, &SPLIT_MODES)),
        };
        let main_gpu = request.options.int("main_gpu").unwrap_or(0);
        if !gpus.is_empty() && usize::try_from(main_gpu).is_ok_and(|index| index >= gpus.len()) {
            let count = if gpus.len() == 1 { "is 1 GPU".into() } else { format!("are {} GPUs", gpus.len()) };
            let message = format!("main_gpu counts from 0: there {count}, and {main_gpu} was asked for");
            return Err(Error::invalid_request(message).with_hint(LISTED));
        }
        let tensor_split = tensor_split(request.options.text("tensor_split").unwrap_or_default(), gpus.len())?;
        let gpu_memory = request.options.int("gpu_memory").and_then(|mebibytes| u64::try_from(mebibytes).ok());
        Ok(Self {
            gpus,
            split_mode,
            main_gpu: i32::try_from(main_gpu).unwrap_or(0),
            tensor_split,
            gpu_memory: gpu_memory.filter(|&mebibytes| mebibytes > 0).map(|mebibytes| mebibytes << 20),
            context_length: request
                .context_length
                .map(|n| within("context length", n.into(), 1, i64::from(i32::MAX)))
                .transpose()?,
            slots: within("parallel slots", request.parallel_slots.into(), 1, SLOTS_MAX.into())?,
            threads: within("threads", threads.into(), 1, THREADS_MAX.into())?.cast_signed(),
            load_mode: match (flag("mmap", true), flag("mlock", false)) {
                (true, true) => sys::LLAMA_LOAD_MODE_MMAP_MLOCK,
                (true, false) => sys::LLAMA_LOAD_MODE_MMAP,
                (false, true) => sys::LLAMA_LOAD_MODE_MLOCK,
                (false, false) => sys::LLAMA_LOAD_MODE_NONE,
            },
            flash_attention: match request.options.text("flash_attention").unwrap_or("auto") {
                "on" => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
                "off" => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
                "auto" => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
                other => return Err(unknown_word("flash_attention", other, &FLASH_ATTENTION)),
            },
            cache_type_k: cache_type("cache_type_k", request.options.text("cache_type_k"))?,
            cache_type_v: cache_type("cache_type_v", request.options.text("cache_type_v"))?,
            batch_size: within("batch_size", request.options.int("batch_size").unwrap_or(512), 1, 65_536)?,
            ubatch_size: within("ubatch_size", request.options.int("ubatch_size").unwrap_or(512), 1, 65_536)?,
            gpu_layers: i32::try_from(request.options.int("n_gpu_layers").unwrap_or(-1).clamp(-1, 100_000))
                .unwrap_or(-1),
        })
    }

    /// Tokens per slot for a model trained with `trained` (0 if it does not say).
    ///
    /// # Errors
    /// `InvalidRequest` when all slots together are more than llama.cpp can number.
    pub(crate) fn context_length(&self, trained: u32) -> Result<u32> {
        let length = self.context_length.unwrap_or(if trained == 0 { 4096 } else { trained.min(4096) });
        let total = u64::from(length) * u64::from(self.slots);
        if total > CONTEXT_TOKENS_MAX {
            return Err(Error::invalid_request(format!(
                "a context of {length} tokens in {} slots is {total} tokens; at most {CONTEXT_TOKENS_MAX} are possible",
                self.slots
            )));
        }
        Ok(length)
    }
}

fn cache_type(option: &str, name: Option<&str>) -> Result<CacheType> {
    let (ggml, block_bytes) = match name.unwrap_or("f16") {
        "f32" => (sys::GGML_TYPE_F32, 128),
        "f16" => (sys::GGML_TYPE_F16, 64),
        "bf16" => (sys::GGML_TYPE_BF16, 64),
        "q8_0" => (sys::GGML_TYPE_Q8_0, 34),
        "q4_0" => (sys::GGML_TYPE_Q4_0, 18),
        other => return Err(unknown_word(option, other, &CACHE_TYPES)),
    };
    Ok(CacheType { ggml, block_bytes })
}

/// Reads `3,1`: a proportion for each of `gpus` GPUs, or nothing.
fn tensor_split(text: &str, gpus: usize) -> Result<Vec<f32>> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let proportions: Option<Vec<f32>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
    let right = |proportions: &Vec<f32>| {
        proportions.len() == gpus
            && proportions.iter().all(|share| share.is_finite() && *share >= 0.0)
            && proportions.iter().any(|share| *share > 0.0)
    };
    proportions.filter(right).ok_or_else(|| {
        Error::invalid_request(format!(
            "tensor_split has a number for each GPU (there are {gpus}), such as `3,1`, and `{text}` was asked for"
        ))
        .with_hint(LISTED)
    })
}

fn within(name: &str, value: i64, min: i64, max: i64) -> Result<u32> {
    u32::try_from(value)
        .ok()
        .filter(|_| (min..=max).contains(&value))
        .ok_or_else(|| Error::invalid_request(format!("{name} must be from {min} to {max}, and {value} was asked for")))
}

fn unknown_word(option: &str, word: &str, words: &[&str]) -> Error {
    Error::invalid_request(format!("{option} is one of {}, and `{word}` was asked for", words.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pajamas_plugin_api::OptionValue;

    #[test]
    fn the_context_defaults_to_4096_or_what_the_model_was_trained_with() {
        let settings = Settings::new(&LoadRequest::new("m.gguf")).expect("defaults are right");
        for (trained, expected) in [(512, 512), (32_768, 4096), (0, 4096)] {
            assert_eq!(settings.context_length(trained).expect("small enough"), expected);
        }
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let base = LoadRequest::new("m.gguf");
        assert!(Settings::new(&LoadRequest { threads: Some(0), ..base.clone() }).is_err());
        assert!(Settings::new(&LoadRequest { threads: Some(513), ..base.clone() }).is_err());
        assert!(Settings::new(&LoadRequest { parallel_slots: 0, ..base.clone() }).is_err());
        assert!(Settings::new(&LoadRequest { context_length: Some(0), ..base.clone() }).is_err());
        let mut odd = base.clone();
        odd.options.set("cache_type_k", OptionValue::Text("q5".into()));
        assert!(Settings::new(&odd).is_err());
        let long = LoadRequest { context_length: Some(1 << 30), parallel_slots: 2, ..base };
        assert!(Settings::new(&long).and_then(|settings| settings.context_length(0)).is_err());
    }

    #[test]
    fn gpu_layers_are_offered_where_there_is_a_gpu() {
        for (text, expected) in [("", Some(vec![])), ("3,1", Some(vec![3.0, 1.0])), (" 1 , 0", Some(vec![1.0, 0.0]))] {
            assert_eq!(tensor_split(text, 2).ok(), expected, "{text}");
        }
        for wrong in ["1", "1,2,3", "a,b", "0,0", "-1,2", "NaN,1", "1,,2"] {
            assert!(tensor_split(wrong, 2).is_err(), "{wrong}");
        }
        let has = |hardware| option_specs(hardware).iter().any(|spec| spec.name == "n_gpu_layers");
        assert!(has("vulkan") && !has("cpu"));
        let rows = |hardware| format!("{:?}", option_specs(hardware)).contains("\"row\"");
        assert!(rows("cuda") && !rows("vulkan"));
    }
}
