//! From the hub into Hugging Face's cache, where other tools find it: [`remote`] asks, [`select`] chooses the files,
//! [`outline`] is the model without its tensors, for a look at it before they come, [`blob`] fetches one file.

pub mod blob;
pub mod outline;
pub mod remote;
pub mod select;

use crate::config::Config;
use crate::env_vars::{self, HF_ENDPOINT, HF_TOKEN};
use crate::error::{Error, Result};
use crate::hardware::disk;
use crate::models::source::Source;
use crate::models::{format, hashes};
use pajamas_plugin_api::{CancelToken, ProgressUpdate};
use remote::{Failure, Listing, Remote, RemoteFile};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Files that are fetched at the same time.
const AT_ONCE: usize = 4;
/// How the message begins where there is no answer from the hub.
pub const UNREACHABLE: &str = "the hub cannot be reached";
/// Requests for the same thing before it is given up.
const TRIES_MAX: u32 = 5;

/// What to fetch, and from where.
#[derive(Debug, Clone, Default)]
pub struct Pull {
    /// `org/name`, with `@revision` behind it or not.
    pub reference: String,
    /// Of several GGUF files, the one.
    pub file: Option<String>,
}

/// What was fetched.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The model in the cache.
    pub source: Source,
    /// Bytes of its files.
    pub size_bytes: u64,
}

/// What is about to be fetched.
pub struct Ahead<'a> {
    /// `org/name`.
    pub id: &'a str,
    remote: &'a Remote,
    commit: &'a str,
    files: &'a [RemoteFile],
    repository: &'a Path,
    tell: Tell<'a>,
    cancel: &'a CancelToken,
}

impl Ahead<'_> {
    /// Bytes of all files.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Bytes that are not here yet.
    pub fn missing_bytes(&self) -> u64 {
        let blobs = self.repository.join("blobs");
        let size = |path: PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
        let missing = |file: &RemoteFile| {
            let here = size(blobs.join(&file.etag)).max(size(blobs.join(format!("{}.incomplete", file.etag))));
            file.size.saturating_sub(here)
        };
        self.files.iter().map(missing).sum()
    }

    /// Refuses what the disk has no room for, before anything large is asked for.
    fn check_room(&self) -> Result<()> {
        let missing = self.missing_bytes();
        let Some(room) = disk::room(self.repository).filter(|room| missing > room.free_bytes) else { return Ok(()) };
        Err(Error::Refused {
            message: format!(
                "`{}` has no room for the model: {:.1} GiB are to be fetched, and {:.1} GiB are free",
                self.repository.display(),
                gib(missing),
                gib(room.free_bytes)
            ),
            hint: "make room, or move the cache to another disk with HF_HOME".into(),
        })
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// Brings a model into Hugging Face's cache: only the files that make it, and of those only what is not there yet; offline,
/// it is only looked for there. `look` may refuse it before anything large comes. The revision is what it is on the hub
/// now; what was fetched is pinned to its commit.
///
/// # Errors
/// `Usage` for what is no id; `ModelNotFound` where the hub has nothing that can be used; `Refused` where there is not
/// enough room on the disk, or the hub cannot be reached; `Interrupted`; those of `look`.
pub fn pull(
    wanted: &Pull,
    config: &Config,
    look: &dyn Fn(&Ahead<'_>) -> Result<()>,
    progress: &(dyn Fn(&ProgressUpdate) + Sync),
    cancel: &CancelToken,
) -> Result<Pulled> {
    let reference = wanted.reference.as_str();
    let (id, revision) = reference.split_once('@').unwrap_or((reference, "main"));
    if !super::is_id(reference) || !super::is_revision(revision) {
        return Err(Error::Usage {
            message: format!("`{reference}` is no id of the hub's"),
            hint: "an id is `org/name` or `org/name@revision`".into(),
        });
    }
    if config.offline {
        let source = super::find_file(reference, wanted.file.as_deref())?;
        return Ok(Pulled { size_bytes: size_of(&source)?, source });
    }
    let cache = super::cache().ok_or_else(|| Error::Refused {
        message: "the home folder is unknown, and so is the cache to fetch into".into(),
        hint: "set HF_HOME".into(),
    })?;
    let text = |name| env_vars::value(name).map(|value| value.to_string_lossy().into_owned());
    let endpoint = text(HF_ENDPOINT).unwrap_or_else(|| "https://huggingface.co".into());
    let remote = Remote::new(
        &endpoint,
        id,
        revision,
        text(HF_TOKEN).map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
    );
    let Listing { commit, files } = patiently(cancel, || remote.listing())?;
    let files = select::select(reference, &files, wanted.file.as_deref())?;
    let repository = cache.join(hf_hub::Repo::model(id.to_owned()).folder_name());
    let size_bytes: u64 = files.iter().map(|file| file.size).sum();
    let meter = Meter::new(size_bytes, progress);
    let tell = |bytes: i64| meter.add(bytes);
    let (commit, files) = (commit.as_str(), files.as_slice());
    let ahead = Ahead { id, remote: &remote, commit, files, repository: &repository, tell: &tell, cancel };
    ahead.check_room()?;
    look(&ahead)?;
    meter.restart();
    let snapshot = ahead.fetch(files)?;
    if revision != commit {
        let path = repository.join("refs").join(revision);
        let dir = path.parent().unwrap_or(&repository);
        std::fs::create_dir_all(dir).map_err(Error::io("creating", dir))?;
        crate::files::replace(&path, commit.as_bytes(), 0o644)?;
    }
    // Of one in parts, the first is what is opened.
    let source = match wanted.file.as_ref().and_then(|_| files.iter().find(|file| file.name.ends_with(".gguf"))) {
        // The snapshot may have others by now.
        Some(file) => {
            let path = snapshot.join(&file.name);
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            Source { format: format::detect(&path)?, path, name, hub: Some((id.to_owned(), commit.to_owned())) }
        }
        None => super::find_in(&cache, &format!("{id}@{commit}"), None)?,
    };
    Ok(Pulled { source, size_bytes })
}

/// Counts bytes, and tells how many there are and how fast they come.
struct Meter<'a> {
    all: u64,
    progress: &'a (dyn Fn(&ProgressUpdate) + Sync),
    /// Bytes that are here, those of them that came over the network, and since when.
    state: Mutex<(i64, i64, Instant)>,
}

impl<'a> Meter<'a> {
    fn new(all: u64, progress: &'a (dyn Fn(&ProgressUpdate) + Sync)) -> Self {
        Self { all, progress, state: Mutex::new((0, 0, Instant::now())) }
    }

    fn restart(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = (0, 0, Instant::now());
    }

    fn add(&self, bytes: i64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += bytes;
        // What was here already comes in one piece, or much faster than any network.
        if (1..=blob::PIECE_BYTES as i64).contains(&bytes) {
            state.1 += bytes;
        }
        let (done, seconds) = (u64::try_from(state.0).unwrap_or(0), state.2.elapsed().as_secs_f64());
        let rate = state.1 as f64 / seconds.max(0.001);
        let mib = f64::from(1 << 20);
        let mut detail = format!("{:.1} of {:.1} MiB", done as f64 / mib, self.all as f64 / mib);
        if seconds > 1.0 && rate > 0.0 {
            let left = self.all.saturating_sub(done) as f64 / rate;
            detail += &format!(", {:.1} MiB/s, {left:.0} s left", rate / mib);
        }
        let fraction = if self.all == 0 { 1.0 } else { (done as f64 / self.all as f64) as f32 };
        (self.progress)(&ProgressUpdate { stage: "fetching".into(), fraction, detail });
    }
}

fn size_of(source: &Source) -> Result<u64> {
    let files = hashes::files_of(source)?;
    Ok(files.iter().filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum())
}

/// Hears of bytes that came, or had to be thrown away.
pub type Tell<'a> = &'a (dyn Fn(i64) + Sync);

/// Does what `ask` does, again where the hub is busy.
///
/// # Errors
/// `Interrupted`; when the hub refuses, or cannot be reached.
fn patiently<T>(cancel: &CancelToken, ask: impl Fn() -> Result<T, Failure>) -> Result<T> {
    let mut tries = 0;
    loop {
        cancel.check()?;
        let (reason, wait) = match ask() {
            Ok(answer) => return Ok(answer),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Passing { reason, wait }) => (reason, wait),
            Err(Failure::Unreachable(reason)) => {
                // Whoever has no network should not have to wait long to hear of it.
                tries += 1;
                (reason, None)
            }
        };
        tries += 1;
        if tries >= TRIES_MAX {
            return Err(Error::Refused {
                message: format!("{UNREACHABLE}: {reason}"),
                hint: "look at the network, HTTPS_PROXY and HF_ENDPOINT; `--offline` uses only what is in the cache"
                    .into(),
            });
        }
        blob::pause(wait.unwrap_or(std::time::Duration::from_millis(250) * (1 << tries)), cancel)?;
    }
}

impl Ahead<'_> {
    /// Brings `files` into the repository's folder in the cache (`models--org--name`), several at a time, and returns the
    /// snapshot's folder.
    ///
    /// # Errors
    /// Those of [`blob::fetch`]: the first one. What is whole by then stays, and so do parts.
    fn fetch(&self, files: &[RemoteFile]) -> Result<PathBuf> {
        let (blobs, snapshot) = (self.repository.join("blobs"), self.repository.join("snapshots").join(self.commit));
        for dir in [&blobs, &snapshot] {
            std::fs::create_dir_all(dir).map_err(Error::io("creating", dir))?;
        }
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(files.len()) {
                scope.spawn(|| {
                    while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let placed = blob::fetch(self.remote, self.commit, file, &blobs, self.tell, self.cancel)
                            .and_then(|_| point(&snapshot, &file.name, &file.etag));
                        if let Err(error) = placed {
                            next.store(files.len(), Ordering::Relaxed);
                            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                            return;
                        }
                    }
                });
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(snapshot),
        }
    }
}

/// Makes `name` in the snapshot a link to its blob.
fn point(snapshot: &Path, name: &str, etag: &str) -> Result<()> {
    let path = snapshot.join(name);
    let dir = path.parent().unwrap_or(snapshot);
    std::fs::create_dir_all(dir).map_err(Error::io("creating", dir))?;
    let up = "../".repeat(2 + name.matches('/').count());
    let target = format!("{up}blobs/{etag}");
    if std::fs::read_link(&path).is_ok_and(|there| there == Path::new(&target)) {
        return Ok(());
    }
    // Under a name of its own first, so that there is never nothing.
    let beside = path.with_file_name(format!(".{etag}.{}.link", std::process::id()));
    let _ = std::fs::remove_file(&beside);
    link(&target, &beside).map_err(Error::io("linking", &beside))?;
    std::fs::rename(&beside, &path).map_err(Error::io("renaming", &beside))
}

#[cfg(unix)]
fn link(target: &str, path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

/// Links need a right on Windows that users rarely have.
#[cfg(not(unix))]
fn link(target: &str, path: &Path) -> std::io::Result<()> {
    std::fs::copy(path.parent().unwrap_or(path).join(target), path).map(|_| ())
}

fn is_hexadecimal(text: &str) -> bool {
    (40..=64).contains(&text.len())
        && text.bytes().all(|digit| digit.is_ascii_hexdigit() && !digit.is_ascii_uppercase())
}
