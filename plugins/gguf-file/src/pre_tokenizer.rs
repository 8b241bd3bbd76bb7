//! The pre-tokenizers of byte-level BPE vocabularies: GGUF names them, tokenizer.json spells them out.

/// How text is split before merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreTokenizer {
    /// The value of `tokenizer.ggml.pre`.
    pub name: &'static str,
    /// The regular expressions of `tokenizer.json` that do the same, in order.
    pub patterns: &'static [&'static str],
    /// Whether the byte-level step then splits what they leave, as GPT-2's does.
    pub byte_level_splits: bool,
    /// The values of `ignore_merges` that go with it (whole words before merges); llama.cpp ties that to the name.
    pub ignore_merges: Option<bool>,
}

const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// One digit after the other.
const DIGITS: &str = r"\p{N}";

const fn splits_at(name: &'static str, patterns: &'static [&'static str], ignore_merges: Option<bool>) -> PreTokenizer {
    PreTokenizer { name, patterns, byte_level_splits: false, ignore_merges }
}

impl PreTokenizer {
    /// Those that are known.
    pub const ALL: [Self; 7] = [
        splits_at("qwen2", &[QWEN_2], None),
        splits_at("llama-bpe", &[LLAMA_3], Some(true)),
        // The same expression without whole words first.
        splits_at("smaug-bpe", &[LLAMA_3], Some(false)),
        splits_at("gpt-4o", &[GPT_4O], None),
        splits_at("tekken", &[TEKKEN], None),
        Self { name: "smollm", patterns: &[DIGITS], byte_level_splits: true, ignore_merges: None },
        Self { name: "gpt-2", patterns: &[], byte_level_splits: true, ignore_merges: None },
    ];
}
