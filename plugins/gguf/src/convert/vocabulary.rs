//! The header's `tokenizer.*` keys: tokens and their types, merges or scores, special tokens, chat templates.

use super::families::{Family, SpacePrefix};
use super::pre_tokenizer;
use crate::gguf_file::{Metadata, Value, ValueType};
use pajamas_hf_model::{AddedToken, HfModel, PieceKind, SentencePieceModel, TokenizerFiles};
use pajamas_plugin_api::{Error, Result};
use serde_json::Value as Json;
use std::collections::HashMap;

/// llama.cpp's token types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
enum TokenType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// The largest vocabulary that is written; published ones have some hundred thousand tokens.
const VOCABULARY_MAX: u64 = 16 << 20;

/// The score of a token that was added to a SentencePiece vocabulary, and of one that is not there.
const ADDED_SCORE: f32 = -1000.0;
const UNUSED_SCORE: f32 = -10_000.0;

/// Roles in the order in which they are written, and their keys. `cls` has none, but stands in for `bos`.
const ROLES: [(&str, &str); 8] = [
    ("bos", "bos_token_id"),
    ("eos", "eos_token_id"),
    ("unk", "unknown_token_id"),
    // The key's spelling is the format's.
    ("sep", "seperator_token_id"),
    ("pad", "padding_token_id"),
    ("mask", "mask_token_id"),
    // These two only where a template ends a text with another token than the configuration does.
    ("eot", "eot_token_id"),
    ("eom", "eom_token_id"),
];

/// CodeLlama's vocabulary, and the ids of the tokens that its infilling needs.
const CODE_LLAMA_VOCABULARY: u64 = 32_016;
const CODE_LLAMA_TOKENS: [(&str, u32); 4] = [
    ("tokenizer.ggml.prefix_token_id", 32_007),
    ("tokenizer.ggml.suffix_token_id", 32_008),
    ("tokenizer.ggml.middle_token_id", 32_009),
    ("tokenizer.ggml.eot_token_id", 32_010),
];

/// Granite's small code models, which llama.cpp's converter knows by the size of their vocabulary.
const GRANITE_VOCABULARY: u64 = 49_152;

/// Adds the tokenizer of `source`. `pre_tokenizer` is llama.cpp's name of it, where the user knows better.
pub(super) fn add(
    source: &HfModel,
    family: &dyn Family,
    pre_tokenizer: Option<&str>,
    metadata: &mut Metadata,
    notes: &mut Vec<String>,
) -> Result<()> {
    let tokenizer = source.tokenizer()?;
    let size = source.config().vocabulary_size()?;
    if size > VOCABULARY_MAX {
        return Err(Error::invalid_model(format!(
            "a vocabulary of {size} tokens was claimed, at most {VOCABULARY_MAX} are allowed"
        )));
    }
    let prefix = family.space_prefix();
    if prefix == SpacePrefix::Configured
        && let Some(adds) = tokenizer.setting("add_prefix_space").and_then(Json::as_bool)
    {
        metadata.set("tokenizer.ggml.add_space_prefix", adds);
    }
    let is_sentencepiece = add_tokens(&tokenizer, family, pre_tokenizer, size, metadata)?;
    let special = SpecialTokens::read(&tokenizer, source.config().raw(), is_sentencepiece.then_some(size));
    for (key, id) in &special.ids {
        metadata.set(format!("tokenizer.ggml.{key}"), *id);
    }
    for (role, adds) in &special.adds {
        metadata.set(format!("tokenizer.ggml.add_{role}_token"), *adds);
    }
    add_chat_templates(&tokenizer, metadata);
    match (prefix, is_sentencepiece) {
        (SpacePrefix::Never, true) => metadata.set("tokenizer.ggml.add_space_prefix", false),
        (SpacePrefix::Configured, _) if size == CODE_LLAMA_VOCABULARY => {
            for (key, id) in CODE_LLAMA_TOKENS {
                metadata.set(key, id);
            }
        }
        (SpacePrefix::Configured, _) if size == GRANITE_VOCABULARY => {
            metadata.set("tokenizer.ggml.add_bos_token", false);
        }
        _ => {}
    }
    if composes(tokenizer.normalizer(), tokenizer.path())? {
        notes.push(
            "the source's tokenizer composes Unicode characters (NFC) and llama.cpp does not: \
             text with combining characters can be split differently"
                .into(),
        );
    }
    Ok(())
}

/// A vocabulary as the file has it.
#[derive(Default)]
struct Tokens {
    texts: Vec<String>,
    scores: Vec<f32>,
    types: Vec<TokenType>,
}

/// Adds the tokens; true where they are a SentencePiece vocabulary.
fn add_tokens(
    tokenizer: &TokenizerFiles,
    family: &dyn Family,
    pre_tokenizer: Option<&str>,
    size: u64,
    metadata: &mut Metadata,
) -> Result<bool> {
    let sentencepiece = tokenizer.sentencepiece().filter(|_| family.reads_sentencepiece());
    let tokens = if let Some(model) = sentencepiece {
        Some(sentencepiece_tokens(tokenizer, model, family.mends_added_tokens(), size))
    } else if tokenizer.model_type() == "BPE" && tokenizer.model_flag("byte_fallback") {
        Some(tokens_with_byte_fallback(tokenizer, size)?)
    } else {
        None
    };
    let Some(tokens) = tokens else {
        add_byte_level(tokenizer, pre_tokenizer, size, metadata)?;
        return Ok(false);
    };
    if pre_tokenizer.is_some() {
        return Err(Error::invalid_request("a SentencePiece tokenizer has no pre-tokenizer to choose")
            .with_hint("leave `--pre-tokenizer` out"));
    }
    metadata.set("tokenizer.ggml.model", "llama");
    metadata.set("tokenizer.ggml.pre", "default");
    metadata.set("tokenizer.ggml.tokens", Value::strings(tokens.texts));
    let scores = tokens.scores.into_iter().map(Value::F32).collect();
    metadata.set("tokenizer.ggml.scores", Value::Array(ValueType::F32, scores));
    metadata.set("tokenizer.ggml.token_type", Value::i32s(tokens.types.into_iter().map(|kind| kind as i32)));
    Ok(true)
}

fn add_byte_level(
    tokenizer: &TokenizerFiles,
    pre_tokenizer: Option<&str>,
    size: u64,
    metadata: &mut Metadata,
) -> Result<()> {
    let path = tokenizer.path().display();
    if tokenizer.model_type() != "BPE" {
        let kind = tokenizer.model_type().escape_debug();
        return Err(Error::unsupported(format!("`{path}` holds a {kind} tokenizer")).with_hint(
            "byte-level BPE and SentencePiece's BPE can be converted; for others, start from a GGUF file made elsewhere",
        ));
    }
    if tokenizer.merges().is_empty() {
        return Err(Error::invalid_model(format!("`{path}` has no merges")));
    }
    metadata.set("tokenizer.ggml.model", "gpt2");
    metadata.set("tokenizer.ggml.pre", pre_tokenizer::recognize(tokenizer, pre_tokenizer)?);
    let (tokens, types) = byte_level_tokens(tokenizer, size)?;
    metadata.set("tokenizer.ggml.tokens", Value::strings(tokens));
    metadata.set("tokenizer.ggml.token_type", Value::i32s(types.into_iter().map(|token_type| token_type as i32)));
    // A space inside a token is written as the byte-level alphabet writes it, since one space separates the two.
    let escape = |part: &str| part.replace(' ', "\u{120}");
    let merges = tokenizer.merges().iter().map(|(left, right)| format!("{} {}", escape(left), escape(right)));
    metadata.set("tokenizer.ggml.merges", Value::strings(merges));
    Ok(())
}

/// A token for every row of the embedding, from `tokenizer.model` and what other files add to it.
fn sentencepiece_tokens(tokenizer: &TokenizerFiles, model: &SentencePieceModel, mend: bool, size: u64) -> Tokens {
    let mut tokens = Tokens::unused(size);
    for (id, piece) in model.pieces().iter().enumerate() {
        let kind = match piece.kind {
            // llama.cpp matches these through the files that also list them.
            PieceKind::Normal | PieceKind::UserDefined => TokenType::Normal,
            PieceKind::Unknown => TokenType::Unknown,
            PieceKind::Control => TokenType::Control,
            PieceKind::Unused => TokenType::Unused,
            PieceKind::Byte => TokenType::Byte,
        };
        tokens.set(id as u32, piece.text.clone(), piece.score, kind);
    }
    for (text, id) in tokenizer.listed_tokens() {
        tokens.set(*id, text.clone(), ADDED_SCORE, TokenType::UserDefined);
    }
    for token in tokenizer.configured_tokens() {
        tokens.add(&token, mend);
    }
    for token in tokenizer.added_tokens().iter().filter(|_| tokenizer.has_json()) {
        // Where the other files are silent about a token, this one still knows its text.
        if !mend || tokens.is_unused(token.id) {
            tokens.add(token, mend);
        }
    }
    tokens
}

/// A token for every row of the embedding, from a `tokenizer.json` that was made of a SentencePiece vocabulary. The
/// scores are lost there, but not their order, which the merges have.
fn tokens_with_byte_fallback(tokenizer: &TokenizerFiles, size: u64) -> Result<Tokens> {
    check_ids(tokenizer, size)?;
    let mut order: HashMap<String, usize> = HashMap::new();
    for (left, right) in tokenizer.merges() {
        let next = order.len();
        order.entry(format!("{left}{right}")).or_insert(next);
    }
    let mut tokens = Tokens::unused(size);
    for (id, text) in tokenizer.vocabulary() {
        let byte = text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
        let kind = if byte { TokenType::Byte } else { TokenType::Normal };
        // What no merge makes is never asked for its score.
        let score = order.get(text).map_or(ADDED_SCORE, |order| -(*order as f32));
        tokens.set(*id, text.clone(), score, kind);
    }
    let unknown = tokenizer.raw().pointer("/model/unk_token").and_then(Json::as_str);
    for token in tokenizer.added_tokens() {
        tokens.add(token, true);
        if unknown == Some(token.content.as_str()) {
            tokens.types[token.id as usize] = TokenType::Unknown;
        }
    }
    Ok(tokens)
}

impl Tokens {
    fn unused(size: u64) -> Self {
        Self {
            texts: (0..size).map(|id| format!("[PAD{id}]")).collect(),
            scores: vec![UNUSED_SCORE; size as usize],
            types: vec![TokenType::Unused; size as usize],
        }
    }

    fn is_unused(&self, id: u32) -> bool {
        self.scores.get(id as usize) == Some(&UNUSED_SCORE)
    }

    /// Sets a token that the embedding has a row for.
    fn set(&mut self, id: u32, text: String, score: f32, kind: TokenType) {
        let id = id as usize;
        if id < self.texts.len() {
            (self.texts[id], self.scores[id], self.types[id]) = (text, score, kind);
        }
    }

    fn add(&mut self, token: &AddedToken, mend: bool) {
        if token.special || (mend && looks_special(&token.content)) {
            self.set(token.id, token.content.clone(), ADDED_SCORE, TokenType::Control);
        } else {
            let text = if mend { token.content.replace('\u{2581}', " ") } else { token.content.clone() };
            self.set(token.id, text, ADDED_SCORE, TokenType::UserDefined);
        }
    }
}

/// An error where the tokenizer has tokens that the embedding has no rows for.
fn check_ids(tokenizer: &TokenizerFiles, size: u64) -> Result<()> {
    let added = tokenizer.added_tokens().iter().map(|token| &token.id);
    let largest = tokenizer.vocabulary().keys().chain(added).max().copied().unwrap_or(0);
    if u64::from(largest) < size {
        return Ok(());
    }
    Err(Error::invalid_model(format!(
        "`{}` has a token with id {largest}, config.json's vocab_size is {size}",
        tokenizer.path().display()
    ))
    .with_hint("the tokenizer does not belong to this model"))
}

/// A token for every row of the embedding, and its type.
fn byte_level_tokens(tokenizer: &TokenizerFiles, size: u64) -> Result<(Vec<String>, Vec<TokenType>)> {
    check_ids(tokenizer, size)?;
    let added: HashMap<u32, &AddedToken> = tokenizer.added_tokens().iter().map(|token| (token.id, token)).collect();
    let token = |id: u32| match (added.get(&id), tokenizer.vocabulary().get(&id)) {
        (Some(token), _) if token.special || looks_special(&token.content) => {
            (token.content.clone(), TokenType::Control)
        }
        (Some(token), _) => (token.content.replace('\u{2581}', " "), TokenType::UserDefined),
        (None, Some(text)) => (text.clone(), TokenType::Normal),
        (None, None) => (format!("[PAD{id}]"), TokenType::Unused),
    };
    Ok((0..size as u32).map(token).unzip())
}

/// Some models forget to mark control tokens as special.
pub(super) fn looks_special(text: &str) -> bool {
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
    /// Ids outside of a vocabulary of `size` are left out, where it is given.
    fn read(tokenizer: &TokenizerFiles, config: &Json, size: Option<u64>) -> Self {
        let mut special = Self::default();
        let inside = |id: &u32| size.is_none_or(|size| u64::from(*id) < size);
        let texts = special.read_post_processor(tokenizer);
        for (role, key) in ROLES {
            if let (true, Some(adds)) = (["bos", "eos", "sep"].contains(&role), tokenizer.adds_token(role)) {
                // What the post-processor does counts for more than what the configuration says.
                special.add(role, adds, false);
            }
            // Without tokenizer.json, llama.cpp's converter knows no texts.
            let text = texts.of(role).filter(|_| tokenizer.has_json());
            if let Some(id) = text.and_then(|text| tokenizer.added_token_id(text)).filter(inside) {
                special.ids.push((key, id));
            }
        }
        for (role, key) in ROLES {
            let in_text = || config.get("text_config")?.get(format!("{role}_token_id"));
            let id = config.get(format!("{role}_token_id")).filter(|id| !id.is_null()).or_else(in_text);
            let id = id.and_then(Json::as_u64).and_then(|id| u32::try_from(id).ok()).filter(inside);
            let asked = !["eot", "eom"].contains(&role) || texts.others.iter().any(|(known, _)| *known == role);
            if let (Some(id), false, true) = (id, special.ids.iter().any(|(known, _)| *known == key), asked) {
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
            // What ended texts until now goes on ending turns.
            let before = texts.eos.replace(last.clone()).filter(|before| before != last);
            if let Some(before) = before {
                let role = if texts.of("eot").is_none() { "eot" } else { "eom" };
                texts.others.push((role, before));
            }
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

/// Steps of a normalizer that compose, decompose or exchange characters that look alike: known not to happen in llama.cpp.
const COMPOSING: [&str; 4] = ["NFC", "NFD", "NFKC", "NFKD"];

/// The step of a normalizer that changes a text as llama.cpp does not, and whether that is a known, small difference.
///
/// # Errors
/// `Unsupported` for steps that would make llama.cpp read ordinary texts wrongly.
fn composes(normalizer: &Json, path: &std::path::Path) -> Result<bool> {
    let kind = normalizer.get("type").and_then(Json::as_str).unwrap_or_default();
    let marks_space = || normalizer.pointer("/pattern/String").and_then(Json::as_str) == Some(" ");
    match kind {
        "" | "Prepend" => Ok(false),
        "Replace" if marks_space() => Ok(false),
        "Sequence" => {
            let steps = normalizer.get("normalizers").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
            steps.iter().try_fold(false, |found, step| Ok(composes(step, path)? || found))
        }
        kind if COMPOSING.contains(&kind) => Ok(true),
        kind => Err(Error::unsupported(format!(
            "`{}` changes texts before it splits them ({}), which llama.cpp does not",
            path.display(),
            kind.escape_debug()
        ))),
    }
}
