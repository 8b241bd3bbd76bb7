//! `tokenizer.model`: reading it, and the `tokenizer.json` that is made of it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pajamas_fuzz::{accepted, path, with_caught_panics};
use pajamas_hf_model::{PieceKind, SentencePieceModel, TokenizerFiles};
use serde_json::json;

fuzz_target!(|input: &[u8]| with_caught_panics(|| check(input)));

fn check(input: &[u8]) {
    let Some(model) = accepted(SentencePieceModel::parse(input, path())) else { return };
    let pieces = model.pieces();
    assert!(!pieces.is_empty() && pieces.iter().all(|piece| !piece.text.is_empty() && !piece.score.is_nan()));
    let Some(json) = accepted(model.to_tokenizer_json(path())) else { return };
    // What was made here is read here.
    let files = TokenizerFiles::new(path(), json, json!({}), Vec::new()).expect("a tokenizer.json");
    assert!(files.vocabulary().len() <= pieces.len());
    let special = |kind: PieceKind| matches!(kind, PieceKind::Control | PieceKind::Unknown | PieceKind::UserDefined);
    assert_eq!(files.added_tokens().len(), pieces.iter().filter(|piece| special(piece.kind)).count());
    let _ = accepted(files.load());
}
