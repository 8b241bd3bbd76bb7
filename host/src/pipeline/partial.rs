//! What keeps two writers apart, and an unfinished artifact out of sight.

use crate::config::Config;
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// One writer to a target: the lock lives in the cache folder, so that nothing is left beside the target.
///
/// # Errors
/// When another process holds it.
pub fn lock(target: &Path, config: &Config) -> Result<File> {
    let dir = config.cache_dir().join("locks");
    std::fs::create_dir_all(&dir).map_err(|error| no_lock(&dir, &error))?;
    let key = Sha256::digest(target.as_os_str().as_encoded_bytes());
    let path =
        dir.join(format!("{:02x}{:02x}{:02x}{:02x}{:02x}{:02x}.lock", key[0], key[1], key[2], key[3], key[4], key[5]));
    let file = File::create(&path).map_err(|error| no_lock(&path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Refused {
            message: format!("another pajamas is writing `{}`", target.display()),
            hint: "wait for it, or choose another name with `--name`".into(),
        }),
        Err(TryLockError::Error(error)) => Err(Error::io("locking", &path)(error)),
    }
}

fn no_lock(path: &Path, error: &std::io::Error) -> Error {
    Error::Refused {
        message: format!("creating `{}`, which keeps two writers apart, failed: {error}", path.display()),
        hint: "PAJAMAS_HOME must name a folder that you may write to".into(),
    }
}

/// The folder beside the target that holds everything unfinished; removed when dropped.
pub(super) struct Partial {
    pub(super) dir: PathBuf,
    /// The folder that was made for the target, if it was: it goes too when nothing was put into it.
    new_parent: Option<PathBuf>,
}

impl Partial {
    pub(super) fn create(target: &Path, parent_is_new: bool) -> Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let (prefix, suffix) = (format!(".{name}."), ".partial");
        // Whoever left one behind was killed: the lock says that no host is at it now. A worker that is just cleaning
        // up after its host knows its own folder only, so this one's name is new.
        for entry in target.parent().and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let process = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(suffix));
            // Of this target: `.m.` begins what is left of `m.gguf` as well.
            if process.is_some_and(|id| !id.is_empty() && id.bytes().all(|digit| digit.is_ascii_digit())) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let dir = target.with_file_name(format!("{prefix}{}{suffix}", std::process::id()));
        std::fs::create_dir(&dir).map_err(Error::io("creating", &dir))?;
        let new_parent = target.parent().filter(|_| parent_is_new).map(Path::to_owned);
        Ok(Self { dir, new_parent })
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
        if let Some(parent) = &self.new_parent {
            let _ = std::fs::remove_dir(parent);
        }
    }
}
