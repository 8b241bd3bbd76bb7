//! Puts plugins into the home's plugin folder and takes them out again. A file that is in use is never written to: a new
//! one takes its name, and who has the old one loaded keeps that.

use super::discover::{BUNDLE_FILE, is_library};
use super::file::PluginFile;
use super::pins::Pins;
use super::{Candidate, Status, examine, judge, preflight};
use crate::config::Config;
use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// How the hidden names of copies begin that are not whole yet, before a process's number.
const PARTIAL: &str = ".partial-";
/// How the hidden names of bundles begin that are being replaced.
const ASIDE: &str = ".old-";

/// Copies the plugin at `source`, a library or a bundle folder, into the home's plugin folder, where it replaces one of the
/// same file name, and accepts its contents. The copy is looked at, and asked in a worker process, before it gets its name.
///
/// # Errors
/// When it is none, or fails when asked and `anyway` is false, or cannot be copied: then nothing is changed. When its sum
/// cannot be remembered, too; then it is installed.
pub fn install(source: &Path, anyway: bool, config: &Config) -> Result<PathBuf> {
    let source = source.canonicalize().map_err(Error::io("opening", source))?;
    let name = source.file_name().unwrap_or_default();
    let bundle = source.is_dir();
    let refused = |message: String, hint: &str| Error::Refused { message, hint: hint.into() };
    if bundle && !source.join(BUNDLE_FILE).is_file() {
        let message = format!("`{}` is a folder without a `{BUNDLE_FILE}`: it is no plugin", source.display());
        return Err(refused(message, "name the plugin's library, or the folder of a bundle"));
    }
    if !bundle && let Err(refusal) = preflight::preflight(&source) {
        let message = format!("`{}` is not installed: {}", source.display(), refusal.reason);
        return Err(refused(message, &refusal.remedy));
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
    clear_leftovers(&folder);
    let partial = folder.join(format!("{PARTIAL}{}-{}", std::process::id(), name.to_string_lossy()));
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
    // Before anything is changed: a list that cannot be read would not be written either.
    let mut pins = Pins::read(config)?;
    swap(&partial, &target)?;
    drop(guard);
    let library = if bundle { target.join(candidate.file()?.path.file_name().unwrap_or_default()) } else { target };
    pins.accept(&library, &candidate.sha256);
    pins.write(config)?;
    Ok(library)
}

/// Removes the plugin `candidate`, which lies in the home's plugin folder: its file, its bundle folder, or the link that it
/// was found by, and not what that leads to.
///
/// # Errors
/// When it lies elsewhere, or cannot be removed.
pub fn uninstall(candidate: &Candidate, config: &Config) -> Result<PathBuf> {
    let folder = config.home.join("plugins");
    let found_at = &candidate.found_at;
    if !is_in(found_at, &folder) {
        return Err(Error::Refused {
            message: format!("`{}` does not lie in `{}`", found_at.display(), folder.display()),
            hint: format!("rm -r {}", crate::text::quoted(&found_at.to_string_lossy())),
        });
    }
    remove(found_at)?;
    let mut pins = Pins::read(config)?;
    pins.forget(&candidate.path);
    pins.write(config)?;
    Ok(found_at.clone())
}

/// Whether `path` names something in `folder`, whichever way that is written.
pub fn is_in(path: &Path, folder: &Path) -> bool {
    let canonical = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.parent().is_some_and(|parent| canonical(parent) == canonical(folder))
}

/// Accepts the present contents of `candidate`, and gives their SHA-256.
///
/// # Errors
/// When it may not be loaded for another reason than its contents.
pub fn accept(candidate: &Candidate, config: &Config) -> Result<String> {
    let current = judge(candidate.bundle.as_ref().unwrap_or(&candidate.path), config);
    current.file()?;
    let mut pins = Pins::read(config)?;
    pins.accept(&candidate.path, &current.sha256);
    pins.write(config)?;
    Ok(current.sha256)
}

/// Removes what installations left that were ended half-way, by processes that are gone.
fn clear_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let rest = [PARTIAL, ASIDE].iter().find_map(|start| name.strip_prefix(start));
        let process = rest.and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if process.is_some_and(|process| process != std::process::id() && !is_running(process)) {
            // What cannot be removed is hidden, and harms nobody.
            let _ = remove(&entry.path());
        }
    }
}

#[cfg(unix)]
fn is_running(process: u32) -> bool {
    // SAFETY: signal 0 asks, and does nothing.
    let answer = libc::pid_t::try_from(process).map(|process| unsafe { libc::kill(process, 0) });
    answer.is_ok_and(|answer| answer == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM))
}

#[cfg(not(unix))]
fn is_running(_: u32) -> bool {
    true
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

/// Copies a file, or the files of a bundle, synced to disk. Nobody else can open the copy before it is whole, and nobody
/// else can write to it then. Links become what they lead to.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        return copy_file(from, to);
    }
    // Looks at how much it is before anything is copied.
    let bundle = PluginFile::examine(&from.join(BUNDLE_FILE), Some(from)).map_err(Error::io("reading", from))?;
    fs::create_dir(to).map_err(Error::io("creating", to))?;
    protect(to, 0o755)?;
    for file in bundle.files() {
        let target = to.join(file.strip_prefix(from).unwrap_or(file));
        for folder in
            target.ancestors().skip(1).take_while(|folder| *folder != to).collect::<Vec<_>>().into_iter().rev()
        {
            if !folder.is_dir() {
                fs::create_dir(folder).map_err(Error::io("creating", folder))?;
                protect(folder, 0o755)?;
            }
        }
        copy_file(file, &target)?;
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let (mut source, _) = preflight::open_regular(from).map_err(|refusal| Error::Refused {
        message: format!("`{}` cannot be copied: {}", from.display(), refusal.reason),
        hint: refusal.remedy,
    })?;
    let mut options = fs::File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut target = options.open(to).map_err(Error::io("creating", to))?;
    std::io::copy(&mut source, &mut target).and_then(|_| target.sync_all()).map_err(Error::io("writing", to))?;
    protect(to, 0o755)
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
    let aside = target.with_file_name(format!("{ASIDE}{}-{name}", std::process::id()));
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
        fs::write(from.join(BUNDLE_FILE), "library = 'file'").unwrap();
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
