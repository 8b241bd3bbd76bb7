//! The pre-tokenizers of byte-level BPE vocabularies: GGUF names them, tokenizer.json spells them out.

/// How text is split before merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreTokenizer {
    /// The value of `tokenizer.ggml.pre`.
    pub name: &'static str,
    /// The regular expressions of `tokenizer.json` that do the same, in order; empty where the byte-level step itself
    /// splits, as GPT-2's does.
    pub patterns: &'static [&'static str],
    /// The values of `ignore_merges` that go with it (whole words before merges); llama.cpp ties that to the name.
    pub ignore_merges: Option<bool>,
}

const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl PreTokenizer {
    /// Those that are known.
    pub const ALL: [Self; 4] = [
        Self { name: "qwen2", patterns: &[QWEN_2], ignore_merges: None },
        Self { name: "llama-bpe", patterns: &[LLAMA_3], ignore_merges: Some(true) },
        // The same expression without whole words first.
        Self { name: "smaug-bpe", patterns: &[LLAMA_3], ignore_merges: Some(false) },
        Self { name: "gpt-2", patterns: &[], ignore_merges: None },
    ];
}
