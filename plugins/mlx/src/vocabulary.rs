//! The tokenizer of a model folder: text to ids by the `tokenizers` crate, ids to bytes by a table.

use pajamas_hf_model::TokenizerFiles;
use pajamas_plugin_api::{Error, Prompt, Result, SpecialToken, check_ids};
use std::collections::{BTreeMap, HashMap};
use tokenizers::Tokenizer;

/// A model's vocabulary.
pub(crate) struct Vocabulary {
    /// Reads control tokens in a text as such.
    parsing: Tokenizer,
    /// Takes them for text.
    plain: Tokenizer,
    /// The bytes of each id; rows of logits beyond them have no text.
    pieces: Vec<Vec<u8>>,
    /// Rows of logits.
    size: u32,
    bos: Option<SpecialToken>,
    eos: Option<SpecialToken>,
    /// Whether a text begins with BOS.
    adds_bos: bool,
    end_of_generation: Vec<u32>,
    control_tokens: Vec<SpecialToken>,
    control_texts: Vec<String>,
    chat_templates: BTreeMap<String, String>,
}

impl Vocabulary {
    /// The vocabulary that `files` describe, of a model with `size` rows of logits; `end_of_generation` are the ids that
    /// the model itself names as ending an answer.
    ///
    /// # Errors
    /// `InvalidModel` for a tokenizer that is missing or damaged, or has ids beyond `size`.
    pub(crate) fn new(files: &TokenizerFiles, mut end_of_generation: Vec<u32>, size: u32) -> Result<Self> {
        let parsing = files.load()?;
        let mut plain = parsing.clone();
        plain.set_encode_special_tokens(true);
        let token = |role: &str| {
            let text = files.special_token(role)?;
            Some(SpecialToken { id: parsing.token_to_id(text)?, text: text.to_owned() })
        };
        let (bos, eos) = (token("bos"), token("eos"));
        // What the tokenizer itself puts before a text decides; its configuration may say it more plainly.
        let begins = parsing
            .encode("a", true)
            .is_ok_and(|encoding| bos.as_ref().is_some_and(|bos| encoding.get_ids().first() == Some(&bos.id)));
        let control_tokens: Vec<SpecialToken> = files
            .added_tokens()
            .iter()
            .filter(|token| token.special)
            .map(|token| SpecialToken { id: token.id, text: token.content.clone() })
            .collect();
        end_of_generation.extend(eos.as_ref().map(|eos| eos.id));
        end_of_generation.sort_unstable();
        end_of_generation.dedup();
        let vocabulary = Self {
            pieces: pieces(files, size)?,
            size,
            adds_bos: files.adds_token("bos").unwrap_or(begins),
            control_texts: control_tokens.iter().map(|token| token.text.clone()).collect(),
            chat_templates: files
                .chat_templates()
                .iter()
                .map(|template| (template.name.clone(), template.template.clone()))
                .collect(),
            parsing,
            plain,
            bos,
            eos,
            end_of_generation,
            control_tokens,
        };
        Ok(vocabulary)
    }

    /// Fills in what `Model::info` says of tokens.
    pub(crate) fn describe(&self, info: &mut pajamas_plugin_api::ModelInfo) {
        info.vocabulary_size = self.size();
        info.bos_token.clone_from(&self.bos);
        info.eos_token.clone_from(&self.eos);
        info.end_of_generation_tokens.clone_from(&self.end_of_generation);
        info.control_tokens.clone_from(&self.control_tokens);
        info.chat_templates.clone_from(&self.chat_templates);
    }

    /// Ids there are.
    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// Token ids of `prompt`.
    pub(crate) fn prompt(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        let tokenize = &mut |text: &str, parse_special| self.encode(text, parse_special);
        prompt.tokens(self.size(), self.bos_to_add(), &self.control_texts, tokenize)
    }

    /// Token ids of `text`, with BOS before it where the model wants it and the text does not bring it.
    pub(crate) fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        let mut ids = self.encode(text, parse_special)?;
        if let (true, Some(bos)) = (add_special, self.bos_to_add())
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>> {
        let tokenizer = if parse_special { &self.parsing } else { &self.plain };
        let encoding =
            tokenizer.encode_fast(text, false).map_err(|error| Error::other(format!("tokenizing failed: {error}")))?;
        check_ids(encoding.get_ids(), self.size())?;
        Ok(encoding.get_ids().to_vec())
    }

    fn bos_to_add(&self) -> Option<u32> {
        self.bos.as_ref().filter(|_| self.adds_bos).map(|bos| bos.id)
    }

    /// The bytes of `tokens`, control tokens included.
    pub(crate) fn detokenize(&self, tokens: &[u32]) -> Result<Vec<u8>> {
        check_ids(tokens, self.size())?;
        Ok(tokens.iter().flat_map(|id| self.piece(*id)).collect())
    }

    /// The bytes of `id`; none for an id that the vocabulary has a row of logits for and no text.
    pub(crate) fn piece(&self, id: u32) -> Vec<u8> {
        self.pieces.get(id as usize).cloned().unwrap_or_default()
    }
}

/// The bytes of every id below `size`.
fn pieces(files: &TokenizerFiles, size: u32) -> Result<Vec<Vec<u8>>> {
    let too_high = |id: u32| {
        Error::invalid_model(format!(
            "`{}` has a token {id}, and config.json a vocabulary of {size}",
            files.path().display()
        ))
    };
    let byte_level = mentions(files.raw(), "ByteLevel");
    let alphabet = byte_alphabet();
    let ids = files.vocabulary().keys().copied().chain(files.added_tokens().iter().map(|token| token.id));
    let largest = ids.max().unwrap_or(0);
    if largest >= size {
        return Err(too_high(largest));
    }
    let mut pieces = vec![Vec::new(); largest as usize + 1];
    for (&id, text) in files.vocabulary() {
        let bytes = if byte_level { from_alphabet(text, &alphabet) } else { from_sentencepiece(text) };
        pieces[id as usize] = bytes;
    }
    for token in files.added_tokens() {
        pieces[token.id as usize] = token.content.clone().into_bytes();
    }
    Ok(pieces)
}

/// Whether the pre-tokenizer or the decoder is, or holds, one of type `kind`.
fn mentions(tokenizer: &serde_json::Value, kind: &str) -> bool {
    fn holds(value: &serde_json::Value, kind: &str) -> bool {
        match value {
            serde_json::Value::Object(object) => {
                object.get("type").is_some_and(|t| t == kind) || object.values().any(|value| holds(value, kind))
            }
            serde_json::Value::Array(values) => values.iter().any(|value| holds(value, kind)),
            _ => false,
        }
    }
    ["pre_tokenizer", "decoder"].iter().any(|part| tokenizer.get(part).is_some_and(|value| holds(value, kind)))
}

/// GPT-2's alphabet: printable Latin-1 bytes are themselves, the others are numbered from U+0100 on.
fn byte_alphabet() -> HashMap<char, u8> {
    let mut next = 0x100;
    (0..=255_u8)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => (char::from(byte), byte),
            _ => {
                let stand_in = char::from_u32(next).unwrap_or_default();
                next += 1;
                (stand_in, byte)
            }
        })
        .collect()
}

fn from_alphabet(text: &str, alphabet: &HashMap<char, u8>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for character in text.chars() {
        match alphabet.get(&character) {
            Some(byte) => bytes.push(*byte),
            // Outside of the alphabet, a token that was added by hand: it is what it says.
            None => return text.as_bytes().to_vec(),
        }
    }
    bytes
}

/// SentencePiece's: `▁` for a space, `<0x0A>` for a byte.
fn from_sentencepiece(text: &str) -> Vec<u8> {
    let byte = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')).filter(|digits| digits.len() == 2);
    match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
        Some(byte) => vec![byte],
        None => text.replace('\u{2581}', " ").into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_bytes_that_they_stand_for() {
        let alphabet = byte_alphabet();
        assert_eq!(alphabet.len(), 256);
        assert_eq!(from_alphabet("Ġhello", &alphabet), b" hello");
        assert_eq!(from_alphabet("Ċ", &alphabet), b"\n");
        assert_eq!(from_alphabet("ðŁĺĢ", &alphabet), "😀".as_bytes());
        assert_eq!(from_alphabet("<|im_end|>", &alphabet), b"<|im_end|>");
        assert_eq!(from_sentencepiece("▁hello"), b" hello");
        assert_eq!(from_sentencepiece("<0x0A>"), b"\n");
        assert_eq!(from_sentencepiece("<0xZZ>"), b"<0xZZ>");
    }
}
