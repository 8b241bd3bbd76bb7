//! Folders for large files that nobody keeps, in the home folder's cache: the system's temporary folder may be in memory.

use crate::config::Config;
use crate::error::{Error, Result};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Held by the owner of the folder that it is in, for as long as it lives.
const LOCK: &str = "lock";

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
            let _ = std::fs::remove_dir_all(dir);
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

/// Those whose owner is gone.
pub(crate) fn abandoned(config: &Config) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(parent(config)).into_iter().flatten().flatten();
    let folders = entries.map(|entry| entry.path());
    folders.filter(|folder| File::open(folder.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok()))
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
        assert_eq!(abandoned(&config).collect::<Vec<_>>(), [dead.clone()]);
        let living = Scratch::create("trial", &config).unwrap();
        assert!(!dead.exists());
        let other = Scratch::create("trial", &config).unwrap();
        assert!(living.path().is_dir() && other.path().is_dir() && living.path() != other.path());
        assert_eq!(abandoned(&config).count(), 0);
        drop((living, other));
        assert_eq!(std::fs::read_dir(parent(&config)).unwrap().count(), 0);
    }
}
