//! Recognises a byte-level BPE tokenizer's pre-tokenizer, and gives llama.cpp's name for it: by what the tokenizer makes of
//! a certain text, which tells published models apart, else by its structure, which serves models with a vocabulary of
//! their own.

use crate::gguf_file::PreTokenizer;
use pajamas_hf_model::TokenizerFiles;
use pajamas_plugin_api::options::nearest;
use pajamas_plugin_api::{Error, Result};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The text that llama.cpp's converter has every tokenizer split, to tell pre-tokenizers apart by the ids' hash
/// (`get_vocab_base_pre` in `conversion/base.py`).
const PROBE: &str = "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u{200d}🌫️ (multiple emojis concatenated) ✅ 🦙🦙 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ ------======= нещо на Български ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL";

/// The SHA-256 of the ids (as Python prints a list) of published models that are of a family that can be converted, and
/// llama.cpp's names of their pre-tokenizers.
const KNOWN: [(&str, &str); 30] = [
    ("0ef9807a4087ebef797fc749390439009c3b9eda9ad1a097abbe738f486c01e5", "llama-bpe"),
    ("c136ed14d01c2745d4f60a9596ae66800e2b61fa45643e72436041855ad4089d", "smaug-bpe"),
    ("e636dc30a262dcc0d8c323492e32ae2b70728f4df7dfe9737d9f920a282b8aea", "qwen2"),
    ("d4540891389ea895b53b399da6ac824becc30f2fba0e9ddbb98f92e55ca0e97c", "qwen2"),
    ("b3f499bb4255f8ca19fccd664443283318f2fd2414d5e0b040fbdd0cc195d6c5", "deepseek-r1-qwen"),
    ("d4c8f286ea6b520b3d495c4455483cfa2302c0cfcd4be05d781b6a8a0a7cdaf1", "megrez"),
    ("b0a6b1c0bd5998ebd9df08611efde34a4ff03faed45ae09c43e6b31ebd4b94cf", "a.x-4.0"),
    ("63b97e4253352e6f357cc59ea5b583e3a680eaeaf2632188c2b952de2588485e", "tekken"),
    ("0e9433cbbb161f89e264eb32e8e64bfe69e834973ffca5d41d3948a604a3e2a3", "pixtral"),
    ("ccc2ef013c104be7bae2965776d611e1d7a8a2a9c547dd93a682c9a9fc80352e", "gpt-4o"),
    ("855059429035d75a914d1eda9f10a876752e281a054a7a3d421ef0533e5b6249", "smollm"),
    ("049ecf7629871e3041641907f3de7c733e4dbfdc736f57d882ba0b0845599754", "deepseek-llm"),
    ("347715f544604f9118bb75ed199f68779f423cabb20db6de6f31b908d04d7821", "deepseek-coder"),
    ("9d032fcbd5501f4a38150912590928bfb36091efb5df11b8e2124b0390e3fb1e", "falcon3"),
    ("35d91631860c815f952d711435f48d356ebac988362536bed955d43bfa436e34", "starcoder"),
    ("3ce83efda5659b07b1ad37ca97ca5797ea4285d9b9ab0dc679e4a720c9da7454", "gpt-2"),
    ("0fe1cf6eda062318a1af7270f3331a85c539a01778ff948e24388e949c5282f4", "gpt-2"),
    ("fcace8b9cac38ce847670c970cd5892031a753a1ef381abd1d9af00f713da085", "phi-2"),
    ("1431a23e583c97432bc230bff598d103ddb5a1f89960c8f1d1051aaa944d0b35", "minerva-7b"),
    ("c7ea5862a53e4272c035c8238367063e2b270d51faa48c0f09e9d5b54746c360", "poro-chat"),
    ("7fc505bd3104ca1083b150b17d088b59534ede9bde81f0dd2090967d7fe52cee", "viking"),
    ("d5f1dd6f980fec569fb218a81a7658ac45fc56b38c5a0adeb1c232fbe04ef5ec", "seed-coder"),
    ("f6791d196f87ce6b56a7d234be618e0d58f8cda3549416635b2bebcd22cd95c4", "midm-2.0"),
    ("a1e163ecab2e718a4c829d1148b6e86824ec36163bb71941c3dca9cd5ac25756", "mellum"),
    ("7dec86086fcc38b66b7bc1575a160ae21cf705be7718b9d5598190d7c12db76f", "superbpe"),
    ("4a2e2abae11ca2b86d570fc5b44be4d5eb5e72cc8f22dd136a94b37da83ab665", "kormo"),
    ("36f3066e97b7f3994b379aaacde306c1444c6ae84e81a5ae3cd2b7ed3b8c42d4", "minicpm5"),
    ("ad851be1dba641f2e3711822f816db2c265f788b37c63b4e1aeacb9ee92de8eb", "gigachat"),
    ("1994ffd01900cfb37395608534236ecd63f2bd5995d6cb1004dda1af50240f15", "trillion"),
    ("653660222fb704f61cbf2b618a8ae6502b7f8b20c980f9a5de07ed78e13319cd", "ufakzeka"),
];

/// llama.cpp's name of the pre-tokenizer: `tokenizer.ggml.pre`. `chosen` is what the user says it is.
pub(super) fn recognize(tokenizer: &TokenizerFiles, chosen: Option<&str>) -> Result<&'static str> {
    if let Some(chosen) = chosen {
        return by_name(chosen);
    }
    match by_hash(tokenizer) {
        Some(name) => Ok(name),
        None => by_structure(tokenizer),
    }
}

/// Every name that llama.cpp knows, for those who know better (`llama_vocab::impl::load` in `llama-vocab.cpp`).
#[rustfmt::skip]
const NAMES: [&str; 91] = [
    "kimi-k2", "default", "minicpm5", "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral",
    "midm-2.0", "lfm2", "jina-v5-nano", "deepseek-llm", "deepseek-coder", "deepseek-v3", "spark2_5", "youtu",
    "falcon", "mpt", "starcoder", "gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de",
    "a.x-4.0", "mellum", "modern-bert", "jais-2", "gemma4", "granite-embed-multi-311m", "mmbert", "sarvam-moe",
    "jina-v1-en", "jina-v2-code", "roberta-bpe", "refact", "command-r", "qwen2", "deepseek-r1-qwen", "kormo",
    "f2llmv2", "qwen35", "stablelm2", "olmo", "dbrx", "smaug-bpe", "poro-chat", "chatglm-bpe", "glm4", "glm5",
    "viking", "jais", "tekken", "smollm", "codeshell", "bloom", "gpt3-finnish", "exaone", "exaone4", "exaone-moe",
    "chameleon", "minerva-7b", "megrez", "gpt-4o", "llama4", "kanana2", "talkie", "granite-embed-multi-97m",
    "tiny_aya", "cohere2moe", "superbpe", "trillion", "granite-docling", "bailingmoe", "bailingmoe2", "llada-moe",
    "seed-coder", "hunyuan", "hunyuan-dense", "hy_v4", "joyai-llm", "ufakzeka", "grok-2", "afmoe", "laguna",
    "minimax-m2", "solar-open", "mellum2",
];

fn by_name(chosen: &str) -> Result<&'static str> {
    NAMES.into_iter().find(|name| *name == chosen).ok_or_else(|| {
        let near = nearest(chosen, NAMES.into_iter()).map(|near| format!("did you mean `{near}`? "));
        let hint = format!("{}there are {}", near.unwrap_or_default(), NAMES.join(", "));
        Error::invalid_request(format!("llama.cpp has no pre-tokenizer `{}`", chosen.escape_debug())).with_hint(hint)
    })
}

/// None for those that are not published, and for files that are no tokenizer, of which the structure will tell more.
fn by_hash(tokenizer: &TokenizerFiles) -> Option<&'static str> {
    let encoding = tokenizer.load().ok()?.encode_fast(PROBE, true).ok()?;
    let ids: Vec<String> = encoding.get_ids().iter().map(u32::to_string).collect();
    let hash = Sha256::digest(format!("[{}]", ids.join(", ")));
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    KNOWN.iter().find(|(known, _)| *known == hash).map(|(_, name)| *name)
}

fn by_structure(tokenizer: &TokenizerFiles) -> Result<&'static str> {
    let unknown = |what: String| {
        Error::unsupported(format!("the pre-tokenizer of `{}` is not known: {what}", tokenizer.path().display()))
            .with_hint("if you know llama.cpp's name for it: --pre-tokenizer NAME")
    };
    let structure = Structure::read(tokenizer.pre_tokenizer()).map_err(&unknown)?;
    let ignore_merges = tokenizer.model_flag("ignore_merges");
    PreTokenizer::ALL
        .iter()
        .find(|known| {
            known.patterns == structure.patterns
                && known.byte_level_splits == structure.byte_level_splits
                && known.ignore_merges.is_none_or(|wanted| wanted == ignore_merges)
        })
        .map(|known| known.name)
        .ok_or_else(|| unknown(format!("it splits at {}", structure.describe())))
}

/// What a byte-level pre-tokenizer does, whichever way it is written.
#[derive(Debug, Default)]
struct Structure {
    patterns: Vec<String>,
    byte_level_splits: bool,
}

impl Structure {
    fn read(pre_tokenizer: &Value) -> Result<Self, String> {
        let kind = |step: &Value| step.get("type").and_then(Value::as_str).unwrap_or("nothing").to_owned();
        let flag = |step: &Value, key: &str| step.get(key).and_then(Value::as_bool);
        let single = std::slice::from_ref(pre_tokenizer);
        let steps = match kind(pre_tokenizer).as_str() {
            "Sequence" => pre_tokenizer.get("pretokenizers").and_then(Value::as_array).map_or(single, Vec::as_slice),
            _ => single,
        };
        let (last, splits) = steps.split_last().ok_or("it has no steps")?;
        if kind(last) != "ByteLevel" {
            return Err(format!("its last step is {}, not ByteLevel", kind(last)));
        }
        if flag(last, "add_prefix_space") == Some(true) {
            return Err("it adds a space in front of text".into());
        }
        let mut structure = Self {
            patterns: Vec::new(),
            // The field is newer than GPT-2's tokenizer, which splits.
            byte_level_splits: flag(last, "use_regex").unwrap_or(true),
        };
        for step in splits {
            let pattern = step.pointer("/pattern/Regex").and_then(Value::as_str);
            let isolated = step.get("behavior").and_then(Value::as_str) == Some("Isolated");
            let inverted = flag(step, "invert").unwrap_or(false);
            match (kind(step).as_str(), pattern) {
                ("Split", Some(pattern)) if isolated && !inverted => structure.patterns.push(pattern.to_owned()),
                ("Digits", _) if flag(step, "individual_digits") == Some(true) => {
                    structure.patterns.push(r"\p{N}".into());
                }
                (kind, _) => return Err(format!("it has a step {kind} that is not understood")),
            }
        }
        Ok(structure)
    }

    fn describe(&self) -> String {
        let mut parts: Vec<String> = self.patterns.iter().map(|pattern| format!("`{pattern}`")).collect();
        if self.byte_level_splits {
            parts.push("GPT-2's words".into());
        }
        if parts.is_empty() { "nothing".into() } else { parts.join(", then ") }
    }
}
