//! What names a model.

use super::Quantized;
use std::path::{Path, PathBuf};

/// What names a model, made from a text or a path: the path of a GGUF file, an MLX folder or a Hugging Face folder, an id on the
/// hub (`org/name`, `org/name@revision`), or the name of a model that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelRef(pub(super) String);

impl From<&str> for ModelRef {
    fn from(reference: &str) -> Self {
        Self(reference.to_owned())
    }
}

impl From<String> for ModelRef {
    fn from(reference: String) -> Self {
        Self(reference)
    }
}

impl From<&String> for ModelRef {
    fn from(reference: &String) -> Self {
        Self(reference.clone())
    }
}

impl From<&Path> for ModelRef {
    fn from(path: &Path) -> Self {
        Self(path.to_string_lossy().into_owned())
    }
}

impl From<PathBuf> for ModelRef {
    fn from(path: PathBuf) -> Self {
        path.as_path().into()
    }
}

impl From<&PathBuf> for ModelRef {
    fn from(path: &PathBuf) -> Self {
        path.as_path().into()
    }
}

impl From<&Quantized> for ModelRef {
    fn from(made: &Quantized) -> Self {
        (&made.artifact.path).into()
    }
}
