//! `plugins.lock`: the SHA-256 of every plugin that was accepted, by path. By default a file is accepted when it is first
//! seen, and a changed one is announced; with `trust = "pinned"` what is new or changed waits for `plugins trust`.

use super::preflight::Refusal;
use crate::config::Config;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Its name in the home folder.
pub const FILE_NAME: &str = "plugins.lock";

/// What `trust` in the settings says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// Files that only the user and root can have put there are loaded.
    #[default]
    Default,
    /// Of these, only those whose contents are those that were accepted: before this was set, or by a command since.
    Pinned,
}

/// The accepted plugins.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pins {
    plugins: BTreeMap<String, Pin>,
    /// The paths whose entries changed since they were read.
    #[serde(skip)]
    changed: BTreeSet<String>,
    /// Those of them that had other contents.
    #[serde(skip)]
    replaced: BTreeSet<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pin {
    sha256: String,
}

impl Pins {
    /// Reads the file; none is an empty one.
    ///
    /// # Errors
    /// When there is one that cannot be read.
    pub fn read(config: &Config) -> Result<Self> {
        let path = path(config);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Error::io("reading", &path)(error)),
        };
        toml::from_str(&text).map_err(|error| Error::Invalid {
            message: format!("it does not list plugins with their sums: {}", error.message()),
            hint: format!("mv {0} {0}.broken", crate::text::quoted(&path.to_string_lossy())),
            path,
        })
    }

    /// Takes `sha256` for the plugin at `path`, or says why it must not be loaded. What is new or changed is accepted by
    /// default; what is changed is told of when it is written down, once.
    ///
    /// # Errors
    /// When only accepted contents count, and these were not.
    pub fn judge(&mut self, path: &Path, sha256: &str, trust: Trust) -> std::result::Result<(), Refusal> {
        let known = self.plugins.get(&key(path)).map(|pin| pin.sha256.as_str());
        if known == Some(sha256) {
            return Ok(());
        }
        if trust == Trust::Pinned {
            let reason = match known {
                Some(_) => "its contents have changed since they were trusted",
                None => "its contents were never trusted, and `trust = \"pinned\"` asks for that",
            };
            // By the file's name: a backend's any file may claim.
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            return Err(Refusal::new(reason, format!("pajamas plugins trust {}", crate::text::quoted(&name))));
        }
        if known.is_some() {
            self.replaced.insert(key(path));
        }
        self.accept(path, sha256);
        Ok(())
    }

    /// Accepts `sha256` as the contents of the plugin at `path`.
    pub fn accept(&mut self, path: &Path, sha256: &str) {
        let old = self.plugins.insert(key(path), Pin { sha256: sha256.into() });
        if old.is_none_or(|pin| pin.sha256 != sha256) {
            self.changed.insert(key(path));
        }
    }

    /// Forgets the plugin at `path`.
    pub fn forget(&mut self, path: &Path) {
        if self.plugins.remove(&key(path)).is_some() {
            self.changed.insert(key(path));
        }
    }

    /// Writes what changed into the file. What others have written meanwhile of other plugins stays.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn write(&self, config: &Config) -> Result<()> {
        if self.changed.is_empty() {
            return Ok(());
        }
        for path in &self.replaced {
            tracing::warn!("the plugin `{path}` has changed since it was last used: it is asked afresh");
        }
        let mut current = Self::read(config)?;
        for path in &self.changed {
            match self.plugins.get(path) {
                Some(pin) => _ = current.plugins.insert(path.clone(), pin.clone()),
                None => _ = current.plugins.remove(path),
            }
        }
        let head = "# The plugins that pajamas has accepted, with the SHA-256 of their contents.\n\
                    # Written by pajamas; `pajamas plugins trust NAME` accepts what has changed.\n";
        let table = toml::to_string(&current).map_err(|error| Error::Refused {
            message: format!("`{}` cannot be written: {error}", path(config).display()),
            hint: String::new(),
        })?;
        std::fs::create_dir_all(&config.home).map_err(Error::io("creating", &config.home))?;
        crate::files::replace(&path(config), format!("{head}{table}").as_bytes(), 0o600)
    }
}

fn path(config: &Config) -> PathBuf {
    config.home.join(FILE_NAME)
}

fn key(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_takes_what_was_accepted_and_default_what_is_new() {
        let home = tempfile::tempdir().unwrap();
        let config = Config::of_home(home.path());
        let path = Path::new("/p/libx.so");
        let mut pins = Pins::read(&config).unwrap();
        let refusal = pins.judge(path, "1", Trust::Pinned).unwrap_err();
        assert!(refusal.reason.contains("never trusted"), "{}", refusal.reason);
        assert_eq!(refusal.remedy, "pajamas plugins trust libx.so");
        pins.judge(path, "1", Trust::Default).unwrap();
        pins.write(&config).unwrap();
        let mut pins = Pins::read(&config).unwrap();
        pins.judge(path, "1", Trust::Pinned).unwrap();
        assert!(pins.judge(path, "2", Trust::Pinned).unwrap_err().reason.contains("changed"));
        pins.judge(path, "2", Trust::Default).unwrap();
        pins.judge(path, "2", Trust::Pinned).unwrap();
        // Two that write at once, of different plugins.
        let mut other = Pins::read(&config).unwrap();
        other.accept(Path::new("/p/liby.so"), "3");
        other.write(&config).unwrap();
        pins.write(&config).unwrap();
        let mut both = Pins::read(&config).unwrap();
        both.judge(path, "2", Trust::Pinned).unwrap();
        both.judge(Path::new("/p/liby.so"), "3", Trust::Pinned).unwrap();
        std::fs::write(home.path().join(FILE_NAME), "nonsense").unwrap();
        assert!(Pins::read(&config).unwrap_err().hint().unwrap().starts_with("mv "));
    }
}
