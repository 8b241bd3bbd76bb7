//! Folders for large files that nobody keeps, in the home folder's cache: the system's temporary folder may be in memory.

use crate::config::Config;
use crate::error::{Error, Result};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Held by the owner of the folder that it is in, for as long as it lives.
const LOCK: &str = "lock";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A folder that is gone when dropped. What owners left that were killed before that goes when the next is made.
pub(crate) struct Scratch {
    dir: tempfile::TempDir,
    _lock: File,
}

impl Scratch {
    /// A new one. `purpose` begins its name.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(purpose: &str, config: &Config) -> Result<Self> {
        let parent = parent(config);
        std::fs::create_dir_all(&parent).map_err(Error::io("creating", &parent))?;
        for dir in abandoned(config) {
            let _ = remove(&dir);
        }
        let dir = tempfile::Builder::new().prefix(&format!("{purpose}-")).tempdir_in(&parent);
        let dir = dir.map_err(Error::io("creating a folder in", &parent))?;
        // It has its name when it is locked, and not before: else another process could take it for abandoned.
        let unnamed = dir.path().join(".lock");
        let failed = || Error::io("creating a lock in", dir.path());
        let lock = File::create(&unnamed).map_err(failed())?;
        lock.lock().map_err(failed())?;
        std::fs::rename(&unnamed, dir.path().join(LOCK)).map_err(failed())?;
        Ok(Self { dir, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes one, the lock at last: what is left when that is cut short is still known to be abandoned.
fn remove(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)?.flatten().filter(|entry| entry.file_name() != LOCK) {
        let path = entry.path();
        if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
    }
    std::fs::remove_dir_all(dir)
}

/// Those whose owner is gone.
pub(crate) fn abandoned(config: &Config) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(parent(config)).into_iter().flatten().flatten();
    let folders = entries.map(|entry| entry.path());
    folders.filter(|folder| match File::open(folder.join(LOCK)) {
        Ok(lock) => lock.try_lock().is_ok(),
        // Its owner was killed before it had one.
        Err(_) => {
            let modified = folder.metadata().and_then(|metadata| metadata.modified()).ok();
            modified.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > DAY)
        }
    })
}

fn parent(config: &Config) -> PathBuf {
    config.cache_dir().join("scratch")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_owner_left_goes_and_what_lives_stays() {
        let home = tempfile::tempdir().unwrap();
        let config = Config::of_home(home.path());
        let dead = parent(&config).join("trial-dead");
        std::fs::create_dir_all(&dead).unwrap();
        std::fs::write(dead.join(LOCK), "").unwrap();
        assert_eq!(abandoned(&config).collect::<Vec<_>>(), std::slice::from_ref(&dead));
        let living = Scratch::create("trial", &config).unwrap();
        assert!(!dead.exists());
        let other = Scratch::create("trial", &config).unwrap();
        assert!(living.path().is_dir() && other.path().is_dir() && living.path() != other.path());
        assert_eq!(abandoned(&config).count(), 0);
        drop((living, other));
        assert_eq!(std::fs::read_dir(parent(&config)).unwrap().count(), 0);
    }
}
