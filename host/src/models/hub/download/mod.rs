//! From the hub into Hugging Face's cache, where other tools find it: [`remote`] asks, [`select`] chooses the files,
//! [`blob`] fetches one.

pub mod blob;
pub mod remote;
pub mod select;

use crate::env_vars::{self, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN};
use crate::error::{Error, Result};
use crate::hardware::disk;
use crate::models::source::Source;
use crate::models::{format, hashes};
use pajamas_plugin_api::CancelToken;
use remote::{Failure, Listing, Remote, RemoteFile};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Files that are fetched at the same time.
const AT_ONCE: usize = 4;
/// Requests for the list of files before it is given up.
const TRIES_MAX: u32 = 5;

/// What to fetch, and from where.
#[derive(Debug, Clone, Default)]
pub struct Pull {
    /// `org/name`, with `@revision` behind it or not.
    pub reference: String,
    /// Of several GGUF files, the one.
    pub file: Option<String>,
    /// Take what the cache has, and ask nobody.
    pub offline: bool,
}

/// What was fetched.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The model in the cache.
    pub source: Source,
    /// Bytes of its files.
    pub size_bytes: u64,
}

/// Whether the environment forbids to ask anybody, as huggingface_hub reads it.
pub fn is_offline() -> bool {
    let value = env_vars::value(HF_HUB_OFFLINE).map(|value| value.to_string_lossy().to_lowercase());
    value.is_some_and(|value| ["1", "true", "yes", "on"].contains(&value.as_str()))
}

/// Brings a model into Hugging Face's cache: only the files that make it, and of those only what is not there yet.
/// `progress` hears of bytes so far and in all. The revision is what it is on the hub now; what was fetched is pinned to its
/// commit.
///
/// # Errors
/// `Usage` for what is no id; `ModelNotFound` where the hub has nothing that can be used; `Refused` where there is not
/// enough room on the disk, or the hub cannot be reached; `Interrupted`.
pub fn pull(wanted: &Pull, progress: &(dyn Fn(u64, u64) + Sync), cancel: &CancelToken) -> Result<Pulled> {
    let reference = wanted.reference.as_str();
    let (id, revision) = reference.split_once('@').unwrap_or((reference, "main"));
    if !super::is_id(reference) || !super::is_revision(revision) {
        return Err(Error::Usage {
            message: format!("`{reference}` is no id of the hub's"),
            hint: "an id is `org/name` or `org/name@revision`".into(),
        });
    }
    if wanted.offline || is_offline() {
        let source = super::find(reference)?;
        return Ok(Pulled { size_bytes: size_of(&source)?, source });
    }
    let cache = super::cache().ok_or_else(|| Error::Refused {
        message: "the home folder is unknown, and so is the cache to fetch into".into(),
        hint: "set HF_HOME".into(),
    })?;
    let text = |name| env_vars::value(name).map(|value| value.to_string_lossy().into_owned());
    let endpoint = text(HF_ENDPOINT).unwrap_or_else(|| "https://huggingface.co".into());
    let remote = Remote::new(&endpoint, id, revision, text(HF_TOKEN), &cache);
    let Listing { commit, files } = listing(&remote, cancel)?;
    let files = select::select(reference, &files, wanted.file.as_deref())?;
    let repository = cache.join(hf_hub::Repo::model(id.to_owned()).folder_name());
    let size_bytes: u64 = files.iter().map(|file| file.size).sum();
    check_room(&repository, &files)?;
    let done = Mutex::new(0_i64);
    let tell = |bytes: i64| {
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        *done += bytes;
        progress(u64::try_from(*done).unwrap_or(0), size_bytes);
    };
    let snapshot = fetch(&remote, &commit, &files, &repository, &tell, cancel)?;
    if revision != commit {
        let path = repository.join("refs").join(revision);
        let dir = path.parent().unwrap_or(&repository);
        std::fs::create_dir_all(dir).map_err(Error::io("creating", dir))?;
        crate::files::replace(&path, commit.as_bytes(), 0o644)?;
    }
    let source = match files.iter().find(|file| wanted.file.as_ref() == Some(&file.name)) {
        // The snapshot may have others by now.
        Some(file) => {
            let path = snapshot.join(&file.name);
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            Source { format: format::detect(&path)?, path, name, hub: Some((id.to_owned(), commit)) }
        }
        None => super::find_in(&cache, &format!("{id}@{commit}"))?,
    };
    Ok(Pulled { source, size_bytes })
}

fn size_of(source: &Source) -> Result<u64> {
    let files = hashes::files_of(source)?;
    Ok(files.iter().filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum())
}

/// Refuses what the disk has no room for, before anything large is asked for.
fn check_room(repository: &Path, files: &[RemoteFile]) -> Result<()> {
    let blobs = repository.join("blobs");
    let size = |path: PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
    let missing = |file: &RemoteFile| {
        let here = size(blobs.join(&file.etag)).max(size(blobs.join(format!("{}.incomplete", file.etag))));
        file.size.saturating_sub(here)
    };
    let missing: u64 = files.iter().map(missing).sum();
    let Some(room) = disk::room(repository) else { return Ok(()) };
    if missing <= room.free_bytes {
        return Ok(());
    }
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    Err(Error::Refused {
        message: format!(
            "`{}` has no room for the model: {:.1} GiB are to be fetched, and {:.1} GiB are free",
            repository.display(),
            gib(missing),
            gib(room.free_bytes)
        ),
        hint: "make room, or move the cache to another disk with HF_HOME".into(),
    })
}

/// Hears of bytes that came, or had to be thrown away.
pub type Tell<'a> = &'a (dyn Fn(i64) + Sync);

/// The files of the revision, asked for again where the hub is busy.
///
/// # Errors
/// `Interrupted`; when the hub refuses, or cannot be reached.
pub fn listing(remote: &Remote, cancel: &CancelToken) -> Result<Listing> {
    let mut tries = 0;
    loop {
        let (reason, wait) = match remote.listing() {
            Ok(listing) => return Ok(listing),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Passing { reason, wait }) => (reason, wait),
        };
        tries += 1;
        if tries >= TRIES_MAX {
            return Err(Error::Refused {
                message: format!("the hub cannot be reached: {reason}"),
                hint: "look at the network, HTTPS_PROXY and HF_ENDPOINT; `--offline` uses only what is in the cache"
                    .into(),
            });
        }
        blob::pause(wait.unwrap_or(std::time::Duration::from_millis(250) * (1 << tries)), cancel)?;
    }
}

/// Brings `files` of `commit` into the cache's folder `repository` (`models--org--name`), several at a time, and returns
/// the snapshot's folder.
///
/// # Errors
/// Those of [`blob::fetch`]: the first one. What is whole by then stays, and so do parts.
pub fn fetch(
    remote: &Remote,
    commit: &str,
    files: &[RemoteFile],
    repository: &Path,
    tell: Tell<'_>,
    cancel: &CancelToken,
) -> Result<PathBuf> {
    let (blobs, snapshot) = (repository.join("blobs"), repository.join("snapshots").join(commit));
    for dir in [&blobs, &snapshot] {
        std::fs::create_dir_all(dir).map_err(Error::io("creating", dir))?;
    }
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(files.len()) {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let placed = blob::fetch(remote, commit, file, &blobs, tell, cancel)
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
