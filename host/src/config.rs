//! `config.toml` and the folders: flags come before the environment, that before the file, that before defaults.

use crate::env_vars::{self, PAJAMAS_BACKEND, PAJAMAS_HOME, PAJAMAS_PLUGIN_PATH};
use crate::error::{Error, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// `config.toml`, as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    /// The backend to prefer.
    pub backend: Option<String>,
    /// Whether another backend may run when the one asked for cannot; true by default.
    pub fallback: Option<bool>,
    /// Threads to compute with.
    pub threads: Option<u32>,
    /// Tokens of context.
    pub context_length: Option<u32>,
    /// The quantization method to use by default.
    pub method: Option<String>,
    /// Whether `quantize` validates what it made; true by default.
    pub validate: Option<bool>,
    /// Further plugin folders.
    pub plugin_dirs: Vec<PathBuf>,
    /// Seconds that a plugin may take to answer a probe, at least 1.
    pub probe_timeout_s: Option<u64>,
}

/// The resolved settings of one run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where everything of the user's lives.
    pub home: PathBuf,
    /// Plugin folders, in order of search.
    pub plugin_dirs: Vec<PathBuf>,
    /// The backend to prefer.
    pub backend: Option<String>,
    /// Whether another backend may run when the one asked for cannot.
    pub fallback: bool,
    /// Threads to compute with.
    pub threads: Option<u32>,
    /// Tokens of context.
    pub context_length: Option<u32>,
    /// The quantization method to use where none is named.
    pub method: Option<String>,
    /// Whether `quantize` validates what it made.
    pub validate: bool,
    /// Seconds that a plugin may take to answer a probe.
    pub probe_timeout_s: u64,
}

impl Config {
    /// Reads the environment and the file; `plugin_dir` are the folders named by flags, which come first.
    ///
    /// # Errors
    /// When there is a file and it is not as expected.
    pub fn load(plugin_dir: &[PathBuf]) -> Result<Self> {
        let home = home()?;
        // A folder that the user names and that is not there is a mistake; the usual ones may well be missing.
        if let Some(missing) = plugin_dir.iter().find(|dir| !dir.is_dir()) {
            return Err(Error::Refused {
                message: format!("`--plugin-dir {}` is no folder", missing.display()),
                hint: "name the folder that holds the plugin's library".into(),
            });
        }
        let file = read_file(&home.join("config.toml"))?;
        let mut plugin_dirs = plugin_dir.to_vec();
        if let Some(path) = env_vars::value(PAJAMAS_PLUGIN_PATH) {
            plugin_dirs.extend(std::env::split_paths(&path).filter(|p| !p.as_os_str().is_empty()));
        }
        // Relative ones count from the file that names them, wherever the program is started.
        plugin_dirs.extend(file.plugin_dirs.iter().map(|dir| home.join(dir)));
        plugin_dirs.push(home.join("plugins"));
        if let Some(prefix) = std::env::current_exe().ok().as_deref().and_then(Path::parent).and_then(Path::parent) {
            plugin_dirs.push(prefix.join("lib/pajamas/plugins"));
        }
        if cfg!(unix) {
            plugin_dirs.push("/usr/lib/pajamas/plugins".into());
        }
        let backend = env_vars::value(PAJAMAS_BACKEND).map(|name| name.to_string_lossy().into_owned());
        Ok(Self {
            home,
            plugin_dirs,
            backend: backend.or(file.backend),
            fallback: file.fallback.unwrap_or(true),
            threads: file.threads,
            context_length: file.context_length,
            method: file.method,
            validate: file.validate.unwrap_or(true),
            probe_timeout_s: file.probe_timeout_s.unwrap_or(10).max(1),
        })
    }

    /// Where artifacts are kept.
    pub fn models_dir(&self) -> PathBuf {
        self.home.join("models")
    }

    /// Where what can be made again is kept.
    pub fn cache_dir(&self) -> PathBuf {
        self.home.join("cache")
    }
}

/// `PAJAMAS_HOME`, or `~/.pajamas`.
fn home() -> Result<PathBuf> {
    if let Some(home) = env_vars::value(PAJAMAS_HOME) {
        return std::path::absolute(&home).map_err(Error::io("resolving", Path::new(&home)));
    }
    std::env::home_dir().map(|home| home.join(".pajamas")).ok_or_else(|| Error::Refused {
        message: "the home folder is unknown".into(),
        hint: "set PAJAMAS_HOME to the folder to use".into(),
    })
}

fn read_file(path: &Path) -> Result<ConfigFile> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(ConfigFile::default()),
        Err(error) => return Err(Error::io("reading", path)(error)),
    };
    parse(&text).map_err(|(message, hint)| Error::Invalid { path: path.to_owned(), message, hint })
}

/// The keys of the file.
const KEYS: [&str; 8] =
    ["backend", "fallback", "threads", "context_length", "method", "validate", "plugin_dirs", "probe_timeout_s"];

fn parse(text: &str) -> std::result::Result<ConfigFile, (String, String)> {
    let table: toml::Table = toml::from_str(text).map_err(|error| (error.to_string(), String::new()))?;
    if let Some(unknown) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        let near = pajamas_plugin_api::options::nearest(unknown, KEYS.into_iter());
        let hint = near.map_or_else(|| format!("keys are: {}", KEYS.join(", ")), |k| format!("did you mean `{k}`?"));
        return Err((format!("unknown key `{unknown}`"), hint));
    }
    toml::from_str(text).map_err(|error| (error.to_string(), String::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_errors_with_a_suggestion() {
        assert_eq!(
            parse("bakend = 'x'").unwrap_err(),
            ("unknown key `bakend`".into(), "did you mean `backend`?".into())
        );
        assert_eq!(parse("backend = 'x'\nfallback = false").unwrap().fallback, Some(false));
        assert!(parse("threads = 'two'").is_err());
    }

    #[test]
    fn every_key_that_is_offered_is_read() {
        let full = "backend='a'\nfallback=true\nthreads=1\ncontext_length=2\nmethod='m'\nvalidate=true\nplugin_dirs=['d']\nprobe_timeout_s=3";
        assert_eq!(full.lines().count(), KEYS.len());
        parse(full).unwrap();
    }
}
