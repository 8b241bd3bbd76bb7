//! `tokenizer.json` and, behind a NUL byte, `tokenizer_config.json`: reading them, and the tokenizer that they describe.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pajamas_fuzz::{accepted, path, with_caught_panics};
use pajamas_hf_model::TokenizerFiles;

/// Larger inputs are read but not loaded: what is built of them takes too long to be told from a hang.
const LOADED_BYTES_MAX: usize = 4 << 10;

fuzz_target!(|input: &[u8]| with_caught_panics(|| check(input)));

fn check(input: &[u8]) {
    // JSON holds no NUL byte.
    let mut parts = input.splitn(2, |byte| *byte == 0);
    let tokenizer = parts.next().unwrap_or_default().to_vec();
    let tokenizer_config = parts.next().unwrap_or(b"{}").to_vec();
    let Some(files) = accepted(TokenizerFiles::parse(tokenizer, tokenizer_config, path())) else { return };
    let _ = (files.raw(), files.model_type(), files.model_flag("byte_fallback"), files.has_json());
    let _ = (files.pre_tokenizer(), files.normalizer(), files.post_processor(), files.setting("add_prefix_space"));
    let _ = (files.vocabulary(), files.merges(), files.configured_tokens(), files.listed_tokens());
    for role in ["bos", "eos", "pad", "unk", "sep", "cls", "mask"] {
        let id = files.special_token(role).and_then(|text| files.added_token_id(text));
        assert!(id.is_none_or(|id| files.added_tokens().iter().any(|token| token.id == id)));
        let _ = files.adds_token(role);
    }
    if input.len() <= LOADED_BYTES_MAX {
        let _ = accepted(files.load());
    }
}
