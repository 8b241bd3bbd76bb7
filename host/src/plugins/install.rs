//! Puts plugins into the home's plugin folder and takes them out again. A file that is in use is never written to: a new
//! one takes its name, and who has the old one loaded keeps that.

use super::discover::{BUNDLE_FILE, is_library};
use super::pins::Pins;
use super::{Candidate, Status, examine, judge};
use crate::config::Config;
use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Copies the plugin at `source`, a library or a bundle folder, into the home's plugin folder, where it replaces one of the
/// same file name, and accepts its contents. The copy is looked at, and asked in a worker process, before it gets its name.
///
/// # Errors
/// When it is none, or fails when asked and `anyway` is false, or cannot be copied. Then nothing is changed.
pub fn install(source: &Path, anyway: bool, config: &Config) -> Result<PathBuf> {
    let source = source.canonicalize().map_err(Error::io("opening", source))?;
    let name = source.file_name().unwrap_or_default();
    let bundle = source.is_dir();
    let refused = |message: String, hint: &str| Error::Refused { message, hint: hint.into() };
    if bundle && !source.join(BUNDLE_FILE).is_file() {
        let message = format!("`{}` is a folder without a `{BUNDLE_FILE}`: it is no plugin", source.display());
        return Err(refused(message, "name the plugin's library, or the folder of a bundle"));
    }
    if !bundle && !is_library(&source) {
        let message =
            format!("`{}` would not be found: a plugin's file is named *.so, *.dylib or *.dll", source.display());
        return Err(refused(message, "rename it"));
    }
    let folder = config.home.join("plugins");
    fs::create_dir_all(&folder).map_err(Error::io("creating", &folder))?;
    let folder = folder.canonicalize().map_err(Error::io("opening", &folder))?;
    let target = folder.join(name);
    if target == source {
        return Err(refused(format!("`{}` is installed already", source.display()), ""));
    }
    // Hidden, so that nobody takes it for a plugin; a library keeps its extension, by which it is known.
    let partial = folder.join(format!(".partial-{}-{}", std::process::id(), name.to_string_lossy()));
    let guard = Leftover(&partial);
    remove(&partial)?;
    copy(&source, &partial)?;
    let candidate = examine(&partial, config);
    if matches!(candidate.status, Status::Refused) || (candidate.status == Status::Failed && !anyway) {
        let hint = match candidate.status {
            Status::Failed => "`--force` installs it all the same",
            _ => &candidate.remedy,
        };
        return Err(refused(format!("`{}` is not installed: {}", source.display(), candidate.reason), hint));
    }
    let mut pins = Pins::read(config)?;
    swap(&partial, &target)?;
    drop(guard);
    let library = if bundle { target.join(candidate.file()?.path.file_name().unwrap_or_default()) } else { target };
    pins.accept(&library, &candidate.sha256);
    pins.write(config)?;
    Ok(library)
}

/// Removes the plugin `candidate`, which lies in the home's plugin folder: its file, or its bundle folder.
///
/// # Errors
/// When it lies elsewhere, or cannot be removed.
pub fn uninstall(candidate: &Candidate, config: &Config) -> Result<PathBuf> {
    let folder = config.home.join("plugins");
    let folder = folder.canonicalize().unwrap_or(folder);
    let inside = candidate.path.strip_prefix(&folder).ok().and_then(|inside| inside.components().next());
    let Some(name) = inside else {
        return Err(Error::Refused {
            message: format!("`{}` does not lie in `{}`", candidate.path.display(), folder.display()),
            hint: format!("rm {}", crate::text::quoted(&candidate.path.to_string_lossy())),
        });
    };
    let path = folder.join(name);
    remove(&path)?;
    let mut pins = Pins::read(config)?;
    pins.forget(&candidate.path);
    pins.write(config)?;
    Ok(path)
}

/// Accepts the present contents of `candidate`, and gives their SHA-256.
///
/// # Errors
/// When it may not be loaded for another reason than its contents.
pub fn accept(candidate: &Candidate, config: &Config) -> Result<String> {
    let bundle = bundle_of(&candidate.path);
    let current = judge(bundle.unwrap_or(&candidate.path), config);
    current.file()?;
    let mut pins = Pins::read(config)?;
    pins.accept(&candidate.path, &current.sha256);
    pins.write(config)?;
    Ok(current.sha256)
}

/// The bundle folder that the library at `path` is the library of.
fn bundle_of(path: &Path) -> Option<&Path> {
    path.parent().filter(|folder| folder.join(BUNDLE_FILE).is_file())
}

/// What is removed when it is no longer needed, or something failed before.
struct Leftover<'a>(&'a Path);

impl Drop for Leftover<'_> {
    fn drop(&mut self) {
        let _ = remove(self.0);
    }
}

/// Removes the file or folder at `path`, if there is one. A link is removed, and not what it leads to.
fn remove(path: &Path) -> Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("removing", path)(error)),
        _ => Ok(()),
    }
}

/// Copies a file or a folder, synced to disk, so that nobody but the user can write to it. Links become what they lead to.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let metadata = fs::metadata(from).map_err(Error::io("reading", from))?;
    if metadata.is_dir() {
        fs::create_dir(to).map_err(Error::io("creating", to))?;
        protect(to, 0o755)?;
        for entry in fs::read_dir(from).map_err(Error::io("reading", from))? {
            let entry = entry.map_err(Error::io("reading", from))?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if !metadata.is_file() {
        let message = format!("`{}` is not a regular file", from.display());
        return Err(Error::Refused { message, hint: super::preflight::NO_PLUGIN.into() });
    }
    fs::copy(from, to).map_err(Error::io("writing", to))?;
    protect(to, 0o755)?;
    fs::File::open(to).and_then(|file| file.sync_all()).map_err(Error::io("writing", to))
}

#[cfg(unix)]
fn protect(path: &Path, mode: u32) -> Result<()> {
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(path, permissions).map_err(Error::io("writing", path))
}

#[cfg(not(unix))]
fn protect(_: &Path, _: u32) -> Result<()> {
    Ok(())
}

/// Gives `new` the name `target`. A folder cannot be renamed over another that has something in it, so that one goes aside
/// first, and comes back if the renaming fails.
fn swap(new: &Path, target: &Path) -> Result<()> {
    if !target.is_dir() || target.is_symlink() {
        if !new.is_dir() {
            return fs::rename(new, target).map_err(Error::io("writing", target));
        }
        remove(target)?;
        return fs::rename(new, target).map_err(Error::io("writing", target));
    }
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let aside = target.with_file_name(format!(".old-{}-{name}", std::process::id()));
    fs::rename(target, &aside).map_err(Error::io("moving", target))?;
    match fs::rename(new, target) {
        Ok(()) => remove(&aside),
        Err(error) => {
            let _ = fs::rename(&aside, target);
            Err(Error::io("writing", target)(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_and_a_folder_take_the_place_of_those_before_them() {
        let dir = tempfile::tempdir().unwrap();
        let (new, target) = (dir.path().join(".new"), dir.path().join("plugin"));
        for text in ["one", "two"] {
            fs::create_dir(&new).unwrap();
            fs::write(new.join("file"), text).unwrap();
            swap(&new, &target).unwrap();
            assert_eq!(fs::read_to_string(target.join("file")).unwrap(), text);
        }
        fs::write(&new, "three").unwrap();
        swap(&new, &target).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "three");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_copy_can_be_written_by_its_owner_only_and_a_link_is_removed_alone() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::write(from.join("file"), "x").unwrap();
        fs::set_permissions(from.join("file"), fs::Permissions::from_mode(0o666)).unwrap();
        symlink("file", from.join("link")).unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::metadata(to.join("file")).unwrap().permissions().mode() & 0o777, 0o755);
        assert!(to.join("link").symlink_metadata().unwrap().is_file());
        symlink(&from, dir.path().join("link")).unwrap();
        remove(&dir.path().join("link")).unwrap();
        assert!(from.join("file").exists() && !dir.path().join("link").is_symlink());
    }
}
