//! The model's vocabulary: text to token ids and back, by llama.cpp's tokenizer.

use super::handle::ModelHandle;
use llama_cpp_sys_2 as sys;
use pajamas_plugin_api::{Error, Prompt, Result, SpecialToken, check_ids};
use std::ffi::CStr;
use std::sync::Arc;

/// The vocabulary of a loaded model. May be used from any thread, several at a time.
pub(crate) struct Vocab {
    model: Arc<ModelHandle>,
    count: u32,
    /// The BOS token where the model wants one before a text.
    bos_to_add: Option<u32>,
    /// Texts that are read as control tokens only where that is allowed.
    control_texts: Vec<String>,
    /// Those of them that llama.cpp itself reads as control tokens everywhere.
    forced_texts: Vec<String>,
}

/// gpt-oss's control tokens that llama.cpp takes for text that is to be shown, and so reads in every text. Each begins with
/// two characters that are a word of their own.
const FORCED: [&str; 5] = ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>", "<|end|>"];
const FORCED_WORD_BYTES: usize = 2;

impl Vocab {
    /// # Errors
    /// `Unsupported` for a model without a vocabulary.
    pub(crate) fn new(model: Arc<ModelHandle>) -> Result<Self> {
        let mut vocab = Self { model, count: 0, bos_to_add: None, control_texts: Vec::new(), forced_texts: Vec::new() };
        // SAFETY: the model is loaded; these only read.
        let (kind, count, add_bos) = unsafe {
            let pointer = vocab.as_ptr();
            (sys::llama_vocab_type(pointer), sys::llama_vocab_n_tokens(pointer), sys::llama_vocab_get_add_bos(pointer))
        };
        if kind == sys::LLAMA_VOCAB_TYPE_NONE || count <= 0 {
            return Err(Error::unsupported("the model has no vocabulary, so it cannot work on text"));
        }
        vocab.count = count.unsigned_abs();
        if add_bos {
            vocab.bos_to_add = vocab.bos().map(|token| token.id);
        }
        let hidden = sys::LLAMA_TOKEN_ATTR_CONTROL | sys::LLAMA_TOKEN_ATTR_UNKNOWN;
        vocab.control_texts =
            (0..vocab.count).filter(|id| vocab.attributes(*id) & hidden != 0).map(|id| vocab.text(id)).collect();
        vocab.control_texts.retain(|text| !text.is_empty());
        let shown = (0..vocab.count).filter(|id| vocab.attributes(*id) & sys::LLAMA_TOKEN_ATTR_USER_DEFINED != 0);
        vocab.forced_texts = shown.map(|id| vocab.text(id)).filter(|text| FORCED.contains(&text.as_str())).collect();
        vocab.control_texts.extend(vocab.forced_texts.iter().cloned());
        Ok(vocab)
    }

    fn as_ptr(&self) -> *const sys::llama_vocab {
        // SAFETY: the model is loaded and lives as long as `self`; so does its vocabulary.
        unsafe { sys::llama_model_get_vocab(self.model.as_ptr()) }
    }

    /// How many tokens there are.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Checks that every one of `tokens` is in the vocabulary: llama.cpp would not survive another.
    ///
    /// # Errors
    /// `InvalidRequest`.
    pub(crate) fn check(&self, tokens: &[u32]) -> Result<()> {
        check_ids(tokens, self.count)
    }

    /// The beginning-of-sequence token, if there is one.
    pub(crate) fn bos(&self) -> Option<SpecialToken> {
        // SAFETY: the vocabulary is loaded; this only reads.
        self.special(unsafe { sys::llama_vocab_bos(self.as_ptr()) })
    }

    /// The token that texts begin with, where the model wants one.
    pub(crate) fn bos_to_add(&self) -> Option<u32> {
        self.bos_to_add
    }

    /// The token that `role` names in GGUF: `padding`, `seperator`, `mask`, `eot`.
    pub(crate) fn role(&self, role: &str) -> Option<u32> {
        let vocab = self.as_ptr();
        // SAFETY: the vocabulary is loaded; these only read.
        let id = unsafe {
            match role {
                "padding" => sys::llama_vocab_pad(vocab),
                "seperator" => sys::llama_vocab_sep(vocab),
                "mask" => sys::llama_vocab_mask(vocab),
                "eot" => sys::llama_vocab_eot(vocab),
                _ => return None,
            }
        };
        u32::try_from(id).ok()
    }

    /// The end-of-sequence token, if there is one.
    pub(crate) fn eos(&self) -> Option<SpecialToken> {
        // SAFETY: the vocabulary is loaded; this only reads.
        self.special(unsafe { sys::llama_vocab_eos(self.as_ptr()) })
    }

    fn special(&self, id: sys::llama_token) -> Option<SpecialToken> {
        let id = u32::try_from(id).ok().filter(|id| *id < self.count)?;
        Some(SpecialToken { id, text: self.text(id) })
    }

    /// Every token that ends a turn.
    pub(crate) fn end_of_generation(&self) -> Vec<u32> {
        // SAFETY: the vocabulary is loaded and the id is inside it.
        (0..self.count).filter(|id| unsafe { sys::llama_vocab_is_eog(self.as_ptr(), id.cast_signed()) }).collect()
    }

    /// Every token whose text must not arise from what a user types: control tokens, and the one for the unknown.
    pub(crate) fn control_tokens(&self) -> Vec<SpecialToken> {
        let special = sys::LLAMA_TOKEN_ATTR_CONTROL | sys::LLAMA_TOKEN_ATTR_UNKNOWN;
        (0..self.count)
            .map(|id| (self.attributes(id) & special != 0, SpecialToken { id, text: self.text(id) }))
            .filter(|(special, token)| *special || self.forced_texts.contains(&token.text))
            .map(|(_, token)| token)
            .collect()
    }

    fn attributes(&self, id: u32) -> sys::llama_token_attr {
        debug_assert!(id < self.count);
        // SAFETY: the vocabulary is loaded and the id is inside it.
        unsafe { sys::llama_vocab_get_attr(self.as_ptr(), id.cast_signed()) }
    }

    /// The entry of the vocabulary, as stored.
    fn text(&self, id: u32) -> String {
        debug_assert!(id < self.count);
        // SAFETY: the vocabulary is loaded and the id is inside it.
        let text = unsafe { sys::llama_vocab_get_text(self.as_ptr(), id.cast_signed()) };
        if text.is_null() {
            return String::new();
        }
        // SAFETY: llama.cpp hands over a NUL-terminated string that lives as long as the vocabulary.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    /// The bytes of token `id`, which must be in the vocabulary; a control token's are its text.
    pub(crate) fn piece(&self, id: u32) -> Vec<u8> {
        assert!(id < self.count, "the caller checks ids against the vocabulary");
        let mut buffer = vec![0_u8; 64];
        loop {
            let capacity = i32::try_from(buffer.len()).unwrap_or(i32::MAX);
            // SAFETY: the buffer has `capacity` bytes, and the id is inside the vocabulary.
            let written = unsafe {
                sys::llama_token_to_piece(
                    self.as_ptr(),
                    id.cast_signed(),
                    buffer.as_mut_ptr().cast(),
                    capacity,
                    0,
                    true,
                )
            };
            if let Ok(length) = usize::try_from(written) {
                buffer.truncate(length);
                return buffer;
            }
            // A negative answer is the size that it takes.
            buffer.resize(written.unsigned_abs() as usize, 0);
        }
    }

    /// Token ids of `text`. With `add_special` what the model wants around a text is added, but BOS never twice.
    ///
    /// # Errors
    /// `InvalidRequest` for a text of more than 2 GiB.
    pub(crate) fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        let mut tokens = self.tokenize_raw(text, add_special, parse_special)?;
        if let (true, Some(bos)) = (add_special, self.bos_to_add)
            && tokens.starts_with(&[bos, bos])
        {
            tokens.remove(0);
        }
        Ok(tokens)
    }

    /// Token ids of `prompt`.
    ///
    /// # Errors
    /// `InvalidRequest` for ids outside the vocabulary and texts of more than 2 GiB; `Unsupported` for another kind of
    /// prompt.
    pub(crate) fn prompt_tokens(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        // What is added after a text (EOS, in some models) has no place in a prompt, so only BOS is added.
        let tokenize = &mut |text: &str, parse_special| self.tokenize_raw(text, false, parse_special);
        prompt.tokens(self.count(), self.bos_to_add, &self.control_texts, tokenize)
    }

    fn tokenize_raw(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        let mut cuts: Vec<usize> = Vec::new();
        if !parse_special {
            let forced = self.forced_texts.iter().flat_map(|forced| text.match_indices(forced.as_str()));
            cuts = forced.map(|(at, _)| at + FORCED_WORD_BYTES).collect();
            cuts.sort_unstable();
        }
        // Cut where the text is split into words anyway, no token arises, and the rest is as it would be.
        let (mut tokens, mut start) = (Vec::new(), 0);
        for end in cuts.into_iter().chain([text.len()]) {
            tokens.extend(self.tokenize_whole(&text[start..end], add_special && start == 0, parse_special)?);
            start = end;
        }
        Ok(tokens)
    }

    fn tokenize_whole(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        let too_long = || Error::invalid_request("a text of more than 2 GiB cannot be tokenized");
        let length = i32::try_from(text.len()).map_err(|_| too_long())?;
        // Rarely does a text have more tokens than a quarter of its bytes; if it does, the second round has the room.
        let mut tokens: Vec<sys::llama_token> = vec![0; text.len() / 4 + 16];
        for _ in 0..2 {
            let capacity = i32::try_from(tokens.len()).map_err(|_| too_long())?;
            // SAFETY: the text has `length` bytes, the buffer room for `capacity` tokens.
            let written = unsafe {
                sys::llama_tokenize(
                    self.as_ptr(),
                    text.as_ptr().cast(),
                    length,
                    tokens.as_mut_ptr(),
                    capacity,
                    add_special,
                    parse_special,
                )
            };
            if let Ok(count) = usize::try_from(written) {
                return Ok(tokens[..count].iter().map(|id| id.cast_unsigned()).collect());
            }
            if written == i32::MIN {
                return Err(too_long());
            }
            tokens.resize(written.unsigned_abs() as usize, 0);
        }
        Err(Error::other("llama.cpp's tokenizer asked for more room twice"))
    }
}
