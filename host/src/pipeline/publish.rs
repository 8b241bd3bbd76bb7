//! Gives a finished artifact its name: durable first, and never over something that pajamas did not make.

use crate::error::{Error, Result};
use crate::models::format;
use crate::models::provenance::{self, FILE as PROVENANCE};
use pajamas_plugin_api::ArtifactKind;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A file is replaced by one of the same name, a folder by a folder; a GGUF file and a folder only if pajamas made them.
///
/// # Errors
/// When there is something at `target` that may not be replaced by an artifact of this `kind`.
pub fn check_replaceable(target: &Path, kind: ArtifactKind) -> Result<()> {
    if target.exists() && target.is_dir() != (kind == ArtifactKind::Folder) {
        return Err(Error::Refused {
            message: format!("`{}` is in the way", target.display()),
            hint: "choose another name with `--name`, or remove it".into(),
        });
    }
    if target.is_dir() && !target.join(PROVENANCE).is_file() {
        return Err(Error::Refused {
            message: format!("`{}` is a folder that pajamas did not make", target.display()),
            hint: "choose another name with `--name`, or remove the folder".into(),
        });
    }
    let is_gguf = target.extension().is_some_and(|extension| extension == format::GGUF);
    if target.is_file() && is_gguf && !provenance::made_here(target) {
        return Err(Error::Refused {
            message: format!("`{}` is a file that pajamas did not make", target.display()),
            hint: "choose another name with `--name`, or remove the file".into(),
        });
    }
    Ok(())
}

/// Makes what is at `from` durable, then renames it to `to`, on the same file system. What `to` was before lies in
/// `from`'s folder afterwards, to be removed with it.
///
/// # Errors
/// When writing or renaming fails. Then `to` is what it was.
pub fn publish(from: &Path, to: &Path, provenance: &BTreeMap<String, String>) -> Result<()> {
    if from.is_dir() {
        let path = from.join(PROVENANCE);
        let text = serde_json::to_string_pretty(provenance).unwrap_or_default();
        let mut file = File::create(&path).map_err(Error::io("creating", &path))?;
        writeln!(file, "{text}").map_err(Error::io("writing", &path))?;
    }
    sync(from)?;
    // A folder cannot be renamed over one that has something in it.
    let old = from.with_file_name("old");
    let replaced = to.is_dir();
    if replaced {
        std::fs::rename(to, &old).map_err(Error::io("renaming", to))?;
    }
    if let Err(error) = std::fs::rename(from, to) {
        if replaced {
            // Its own error would hide the one that matters.
            let _ = std::fs::rename(&old, to);
        }
        return Err(Error::io("renaming", from)(error));
    }
    if let Some(dir) = to.parent() {
        // Not every file system can: the name is there all the same, only not yet durable.
        let _ = File::open(dir).and_then(|dir| dir.sync_all());
    }
    Ok(())
}

/// Puts the files `names` of the folder `scratch` beside the artifact `target`, under its name: `imatrix.gguf` becomes
/// `m.imatrix.gguf` beside `m.gguf`. What pajamas made before is replaced, anything else is not: then a number is added.
/// Gives their paths.
///
/// # Errors
/// When writing or renaming fails, or a name is none.
pub fn companions(scratch: &Path, names: &[String], target: &Path) -> Result<Vec<PathBuf>> {
    let placed = names.iter().map(|name| {
        let from = scratch.join(name);
        if name.contains(['/', '\\']) || !from.is_file() {
            let message = format!("the quantizer names `{name}`, which it did not leave there");
            return Err(Error::Refused { message, hint: String::new() });
        }
        let to = companion_path(target, name);
        sync(&from)?;
        std::fs::rename(&from, &to).map_err(Error::io("renaming", &from))?;
        Ok(to)
    });
    placed.collect()
}

/// Where the file `name` goes that belongs to `target`.
fn companion_path(target: &Path, name: &str) -> PathBuf {
    let stem = target.file_stem().unwrap_or_default().to_string_lossy();
    let numbers = std::iter::once(String::new()).chain((2_u32..).map(|number| format!("-{number}")));
    let mut paths = numbers.map(|number| target.with_file_name(format!("{stem}{number}.{name}")));
    paths
        .find(|path| path.symlink_metadata().is_err() || provenance::made_here(path))
        .unwrap_or_else(|| target.with_file_name(name))
}

fn sync(path: &Path) -> Result<()> {
    if path.is_dir() {
        let listing = std::fs::read_dir(path).map_err(Error::io("reading", path))?;
        for entry in listing {
            sync(&entry.map_err(Error::io("reading", path))?.path())?;
        }
    }
    let file = File::open(path).map_err(Error::io("opening", path))?;
    match file.sync_all() {
        Err(error) if !path.is_dir() => Err(Error::io("writing", path)(error)),
        // As above.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: &Path, text: &str) {
        std::fs::create_dir_all(path).unwrap();
        std::fs::write(path.join("weights"), text).unwrap();
    }

    #[test]
    fn a_folder_replaces_one_that_pajamas_made_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (partial, target) = (dir.path().join("partial/m"), dir.path().join("m"));
        let keys = BTreeMap::from([("pajamas.method".to_owned(), "4bit".to_owned())]);
        for text in ["first", "second"] {
            folder(&partial, text);
            check_replaceable(&target, ArtifactKind::Folder).unwrap();
            publish(&partial, &target, &keys).unwrap();
            assert_eq!(std::fs::read_to_string(target.join("weights")).unwrap(), text);
            assert!(std::fs::read_to_string(target.join(PROVENANCE)).unwrap().contains("4bit"));
        }
        std::fs::remove_file(target.join(PROVENANCE)).unwrap();
        let refused = |kind| check_replaceable(&target, kind).unwrap_err().to_string();
        assert!(refused(ArtifactKind::Folder).contains("did not make"));
        let file = dir.path().join("m.gguf");
        std::fs::write(&file, "somebody's").unwrap();
        assert!(check_replaceable(&file, ArtifactKind::File).unwrap_err().to_string().contains("did not make"));
        assert!(refused(ArtifactKind::File).contains("in the way"));
    }
}
