//! The library's typed error. Hints are apart from messages, so that each interface can show them its own way.

use pajamas_plugin_api::ErrorKind;
use pajamas_plugin_api::options::nearest;
use std::path::{Path, PathBuf};

/// `Result` with the library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/installed.rs"));
/// # fn main() -> pajamas::Result<()> {
/// # let Installed { pajamas, model, .. } = &Installed::new();
/// let error = pajamas.quantize(model).method("Q4_K_X").run().err().expect("there is no such method");
/// assert_eq!(error.to_string(), "unknown quantization method `Q4_K_X`");
/// assert_eq!((error.kind(), error.exit_code()), ("unknown_method", 2));
/// assert!(error.hint().is_some_and(|hint| hint.starts_with("did you mean `Q4_K_")));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be used.
    #[error("{doing} `{}` failed: {source}", path.display())]
    Io {
        /// What was being done: `reading`.
        doing: &'static str,
        /// To which path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A model reference leads nowhere.
    #[error("no model `{reference}`: {reason}")]
    ModelNotFound {
        /// As the user wrote it.
        reference: String,
        /// Where it was looked for.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// No backend of that name is installed.
    #[error("unknown backend `{name}`")]
    UnknownBackend {
        /// As the user wrote it.
        name: String,
        /// Those that are installed.
        installed: Vec<String>,
    },
    /// No backend can do it; one line for each that was asked.
    #[error("no backend can {task}{}", reasons.iter().map(|r| format!("\n  {r}")).collect::<String>())]
    NoBackend {
        /// What was wanted: `run GGUF models`.
        task: String,
        /// `name: reason`.
        reasons: Vec<String>,
    },
    /// No quantizer makes that.
    #[error("unknown quantization method `{name}`")]
    UnknownRecipe {
        /// As the user wrote it.
        name: String,
        /// What the quantizers make.
        known: Vec<String>,
    },
    /// A file of the user's is not as expected.
    #[error("`{}`: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
        /// What to do; may be empty.
        hint: String,
    },
    /// The request cannot be met.
    #[error("{message}")]
    Refused {
        /// Why.
        message: String,
        /// What to do; may be empty.
        hint: String,
    },
    /// What was typed is no way to use the command: a name that does not exist, a value that does not fit.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do; may be empty.
        hint: String,
    },
    /// The model was measured and is not as good as it has to be.
    #[error("{0}")]
    QualityTooLow(String),
    /// So many things are wrong with this installation; what they are was said.
    #[error("problems found: {0}")]
    Unsound(usize),
    /// A worker process ended, hung or spoke nonsense.
    #[error("the worker process {what}{}", tail(stderr))]
    Worker {
        /// What it did.
        what: String,
        /// The end of what it wrote to stderr.
        stderr: String,
    },
    /// The user interrupted.
    #[error("interrupted")]
    Interrupted,
    /// A plugin failed.
    #[error("{0}")]
    Plugin(pajamas_plugin_api::Error),
}

/// What a process said last; of a Rust panic, what the first one said, and not what followed from that.
fn tail(stderr: &str) -> String {
    let mut lines = stderr.lines().skip_while(|line| !line.contains("panicked at "));
    let panicked = lines.next().and_then(|_| lines.next());
    let line = panicked.or_else(|| stderr.lines().rfind(|line| !line.trim().is_empty()));
    line.map_or_else(String::new, |line| format!(": {line}"))
}

impl From<pajamas_plugin_api::Error> for Error {
    fn from(error: pajamas_plugin_api::Error) -> Self {
        match error.kind {
            ErrorKind::Cancelled => Self::Interrupted,
            _ => Self::Plugin(error),
        }
    }
}

impl Error {
    /// An [`Error::Io`]; for `map_err`.
    pub fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }

    /// What a script can tell errors apart by: a word for each variant.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::ModelNotFound { .. } => "model_not_found",
            Self::UnknownBackend { .. } => "unknown_backend",
            Self::NoBackend { .. } => "no_backend",
            Self::UnknownRecipe { .. } => "unknown_method",
            Self::Invalid { .. } => "invalid",
            Self::Refused { .. } => "refused",
            Self::Usage { .. } => "usage",
            Self::QualityTooLow(_) => "quality_too_low",
            Self::Unsound(_) => "unsound",
            Self::Worker { .. } => "worker",
            Self::Interrupted => "interrupted",
            Self::Plugin(error) => match error.kind {
                ErrorKind::OutOfMemory => "out_of_memory",
                ErrorKind::ContextOverflow => "context_overflow",
                ErrorKind::Unsupported => "unsupported",
                ErrorKind::InvalidModel => "invalid_model",
                ErrorKind::InvalidRequest => "usage",
                ErrorKind::DeviceLost => "device_lost",
                ErrorKind::Panic => "panic",
                ErrorKind::Io => "io",
                _ => "other",
            },
        }
    }

    /// The exit code of a program that ends with this error: 1 failed, 2 wrong usage, 3 quality too low, 130
    /// interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } | Self::UnknownBackend { .. } | Self::UnknownRecipe { .. } => 2,
            Self::Plugin(error) if error.kind == ErrorKind::InvalidRequest => 2,
            Self::QualityTooLow(_) => 3,
            Self::Interrupted => 130,
            _ => 1,
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let suggestion =
            |name: &str, known: &[String], what: &str| match nearest(name, known.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("{what}: {}", known.join(", ")),
            };
        let hint = match self {
            Self::ModelNotFound { hint, .. }
            | Self::Invalid { hint, .. }
            | Self::Refused { hint, .. }
            | Self::Usage { hint, .. } => hint.clone(),
            Self::UnknownBackend { installed, .. } if installed.is_empty() => no_plugin_hint(),
            Self::UnknownBackend { name, .. } if OURS.contains(&name.as_str()) => {
                format!("it is not installed; {}", how_to_install(name))
            }
            Self::UnknownBackend { name, installed } => suggestion(name, installed, "installed"),
            Self::NoBackend { reasons, .. } if reasons.is_empty() => no_plugin_hint(),
            Self::NoBackend { .. } => "`pajamas plugins list` shows every backend with its reason".into(),
            Self::UnknownRecipe { name, known } => suggestion(name, known, "methods"),
            Self::Worker { .. } => "run again with `-v` to see what it logged".into(),
            Self::Plugin(error) => error.hint.clone().unwrap_or_default(),
            Self::Io { doing, source, .. } => how_to_mend(doing, source).into(),
            Self::Interrupted | Self::QualityTooLow(_) | Self::Unsound(_) => String::new(),
        };
        (!hint.is_empty()).then_some(hint)
    }
}

/// What the system's message alone leaves open; empty for what it says well enough.
fn how_to_mend(doing: &str, error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match (doing, error.kind()) {
        (_, StorageFull | QuotaExceeded) => {
            "the disk, or your share of it, is full: make room there, or choose another place"
        }
        (_, ReadOnlyFilesystem) => "that disk is read-only: choose another place",
        ("reading" | "opening", PermissionDenied) => {
            "this user may not use it: ask its owner, or change its permissions"
        }
        ("creating" | "creating a folder in" | "creating a lock in" | "writing" | "renaming", PermissionDenied) => {
            "this user may not write there: choose another place, or change the folder's permissions"
        }
        ("removing", PermissionDenied) => {
            "this user may not remove it: ask its owner, or change the folder's permissions"
        }
        ("starting", PermissionDenied) => {
            "it must be a program that this user may run: `chmod +x` it, or install it again"
        }
        _ => "",
    }
}

/// The backends that pajamas itself has, apart from what is installed.
const OURS: [&str; 6] = ["gguf-cpu", "gguf-cuda", "gguf-vulkan", "gguf-metal", "gguf-rocm", "mlx"];

/// How to get one of them.
pub fn how_to_install(backend: &str) -> String {
    let target = backend.strip_prefix("gguf-").filter(|gpu| *gpu != "cpu").unwrap_or(backend);
    format!("`make plugin-{target} install` in the source folder builds and installs it")
}

/// What to do where pajamas itself is not whole.
pub const INSTALL_AGAIN: &str = "install it again: unpack the archive anew, `make install` in the source folder, or `pip install \
                                 --force-reinstall` of the wheel";

/// Where plugins come from.
pub const GET_PLUGINS: &str = "keep `bin` and `lib` of an archive side by side (a link to `bin/pajamas` will do, a copy will not), \
                               run `make install` in the source folder, or copy a plugin's library into the `plugins` folder of \
                               `pajamas info`'s home";

/// What to do when no plugin is installed.
pub fn no_plugin_hint() -> String {
    format!("no plugin is installed: {GET_PLUGINS}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem, StorageFull};

    #[test]
    fn a_hint_at_a_systems_error_is_of_what_was_being_done() {
        let hint =
            |doing, kind| Error::io(doing, Path::new("f"))(std::io::Error::from(kind)).hint().unwrap_or_default();
        assert!(hint("reading", PermissionDenied).starts_with("this user may not use it"));
        assert!(hint("creating a lock in", PermissionDenied).starts_with("this user may not write there"));
        assert!(hint("removing", PermissionDenied).starts_with("this user may not remove it"));
        assert!(hint("starting", PermissionDenied).contains("chmod +x"));
        assert!(
            hint("writing", StorageFull).contains("is full")
                && hint("writing", ReadOnlyFilesystem).contains("read-only")
        );
        assert_eq!((hint("linking", PermissionDenied), hint("reading", NotFound)), Default::default());
    }
}
