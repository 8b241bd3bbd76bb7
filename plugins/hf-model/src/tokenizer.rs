//! The tokenizer's files: `tokenizer.json`, `tokenizer.model`, `tokenizer_config.json`, chat templates.

use crate::json::{read_bytes_if_present, read_json_if_present, read_text_if_present};
use crate::sentencepiece::{MODEL_BYTES_MAX, SentencePieceModel};
use pajamas_plugin_api::{Error, Result};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// What the tokenizer's files say, with both layouts of each made one.
#[derive(Debug, Clone)]
pub struct TokenizerFiles {
    path: PathBuf,
    tokenizer: Value,
    /// Whether there is a `tokenizer.json`; else `tokenizer` was made from the SentencePiece model.
    has_json: bool,
    sentencepiece: Option<SentencePieceModel>,
    listed_tokens: Vec<(String, u32)>,
    tokenizer_config: Value,
    vocabulary: BTreeMap<u32, String>,
    merges: Vec<(String, String)>,
    added_tokens: Vec<AddedToken>,
    chat_templates: Vec<ChatTemplate>,
}

/// A token that is matched before the text is split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub content: String,
    /// Whether it is a control token, left out when text is decoded.
    pub special: bool,
    /// Whether it is matched in normalised text.
    pub normalized: bool,
    /// Whether it takes the white space before it along.
    pub lstrip: bool,
    /// Whether it takes the white space behind it along.
    pub rstrip: bool,
}

/// A chat template and its name; the one that is used by default is named `default`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    /// `default`, `tool_use`, …
    pub name: String,
    /// Jinja.
    pub template: String,
}

impl TokenizerFiles {
    /// Reads the files in the model folder `dir`.
    pub fn read(dir: &Path) -> Result<Self> {
        let (json_path, model_path) = (dir.join("tokenizer.json"), dir.join("tokenizer.model"));
        let tokenizer_config = read_json_if_present(&dir.join("tokenizer_config.json"))?
            .unwrap_or_else(|| Value::Object(Default::default()));
        let special_tokens_map = read_json_if_present(&dir.join("special_tokens_map.json"))?;
        let tokenizer_config = with_special_tokens(tokenizer_config, special_tokens_map);
        let chat_templates = chat_templates(dir, &tokenizer_config)?;
        let sentencepiece = match read_bytes_if_present(&model_path, MODEL_BYTES_MAX)? {
            // Mistral's tekken.json has been seen under this name.
            Some(bytes) if !bytes.starts_with(b"{") => Some(SentencePieceModel::parse(&bytes, &model_path)?),
            _ => None,
        };
        let listed_tokens = listed_tokens(&dir.join("added_tokens.json"))?;
        let mut files = match (read_json_if_present(&json_path)?, &sentencepiece) {
            (Some(tokenizer), _) => Self::new(&json_path, tokenizer, tokenizer_config, chat_templates)?,
            (None, Some(model)) => {
                let tokenizer =
                    with_added_tokens(model.to_tokenizer_json(&model_path)?, &tokenizer_config, &listed_tokens);
                let files = Self::new(&model_path, tokenizer, tokenizer_config, chat_templates)?;
                Self { has_json: false, ..files }
            }
            (None, None) => {
                return Err(Error::invalid_model(format!(
                    "`{}` has no tokenizer.json and no tokenizer.model",
                    dir.display()
                ))
                .with_hint("fetch tokenizer.json, or let transformers write it with save_pretrained"));
            }
        };
        files.sentencepiece = sentencepiece;
        files.listed_tokens = listed_tokens;
        Ok(files)
    }

    /// The same from what would be in the files; `path` is for error messages.
    ///
    /// # Errors
    /// `InvalidModel` where `tokenizer` is not as tokenizer.json must be.
    pub fn new(
        path: &Path,
        tokenizer: Value,
        tokenizer_config: Value,
        chat_templates: Vec<ChatTemplate>,
    ) -> Result<Self> {
        let malformed = |what: &str| Error::invalid_model(format!("`{}` has no usable {what}", path.display()));
        let vocabulary = vocabulary(&tokenizer).ok_or_else(|| malformed("`model.vocab`"))?;
        let merges = merges(&tokenizer).ok_or_else(|| malformed("`model.merges`"))?;
        let added_tokens = added_tokens(&tokenizer, &tokenizer_config).ok_or_else(|| malformed("`added_tokens`"))?;
        Ok(Self {
            path: path.to_owned(),
            tokenizer,
            has_json: true,
            sentencepiece: None,
            listed_tokens: Vec::new(),
            tokenizer_config,
            vocabulary,
            merges,
            added_tokens,
            chat_templates,
        })
    }

    /// The tokenizer itself.
    ///
    /// # Errors
    /// `InvalidModel` where it cannot be made of what the files say.
    pub fn load(&self) -> Result<tokenizers::Tokenizer> {
        let failed =
            |why: &dyn Display| Error::invalid_model(format!("loading `{}` failed: {why}", self.path.display()));
        if overstates_charsmap(self.normalizer()) {
            return Err(failed(&"the table of its normalizer is cut short"));
        }
        let tokenizer = self.tokenizer.clone();
        // The library panics at some normalizers that it cannot read.
        let mut tokenizer =
            catch_unwind(AssertUnwindSafe(|| serde_json::from_value::<tokenizers::Tokenizer>(tokenizer)))
                .map_err(|_| failed(&"the library for tokenizers does not understand it"))?
                .map_err(|error| failed(&error))?;
        // Some files keep what training cut and filled texts to; a prompt is neither cut nor filled.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| Error::other(format!("the tokenizer failed: {error}")))?;
        Ok(tokenizer)
    }

    /// Whether there is a `tokenizer.json`. Without it, everything that it would say was made from `tokenizer.model`.
    pub fn has_json(&self) -> bool {
        self.has_json
    }

    /// `tokenizer.model`, if there is one.
    pub fn sentencepiece(&self) -> Option<&SentencePieceModel> {
        self.sentencepiece.as_ref()
    }

    /// The texts and ids in `added_tokens.json`, which older models have.
    pub fn listed_tokens(&self) -> &[(String, u32)] {
        &self.listed_tokens
    }

    /// The tokens in `added_tokens_decoder` of `tokenizer_config.json`.
    pub fn configured_tokens(&self) -> Vec<AddedToken> {
        configured_tokens(&self.tokenizer_config).unwrap_or_default()
    }

    /// The path of `tokenizer.json`, or of `tokenizer.model` where there is only that.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `tokenizer.json` as it is.
    pub fn raw(&self) -> &Value {
        &self.tokenizer
    }

    /// `model.type`: `BPE`.
    pub fn model_type(&self) -> &str {
        self.tokenizer.pointer("/model/type").and_then(Value::as_str).unwrap_or_default()
    }

    /// A boolean of the tokenizer's model, such as `byte_fallback` or `ignore_merges`; false if missing.
    pub fn model_flag(&self, key: &str) -> bool {
        self.tokenizer.get("model").and_then(|model| model.get(key)).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The pre-tokenizer, null if there is none.
    pub fn pre_tokenizer(&self) -> &Value {
        self.tokenizer.get("pre_tokenizer").unwrap_or(&Value::Null)
    }

    /// The normalizer, null if there is none.
    pub fn normalizer(&self) -> &Value {
        self.tokenizer.get("normalizer").unwrap_or(&Value::Null)
    }

    /// The post-processor, null if there is none.
    pub fn post_processor(&self) -> &Value {
        self.tokenizer.get("post_processor").unwrap_or(&Value::Null)
    }

    /// Tokens of the model by id, added tokens not included unless the model holds them too.
    pub fn vocabulary(&self) -> &BTreeMap<u32, String> {
        &self.vocabulary
    }

    /// Merges in order of rank.
    pub fn merges(&self) -> &[(String, String)] {
        &self.merges
    }

    /// Added tokens: those of `tokenizer.json`, then those that only `tokenizer_config.json` knows.
    pub fn added_tokens(&self) -> &[AddedToken] {
        &self.added_tokens
    }

    /// The text of a role's token: `role` is `bos`, `eos`, `pad`, `unk`, `sep`, `cls` or `mask`.
    pub fn special_token(&self, role: &str) -> Option<&str> {
        token_text(self.tokenizer_config.get(format!("{role}_token"))?)
    }

    /// Whether the tokenizer adds a role's token around a text (`add_bos_token`), where its configuration says so.
    pub fn adds_token(&self, role: &str) -> Option<bool> {
        self.tokenizer_config.get(format!("add_{role}_token"))?.as_bool()
    }

    /// A value of `tokenizer_config.json`.
    pub fn setting(&self, key: &str) -> Option<&Value> {
        self.tokenizer_config.get(key)
    }

    /// The id of the added token whose text is `content`.
    pub fn added_token_id(&self, content: &str) -> Option<u32> {
        self.added_tokens.iter().find(|token| token.content == content).map(|token| token.id)
    }

    /// Chat templates in the order of their files.
    pub fn chat_templates(&self) -> &[ChatTemplate] {
        &self.chat_templates
    }
}

/// A token is written as its text, or as an object that holds it.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content").and_then(Value::as_str))
}

/// Whether a SentencePiece normalizer claims a table larger than what follows: the library takes that memory first.
fn overstates_charsmap(normalizer: &Value) -> bool {
    match normalizer {
        Value::Object(map) => map.iter().any(|(key, value)| match value.as_str() {
            Some(base64) if key == "precompiled_charsmap" => first_number(base64).is_some_and(|n| n > base64.len()),
            _ => overstates_charsmap(value),
        }),
        Value::Array(list) => list.iter().any(overstates_charsmap),
        _ => false,
    }
}

/// The first 32 bits, little-endian, of what is written in Base64.
fn first_number(base64: &str) -> Option<usize> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = base64.as_bytes().first_chunk::<6>()?;
    let bits = digits
        .iter()
        .try_fold(0_u64, |bits, byte| Some(bits << 6 | DIGITS.iter().position(|digit| digit == byte)? as u64))?;
    Some(((bits >> 4) as u32).swap_bytes() as usize)
}

fn as_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

fn vocabulary(tokenizer: &Value) -> Option<BTreeMap<u32, String>> {
    let vocabulary = tokenizer.pointer("/model/vocab")?;
    match vocabulary {
        Value::Object(map) => map.iter().map(|(text, id)| Some((as_id(id)?, text.clone()))).collect(),
        // Unigram models list pairs of text and score; the position is the id.
        Value::Array(list) => {
            list.iter().zip(0..).map(|(entry, id)| Some((id, entry.get(0)?.as_str()?.to_owned()))).collect()
        }
        _ => None,
    }
}

/// Merges are written as `"a b"` or, since a token may hold a space, as `["a", "b"]`.
fn merges(tokenizer: &Value) -> Option<Vec<(String, String)>> {
    let Some(merges) = tokenizer.pointer("/model/merges") else { return Some(Vec::new()) };
    let pair = |merge: &Value| match merge {
        Value::String(text) => text.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())),
        Value::Array(parts) => match parts.as_slice() {
            [left, right] => Some((left.as_str()?.to_owned(), right.as_str()?.to_owned())),
            _ => None,
        },
        _ => None,
    };
    merges.as_array()?.iter().map(pair).collect()
}

fn added_token(id: u32, entry: &Value) -> Option<AddedToken> {
    let flag = |key: &str| entry.get(key).and_then(Value::as_bool).unwrap_or(false);
    let content = entry.get("content")?.as_str()?.to_owned();
    Some(AddedToken {
        id,
        content,
        special: flag("special"),
        normalized: flag("normalized"),
        lstrip: flag("lstrip"),
        rstrip: flag("rstrip"),
    })
}

fn added_tokens(tokenizer: &Value, tokenizer_config: &Value) -> Option<Vec<AddedToken>> {
    let mut tokens = Vec::new();
    if let Some(entries) = tokenizer.get("added_tokens").filter(|value| !value.is_null()) {
        for entry in entries.as_array()? {
            tokens.push(added_token(as_id(entry.get("id")?)?, entry)?);
        }
    }
    let known: HashSet<u32> = tokens.iter().map(|token| token.id).collect();
    tokens.extend(configured_tokens(tokenizer_config)?.into_iter().filter(|token| !known.contains(&token.id)));
    Some(tokens)
}

/// The tokens in `added_tokens_decoder`, by id.
fn configured_tokens(tokenizer_config: &Value) -> Option<Vec<AddedToken>> {
    let Some(decoder) = tokenizer_config.get("added_tokens_decoder").and_then(Value::as_object) else {
        return Some(Vec::new());
    };
    let mut tokens =
        decoder.iter().map(|(id, entry)| added_token(id.parse().ok()?, entry)).collect::<Option<Vec<_>>>()?;
    tokens.sort_by_key(|token| token.id);
    Some(tokens)
}

/// The texts and ids in `added_tokens.json`, by id.
fn listed_tokens(path: &Path) -> Result<Vec<(String, u32)>> {
    let Some(file) = read_json_if_present(path)? else { return Ok(Vec::new()) };
    let malformed = || Error::invalid_model(format!("`{}` is no map from texts to token ids", path.display()));
    let entries = file.as_object().ok_or_else(malformed)?.iter();
    let tokens = entries.map(|(text, id)| Ok((text.clone(), as_id(id).ok_or_else(malformed)?)));
    let mut tokens: Vec<(String, u32)> = tokens.collect::<Result<_>>()?;
    tokens.sort_by_key(|(_, id)| *id);
    Ok(tokens)
}

/// Adds to a tokenizer made from `tokenizer.model` what the other files add to that.
fn with_added_tokens(mut tokenizer: Value, tokenizer_config: &Value, listed: &[(String, u32)]) -> Value {
    let configured = configured_tokens(tokenizer_config).unwrap_or_default();
    let listed = listed.iter().map(|(text, id)| AddedToken {
        id: *id,
        content: text.clone(),
        special: false,
        normalized: false,
        lstrip: false,
        rstrip: false,
    });
    let Some(entries) = tokenizer.get_mut("added_tokens").and_then(Value::as_array_mut) else { return tokenizer };
    let known = std::mem::take(entries).into_iter();
    let mut by_id: BTreeMap<_, Value> = known.map(|entry| (entry.get("id").and_then(Value::as_u64), entry)).collect();
    // The later a file, the more it knows of a token.
    for token in listed.chain(configured) {
        let entry = json!({
            "id": token.id, "content": token.content, "special": token.special, "normalized": token.normalized,
            "single_word": false, "lstrip": token.lstrip, "rstrip": token.rstrip,
        });
        by_id.insert(Some(token.id.into()), entry);
    }
    *entries = by_id.into_values().collect();
    tokenizer
}

/// Fills the roles that `tokenizer_config.json` leaves open from the older `special_tokens_map.json`.
fn with_special_tokens(mut tokenizer_config: Value, special_tokens_map: Option<Value>) -> Value {
    if let (Some(config), Some(Value::Object(map))) = (tokenizer_config.as_object_mut(), special_tokens_map) {
        for (role, token) in map {
            // A role that is set to null is one that the tokenizer goes without.
            config.entry(role).or_insert(token);
        }
    }
    tokenizer_config
}

/// Templates from `chat_template.jinja` and its companions, or from `tokenizer_config.json`, which wins.
fn chat_templates(dir: &Path, tokenizer_config: &Value) -> Result<Vec<ChatTemplate>> {
    let named = |name: &str, template: &str| ChatTemplate { name: name.to_owned(), template: template.to_owned() };
    let from_value = |value: &Value| -> Vec<ChatTemplate> {
        match value {
            Value::String(template) => vec![named("default", template)],
            Value::Array(list) => list
                .iter()
                .filter_map(|entry| Some(named(entry.get("name")?.as_str()?, entry.get("template")?.as_str()?)))
                .collect(),
            _ => Vec::new(),
        }
    };
    let mut templates = tokenizer_config.get("chat_template").map(from_value).unwrap_or_default();
    if templates.is_empty()
        && let Some(template) = read_text_if_present(&dir.join("chat_template.jinja"))?
    {
        templates.push(named("default", &template));
        let mut others: Vec<PathBuf> = std::fs::read_dir(dir.join("additional_chat_templates"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "jinja"))
            .collect();
        others.sort();
        for path in others {
            if let (Some(name), Some(template)) = (path.file_stem(), read_text_if_present(&path)?) {
                templates.push(named(&name.to_string_lossy(), &template));
            }
        }
    }
    if templates.is_empty()
        && let Some(file) = read_json_if_present(&dir.join("chat_template.json"))?
    {
        templates = file.get("chat_template").map(from_value).unwrap_or_default();
    }
    Ok(templates)
}
