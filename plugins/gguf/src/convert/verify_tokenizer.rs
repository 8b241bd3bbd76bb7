//! Compares a GGUF file's tokenizer with the source's own, text by text and id by id.
//!
//! Differences that are known and not held against a file:
//!
//! - Qwen2's tokenizer composes Unicode (NFC) before it splits, and llama.cpp does not. Texts that the source's normalizer would
//!   change in other ways than marking spaces are compared in their normalised form, which both must then split alike.
//! - Tokens that look like control tokens and are not marked as such are control tokens in the file.
//! - White space beside control tokens: some tokens take it along in the source (`lstrip`, `rstrip`), and some tokenizers mark
//!   the beginning of the whole text only, where llama.cpp marks what follows each control token. Of texts with control
//!   tokens inside, only these tokens are compared then.

mod corpus;

use super::vocabulary::looks_special;
use pajamas_hf_model::TokenizerFiles;
use pajamas_plugin_api::{Error, Result};
use serde_json::Value;
use tokenizers::{NormalizedString, Normalizer, Tokenizer};

pub use corpus::TEXTS;

/// Tokenizes a text: its second argument says whether the texts of control tokens are read as control tokens.
pub type GgufTokenize<'a> = dyn Fn(&str, bool) -> Result<Vec<u32>> + 'a;

/// What a comparison came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many comparisons there were, all of which agreed.
    pub checked: u64,
    /// Whether white space beside control tokens is read differently.
    pub spaces_differ: bool,
}

/// Compares on every text of [`TEXTS`] and on the text of every added token, without and with control tokens read. No BOS
/// is to be added by `gguf_tokenize`.
///
/// # Errors
///
/// `InvalidModel` with the text and both lists of ids at the first difference.
pub fn check(source: &TokenizerFiles, gguf_tokenize: &GgufTokenize) -> Result<Verified> {
    let hf = source.load()?;
    // What a user types must not become control tokens, so these texts are read plainly as well.
    let plain = without_special(&hf);
    let mut verified = Verified::default();
    for text in TEXTS {
        let text = normalize(&hf, text)?;
        compare(&hf, gguf_tokenize, &text, true)?;
        compare(&plain, gguf_tokenize, &text, false)?;
        verified.checked += 2;
    }
    let mut added: Vec<_> = hf.get_added_tokens_decoder().into_values().collect();
    added.sort_by(|a, b| a.content.cmp(&b.content));
    let control: Vec<u32> = source.added_tokens().iter().filter(|token| token.special).map(|token| token.id).collect();
    verified.spaces_differ = reads_spaces_otherwise(source);
    for token in &added {
        // Where a token holds the mark for a space, it is the space that it stands for.
        let content = token.content.replace(SPACE_MARK, " ");
        for text in [content.clone(), format!("{content}user\nHello{content}\n")] {
            let text = normalize(&hf, &text)?;
            // What only looks like a control token is one in the file, and then no part of a plain text.
            if token.special || !looks_special(&token.content) {
                compare(&plain, gguf_tokenize, &text, false)?;
            }
            if verified.spaces_differ {
                compare_control_tokens(&hf, gguf_tokenize, &text, &control)?;
            } else {
                compare(&hf, gguf_tokenize, &text, true)?;
            }
            verified.checked += 2;
        }
    }
    Ok(verified)
}

/// Whether the source reads white space beside control tokens as llama.cpp does not.
fn reads_spaces_otherwise(source: &TokenizerFiles) -> bool {
    let strips = source.added_tokens().iter().any(|token| token.lstrip || token.rstrip);
    let scheme = |step: &Value| step.get("prepend_scheme").and_then(Value::as_str) == Some("first");
    let pre_tokenizer = source.pre_tokenizer();
    let steps = pre_tokenizer.get("pretokenizers").and_then(Value::as_array);
    strips || scheme(pre_tokenizer) || steps.is_some_and(|steps| steps.iter().any(scheme))
}

/// SentencePiece's mark for a space.
const SPACE_MARK: char = '\u{2581}';

/// Compares which control tokens are read, and in which order.
fn compare_control_tokens(hf: &Tokenizer, gguf_tokenize: &GgufTokenize, text: &str, control: &[u32]) -> Result<()> {
    let only = |ids: &[u32]| -> Vec<u32> { ids.iter().filter(|id| control.contains(id)).copied().collect() };
    let (expected, found) = (only(&encode(hf, text)?), only(&gguf_tokenize(text, true)?));
    if expected == found {
        return Ok(());
    }
    Err(Error::invalid_model(format!(
        "the tokenizers read different control tokens in {text:?}: the source {expected:?}, the GGUF file {found:?}"
    )))
}

fn encode(hf: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let encoding = hf.encode_fast(text, false);
    let encoding = encoding
        .map_err(|error| Error::invalid_model(format!("the source's tokenizer failed on {text:?}: {error}")))?;
    Ok(encoding.get_ids().to_vec())
}

fn compare(hf: &Tokenizer, gguf_tokenize: &GgufTokenize, text: &str, parse_special: bool) -> Result<()> {
    let expected = encode(hf, text)?;
    let found = gguf_tokenize(text, parse_special)?;
    if expected == found {
        return Ok(());
    }
    let reading = if parse_special { "read" } else { "not read" };
    Err(Error::invalid_model(format!(
        "the tokenizers differ on {text:?} (control tokens {reading}): the source gives {expected:?}, the GGUF file \
         {found:?}"
    )))
}

/// The source's tokenizer as it reads what a user types: control tokens are text like any other. Tokens that were
/// added but are not special are matched in either case, in llama.cpp too.
fn without_special(hf: &Tokenizer) -> Tokenizer {
    let mut plain = hf.clone();
    plain.set_encode_special_tokens(true);
    plain
}

/// The text as the source's normalizer leaves it, but for the marks of spaces, which llama.cpp sets itself.
fn normalize(hf: &Tokenizer, text: &str) -> Result<String> {
    let Some(normalizer) = hf.get_normalizer() else { return Ok(text.to_owned()) };
    let mut normalized = NormalizedString::from(text);
    normalizer
        .normalize(&mut normalized)
        .map_err(|error| Error::invalid_model(format!("the source's normalizer failed on {text:?}: {error}")))?;
    let normalized = normalized.get();
    let marks_spaces = normalized.contains(SPACE_MARK) && !text.contains(SPACE_MARK);
    Ok(if marks_spaces { text.to_owned() } else { normalized.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pajamas_hf_model::HfModel;
    use std::path::Path;

    #[test]
    fn a_single_wrong_id_is_found_and_shown() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/pajama-tiny");
        let files = HfModel::open(model).unwrap().tokenizer().unwrap();
        let hf = files.load().unwrap();
        let plain = without_special(&hf);
        let same = |text: &str, parse_special: bool| {
            let tokenizer = if parse_special { &hf } else { &plain };
            Ok(tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec())
        };
        assert_eq!(check(&files, &same).unwrap().checked as usize, 2 * (TEXTS.len() + 6));

        let wrong_once = |text: &str, parse_special: bool| {
            let mut ids = same(text, parse_special)?;
            if text == "3.14159" && !parse_special {
                ids[0] += 1;
            }
            Ok(ids)
        };
        let error = check(&files, &wrong_once).unwrap_err();
        assert!(error.message.contains("\"3.14159\" (control tokens not read)"), "{error}");

        let reads_user_text = |text: &str, _: bool| same(text, true);
        assert!(check(&files, &reads_user_text).unwrap_err().message.contains("<|endoftext|>"));
    }
}
