//! The keys of `config.toml`: what each is for, its type and its default. The parser, `pajamas config` and the reference
//! all go by this table.

/// A key of the file.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// As written in the file.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// What holds where it is not set, for a reader.
    pub default: &'static str,
    /// A sentence.
    pub help: &'static str,
}

/// The type of a key's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A word or a path.
    Text,
    /// `true` or `false`.
    Switch,
    /// A whole number from 1 to this.
    Count(i64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// Folders, one or several.
    Folders,
}

impl Kind {
    /// For a reader.
    pub fn describe(self) -> String {
        match self {
            Self::Text => "text".into(),
            Self::Switch => "true or false".into(),
            Self::Count(max) => format!("a whole number from 1 to {max}"),
            Self::Word(words) => words.join(" or "),
            Self::Folders => "a list of folders".into(),
        }
    }
}

/// Every key, in the order to show them in.
pub const KEYS: [Key; 11] = [
    Key {
        name: "backend",
        kind: Kind::Text,
        default: "the best that can run",
        help: "The backend to prefer; `pajamas plugins list` shows them.",
    },
    Key {
        name: "fallback",
        kind: Kind::Switch,
        default: "true",
        help: "Whether another backend may run when the one asked for cannot.",
    },
    Key {
        name: "threads",
        kind: Kind::Count(u32::MAX as i64),
        default: "one for each core that is free",
        help: "Threads to compute with.",
    },
    Key {
        name: "context_length",
        kind: Kind::Count(u32::MAX as i64),
        default: "the model's, 4096 at the most",
        help: "Tokens of context.",
    },
    Key {
        name: "method",
        kind: Kind::Text,
        default: "Q4_K_M for GGUF, 4bit for MLX",
        help: "The quantization method where none is named.",
    },
    Key {
        name: "validate",
        kind: Kind::Switch,
        default: "true",
        help: "Whether `pajamas quantize` validates what it made.",
    },
    Key {
        name: "plugin_dirs",
        kind: Kind::Folders,
        default: "none",
        help: "Further plugin folders; relative ones count from the file.",
    },
    Key {
        name: "probe_timeout_s",
        kind: Kind::Count(86_400),
        default: "10",
        help: "Seconds that a plugin may take to say what it can do.",
    },
    Key {
        name: "trust",
        kind: Kind::Word(&["default", "pinned"]),
        default: "default",
        help: "Which plugins are loaded: those that only you and root can have put there, or of these only what you used \
               before, or accepted by `pajamas plugins install` and `trust`.",
    },
    Key {
        name: "check_backends",
        kind: Kind::Switch,
        default: "true",
        help: "Whether a backend's arithmetic is checked at its first use on this machine.",
    },
    Key { name: "offline", kind: Kind::Switch, default: "false", help: "Whether nothing is ever fetched." },
];

/// The names of the keys.
pub fn names() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|key| key.name)
}

/// The key of that name, or a hint at what was meant.
///
/// # Errors
/// The hint, where there is none.
pub fn find(name: &str) -> Result<&'static Key, String> {
    KEYS.iter().find(|key| key.name == name).ok_or_else(|| {
        pajamas_plugin_api::options::nearest(name, names()).map_or_else(
            || format!("keys are: {}", names().collect::<Vec<_>>().join(", ")),
            |key| format!("did you mean `{key}`?"),
        )
    })
}
