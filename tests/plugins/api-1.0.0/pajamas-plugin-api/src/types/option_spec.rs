//! Typed options: what a backend or a recipe takes beyond the contract's own fields, and the values given for them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An option that a backend or a recipe takes, typed and documented.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OptionSpec {
    /// Lower case with underscores: `n_gpu_layers`.
    pub name: String,
    /// Its type and range.
    pub kind: OptionKind,
    /// Its default, as a user would write it.
    #[serde(default)]
    pub default: String,
    /// One sentence.
    #[serde(default)]
    pub help: String,
}

impl OptionSpec {
    /// An option with its type, its default as a user would write it, and one sentence of help.
    pub fn new(name: &str, kind: OptionKind, default: &str, help: &str) -> Self {
        Self { name: name.into(), kind, default: default.into(), help: help.into() }
    }
}

/// The type of an option.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum OptionKind {
    /// `true` or `false`.
    Bool,
    /// A whole number in `min..=max`.
    Int {
        /// Smallest value allowed.
        min: i64,
        /// Largest value allowed.
        max: i64,
    },
    /// A number in `min..=max`.
    Float {
        /// Smallest value allowed.
        min: f64,
        /// Largest value allowed.
        max: f64,
    },
    /// Any text.
    Text,
    /// One of these words.
    Choice {
        /// In the order to show them in.
        words: Vec<String>,
    },
    /// A type that this build does not know: the option cannot be set by it.
    #[serde(other)]
    Unknown,
}

impl OptionKind {
    /// One of `words`.
    pub fn choice(words: &[&str]) -> Self {
        Self::Choice { words: words.iter().map(|word| (*word).into()).collect() }
    }
}

/// The value of an option.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OptionValue {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// Text, and the words of a choice.
    Text(String),
}

impl std::fmt::Display for OptionValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Text(value) => value.fmt(f),
        }
    }
}

/// Options by name, with their values: what a user set and nothing else. By the time that a plugin gets them, they
/// were checked against its [`OptionSpec`]s.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Options(BTreeMap<String, OptionValue>);

impl Options {
    /// Sets `name`.
    pub fn set(&mut self, name: impl Into<String>, value: OptionValue) {
        self.0.insert(name.into(), value);
    }

    /// Every option that was set, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &OptionValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Whether none was set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The boolean option `name`, if it was set.
    pub fn bool(&self, name: &str) -> Option<bool> {
        match self.0.get(name)? {
            OptionValue::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The whole-number option `name`, if it was set.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.0.get(name)? {
            OptionValue::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The number option `name`, if it was set.
    pub fn float(&self, name: &str) -> Option<f64> {
        match self.0.get(name)? {
            OptionValue::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// The text or choice option `name`, if it was set.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name)? {
            OptionValue::Text(value) => Some(value),
            _ => None,
        }
    }
}

impl<N: Into<String>> FromIterator<(N, OptionValue)> for Options {
    fn from_iter<I: IntoIterator<Item = (N, OptionValue)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }
}
