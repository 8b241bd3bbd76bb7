//! The one error type that crosses the plugin boundary, and the kinds that drive the host's decisions.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What went wrong, as far as the host has to decide what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// Memory (host's or device's) ran out: the host may retry smaller or elsewhere.
    OutOfMemory,
    /// The prompt, or the prompt and what was generated, does not fit the context.
    ContextOverflow,
    /// The backend cannot do what was asked; another one may.
    Unsupported,
    /// The model's files are damaged or of a kind that no backend could load.
    InvalidModel,
    /// The request itself is wrong: an unknown option, a value out of range.
    InvalidRequest,
    /// The caller cancelled.
    Cancelled,
    /// The device went away in the middle of the work.
    DeviceLost,
    /// The plugin panicked; the guard caught it.
    Panic,
    /// Reading or writing a file failed.
    Io,
    /// Everything else, and every kind that this build does not know.
    #[serde(other)]
    Other,
}

/// An error with its kind, a sentence for the user, an optional hint, and the causes below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// What the host decides by.
    pub kind: ErrorKind,
    /// One sentence that names the file or value, what was expected and what was found.
    pub message: String,
    /// What the user can do about it; a command where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The causes, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
}

/// `Result` with the plugin API's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, causes: Vec::new() }
    }

    /// An [`ErrorKind::Unsupported`] error.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// An [`ErrorKind::InvalidModel`] error.
    pub fn invalid_model(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidModel, message)
    }

    /// An [`ErrorKind::InvalidRequest`] error.
    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, message)
    }

    /// An [`ErrorKind::Other`] error.
    pub fn other(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Other, message)
    }

    /// `what` (`a prompt`) has more tokens than the context holds.
    pub fn context_overflow(what: &str, tokens: usize, context_length: u32) -> Self {
        let message = format!("{what} of {tokens} tokens does not fit the context of {context_length} tokens");
        Self::new(ErrorKind::ContextOverflow, message)
            .with_hint(format!("--context-length {}", (tokens + 1).next_multiple_of(256)))
    }

    /// The error of a cancelled call.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "cancelled")
    }

    /// An [`ErrorKind::Io`] error that says what was being done to which path.
    pub fn io(doing: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::new(ErrorKind::Io, format!("{doing} `{}` failed: {error}", path.display()))
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds `error` and everything below it to the causes.
    #[must_use]
    pub fn with_cause(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(cause) = next {
            self.causes.push(cause.to_string());
            next = cause.source();
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
