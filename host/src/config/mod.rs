//! `config.toml` and the folders: flags come before the environment, that before the file, that before defaults.

pub mod edit;
pub mod keys;
pub mod settings;

use crate::env_vars::{self, HF_HUB_OFFLINE, PAJAMAS_BACKEND, PAJAMAS_HOME, PAJAMAS_PLUGIN_PATH, PAJAMAS_WORKER};
use crate::error::{Error, Result};
use crate::plugins::pins::Trust;
use keys::Kind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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
    /// Which plugins are trusted.
    pub trust: Option<Trust>,
    /// Whether a backend's arithmetic is checked at its first use; true by default.
    pub check_backends: Option<bool>,
    /// Whether nothing is ever fetched; false by default.
    pub offline: Option<bool>,
}

/// Where a value came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "name", rename_all = "snake_case")]
pub enum Origin {
    /// Nobody set it.
    #[default]
    Default,
    /// This file.
    File(PathBuf),
    /// The environment variable of this name.
    Environment(&'static str),
    /// The flag of this name.
    Flag(&'static str),
    /// The program that uses the library.
    Caller,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Caller => f.write_str("the program"),
            Self::File(path) => path.display().fmt(f),
            Self::Environment(name) | Self::Flag(name) => f.write_str(name),
        }
    }
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
    /// Which plugins are trusted.
    pub trust: Trust,
    /// Whether a backend's arithmetic is checked at its first use.
    pub check_backends: bool,
    /// Whether nothing is ever fetched.
    pub offline: bool,
    /// Where pajamas is installed, if not around the running program.
    pub prefix: Option<PathBuf>,
    /// The worker's program, where one is named.
    pub worker: Option<PathBuf>,
    /// Where the values came from.
    pub origins: Origins,
}

/// Where the values of a [`Config`] came from.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    /// The home folder's.
    pub home: Origin,
    /// Those of the plugin folders, one for each, in their order.
    pub plugin_dirs: Vec<Origin>,
    keys: BTreeMap<&'static str, Origin>,
}

/// What comes before the environment and the file: the flags that every command has, and what a program that uses the
/// library says.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// The home folder.
    pub home: Option<PathBuf>,
    /// Plugin folders, which come first.
    pub plugin_dirs: Vec<PathBuf>,
    /// Where pajamas is installed, with `bin` and `lib/pajamas/plugins` in it, if not around the running program.
    pub prefix: Option<PathBuf>,
    /// The worker's program.
    pub worker: Option<PathBuf>,
    /// Whether nothing is ever fetched.
    pub offline: bool,
}

impl Origins {
    /// The origin of the setting `key`.
    pub fn of(&self, key: &str) -> Origin {
        self.keys.get(key).cloned().unwrap_or_default()
    }
}

impl Config {
    /// Reads the environment and the file; `flags` come before both.
    ///
    /// # Errors
    /// When there is a file and it is not as expected.
    pub fn load(flags: &Flags) -> Result<Self> {
        let plugin_dir = &flags.plugin_dirs;
        let (home, origin) = match &flags.home {
            Some(home) => (std::path::absolute(home).map_err(Error::io("resolving", home))?, Origin::Caller),
            None => home()?,
        };
        if let Some(dir) = plugin_dir.first().filter(|_| crate::users::is_privileged()) {
            return Err(Error::Refused {
                message: format!(
                    "`--plugin-dir {}` is not for a program with more rights than its user",
                    dir.display()
                ),
                hint: "run it without setuid or capabilities".into(),
            });
        }
        // A folder that the user names and that is not there is a mistake; the usual ones may well be missing.
        if let Some(missing) = plugin_dir.iter().find(|dir| !dir.is_dir()) {
            return Err(Error::Refused {
                message: format!("`--plugin-dir {}` is no folder", missing.display()),
                hint: "name the folder that holds the plugin's library".into(),
            });
        }
        let file = read_file(&home.join(FILE_NAME))?;
        Ok(Self::resolve(home, origin, file, flags))
    }

    /// The settings of a home folder without any.
    #[cfg(test)]
    pub fn of_home(home: impl Into<PathBuf>) -> Self {
        Self::resolve(home.into(), Origin::Default, ConfigFile::default(), &Flags::default())
    }

    /// The settings that `file`, the environment and the flags come to.
    pub fn resolve(home: PathBuf, home_origin: Origin, file: ConfigFile, flags: &Flags) -> Self {
        let plugin_dir = if crate::users::is_privileged() { &[][..] } else { &flags.plugin_dirs };
        let from_file = Origin::File(home.join(FILE_NAME));
        let mut keys: BTreeMap<_, _> = file.set_keys().map(|key| (key, from_file.clone())).collect();
        let mut dirs: Vec<(PathBuf, Origin)> = Vec::new();
        dirs.extend(plugin_dir.iter().map(|dir| (dir.clone(), Origin::Flag("--plugin-dir"))));
        if let Some(path) = env_vars::value(PAJAMAS_PLUGIN_PATH) {
            let named = std::env::split_paths(&path).filter(|p| !p.as_os_str().is_empty());
            dirs.extend(named.map(|dir| (dir, Origin::Environment(PAJAMAS_PLUGIN_PATH))));
        }
        // Relative ones count from the file that names them, wherever the program is started.
        dirs.extend(file.plugin_dirs.iter().map(|dir| (home.join(dir), from_file.clone())));
        dirs.push((home.join("plugins"), Origin::Default));
        let own = || crate::files::this_program().ok()?.ancestors().nth(2).map(Path::to_owned);
        // Where `make install` puts them, in the home folder or elsewhere; from there this program, or what its library is in.
        for prefix in [Some(home.clone()), flags.prefix.clone().or_else(own)].into_iter().flatten() {
            let installed = (prefix.join("lib/pajamas/plugins"), Origin::Default);
            if !dirs.contains(&installed) {
                dirs.push(installed);
            }
        }
        if cfg!(unix) {
            dirs.push(("/usr/lib/pajamas/plugins".into(), Origin::Default));
        }
        let backend = env_vars::value(PAJAMAS_BACKEND).map(|name| name.to_string_lossy().into_owned());
        if backend.is_some() {
            keys.insert("backend", Origin::Environment(PAJAMAS_BACKEND));
        }
        if is_offline() {
            keys.insert("offline", Origin::Environment(HF_HUB_OFFLINE));
        }
        if flags.offline {
            keys.insert("offline", Origin::Flag("--offline"));
        }
        let (plugin_dirs, dir_origins) = dirs.into_iter().unzip();
        Self {
            home,
            plugin_dirs,
            backend: backend.or(file.backend),
            fallback: file.fallback.unwrap_or(true),
            threads: file.threads,
            context_length: file.context_length,
            method: file.method,
            validate: file.validate.unwrap_or(true),
            probe_timeout_s: file.probe_timeout_s.unwrap_or(10),
            trust: file.trust.unwrap_or_default(),
            check_backends: file.check_backends.unwrap_or(true),
            offline: flags.offline || is_offline() || file.offline.unwrap_or(false),
            prefix: flags.prefix.clone(),
            worker: flags.worker.clone().or_else(|| env_vars::value(PAJAMAS_WORKER).map(PathBuf::from)),
            origins: Origins { home: home_origin, plugin_dirs: dir_origins, keys },
        }
    }

    /// The settings file.
    pub fn file(&self) -> PathBuf {
        self.home.join(FILE_NAME)
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

impl ConfigFile {
    /// The keys that it sets.
    fn set_keys(&self) -> impl Iterator<Item = &'static str> {
        let set = [
            ("backend", self.backend.is_some()),
            ("fallback", self.fallback.is_some()),
            ("threads", self.threads.is_some()),
            ("context_length", self.context_length.is_some()),
            ("method", self.method.is_some()),
            ("validate", self.validate.is_some()),
            ("plugin_dirs", !self.plugin_dirs.is_empty()),
            ("probe_timeout_s", self.probe_timeout_s.is_some()),
            ("trust", self.trust.is_some()),
            ("check_backends", self.check_backends.is_some()),
            ("offline", self.offline.is_some()),
        ];
        set.into_iter().filter_map(|(key, set)| set.then_some(key))
    }
}

/// Whether the environment forbids to ask anybody, as huggingface_hub reads it.
fn is_offline() -> bool {
    let value = env_vars::value(HF_HUB_OFFLINE).map(|value| value.to_string_lossy().to_lowercase());
    value.is_some_and(|value| ["1", "true", "yes", "on"].contains(&value.as_str()))
}

/// The settings file's name in the home folder.
pub const FILE_NAME: &str = "config.toml";

/// `PAJAMAS_HOME`, or `~/.pajamas`.
///
/// # Errors
/// When neither is known.
pub fn home() -> Result<(PathBuf, Origin)> {
    if let Some(home) = env_vars::value(PAJAMAS_HOME) {
        let home = std::path::absolute(&home).map_err(Error::io("resolving", Path::new(&home)))?;
        return Ok((home, Origin::Environment(PAJAMAS_HOME)));
    }
    let home = env_vars::user_home().ok_or_else(|| Error::Refused {
        message: "the home folder is unknown".into(),
        hint: "set PAJAMAS_HOME to the folder to use".into(),
    })?;
    Ok((home.join(".pajamas"), Origin::Default))
}

/// Reads the settings file at `path`; one that is not there sets nothing.
///
/// # Errors
/// When it cannot be read, or is not as expected.
pub fn read_file(path: &Path) -> Result<ConfigFile> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(ConfigFile::default()),
        Err(error) => return Err(Error::io("reading", path)(error)),
    };
    parse(&text).map_err(|(message, hint)| Error::Invalid { path: path.to_owned(), message, hint })
}

/// Reads the text of a settings file; the error is a message and a hint.
fn parse(text: &str) -> std::result::Result<ConfigFile, (String, String)> {
    let mend = || "mend it with an editor; `pajamas doctor` checks all else".to_owned();
    let table: toml::Table = toml::from_str(text).map_err(|error| (error.to_string(), mend()))?;
    for (name, value) in &table {
        let key = keys::find(name).map_err(|hint| {
            (format!("unknown key `{name}`"), format!("{hint} `pajamas config unset {name}` removes it"))
        })?;
        let number = value.as_integer();
        if let (Kind::Count(max), Some(number)) = (key.kind, number)
            && !(1..=max).contains(&number)
        {
            return Err((format!("`{name}` is {number}, expected {}", key.kind.describe()), mend()));
        }
        if let (Kind::Word(words), Some(word)) = (key.kind, value.as_str())
            && !words.contains(&word)
        {
            return Err((format!("`{name}` is `{word}`, expected {}", key.kind.describe()), mend()));
        }
    }
    toml::from_str(text).map_err(|error| (error.to_string(), mend()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_errors_with_a_suggestion() {
        assert_eq!(
            parse("bakend = 'x'").unwrap_err(),
            ("unknown key `bakend`".into(), "did you mean `backend`? `pajamas config unset bakend` removes it".into())
        );
        assert_eq!(parse("backend = 'x'\nfallback = false").unwrap().fallback, Some(false));
        assert!(parse("threads = 'two'").is_err());
    }

    #[test]
    fn numbers_out_of_range_say_what_is_expected() {
        assert_eq!(parse("threads = 0").unwrap_err().0, "`threads` is 0, expected a whole number from 1 to 4294967295");
        assert!(parse("context_length = -1").unwrap_err().0.contains("from 1"));
        assert!(parse("probe_timeout_s = 86401").unwrap_err().0.contains("to 86400"));
    }

    #[test]
    fn every_key_that_is_offered_is_read() {
        let full = "backend='a'\nfallback=true\nthreads=1\ncontext_length=2\nmethod='m'\nvalidate=true\nplugin_dirs=['d']\nprobe_timeout_s=3\n\
                    trust='pinned'\ncheck_backends=false\noffline=true";
        let file = parse(full).unwrap();
        assert_eq!(file.set_keys().collect::<Vec<_>>(), keys::names().collect::<Vec<_>>());
    }

    #[test]
    fn each_value_knows_where_it_came_from() {
        let flags = Flags { plugin_dirs: vec!["/flag".into()], offline: true, ..Flags::default() };
        let file = parse("threads = 2\nplugin_dirs = ['mine']").unwrap();
        let config = Config::resolve("/h".into(), Origin::Default, file, &flags);
        let from_file = Origin::File("/h/config.toml".into());
        assert_eq!(config.origins.of("threads"), from_file);
        assert_eq!(config.origins.of("fallback"), Origin::Default);
        assert_eq!((config.origins.of("offline"), config.offline), (Origin::Flag("--offline"), true));
        assert_eq!(config.plugin_dirs.len(), config.origins.plugin_dirs.len());
        assert_eq!(config.origins.plugin_dirs[0], Origin::Flag("--plugin-dir"));
        let mine = config.plugin_dirs.iter().position(|dir| dir == Path::new("/h/mine")).unwrap();
        assert_eq!(config.origins.plugin_dirs[mine], from_file);
    }
}
