//! Compares a GGUF file's tokenizer with the source's own, text by text and id by id.
//!
//! One difference is known and not held against a file: Qwen2's tokenizer composes Unicode (NFC) before it splits, and
//! llama.cpp does not. Texts that the source's normalizer would change are compared in their normalised form, which
//! both must then split alike. What remains is that llama.cpp splits text that is *not* normalised differently.

mod corpus;

use pajamas_plugin_api::{Error, Result};
use tokenizers::{NormalizedString, Normalizer, Tokenizer};

pub use corpus::TEXTS;

/// Tokenizes a text: its second argument says whether the texts of control tokens are read as control tokens.
pub type GgufTokenize<'a> = dyn Fn(&str, bool) -> Result<Vec<u32>> + 'a;

/// Compares on every text of [`TEXTS`] and on the text of every added token, without and with control tokens read.
/// Gives the number of comparisons, all of which agreed. No BOS is to be added by `gguf_tokenize`.
///
/// # Errors
///
/// `InvalidModel` with the text and both lists of ids at the first difference.
pub fn check(hf: &Tokenizer, gguf_tokenize: &GgufTokenize) -> Result<u64> {
    let mut added: Vec<String> = hf.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
    added.sort();
    // What a user types must not become control tokens, so these texts are read plainly as well.
    let plain = without_special(hf);
    let with_control = added.iter().map(|token| format!("{token}user\nHello{token}\n"));
    let texts = TEXTS.iter().map(|text| (*text).to_owned()).chain(added.iter().cloned()).chain(with_control);
    let mut checked = 0;
    for text in texts {
        let text = normalize(hf, &text)?;
        compare(hf, gguf_tokenize, &text, true)?;
        compare(&plain, gguf_tokenize, &text, false)?;
        checked += 2;
    }
    Ok(checked)
}

fn compare(hf: &Tokenizer, gguf_tokenize: &GgufTokenize, text: &str, parse_special: bool) -> Result<()> {
    let encoding = hf
        .encode_fast(text, false)
        .map_err(|error| Error::invalid_model(format!("the source's tokenizer failed on {text:?}: {error}")))?;
    let found = gguf_tokenize(text, parse_special)?;
    if encoding.get_ids() == found.as_slice() {
        return Ok(());
    }
    let reading = if parse_special { "read" } else { "not read" };
    Err(Error::invalid_model(format!(
        "the tokenizers differ on {text:?} (control tokens {reading}): the source gives {:?}, the GGUF file {found:?}",
        encoding.get_ids()
    )))
}

/// The source's tokenizer as it reads what a user types: control tokens are text like any other. Tokens that were
/// added but are not special are matched in either case, in llama.cpp too.
fn without_special(hf: &Tokenizer) -> Tokenizer {
    let mut plain = hf.clone();
    plain.set_encode_special_tokens(true);
    plain
}

fn normalize(hf: &Tokenizer, text: &str) -> Result<String> {
    let Some(normalizer) = hf.get_normalizer() else { return Ok(text.to_owned()) };
    let mut normalized = NormalizedString::from(text);
    normalizer
        .normalize(&mut normalized)
        .map_err(|error| Error::invalid_model(format!("the source's normalizer failed on {text:?}: {error}")))?;
    Ok(normalized.get().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pajamas_hf_model::HfModel;
    use std::path::Path;

    #[test]
    fn a_single_wrong_id_is_found_and_shown() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/pajama-tiny");
        let hf = HfModel::open(model).unwrap().load_tokenizer().unwrap();
        let plain = without_special(&hf);
        let same = |text: &str, parse_special: bool| {
            let tokenizer = if parse_special { &hf } else { &plain };
            Ok(tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec())
        };
        assert_eq!(check(&hf, &same).unwrap() as usize, 2 * (TEXTS.len() + 6));

        let wrong_once = |text: &str, parse_special: bool| {
            let mut ids = same(text, parse_special)?;
            if text == "3.14159" && !parse_special {
                ids[0] += 1;
            }
            Ok(ids)
        };
        let error = check(&hf, &wrong_once).unwrap_err();
        assert!(error.message.contains("\"3.14159\" (control tokens not read)"), "{error}");

        let reads_user_text = |text: &str, _: bool| same(text, true);
        assert!(check(&hf, &reads_user_text).unwrap_err().message.contains("<|endoftext|>"));
    }
}
