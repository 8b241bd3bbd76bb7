//! `plugins.lock`: the SHA-256 of every plugin that was accepted, by path. By default a new file is accepted and a changed
//! one announced; with `trust = "pinned"` only what `plugins install` and `plugins trust` have written here is loaded.

use super::preflight::Refusal;
use crate::config::Config;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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
    /// Of these, only those whose contents were accepted by a command.
    Pinned,
}

/// The accepted plugins.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pins {
    plugins: BTreeMap<String, Pin>,
    #[serde(skip)]
    changed: bool,
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
    /// default; what is changed is told of.
    ///
    /// # Errors
    /// When only accepted contents count, and these were not.
    pub fn judge(&mut self, path: &Path, name: &str, sha256: &str, trust: Trust) -> std::result::Result<(), Refusal> {
        let known = self.plugins.get(&key(path)).map(|pin| pin.sha256.as_str());
        if known == Some(sha256) {
            return Ok(());
        }
        if trust == Trust::Pinned {
            let reason = match known {
                Some(_) => "its contents have changed since they were trusted",
                None => "its contents were never trusted, and `trust = \"pinned\"` asks for that",
            };
            return Err(Refusal::new(reason, format!("pajamas plugins trust {}", crate::text::quoted(name))));
        }
        if known.is_some() {
            tracing::warn!(
                "the plugin `{name}` has changed since it was last used: `{}` is asked afresh",
                path.display()
            );
        }
        self.accept(path, sha256);
        Ok(())
    }

    /// Accepts `sha256` as the contents of the plugin at `path`.
    pub fn accept(&mut self, path: &Path, sha256: &str) {
        let old = self.plugins.insert(key(path), Pin { sha256: sha256.into() });
        self.changed |= old.is_none_or(|pin| pin.sha256 != sha256);
    }

    /// Forgets the plugin at `path`.
    pub fn forget(&mut self, path: &Path) {
        self.changed |= self.plugins.remove(&key(path)).is_some();
    }

    /// Writes the file, if anything changed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, config: &Config) -> Result<()> {
        if !self.changed {
            return Ok(());
        }
        let head = "# The plugins that pajamas has accepted, with the SHA-256 of their contents.\n\
                    # Written by pajamas; `pajamas plugins trust NAME` accepts what has changed.\n";
        let table = toml::to_string(self).map_err(|error| Error::Refused {
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
    use crate::config::{ConfigFile, Origin};

    #[test]
    fn pinned_takes_what_was_accepted_and_default_what_is_new() {
        let home = tempfile::tempdir().unwrap();
        let config = Config::resolve(home.path().to_owned(), Origin::Default, ConfigFile::default(), &[]);
        let path = Path::new("/p/libx.so");
        let mut pins = Pins::read(&config).unwrap();
        let refusal = pins.judge(path, "x", "1", Trust::Pinned).unwrap_err();
        assert!(refusal.reason.contains("never trusted"), "{}", refusal.reason);
        assert_eq!(refusal.remedy, "pajamas plugins trust x");
        pins.judge(path, "x", "1", Trust::Default).unwrap();
        pins.write(&config).unwrap();
        let mut pins = Pins::read(&config).unwrap();
        pins.judge(path, "x", "1", Trust::Pinned).unwrap();
        assert!(pins.judge(path, "x", "2", Trust::Pinned).unwrap_err().reason.contains("changed"));
        pins.judge(path, "x", "2", Trust::Default).unwrap();
        pins.judge(path, "x", "2", Trust::Pinned).unwrap();
        std::fs::write(home.path().join(FILE_NAME), "nonsense").unwrap();
        assert!(Pins::read(&config).unwrap_err().hint().unwrap().starts_with("mv "));
    }
}
