//! The home folder and the settings file in it.

use super::{Check, Settings, shell, writable};
use crate::config::{self, Origin};
use crate::error::Error;
use std::path::Path;

const HOME: &str = "home folder";
const SETTINGS: &str = "settings file";

/// Whether the home folder is there, or can be made, and is this user's to write to.
pub(super) fn check(home: &Path, origin: &Origin) -> Vec<Check> {
    let shown = format!("`{}` (from {origin})", home.display());
    let metadata = match std::fs::metadata(home) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return vec![to_be_made(home, &shown)],
        Err(error) => {
            let remedy = format!("chmod u+rwx {}", shell(home.parent().unwrap_or(home)));
            return vec![Check::problem(HOME, format!("{shown} cannot be read: {error}"), remedy)];
        }
    };
    if !metadata.is_dir() {
        let remedy = format!("mv {0} {0}.old", shell(home));
        return vec![Check::problem(HOME, format!("{shown} is not a folder"), remedy)];
    }
    if let Err(error) = std::fs::read_dir(home) {
        let remedy = format!("chmod u+rwx {}", shell(home));
        return vec![Check::problem(HOME, format!("{shown} cannot be read: {error}"), remedy)];
    }
    vec![rights(home, &shown, &metadata)]
}

/// Another user's folder works as far as its rights go, and its plugins are not trusted.
fn rights(home: &Path, shown: &str, metadata: &std::fs::Metadata) -> Check {
    let chmod = format!("chmod u+rwx {}", shell(home));
    match (owner_besides_user(metadata), writable(home)) {
        (None, true) => Check::ok(HOME, shown),
        (None, false) => Check::problem(HOME, format!("{shown} cannot be written to"), chmod),
        (Some((owner, user)), writable) => {
            let found = format!("{shown} belongs to another user (uid {owner})");
            let chown = format!("sudo chown -R {user} {}", shell(home));
            match writable {
                true => Check::warning(HOME, found, chown),
                false => Check::problem(HOME, found + " and cannot be written to", chown),
            }
        }
    }
}

fn to_be_made(home: &Path, shown: &str) -> Check {
    match home.ancestors().skip(1).find(|path| path.exists()) {
        Some(parent) if parent.is_dir() && writable(parent) => {
            Check::ok(HOME, format!("{shown} is not there yet, and will be made"))
        }
        Some(parent) => {
            let found = format!("{shown} is not there, and cannot be made in `{}`", parent.display());
            Check::problem(HOME, found, "export PAJAMAS_HOME=/path/to/a/folder/of/yours")
        }
        None => Check::problem(HOME, format!("{shown} is nowhere"), "export PAJAMAS_HOME=/path/to/a/folder/of/yours"),
    }
}

/// The owner and this user, where they are not the same.
#[cfg(unix)]
fn owner_besides_user(metadata: &std::fs::Metadata) -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    // SAFETY: geteuid has no preconditions.
    let user = unsafe { libc::geteuid() };
    (metadata.uid() != user).then(|| (metadata.uid(), user))
}

#[cfg(not(unix))]
fn owner_besides_user(_: &std::fs::Metadata) -> Option<(u32, u32)> {
    None
}

/// Whether the settings file at `path` can be read as one.
pub(super) fn settings(path: &Path) -> Settings {
    match config::read_file(path) {
        Ok(file) if path.exists() => (Some(file), Check::ok(SETTINGS, format!("`{}`", path.display()))),
        Ok(file) => (Some(file), Check::ok(SETTINGS, "there is none, and none is needed")),
        Err(error) => {
            let found = match &error {
                Error::Invalid { message, hint, .. } if !hint.is_empty() => {
                    format!("`{}`: {message}; {hint}", path.display())
                }
                error => error.to_string(),
            };
            (None, Check::problem(SETTINGS, found, remedy(path, &error)))
        }
    }
}

fn remedy(path: &Path, error: &Error) -> String {
    let unknown_key = match error {
        Error::Invalid { message, .. } => message.strip_prefix("unknown key `").and_then(|rest| rest.strip_suffix('`')),
        _ => None,
    };
    match unknown_key {
        Some(key) => format!("pajamas config unset {}", crate::text::quoted(key)),
        None => format!("${{EDITOR:-vi}} {}", shell(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn a_home_is_found_or_can_be_made_or_is_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &Path| check(path, &Origin::Default).remove(0);
        assert_eq!(at(dir.path()).status, Status::Ok);
        let new = at(&dir.path().join("a/b"));
        assert!(new.status == Status::Ok && new.found.contains("will be made"), "{new:?}");
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let wrong = at(&file);
        assert!(wrong.status == Status::Problem && wrong.remedy.starts_with("mv "), "{wrong:?}");
        assert_eq!(at(&file.join("below")).status, Status::Problem);
    }

    #[test]
    fn a_broken_settings_file_has_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        assert_eq!(settings(&path).1.status, Status::Ok);
        std::fs::write(&path, "bakend = 'x'").unwrap();
        let (file, check) = settings(&path);
        assert!(file.is_none() && check.status == Status::Problem);
        assert_eq!(check.remedy, "pajamas config unset bakend");
        std::fs::write(&path, "threads = ").unwrap();
        assert!(settings(&path).1.remedy.starts_with("${EDITOR:-vi}"));
    }
}
