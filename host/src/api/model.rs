//! A loaded model.

use super::Generate;
use crate::chat::{self, Message};
use crate::error::{Error, Result};
use crate::runtime::Engine;
use crate::runtime::open::OpenModel;
use pajamas_plugin_api::{CancelToken, MemoryUsage, ModelInfo, Prompt, TextSegment};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// A loaded model. Clones are the same model, and any of them may be used from any thread; it is unloaded with the last one.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/installed.rs"));
/// # fn main() -> pajamas::Result<()> {
/// # let Installed { pajamas, model, .. } = &Installed::new();
/// let model = pajamas.load(model).method("Q8_0").run()?;
/// let answer = model.chat("What is the capital of France?").temperature(0.0).run()?;
/// assert_eq!(answer.text, "The capital of France is Paris.");
///
/// let tokens = model.tokenize("A cow says", true, false)?;
/// let logits = model.logits(&tokens)?;
/// assert_eq!(logits.rows().count(), tokens.len());
/// assert_eq!(logits.vocabulary_size, model.info().vocabulary_size as usize);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Model(Arc<Opened>);

struct Opened {
    /// None only while it is dropped.
    model: Option<OpenModel>,
    /// Neither a worker nor an engine's threads follow into a process that is forked off.
    process: u32,
}

impl Drop for Opened {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // Unloading would wait for threads that are not in this process.
            std::mem::forget(self.model.take());
        }
    }
}

/// In a process that was forked off after loading, where a call would wait for ever.
pub(super) fn forked_off() -> Error {
    let message = "this model was loaded before this process was forked off, and is not in it".into();
    Error::Refused { message, hint: "load it again here".into() }
}

/// Logits: a row for each position, a value for each token of the vocabulary.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Logits {
    /// Values in a row.
    pub vocabulary_size: usize,
    /// Row after row.
    pub values: Vec<f32>,
}

impl Logits {
    /// The rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.vocabulary_size.max(1))
    }
}

impl Model {
    pub(super) fn new(model: OpenModel) -> Self {
        Self(Arc::new(Opened { model: Some(model), process: std::process::id() }))
    }

    pub(super) fn opened(&self) -> &OpenModel {
        self.0.model.as_ref().expect("it is there until it is dropped")
    }

    /// What computes.
    ///
    /// # Errors
    /// In a process that was forked off after loading, where a call would wait for ever.
    pub(super) fn engine(&self) -> Result<&Engine> {
        if self.0.process == std::process::id() { Ok(&self.opened().engine) } else { Err(forked_off()) }
    }

    /// What it is.
    pub fn info(&self) -> &ModelInfo {
        self.opened().engine.info()
    }

    /// The name of the backend that it runs on.
    pub fn backend(&self) -> &str {
        &self.opened().backend
    }

    /// The file or folder that was loaded.
    pub fn path(&self) -> &Path {
        &self.opened().path
    }

    /// How long loading took, in milliseconds.
    pub fn load_ms(&self) -> f64 {
        self.opened().load_ms
    }

    /// Answers a conversation, through the model's own chat template: a question, or messages. What looks like a control
    /// token in them is text.
    pub fn chat(&self, messages: impl Into<Messages>) -> Generate<'_> {
        let Messages(messages) = messages.into();
        Generate::new(self, chat::prompt(self.info(), &messages))
    }

    /// Goes on with a text as it is, without a chat template. Control tokens in it are read as such, so that a prompt can
    /// be built by hand; what users typed belongs into [`Self::chat`].
    pub fn generate(&self, prompt: impl Into<String>) -> Generate<'_> {
        let segments = vec![TextSegment { text: prompt.into(), parse_special: true }];
        Generate::new(self, Ok(Prompt::Text { add_special: true, segments }))
    }

    /// Goes on with tokens.
    pub fn generate_tokens(&self, tokens: impl Into<Vec<u32>>) -> Generate<'_> {
        Generate::new(self, Ok(Prompt::Tokens(tokens.into())))
    }

    /// The tokens of a text. `add_special` adds what the model wants around one (BOS), `parse_special` reads control tokens.
    ///
    /// # Errors
    /// The backend's.
    pub fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        self.engine()?.tokenize(text, add_special, parse_special)
    }

    /// The bytes of tokens; half a character at the end is possible.
    ///
    /// # Errors
    /// When one is no token of the model's.
    pub fn detokenize(&self, tokens: &[u32]) -> Result<Vec<u8>> {
        self.engine()?.detokenize(tokens)
    }

    /// What the model expects after each of `tokens`, read from an empty context.
    ///
    /// # Errors
    /// When they are more than the context holds, or none; the backend's, `Unsupported` where it gives no logits.
    pub fn logits(&self, tokens: &[u32]) -> Result<Logits> {
        self.logits_until(tokens, &CancelToken::never())
    }

    /// As [`Self::logits`], until `cancel` says so.
    ///
    /// # Errors
    /// As [`Self::logits`]; `Interrupted`.
    pub fn logits_until(&self, tokens: &[u32], cancel: &CancelToken) -> Result<Logits> {
        let mut logits = Logits { vocabulary_size: self.info().vocabulary_size as usize, values: Vec::new() };
        let mut unexpected = None;
        let mut on_row = |position: usize, row: &[f32]| {
            if position == 0 {
                // All at once, now that the engine has taken the tokens: growing would copy it again and again.
                logits.values.reserve_exact(tokens.len() * logits.vocabulary_size);
            }
            if row.len() != logits.vocabulary_size || position * row.len() != logits.values.len() {
                unexpected = Some((position, row.len()));
                return ControlFlow::Break(());
            }
            logits.values.extend_from_slice(row);
            ControlFlow::Continue(())
        };
        self.logits_with(tokens, 0, &mut on_row, cancel)?;
        if unexpected.is_some() || logits.values.len() != tokens.len() * logits.vocabulary_size {
            let message = format!("`{}` gave other rows of logits than it was asked for", self.backend());
            return Err(Error::Refused { message, hint: "update the plugin".into() });
        }
        Ok(logits)
    }

    /// As [`Self::logits`], row by row as they are computed, from position `first_row` on, until `on_row` breaks. It gets the
    /// position and the row.
    ///
    /// # Errors
    /// As [`Self::logits`].
    pub fn logits_with(
        &self,
        tokens: &[u32],
        first_row: usize,
        on_row: &mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>,
        cancel: &CancelToken,
    ) -> Result<()> {
        if tokens.is_empty() {
            let message = "logits are for tokens, and there are none".into();
            return Err(Error::Usage { message, hint: "`tokenize` gives those of a text".into() });
        }
        self.engine()?.logits(tokens, first_row, on_row, cancel)
    }

    /// What it holds by its backend's account, and the most that its process has held so far, in bytes.
    ///
    /// # Errors
    /// The backend's.
    pub fn memory_usage(&self) -> Result<(MemoryUsage, u64)> {
        self.engine()?.memory_usage()
    }
}

/// The messages of a conversation; a text alone is a question of the user's.
#[derive(Debug, Clone, Default)]
pub struct Messages(Vec<Message>);

impl From<&str> for Messages {
    fn from(question: &str) -> Self {
        Self(vec![Message::new("user", question)])
    }
}

impl From<String> for Messages {
    fn from(question: String) -> Self {
        Self(vec![Message::new("user", question)])
    }
}

impl From<&[Message]> for Messages {
    fn from(messages: &[Message]) -> Self {
        Self(messages.to_vec())
    }
}

impl<const N: usize> From<[Message; N]> for Messages {
    fn from(messages: [Message; N]) -> Self {
        Self(messages.into())
    }
}

impl From<Vec<Message>> for Messages {
    fn from(messages: Vec<Message>) -> Self {
        Self(messages)
    }
}
