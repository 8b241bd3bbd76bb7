//! A plugin's files as they were when they were judged: cheap stamps that tell whether anything was changed since, and
//! the SHA-256 of what is in them.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Files that a bundle may consist of.
const BUNDLE_FILES_MAX: usize = 1000;
/// Folders below each other in a bundle.
const BUNDLE_DEPTH_MAX: usize = 8;

/// The library that is loaded, with all that belongs to it, as they were at some moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginFile {
    /// The library.
    pub path: PathBuf,
    /// The bundle folder around it, if it is one.
    pub bundle: Option<PathBuf>,
    /// The library first; then the other files of the bundle, sorted.
    parts: Vec<Part>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    path: PathBuf,
    stamp: Stamp,
}

/// What changes when a file's content does. Its owner can set the time of modification, but not that of the last change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i64,
    changed_ns: i64,
}

impl Stamp {
    #[cfg(unix)]
    fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        let nanoseconds = |seconds: i64, rest: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(rest);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    #[cfg(not(unix))]
    fn of(metadata: &Metadata) -> Self {
        let since = |time: io::Result<std::time::SystemTime>| {
            let elapsed = time.ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
            elapsed.map_or(0, |elapsed| i64::try_from(elapsed.as_nanos()).unwrap_or(0))
        };
        Self {
            device: 0,
            inode: 0,
            size: metadata.len(),
            modified_ns: since(metadata.modified()),
            changed_ns: since(metadata.created()),
        }
    }
}

impl PluginFile {
    /// Looks at the library at `path` and at everything in `bundle`, the folder that it lies in, if it is one.
    ///
    /// # Errors
    /// When something cannot be looked at, is no file, or there is too much of it.
    pub fn examine(path: &Path, bundle: Option<&Path>) -> io::Result<Self> {
        let mut paths = vec![path.to_owned()];
        if let Some(bundle) = bundle {
            let mut inside = Vec::new();
            walk(bundle, 0, &mut inside)?;
            inside.sort();
            paths.extend(inside.into_iter().filter(|inner| inner != path));
        }
        let part = |path: PathBuf| Ok(Part { stamp: Stamp::of(&std::fs::metadata(&path)?), path });
        let parts = paths.into_iter().map(part).collect::<io::Result<_>>()?;
        Ok(Self { path: path.to_owned(), bundle: bundle.map(Path::to_owned), parts })
    }

    /// Whether everything is still as it was.
    pub fn is_unchanged(&self) -> bool {
        Self::examine(&self.path, self.bundle.as_deref()).is_ok_and(|now| now == *self)
    }

    /// Every file of it, the library first.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().map(|part| part.path.as_path())
    }

    /// Bytes that its files have together.
    pub fn size_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.stamp.size).sum()
    }

    /// The SHA-256, in hexadecimal digits: of the library where that is all; else of a text with a line `SHA-256  path
    /// in the bundle` for each of its files.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn sha256(&self) -> io::Result<String> {
        let Some(bundle) = &self.bundle else { return sha256(&self.path) };
        let mut sum = Sha256::new();
        for path in self.files() {
            let name = path.strip_prefix(bundle).unwrap_or(path);
            sum.update(format!("{}  {}\n", sha256(path)?, name.display()));
        }
        Ok(hexadecimal(&sum.finalize()))
    }
}

/// Every file below `folder`. A link counts as the file that it leads to, so that a change there is seen, and so that
/// its owner is asked for.
fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let metadata = std::fs::metadata(&path)?;
        if metadata.is_dir() && depth < BUNDLE_DEPTH_MAX {
            walk(&path, depth + 1, files)?;
        } else if metadata.is_file() && files.len() < BUNDLE_FILES_MAX {
            files.push(path);
        } else {
            let what = if metadata.is_file() || metadata.is_dir() { "too much is in it" } else { "not a regular file" };
            return Err(io::Error::other(format!("`{}`: {what}", path.display())));
        }
    }
    Ok(())
}

/// The SHA-256 of the file at `path`, in hexadecimal digits.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut sum, mut buffer) = (Sha256::new(), vec![0; 256 * 1024]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hexadecimal(&sum.finalize())),
            count => sum.update(&buffer[..count]),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_is_written_replaced_or_added_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("libx.so");
        fs::write(&library, "one").unwrap();
        let single = PluginFile::examine(&library, None).unwrap();
        let bundle = PluginFile::examine(&library, Some(dir.path())).unwrap();
        assert!(single.is_unchanged() && bundle.is_unchanged());
        fs::create_dir(dir.path().join("data")).unwrap();
        fs::write(dir.path().join("data/table"), "1").unwrap();
        assert!(single.is_unchanged() && !bundle.is_unchanged());
        fs::write(dir.path().join("new"), "one").unwrap();
        fs::rename(dir.path().join("new"), &library).unwrap();
        assert!(!single.is_unchanged(), "the same text in another file");
        fs::remove_file(&library).unwrap();
        assert!(!single.is_unchanged());
    }

    #[test]
    fn the_sum_of_one_file_is_the_usual_one_and_that_of_a_bundle_is_of_all_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("libx.so");
        fs::write(&library, "abc").unwrap();
        let sum = |bundle| PluginFile::examine(&library, bundle).unwrap().sha256().unwrap();
        assert_eq!(sum(None), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let alone = sum(Some(dir.path()));
        fs::write(dir.path().join("libside.so"), "x").unwrap();
        assert_ne!(sum(Some(dir.path())), alone);
    }

    #[cfg(unix)]
    #[test]
    fn a_bundle_with_a_pipe_in_it_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = std::ffi::CString::new(dir.path().join("pipe").to_str().unwrap()).unwrap();
        // SAFETY: the path ends with a zero and lives during the call.
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
        fs::write(dir.path().join("libx.so"), "x").unwrap();
        let error = PluginFile::examine(&dir.path().join("libx.so"), Some(dir.path())).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }
}
