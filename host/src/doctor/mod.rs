//! Is this installation sound? [`examine`] looks at everything that pajamas depends on and changes none of it; each
//! [`Check`] says what was found and, where that is not as it should be, what to do. It goes on where something is broken:
//! that is when it is needed.

mod home;
mod hub;
mod machine;
mod plugins;
mod program;
mod store;

use crate::config::{self, Config, ConfigFile, Flags};
use serde::Serialize;
use std::path::Path;

/// How something is. The order is that of weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, and could be better.
    Warning,
    /// It does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What: `home folder`.
    pub name: &'static str,
    /// How it is.
    pub status: Status,
    /// What was found, in a sentence without a full stop.
    pub found: String,
    /// What to do about it, a command where there is one; may be empty.
    pub remedy: String,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, found: found.into(), remedy: String::new() }
    }

    fn warning(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, status: Status::Warning, found: found.into(), remedy: remedy.into() }
    }

    fn problem(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, status: Status::Problem, found: found.into(), remedy: remedy.into() }
    }
}

/// Everything that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The version of pajamas.
    pub version: &'static str,
    /// The worst of the checks.
    pub status: Status,
    /// In the order in which things depend on each other.
    pub checks: Vec<Check>,
}

impl Report {
    /// How many checks have this status.
    pub fn count(&self, status: Status) -> usize {
        self.checks.iter().filter(|check| check.status == status).count()
    }
}

/// Looks at everything, with what `flags` say.
pub fn examine(flags: &Flags) -> Report {
    let mut checks = Vec::new();
    match config::home() {
        Err(error) => {
            let remedy = "export PAJAMAS_HOME=/path/to/a/folder";
            checks.push(Check::problem("home folder", error.to_string(), remedy));
            checks.extend(program::check_path());
            checks.push(Check::warning("other checks", "they need the home folder and were left out", remedy));
        }
        Ok((home, origin)) => {
            let (file, check) = home::settings(&home.join(config::FILE_NAME));
            checks.extend(home::check(&home, &origin));
            checks.push(check);
            checks.extend(flags.plugin_dirs.iter().filter(|dir| !dir.is_dir()).map(|dir| missing_flag_dir(dir)));
            // With a broken file the rest is looked at as it would be without one.
            let config = Config::resolve(home, origin, file.unwrap_or_default(), flags);
            checks.extend(with(&config));
        }
    }
    let status = checks.iter().map(|check| check.status).max().unwrap_or(Status::Ok);
    Report { version: env!("CARGO_PKG_VERSION"), status, checks }
}

fn with(config: &Config) -> Vec<Check> {
    let mut checks = program::check_worker(config);
    let worker_works = checks.iter().all(|check| check.status != Status::Problem);
    checks.extend(program::check_path());
    if worker_works {
        checks.extend(plugins::check(config));
    } else {
        checks.push(Check::warning("plugins", "they cannot be asked without a worker", "mend the worker first"));
    }
    checks.extend(hub::check());
    checks.extend(store::check(config));
    checks.extend(machine::check(config));
    checks
}

fn missing_flag_dir(dir: &Path) -> Check {
    let found = format!("`--plugin-dir {}` is no folder", dir.display());
    Check::problem("plugin folders", found, format!("mkdir -p {}", shell(dir)))
}

/// A path as a shell takes it.
fn shell(path: &Path) -> String {
    crate::text::quoted(&path.to_string_lossy())
}

/// Whether this user may write to what is at `path`, by asking and not by trying.
#[cfg(unix)]
fn writable(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: the path ends with a zero and lives during the call.
    unsafe { libc::access(path.as_ptr(), libc::W_OK) == 0 }
}

/// Whether what is at `path` may be written to, as far as its attributes tell.
#[cfg(not(unix))]
fn writable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| !metadata.permissions().readonly())
}

/// What the settings file says, if it could be read, and the check of it.
type Settings = (Option<ConfigFile>, Check);
