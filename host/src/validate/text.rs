//! What models are measured on: a text, as one stream of tokens, cut into windows.

use crate::error::{Error, Result};
use crate::runtime::Engine;
use crate::text::counted;
use serde::Serialize;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Prose, code, mathematics, chat and a dozen languages, written for this purpose.
const BUNDLED: &str = include_str!("../../assets/validation.txt");

/// A text of this name in a model's own folder is what its author wants it measured on.
const OF_MODEL: &str = "validation.txt";

/// The fewest tokens that say anything.
pub const TOKENS_MIN: usize = 32;

/// The most tokens that are measured.
pub const TOKENS_MAX: usize = 1 << 20;

/// Bytes of text that a token stands for at the most, in an ordinary text; where it is more, more is read.
const BYTES_PER_TOKEN: usize = 8;

/// Bytes of a text that are read at the most, for one that makes hardly any tokens: a worker takes messages of 16 MiB.
const BYTES_MAX: usize = 12 << 20;

/// Which text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// The one that comes with pajamas.
    Bundled,
    /// A file.
    File(PathBuf),
}

impl Text {
    /// The text for a model made from `folder`: the one that lies in it, else the bundled one.
    pub fn of_model(folder: Option<&Path>) -> Self {
        let own = folder.map(|folder| folder.join(OF_MODEL)).filter(|path| path.is_file());
        own.map_or(Self::Bundled, Self::File)
    }

    /// What a user calls it.
    pub fn name(&self) -> String {
        match self {
            Self::Bundled => "bundled".into(),
            // It is kept with the model, and read elsewhere.
            Self::File(path) => std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string(),
        }
    }

    /// That there is such a file, and that it begins with text and is not far too short, before anything is done for it.
    ///
    /// # Errors
    /// When it is no file, cannot be read, or has fewer bytes than it needs tokens.
    pub fn check(&self) -> Result<()> {
        let (text, _) = self.read(1 << 16)?;
        if text.len() < TOKENS_MIN { Err(self.too_short(&counted(text.len(), "byte"))) } else { Ok(()) }
    }

    fn too_short(&self, has: &str) -> Error {
        Error::Refused {
            message: format!("the text `{}` is too short: {has}", self.name()),
            hint: format!("at least {TOKENS_MIN} tokens are needed, some thousand are better"),
        }
    }

    /// The first `tokens` tokens by `engine`'s tokenizer, or all there are. Memory does not grow with the file: no more of
    /// it is read than that many tokens need.
    ///
    /// # Errors
    /// When the file cannot be read, is no UTF-8 text or is too short, or the backend does not tokenize.
    pub fn tokens(&self, engine: &Engine, tokens: usize) -> Result<Vec<u32>> {
        let mut bytes_max = tokens.saturating_mul(BYTES_PER_TOKEN).clamp(1 << 12, BYTES_MAX);
        loop {
            let (text, whole) = self.read(bytes_max)?;
            let mut ids = engine.tokenize(&text, false, false)?;
            if ids.len() < tokens && !whole && bytes_max < BYTES_MAX {
                bytes_max = bytes_max.saturating_mul(4).min(BYTES_MAX);
                continue;
            }
            ids.truncate(tokens);
            if ids.len() < TOKENS_MIN {
                return Err(self.too_short(&counted(ids.len(), "token")));
            }
            return Ok(ids);
        }
    }

    /// The first `bytes_max` bytes, less a character cut in half, and whether that is all.
    fn read(&self, bytes_max: usize) -> Result<(String, bool)> {
        let path = match self {
            Self::Bundled => return Ok((BUNDLED.into(), true)),
            Self::File(path) => path,
        };
        if !std::fs::metadata(path).map_err(Error::io("reading", path))?.is_file() {
            let hint = "give a file of UTF-8 text".into();
            return Err(Error::Invalid { path: path.clone(), message: "this is no file".into(), hint });
        }
        let file = File::open(path).map_err(Error::io("opening", path))?;
        let mut bytes = Vec::new();
        file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(Error::io("reading", path))?;
        let whole = bytes.len() <= bytes_max;
        bytes.truncate(bytes_max);
        let valid = match std::str::from_utf8(&bytes) {
            Ok(_) => bytes.len(),
            // Cut by the limit, not by who wrote it.
            Err(error) if error.error_len().is_none() && !whole => error.valid_up_to(),
            Err(error) => {
                return Err(Error::Invalid {
                    path: path.clone(),
                    message: format!("this is no UTF-8 text: byte {} is wrong", error.valid_up_to()),
                    hint: "give a file of UTF-8 text".into(),
                });
            }
        };
        bytes.truncate(valid);
        Ok((String::from_utf8(bytes).unwrap_or_default(), whole))
    }
}

/// A stream of tokens in windows, each of which the models see on its own.
#[derive(Debug, Clone)]
pub struct Windows {
    tokens: Vec<u32>,
    /// What each window begins with, where the model wants that.
    bos: Option<u32>,
    /// Tokens of the stream in a window.
    step: usize,
}

/// How a text was cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TextSummary {
    /// `bundled`, or the file's path.
    pub name: String,
    /// Tokens of it that were used.
    pub tokens: u64,
    /// Tokens in a window, BOS included.
    pub window: u64,
    /// Windows.
    pub windows: u64,
    /// Tokens whose probability was looked at: all but a window's first.
    pub scored: u64,
}

impl Windows {
    /// `tokens` in whole windows of `length`, with `bos` before each; what is left over is left out. A stream shorter than
    /// a window is one window.
    pub fn new(tokens: Vec<u32>, length: usize, bos: Option<u32>) -> Self {
        let step = length.saturating_sub(usize::from(bos.is_some())).clamp(1, tokens.len().max(1));
        Self { tokens, bos, step }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.tokens.len() / self.step
    }

    /// Window `index`.
    pub fn get(&self, index: usize) -> Vec<u32> {
        let tokens = &self.tokens[index * self.step..(index + 1) * self.step];
        self.bos.iter().chain(tokens).copied().collect()
    }

    /// Tokens in each, BOS included.
    pub fn length(&self) -> usize {
        self.step + usize::from(self.bos.is_some())
    }

    /// Every token used, without BOS.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens[..self.count() * self.step]
    }

    /// For a report.
    pub fn summary(&self, text: &Text) -> TextSummary {
        let scored = self.count() * (self.length() - 1);
        TextSummary {
            name: text.name(),
            tokens: self.tokens().len() as u64,
            window: self.length() as u64,
            windows: self.count() as u64,
            scored: scored as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_whole_and_begin_with_bos_where_the_model_wants_it() {
        let windows = Windows::new((0..10).collect(), 4, None);
        assert_eq!((windows.count(), windows.get(1), windows.tokens().len()), (2, vec![4, 5, 6, 7], 8));
        let windows = Windows::new((0..10).collect(), 4, Some(99));
        assert_eq!((windows.count(), windows.get(2), windows.length()), (3, vec![99, 6, 7, 8], 4));
        assert_eq!(windows.summary(&Text::Bundled).scored, 9);
        let short = Windows::new((0..3).collect(), 512, None);
        assert_eq!((short.count(), short.get(0)), (1, vec![0, 1, 2]));
    }

    #[test]
    fn the_bundled_text_is_long_enough() {
        assert!(BUNDLED.len() > 20_000);
    }

    #[test]
    fn a_file_is_read_as_far_as_needed_and_never_in_the_middle_of_a_character() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.txt");
        let read = |max| Text::File(path.clone()).read(max);
        std::fs::write(&path, "aäöü").unwrap();
        assert_eq!(read(100).unwrap(), ("aäöü".into(), true));
        assert_eq!(read(4).unwrap(), ("aä".into(), false));
        std::fs::write(&path, b"ab\xff").unwrap();
        assert!(read(100).unwrap_err().to_string().contains("byte 2"));
        std::fs::write(&path, b"ab\xc3").unwrap();
        assert!(read(100).is_err(), "cut by its author");
        assert!(Text::File(dir.path().into()).read(1).unwrap_err().to_string().contains("no file"));
    }
}
