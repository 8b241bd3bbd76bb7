//! Files that are replaced whole or not at all.

use crate::error::{Error, Result};
use std::path::Path;

/// Placeholder.
///
/// # Errors
/// When writing fails.
pub fn replace(path: &Path, bytes: &[u8], _mode: Option<u32>) -> Result<()> {
    std::fs::write(path, bytes).map_err(Error::io("writing", path))
}
