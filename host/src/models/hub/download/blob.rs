//! One file of the hub's into the cache's `blobs`: gone on with where it was cut short, checked against the hub's sum, and
//! given its name only when whole.

use super::Tell;
use super::remote::{Failure, Remote, RemoteFile};
use crate::error::{Error, Result};
use pajamas_plugin_api::CancelToken;
use sha1::Sha1;
use sha2::digest::DynDigest;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes read at a time.
pub const PIECE_BYTES: usize = 1 << 18;
/// Requests in a row that bring nothing before it is given up.
const TRIES_MAX: u32 = 6;
/// How often it is looked whether another process is done, and whether the user interrupted.
const TICK: Duration = Duration::from_millis(50);

/// Brings `file` of `commit` into the folder `blobs` and returns where it is; nothing is asked where it is there already.
/// Another process that fetches the same file, pajamas or not, is waited for: huggingface_hub locks the same file. `tell`
/// gets the bytes that are there, each time by how many there are more or, after a damage, fewer.
///
/// # Errors
/// `Interrupted`, with the part that came kept for the next time; when the hub refuses or cannot be reached; when the
/// contents are, twice, not those that the hub promised; when the disk is full.
pub fn fetch(
    remote: &Remote,
    commit: &str,
    file: &RemoteFile,
    blobs: &Path,
    tell: Tell<'_>,
    cancel: &CancelToken,
) -> Result<PathBuf> {
    let target = blobs.join(&file.etag);
    let whole = || target.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == file.size);
    if !whole() {
        let _lock = lock(blobs, &file.etag, cancel)?;
        if !whole() {
            let partial = blobs.join(format!("{}.incomplete", file.etag));
            Download { remote, commit, file, partial: &partial, tell, cancel }.run()?;
            std::fs::rename(&partial, &target).map_err(Error::io("renaming", &partial))?;
            return Ok(target);
        }
    }
    tell(i64::try_from(file.size).unwrap_or(i64::MAX));
    Ok(target)
}

/// The lock that huggingface_hub takes for the same blob: `.locks/models--org--name/<etag>.lock` beside the repositories.
fn lock(blobs: &Path, etag: &str, cancel: &CancelToken) -> Result<File> {
    let repository = blobs.parent().unwrap_or(blobs);
    let name = repository.file_name().unwrap_or_default();
    let dir = repository.parent().unwrap_or(repository).join(".locks").join(name);
    std::fs::create_dir_all(&dir).map_err(Error::io("creating", &dir))?;
    let path = dir.join(format!("{etag}.lock"));
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(Error::io("opening", &path))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => pause(TICK, cancel)?,
            Err(TryLockError::Error(error)) => return Err(Error::io("locking", &path)(error)),
        }
    }
}

struct Download<'a> {
    remote: &'a Remote,
    commit: &'a str,
    file: &'a RemoteFile,
    partial: &'a Path,
    tell: Tell<'a>,
    cancel: &'a CancelToken,
}

/// What is on the disk, and its sum so far.
struct Part {
    out: File,
    bytes: u64,
    sum: Box<dyn DynDigest + Send>,
}

impl Download<'_> {
    fn run(&self) -> Result<()> {
        let mut part = self.part_so_far()?;
        let mut damaged = false;
        loop {
            self.complete(&mut part)?;
            let found = hexadecimal(&part.sum.finalize_reset());
            if found == self.file.etag {
                return part.out.sync_all().map_err(Error::io("writing", self.partial));
            }
            self.restart(&mut part)?;
            if damaged {
                let _ = std::fs::remove_file(self.partial);
                return Err(Error::Refused {
                    message: format!(
                        "`{}` came twice with other contents than the hub promises: its {} is {found}, expected {}",
                        self.file.name,
                        if self.file.large { "SHA-256" } else { "SHA-1, as git counts it," },
                        self.file.etag
                    ),
                    hint: "something between here and the hub changes it, a proxy perhaps; nothing was kept".into(),
                });
            }
            damaged = true;
        }
    }

    /// What an earlier download has left.
    fn part_so_far(&self) -> Result<Part> {
        let out = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(self.partial);
        let mut part = Part { out: out.map_err(Error::io("opening", self.partial))?, bytes: 0, sum: self.new_sum() };
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            self.check()?;
            let count = part.out.read(&mut buffer).map_err(Error::io("reading", self.partial))?;
            if count == 0 {
                break;
            }
            self.take(&mut part, &buffer[..count]);
        }
        if part.bytes > self.file.size {
            self.restart(&mut part)?;
        }
        Ok(part)
    }

    /// Asks until all bytes are there.
    fn complete(&self, part: &mut Part) -> Result<()> {
        let (mut tries, mut furthest) = (0, part.bytes);
        while part.bytes < self.file.size {
            let failure = match self.go_on(part)? {
                None => continue,
                Some(failure) => failure,
            };
            let (reason, wait) = match failure {
                Failure::Final(error) => return Err(error),
                Failure::Passing { reason, wait } => (reason, wait),
                Failure::Unreachable(reason) => (reason, None),
            };
            tries = if part.bytes > furthest { 1 } else { tries + 1 };
            furthest = furthest.max(part.bytes);
            if tries >= TRIES_MAX {
                return Err(Error::Refused {
                    message: format!(
                        "`{}` could not be fetched ({} of {} bytes are here): {reason}",
                        self.file.name, part.bytes, self.file.size
                    ),
                    hint: "try again later: it goes on from there".into(),
                });
            }
            tracing::debug!("{}: {reason}; trying again", self.file.name);
            pause(wait.unwrap_or(Duration::from_millis(250) * (1 << tries)), self.cancel)?;
        }
        Ok(())
    }

    /// One request, and what it brings; none if it brought all that it promised.
    fn go_on(&self, part: &mut Part) -> Result<Option<Failure>> {
        self.check()?;
        let (begins, mut body) = match self.remote.open(self.commit, self.file, part.bytes, None) {
            Ok(answer) => answer,
            Err(failure) => return Ok(Some(failure)),
        };
        if begins != part.bytes {
            self.restart(part)?;
        }
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            self.check()?;
            let count = match body.read(&mut buffer) {
                Ok(0) if part.bytes == self.file.size => return Ok(None),
                Ok(0) => return Ok(Some(passing("the connection was closed early"))),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Some(passing(&error.to_string()))),
            };
            if part.bytes + count as u64 > self.file.size {
                self.restart(part)?;
                return Ok(Some(passing("the server sent more than there is")));
            }
            part.out.write_all(&buffer[..count]).map_err(Error::io("writing", self.partial))?;
            self.take(part, &buffer[..count]);
        }
    }

    fn take(&self, part: &mut Part, bytes: &[u8]) {
        part.sum.update(bytes);
        part.bytes += bytes.len() as u64;
        (self.tell)(bytes.len() as i64);
    }

    fn restart(&self, part: &mut Part) -> Result<()> {
        (self.tell)(-i64::try_from(part.bytes).unwrap_or(0));
        part.out.set_len(0).map_err(Error::io("writing", self.partial))?;
        part.out.seek(SeekFrom::Start(0)).map_err(Error::io("writing", self.partial))?;
        (part.bytes, part.sum) = (0, self.new_sum());
        Ok(())
    }

    /// The sum that the hub names such a file by: git's for small ones.
    fn new_sum(&self) -> Box<dyn DynDigest + Send> {
        if self.file.large {
            return Box::new(Sha256::new());
        }
        Box::new(Sha1::new_with_prefix(format!("blob {}\0", self.file.size)))
    }

    fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

fn passing(reason: &str) -> Failure {
    Failure::Passing { reason: reason.to_owned(), wait: None }
}

/// Waits, unless the user interrupts.
pub(super) fn pause(time: Duration, cancel: &CancelToken) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        if cancel.is_cancelled() {
            return Err(Error::Interrupted);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(TICK));
    }
}

fn hexadecimal(sum: &[u8]) -> String {
    sum.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
