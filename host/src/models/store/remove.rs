//! Removes artifacts from the store: all that were named or none, each with its record, never anything else.

use super::{Record, forget, list, remove_companions};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::pipeline;
use pajamas_plugin_api::options::nearest;
use std::fs::File;
use std::path::{Path, PathBuf};

/// What is to be removed: everything was found and may go.
#[derive(Debug)]
pub struct Removal {
    records: Vec<Record>,
    dir: PathBuf,
}

impl Removal {
    /// Finds the artifacts called `names`. One that pajamas did not make is taken with `force` only.
    ///
    /// # Errors
    /// When one of them is not there or may not go. Then none is to be removed.
    pub fn plan(config: &Config, names: &[String], force: bool) -> Result<Self> {
        let kept = list(config);
        let mut records: Vec<Record> = Vec::new();
        for name in names {
            let record = find(&kept, name)?;
            if !record.is_ours() && !force {
                return Err(Error::Refused {
                    message: format!("`{}` was not made by pajamas, or was changed since", record.file),
                    hint: format!("`pajamas models remove --force {}` removes it all the same", record.file),
                });
            }
            if !records.contains(record) {
                records.push(record.clone());
            }
        }
        let dir = config.models_dir();
        let dir = dir.canonicalize().map_err(Error::io("resolving", &dir))?;
        Ok(Self { records, dir })
    }

    /// The artifacts' paths.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.records.iter().map(|record| self.dir.join(&record.file)).collect()
    }

    /// Their bytes together.
    pub fn size_bytes(&self) -> u64 {
        self.records.iter().map(|record| record.size_bytes).sum()
    }

    /// Removes them.
    ///
    /// # Errors
    /// When one is being written: then none is removed. When one cannot be removed: those before it are gone then.
    pub fn carry_out(self, config: &Config) -> Result<()> {
        let lock = |path: &PathBuf| match pipeline::lock(path, config) {
            Err(Error::Refused { message, .. }) if message.starts_with("another pajamas") => {
                Err(Error::Refused { message, hint: "wait until it is done, or stop it".into() })
            }
            lock => lock,
        };
        let paths = self.paths();
        let _locks: Vec<File> = paths.iter().map(lock).collect::<Result<_>>()?;
        for (path, record) in paths.iter().zip(&self.records) {
            remove_files(path).map_err(Error::io("removing", path))?;
            remove_companions(&self.dir, &record.companions, &[]);
            forget(config, path);
        }
        Ok(())
    }
}

/// The artifact that a user means by `name`: its file name, or that without the extension. Never a path: what is not
/// in the store is not to be removed here.
fn find<'a>(kept: &'a [Record], name: &str) -> Result<&'a Record> {
    if let Some(record) = kept.iter().find(|record| record.file == name) {
        return Ok(record);
    }
    let called: Vec<&Record> = kept.iter().filter(|record| record.name() == name).collect();
    match called.as_slice() {
        [record] => Ok(record),
        [] => Err(Error::Usage {
            message: format!("no model `{name}` in the store"),
            hint: match nearest(name, kept.iter().map(Record::name)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "`pajamas models list` shows their names".into(),
            },
        }),
        several => {
            let files: Vec<&str> = several.iter().map(|record| record.file.as_str()).collect();
            Err(Error::Usage {
                message: format!("there are {} models `{name}`", several.len()),
                hint: format!("name the one that is meant: {}", files.join(", ")),
            })
        }
    }
}

/// Removes a file, a link (not what it leads to), or a folder with all in it. A folder gets a hidden name first, so that
/// what is left of it after an interruption is no model; the next `quantize` of that name clears it away.
///
/// # Errors
/// The system's.
pub fn remove_files(path: &Path) -> std::io::Result<()> {
    if !path.symlink_metadata()?.is_dir() {
        return std::fs::remove_file(path);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let hidden = path.with_file_name(format!(".{name}.{}.partial", std::process::id()));
    std::fs::rename(path, &hidden)?;
    std::fs::remove_dir_all(&hidden)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::store::remember;

    fn home() -> (tempfile::TempDir, Config) {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::of_home(dir.path());
        std::fs::create_dir_all(config.models_dir().join("loom")).unwrap();
        std::fs::write(config.models_dir().join("loom/config.json"), r#"{"quantization":{}}"#).unwrap();
        for file in ["loom.gguf", "foreign.gguf"] {
            std::fs::write(config.models_dir().join(file), "GGUF....").unwrap();
        }
        for (file, format, size_bytes) in [("loom.gguf", "gguf", 8), ("loom", "mlx", 19)] {
            let record = Record {
                file: file.into(),
                format: format.into(),
                method: "m".into(),
                size_bytes,
                ..Record::default()
            };
            remember(&config, &record).unwrap();
        }
        (dir, config)
    }

    fn words(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn left(config: &Config) -> Vec<String> {
        let entries = std::fs::read_dir(config.models_dir()).unwrap().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn file_folder_and_record_go_and_nothing_else() {
        let (_dir, config) = home();
        let removal = Removal::plan(&config, &words(&["loom.gguf", "loom", "loom.gguf"]), false).unwrap();
        assert_eq!((removal.paths().len(), removal.size_bytes()), (2, 27));
        removal.carry_out(&config).unwrap();
        assert_eq!(left(&config), ["foreign.gguf"]);
    }

    #[test]
    fn all_or_none() {
        let (_dir, config) = home();
        let before = left(&config);
        let fails = |names: &[&str]| {
            let error = Removal::plan(&config, &words(names), false).unwrap_err();
            (error.exit_code(), error.to_string(), error.hint().unwrap())
        };
        let (code, message, hint) = fails(&["loom.gguf", "lom"]);
        assert_eq!((code, message.as_str(), hint.as_str()), (2, "no model `lom` in the store", "did you mean `loom`?"));
        assert_eq!(fails(&["../models/loom.gguf"]).0, 2, "a path is no name");
        let (code, message, hint) = fails(&["foreign"]);
        assert!(code == 1 && message.contains("was not made by pajamas") && hint.contains("--force"), "{message}");
        assert!(Removal::plan(&config, &words(&["foreign"]), true).is_ok());
        // The name of the folder, and of the file without its extension: the folder's whole name wins.
        let both = Removal::plan(&config, &words(&["loom"]), false).unwrap();
        assert_eq!(both.records[0].format, "mlx");
        assert_eq!(left(&config), before);
    }

    #[test]
    fn what_is_being_written_stays() {
        let (_dir, config) = home();
        let target = config.models_dir().canonicalize().unwrap().join("loom.gguf");
        let lock = pipeline::lock(&target, &config).unwrap();
        let before = left(&config);
        let remove = || Removal::plan(&config, &words(&["loom", "loom.gguf"]), false).unwrap().carry_out(&config);
        let error = remove().unwrap_err();
        assert!(error.to_string().contains("another pajamas is writing"), "{error}");
        assert_eq!(left(&config), before);
        drop(lock);
        remove().unwrap();
        assert_eq!(left(&config), ["foreign.gguf"]);
    }
}
