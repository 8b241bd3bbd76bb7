//! The header's `tokenizer.*` keys: tokens and their types, merges, special tokens, chat templates.

use super::families::Family;
use super::pre_tokenizer;
use crate::gguf_file::{Metadata, Value};
use pajamas_hf_model::{AddedToken, HfModel, TokenizerFiles};
use pajamas_plugin_api::{Error, Result};
use serde_json::Value as Json;
use std::collections::HashMap;

/// llama.cpp's token types that a byte-level BPE vocabulary has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
enum TokenType {
    Normal = 1,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
}

/// The largest vocabulary that is written; published ones have some hundred thousand tokens.
const VOCABULARY_MAX: u64 = 16 << 20;

/// Roles in the order in which they are written, and their keys. `cls` has none, but stands in for `bos`.
const ROLES: [(&str, &str); 6] = [
    ("bos", "bos_token_id"),
    ("eos", "eos_token_id"),
    ("unk", "unknown_token_id"),
    // The key's spelling is the format's.
    ("sep", "seperator_token_id"),
    ("pad", "padding_token_id"),
    ("mask", "mask_token_id"),
];

/// Adds the tokenizer of `source`.
pub(super) fn add(
    source: &HfModel,
    family: &dyn Family,
    metadata: &mut Metadata,
    notes: &mut Vec<String>,
) -> Result<()> {
    let tokenizer = source.tokenizer()?;
    refuse_other_models(&tokenizer)?;
    if family.says_space_prefix()
        && let Some(prefix) = tokenizer.setting("add_prefix_space").and_then(Json::as_bool)
    {
        metadata.set("tokenizer.ggml.add_space_prefix", prefix);
    }
    metadata.set("tokenizer.ggml.model", "gpt2");
    metadata.set("tokenizer.ggml.pre", pre_tokenizer::recognize(&tokenizer)?);
    let (tokens, types) = tokens(&tokenizer, source.config().vocabulary_size()?)?;
    metadata.set("tokenizer.ggml.tokens", Value::strings(tokens));
    metadata.set("tokenizer.ggml.token_type", Value::i32s(types.into_iter().map(|token_type| token_type as i32)));
    // A space inside a token is written as the byte-level alphabet writes it, since one space separates the two.
    let escape = |part: &str| part.replace(' ', "\u{120}");
    let merges = tokenizer.merges().iter().map(|(left, right)| format!("{} {}", escape(left), escape(right)));
    metadata.set("tokenizer.ggml.merges", Value::strings(merges));

    let special = SpecialTokens::read(&tokenizer, source.config().raw());
    for (key, id) in &special.ids {
        metadata.set(format!("tokenizer.ggml.{key}"), *id);
    }
    for (role, adds) in &special.adds {
        metadata.set(format!("tokenizer.ggml.add_{role}_token"), *adds);
    }
    add_chat_templates(&tokenizer, metadata);
    if normalizes_to_nfc(tokenizer.normalizer()) {
        notes.push(
            "the source's tokenizer composes Unicode characters (NFC) and llama.cpp does not: \
             text with combining characters can be split differently"
                .into(),
        );
    }
    Ok(())
}

fn refuse_other_models(tokenizer: &TokenizerFiles) -> Result<()> {
    let path = tokenizer.path().display();
    let hint = "byte-level BPE tokenizers can be converted; for others, start from a GGUF file made elsewhere";
    if tokenizer.model_type() != "BPE" {
        let kind = tokenizer.model_type().escape_debug();
        return Err(Error::unsupported(format!("`{path}` holds a {kind} tokenizer")).with_hint(hint));
    }
    if tokenizer.model_flag("byte_fallback") {
        return Err(Error::unsupported(format!("`{path}` holds a SentencePiece tokenizer")).with_hint(hint));
    }
    if tokenizer.merges().is_empty() {
        return Err(Error::invalid_model(format!("`{path}` has no merges")));
    }
    Ok(())
}

/// A token for every row of the embedding, and its type.
fn tokens(tokenizer: &TokenizerFiles, vocabulary_size: u64) -> Result<(Vec<String>, Vec<TokenType>)> {
    let path = tokenizer.path().display();
    if vocabulary_size > VOCABULARY_MAX {
        return Err(Error::invalid_model(format!(
            "a vocabulary of {vocabulary_size} tokens was claimed, at most {VOCABULARY_MAX} are allowed"
        )));
    }
    let added: HashMap<u32, &AddedToken> = tokenizer.added_tokens().iter().map(|token| (token.id, token)).collect();
    let largest = tokenizer.vocabulary().keys().chain(added.keys()).max().copied().unwrap_or(0);
    if u64::from(largest) >= vocabulary_size {
        return Err(Error::invalid_model(format!(
            "`{path}` has a token with id {largest}, config.json's vocab_size is {vocabulary_size}"
        ))
        .with_hint("the tokenizer does not belong to this model"));
    }
    let token = |id: u32| match (added.get(&id), tokenizer.vocabulary().get(&id)) {
        (Some(token), _) if token.special || looks_special(&token.content) => {
            (token.content.clone(), TokenType::Control)
        }
        (Some(token), _) => (token.content.replace('\u{2581}', " "), TokenType::UserDefined),
        (None, Some(text)) => (text.clone(), TokenType::Normal),
        (None, None) => (format!("[PAD{id}]"), TokenType::Unused),
    };
    Ok((0..vocabulary_size as u32).map(token).unzip())
}

/// Some models forget to mark control tokens as special.
fn looks_special(text: &str) -> bool {
    let between = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || between("<|", "|>")
        || between("<｜", "｜>")
        || between("<unused", ">")
}

/// Which tokens have roles, and which the tokenizer adds around a text.
#[derive(Debug, Default)]
struct SpecialTokens {
    ids: Vec<(&'static str, u32)>,
    adds: Vec<(&'static str, bool)>,
}

impl SpecialTokens {
    fn read(tokenizer: &TokenizerFiles, config: &Json) -> Self {
        let mut special = Self::default();
        let texts = special.read_post_processor(tokenizer);
        for (role, key) in ROLES {
            if let (true, Some(adds)) = (["bos", "eos", "sep"].contains(&role), tokenizer.adds_token(role)) {
                // What the post-processor does counts for more than what the configuration says.
                special.add(role, adds, false);
            }
            if let Some(id) = texts.of(role).and_then(|text| tokenizer.added_token_id(text)) {
                special.ids.push((key, id));
            }
        }
        for (role, key) in ROLES {
            let id =
                config.get(format!("{role}_token_id")).and_then(Json::as_u64).and_then(|id| u32::try_from(id).ok());
            if let (Some(id), false) = (id, special.ids.iter().any(|(known, _)| *known == key)) {
                special.ids.push((key, id));
            }
        }
        special
    }

    fn add(&mut self, role: &'static str, adds: bool, replace: bool) {
        match self.adds.iter_mut().find(|(known, _)| *known == role) {
            Some(entry) if replace => entry.1 = adds,
            Some(_) => {}
            None => self.adds.push((role, adds)),
        }
    }

    /// What the post-processor puts around a text; it may name roles that the configuration leaves open.
    fn read_post_processor(&mut self, tokenizer: &TokenizerFiles) -> RoleTexts {
        let text = |role: &str| tokenizer.special_token(role).map(str::to_owned);
        let mut texts = RoleTexts {
            bos: text("bos").or_else(|| text("cls")),
            eos: text("eos").or_else(|| text("sep")),
            others: ["unk", "sep", "pad", "mask"].into_iter().filter_map(|role| Some((role, text(role)?))).collect(),
        };
        let post_processor = tokenizer.post_processor();
        let single = std::slice::from_ref(post_processor);
        let steps = post_processor.get("processors").and_then(Json::as_array).map_or(single, Vec::as_slice);
        for step in steps {
            match step.get("type").and_then(Json::as_str) {
                Some("ByteLevel") => {
                    self.add("bos", false, false);
                    self.add("eos", false, false);
                }
                Some("RobertaProcessing") => {
                    for role in ["bos", "eos", "sep"] {
                        self.add(role, true, true);
                    }
                }
                Some("TemplateProcessing") => self.read_template(step, &mut texts),
                _ => {}
            }
        }
        texts
    }

    fn read_template(&mut self, step: &Json, texts: &mut RoleTexts) {
        let list = |key: &str| step.get(key).and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
        let token = |piece: Option<&Json>| piece?.pointer("/SpecialToken/id")?.as_str().map(str::to_owned);
        let (one, two) = (list("single"), list("pair"));
        let (mut first, mut last) = (None, None);
        if one.len() > 1 {
            first = token(one.first());
            last = token(one.last());
        }
        if let Some(first) = &first {
            let bos = texts.bos.get_or_insert_with(|| first.clone());
            let is_bos = bos == first;
            self.add("bos", is_bos, true);
        }
        if let Some(last) = &last {
            texts.eos = Some(last.clone());
            self.add("eos", true, true);
        }
        // A, separators, B: whether what stands between two texts is the separator.
        let start = usize::from(first.is_some() && token(two.first()) == first);
        let stop = two.len() - usize::from(last.is_some() && token(two.last()) == last);
        let between = two.get(start..stop).unwrap_or_default();
        let is_sequence = |piece: &Json, id: &str| piece.pointer("/Sequence/id").and_then(Json::as_str) == Some(id);
        if let ([a, middle @ .., b], true) = (between, between.len() > 2)
            && is_sequence(a, "A")
            && is_sequence(b, "B")
        {
            let separates = |piece: Option<&Json>| {
                token(piece).is_some_and(|text| texts.of("sep") == Some(&text) || texts.of("eos") == Some(&text))
            };
            let alone = last.is_none() && separates(middle.first());
            self.add("sep", alone || (middle.len() == 2 && separates(middle.last())), true);
        }
    }
}

/// The texts of tokens with roles.
struct RoleTexts {
    bos: Option<String>,
    eos: Option<String>,
    others: Vec<(&'static str, String)>,
}

impl RoleTexts {
    fn of(&self, role: &str) -> Option<&str> {
        match role {
            "bos" => self.bos.as_deref(),
            "eos" => self.eos.as_deref(),
            _ => self.others.iter().find(|(known, _)| *known == role).map(|(_, text)| text.as_str()),
        }
    }
}

fn add_chat_templates(tokenizer: &TokenizerFiles, metadata: &mut Metadata) {
    let mut names: Vec<String> = Vec::new();
    let mut default = None;
    for template in tokenizer.chat_templates() {
        // A name becomes part of a key.
        let name: String =
            template.name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect();
        if name == "default" {
            default = Some(template.template.as_str());
        } else if !name.is_empty() && !names.contains(&name) {
            metadata.set(format!("tokenizer.chat_template.{name}"), template.template.as_str());
            names.push(name);
        }
    }
    if !names.is_empty() {
        metadata.set("tokenizer.chat_templates", Value::strings(names));
    }
    if let Some(template) = default {
        metadata.set("tokenizer.chat_template", template);
    }
}

fn normalizes_to_nfc(normalizer: &Json) -> bool {
    match normalizer.get("type").and_then(Json::as_str) {
        Some("NFC") => true,
        Some("Sequence") => normalizer
            .get("normalizers")
            .and_then(Json::as_array)
            .is_some_and(|steps| steps.iter().any(normalizes_to_nfc)),
        _ => false,
    }
}
