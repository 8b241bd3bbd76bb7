//! Reads YAML by the rules of version 1.1, as PyYAML does, with limits on what a text of strangers can make of itself.

use granit_parser::{Event, Parser, ScalarStyle, Tag};
use regex::Regex;
use std::collections::HashMap;
use std::sync::LazyLock;

/// What a document may take once its aliases are written out: the bytes of its texts, and [`NODE_WEIGHT`] for each node.
const WEIGHT_MAX: usize = 4 << 20;
const NODE_WEIGHT: usize = 16;
/// How deep lists and mappings may lie in each other, aliases written out. Published cards have seven levels.
pub(super) const DEPTH_MAX: usize = 64;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Null,
    Text(String),
    /// A number, a boolean or a date, as it is written. `nothing` is what counts as false in Python.
    Other {
        text: String,
        nothing: bool,
    },
    List(Vec<Node>),
    /// Of entries with the same key, the last counts.
    Map(Vec<(String, Node)>),
}

pub(super) fn get<'a>(entries: &'a [(String, Node)], key: &str) -> Option<&'a Node> {
    entries.iter().rev().find(|(name, _)| name == key).map(|(_, node)| node)
}

impl Node {
    /// What is written for a text. The converter fails at values of other types; numbers are kept as they are written, so
    /// that `version: 1.0` does no harm.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::Null => None,
            Self::Text(text) => Some(text.clone()),
            Self::Other { text, nothing } => Some(if *nothing { String::new() } else { text.clone() }),
            Self::List(items) => items.is_empty().then(String::new),
            Self::Map(entries) => entries.is_empty().then(String::new),
        }
    }

    pub(super) fn scalar(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Other { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The texts of a list, or a text alone.
    pub(super) fn texts(&self) -> Vec<String> {
        match self {
            Self::Text(text) => vec![text.clone()],
            Self::List(items) => items.iter().filter_map(Self::scalar).map(str::to_owned).collect(),
            _ => Vec::new(),
        }
    }

    /// What it counts towards [`WEIGHT_MAX`].
    fn weight(&self) -> usize {
        NODE_WEIGHT
            + match self {
                Self::Null => 0,
                Self::Text(text) | Self::Other { text, .. } => text.len(),
                Self::List(items) => items.iter().map(Self::weight).sum(),
                Self::Map(entries) => entries.iter().map(|(key, node)| NODE_WEIGHT + key.len() + node.weight()).sum(),
            }
    }

    /// What is written without quotes, by the rules of YAML 1.1, which the converter's parser follows.
    fn resolve(text: &str) -> Self {
        static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
            let float = r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?";
            let special = r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)";
            let whole = "[-+]?(?:0b[01_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)";
            let base_60 = r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+";
            Regex::new(&format!("^(?:{float}|{special}|{whole}|{base_60})$")).expect("a literal pattern is valid")
        });
        static DATE: LazyLock<Regex> = LazyLock::new(|| {
            let time = r"(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?";
            let zone = r"(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::[0-9]{2})?))?";
            let date =
                format!("^(?:[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}|[0-9]{{4}}-[0-9]{{1,2}}-[0-9]{{1,2}}{time}{zone})$");
            Regex::new(&date).expect("a literal pattern is valid")
        });
        let other = |nothing| Self::Other { text: text.to_owned(), nothing };
        match text {
            "" | "~" | "null" | "Null" | "NULL" => Self::Null,
            "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => other(false),
            "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => other(true),
            MERGE => other(false),
            _ if NUMBER.is_match(text) => other(is_zero(text)),
            _ if DATE.is_match(text) => other(false),
            _ => Self::Text(text.to_owned()),
        }
    }
}

/// Whether a number is zero in whatever notation.
fn is_zero(number: &str) -> bool {
    let digits = number.trim_start_matches(['+', '-']);
    let digits = match digits.strip_prefix("0x") {
        Some(digits) => digits,
        None => digits.strip_prefix("0b").unwrap_or(digits).split(['e', 'E']).next().unwrap_or_default(),
    };
    digits.chars().all(|letter| "0_.:".contains(letter))
}

/// The key under which a mapping takes over another's entries.
const MERGE: &str = "<<";

/// A list or a mapping that is not complete.
struct Open {
    /// The number under which aliases know it, or 0.
    anchor: usize,
    /// How many levels it has so far.
    height: usize,
    items: Items,
}

enum Items {
    List(Vec<Node>),
    Map {
        entries: Vec<(String, Node)>,
        /// Entries of other mappings, which count for less than its own.
        merged: Vec<(String, Node)>,
        key: Option<Key>,
    },
}

enum Key {
    Name(String),
    Merge,
    /// A number or the like, which nobody looks up.
    Ignored,
}

/// The one document in `yaml`, or none where it is not valid or beyond the limits. Without recursion, whatever the text.
pub(super) fn load(yaml: &str) -> Option<Node> {
    let mut loader = Loader::default();
    let mut documents = 0;
    for event in Parser::new_from_str(yaml) {
        match event.ok()?.0 {
            Event::DocumentStart(..) => {
                documents += 1;
                if documents > 1 {
                    return None;
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let node = match tag.as_deref().map(full_name).as_deref() {
                    None if style == ScalarStyle::Plain => Node::resolve(&text),
                    // The converter's parser reads it as if it had no quotes.
                    Some("!") => Node::resolve(&text),
                    None | Some("tag:yaml.org,2002:str") => Node::Text(text.into_owned()),
                    Some(tag) => match tag.strip_prefix("tag:yaml.org,2002:") {
                        Some("null" | "bool" | "int" | "float" | "timestamp") => Node::resolve(&text),
                        _ => return None,
                    },
                };
                loader.spend(node.weight())?;
                loader.add(node, anchor, 0)?;
            }
            Event::Alias(anchor) => {
                let weight = loader.anchors.get(&anchor)?.0.weight();
                loader.spend(weight)?;
                let (node, height) = loader.anchors.get(&anchor)?.clone();
                loader.add(node, 0, height)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                only_tag(tag.as_deref(), "seq")?;
                loader.open(anchor, Items::List(Vec::new()))?;
            }
            Event::MappingStart(_, anchor, tag) => {
                only_tag(tag.as_deref(), "map")?;
                loader.open(anchor, Items::Map { entries: Vec::new(), merged: Vec::new(), key: None })?;
            }
            Event::SequenceEnd | Event::MappingEnd => loader.close()?,
            _ => {}
        }
    }
    loader.root
}

fn full_name(tag: &Tag) -> String {
    format!("{}{}", tag.handle(), tag.suffix())
}

fn only_tag(tag: Option<&Tag>, name: &str) -> Option<()> {
    let tag = tag.map(full_name);
    match tag.as_deref() {
        None | Some("!") => Some(()),
        Some(tag) => (tag.strip_prefix("tag:yaml.org,2002:") == Some(name)).then_some(()),
    }
}

#[derive(Default)]
struct Loader {
    root: Option<Node>,
    stack: Vec<Open>,
    /// Complete nodes that aliases can stand for, and how many levels they have.
    anchors: HashMap<usize, (Node, usize)>,
    weight: usize,
}

impl Loader {
    fn spend(&mut self, weight: usize) -> Option<()> {
        self.weight += weight;
        (self.weight <= WEIGHT_MAX).then_some(())
    }

    fn open(&mut self, anchor: usize, items: Items) -> Option<()> {
        self.spend(NODE_WEIGHT)?;
        self.stack.push(Open { anchor, height: 1, items });
        (self.stack.len() <= DEPTH_MAX).then_some(())
    }

    fn close(&mut self) -> Option<()> {
        let Open { anchor, height, items } = self.stack.pop()?;
        let node = match items {
            Items::List(items) => Node::List(items),
            Items::Map { entries, mut merged, .. } => {
                merged.extend(entries);
                Node::Map(merged)
            }
        };
        self.add(node, anchor, height)
    }

    /// Puts a complete node of `height` levels where it belongs.
    fn add(&mut self, node: Node, anchor: usize, height: usize) -> Option<()> {
        if self.stack.len() + height > DEPTH_MAX {
            return None;
        }
        if anchor != 0 {
            self.spend(node.weight())?;
            self.anchors.insert(anchor, (node.clone(), height));
        }
        let Some(parent) = self.stack.last_mut() else {
            self.root = Some(node);
            return Some(());
        };
        parent.height = parent.height.max(height + 1);
        match &mut parent.items {
            Items::List(items) => items.push(node),
            Items::Map { entries, merged, key } => match key.take() {
                None => {
                    *key = Some(match node {
                        Node::Text(text) => Key::Name(text),
                        Node::Other { text, .. } if text == MERGE => Key::Merge,
                        Node::Null | Node::Other { .. } => Key::Ignored,
                        Node::List(_) | Node::Map(_) => return None,
                    });
                }
                Some(Key::Name(name)) => entries.push((name, node)),
                Some(Key::Ignored) => {}
                Some(Key::Merge) => merge(node, merged)?,
            },
        }
        Some(())
    }
}

/// Takes over the entries of a mapping, or of a list of them, of which the first counts most.
fn merge(node: Node, merged: &mut Vec<(String, Node)>) -> Option<()> {
    match node {
        Node::Map(entries) => merged.extend(entries),
        Node::List(maps) => {
            for map in maps.into_iter().rev() {
                let Node::Map(entries) = map else { return None };
                merged.extend(entries);
            }
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_the_types_of_yaml_1_1() {
        let nothing = |text: &str| match Node::resolve(text) {
            Node::Other { nothing, .. } => Some(nothing),
            _ => None,
        };
        for text in ["no", "Off", "FALSE", "0", "-0", "0x0", "0b0", "00", "0.0", "-0.", ".0e+5", "0_0"] {
            assert_eq!(nothing(text), Some(true), "{text}");
        }
        for text in [
            "yes",
            "On",
            "7",
            "-7",
            "0xe0",
            "0b10",
            "07",
            "1_000",
            "1:30",
            "1.5",
            ".5",
            "1.0e+5",
            ".inf",
            ".NaN",
            "2024-05-01",
        ] {
            assert_eq!(nothing(text), Some(false), "{text}");
        }
        for text in ["n", "y", "1e5", "09", "0o7", "1.0.0", "v1", "nO", "2024-5-1", "1,000", "-", "+.nan"] {
            assert_eq!(Node::resolve(text), Node::Text(text.into()), "{text}");
        }
        assert_eq!(Node::resolve("~"), Node::Null);
        let quoted = |text: &str| load(text) == Some(Node::Text("7".into()));
        assert!(quoted("'7'") && quoted("!!str 7") && !quoted("7"));
    }
}
