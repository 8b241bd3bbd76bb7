//! Files: where the program lies, and replacing one of the user's as a whole: whatever happens, under its name is the old content or
//! the new.

use crate::error::{Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Where the running program lies itself, whatever link it was started by.
///
/// # Errors
/// When the system does not say.
pub fn this_program() -> io::Result<PathBuf> {
    std::env::current_exe()?.canonicalize()
}

/// Links that are followed, one after the other, the most: as many as Linux follows.
const LINKS_MAX: usize = 40;
/// Names that are tried for the file beside, the most.
const NAMES_MAX: usize = 1000;

/// Writes `bytes` to the file at `path`: beside it first, synced to disk, and renamed at the end. An existing file keeps
/// its permissions; a new one gets `mode_when_new`, of which the umask takes its part. Through a link, the file that it
/// leads to is the one that is replaced: renaming over the link would leave that file behind.
///
/// # Errors
/// When writing fails, or there is something else than a file. Then what was there is untouched, and nothing is beside.
pub fn replace(path: &Path, bytes: &[u8], mode_when_new: u32) -> Result<()> {
    let target = target(path).map_err(Error::io("writing", path))?;
    write(&target, bytes, mode_when_new).map_err(Error::io("writing", &target))
}

/// Where the links at `path` lead to, whether anything is there or not.
fn target(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == ErrorKind::NotFound => (),
        found => return found,
    }
    let mut target = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(next) = fs::read_link(&target) else { break };
        target = target.parent().unwrap_or(Path::new("")).join(next);
    }
    Ok(target)
}

fn write(target: &Path, bytes: &[u8], mode_when_new: u32) -> io::Result<()> {
    let old = match fs::metadata(target) {
        Ok(metadata) if !metadata.is_file() => {
            return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
        }
        Ok(metadata) => Some(metadata.permissions()),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    // What is a secret must not be readable to others for a moment either.
    let mode = if old.is_some() { 0o600 } else { mode_when_new };
    let (mut file, partial) = create_beside(target, mode)?;
    if let Some(permissions) = old {
        // Not every file system has permissions to keep.
        let _ = file.set_permissions(permissions);
    }
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    // Before it is renamed: some systems do not rename what is open.
    drop(file);
    let renamed = written.and_then(|()| fs::rename(&partial, target));
    if renamed.is_err() {
        // The first error is the one that matters.
        let _ = fs::remove_file(&partial);
    } else {
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Not every file system can: the name is there all the same, only not yet durable.
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
    renamed
}

/// A new file in the folder of `target`, hidden, under a name that no other writer has.
fn create_beside(target: &Path, mode: u32) -> io::Result<(File, PathBuf)> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let mut taken = None;
    // A process of this number may have left a file behind, or may write in another container right now.
    for _ in 0..NAMES_MAX {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let partial = target.with_file_name(format!(".{name}.{}.{number}.partial", std::process::id()));
        match options.open(&partial) {
            Ok(file) => return Ok((file, partial)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => taken = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(taken.unwrap_or_else(|| ErrorKind::AlreadyExists.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_written_and_replaced_and_nothing_stays_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        for text in ["long enough", "short"] {
            replace(&path, text.as_bytes(), 0o644).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(names(dir.path()), ["a.txt"]);
    }

    #[test]
    fn what_fails_leaves_everything_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        let error = replace(&dir.path().join("folder"), b"x", 0o644).unwrap_err().to_string();
        assert!(error.starts_with("writing `") && error.ends_with("it is not a regular file"), "{error}");
        let error = replace(&dir.path().join("none/a.txt"), b"x", 0o644).unwrap_err().to_string();
        assert!(error.starts_with("writing `"), "{error}");
        assert_eq!(names(dir.path()), ["folder"]);
    }

    #[cfg(unix)]
    #[test]
    fn permissions_stay_and_new_files_have_those_that_were_asked_for() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        replace(&path, b"x", 0o600).unwrap();
        assert_eq!(mode(), 0o600);
        for kept in [0o640, 0o600, 0o755] {
            fs::set_permissions(&path, fs::Permissions::from_mode(kept)).unwrap();
            replace(&path, b"y", 0o666).unwrap();
            assert_eq!(mode(), kept);
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_and_the_file_they_lead_to_is_replaced_even_one_that_is_not_there_yet() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("kept")).unwrap();
        let (link, next) = (dir.path().join("link"), dir.path().join("next"));
        symlink("next", &link).unwrap();
        symlink("kept/file", &next).unwrap();
        for text in ["new", "old"] {
            replace(&link, text.as_bytes(), 0o644).unwrap();
            assert_eq!(fs::read_to_string(dir.path().join("kept/file")).unwrap(), text);
        }
        assert!(link.is_symlink() && next.is_symlink());
        assert_eq!(names(&dir.path().join("kept")), ["file"]);
        symlink("loop", dir.path().join("loop")).unwrap();
        replace(&dir.path().join("loop"), b"x", 0o644).unwrap_err();
        assert!(dir.path().join("loop").is_symlink());
    }
}
