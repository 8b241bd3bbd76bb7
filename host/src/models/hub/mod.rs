//! Hugging Face's cache: where it is, and what an id and a revision mean in it. What is missing is named, file by file, with
//! the command that fetches it; [`download`] does that.
//!
//! Layout: <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>.

pub mod download;
mod weights;

use super::format;
use super::source::Source;
use crate::env_vars::{self, HF_HOME, HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, XDG_CACHE_HOME};
use crate::error::{Error, Result};
use crate::text::below_home;
use pajamas_plugin_api::options::nearest;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use weights::Gguf;

/// How many names an error lists before it counts.
const LISTED_MAX: usize = 10;
/// Files of a snapshot that are looked at, the most.
const FILES_MAX: usize = 10_000;
/// Folders within each other that are looked into.
const DEPTH_MAX: usize = 4;

/// Hugging Face's cache folder, found as its own library finds it; none if the home folder is unknown.
pub fn cache() -> Option<PathBuf> {
    cache_by(env_vars::value, env_vars::user_home)
}

/// `HF_HUB_CACHE`, its older name, `HF_HOME`, `XDG_CACHE_HOME`, the home folder: the first that is set.
fn cache_by(value: impl Fn(&str) -> Option<OsString>, home: impl Fn() -> Option<PathBuf>) -> Option<PathBuf> {
    let path = |name: &str| Some(below_home(value(name)?, &home));
    path(HF_HUB_CACHE)
        .or_else(|| path(HUGGINGFACE_HUB_CACHE))
        .or_else(|| Some(path(HF_HOME)?.join("hub")))
        .or_else(|| Some(path(XDG_CACHE_HOME)?.join("huggingface/hub")))
        .or_else(|| Some(home()?.join(".cache/huggingface/hub")))
}

/// `name` or `org/name`, with `@revision` behind it or not, in the characters that the hub allows.
pub fn is_id(text: &str) -> bool {
    let id = text.split_once('@').map_or(text, |(id, _)| id);
    id.split('/').count() <= 2 && id.split('/').all(is_path_part)
}

/// A revision may have slashes: `refs/pr/1`.
fn is_revision(text: &str) -> bool {
    text.split('/').all(is_path_part)
}

pub(crate) fn is_path_part(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with('.')
        && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// The model `reference` (`org/name` or `org/name@revision`) in the cache.
///
/// # Errors
/// When it is not there, or not all of it.
pub fn find(reference: &str) -> Result<Source> {
    find_file(reference, None)
}

/// The same; of several GGUF files, `file`.
///
/// # Errors
/// As [`find`]; when that file is not there, or not whole.
pub fn find_file(reference: &str, file: Option<&str>) -> Result<Source> {
    let id = reference.split_once('@').map_or(reference, |(id, _)| id);
    match cache() {
        Some(cache) => find_in(&cache, reference, file),
        None => Err(Wanted::new(reference, id, "main").missing("the home folder is unknown")),
    }
}

fn find_in(cache: &Path, reference: &str, file: Option<&str>) -> Result<Source> {
    let (id, revision) = reference.split_once('@').unwrap_or((reference, "main"));
    let wanted = Wanted::new(reference, id, revision);
    let folder = cache.join(hf_hub::Repo::new(id.into(), hf_hub::RepoType::Model).folder_name());
    if !folder.is_dir() {
        return Err(wanted.unknown_id(cache));
    }
    // A branch or tag is a file that holds a commit; a commit is its own name.
    let named = if is_revision(revision) { read_ref(&folder, revision) } else { None };
    let commit = named.clone().unwrap_or_else(|| revision.to_owned());
    let snapshot = folder.join("snapshots").join(&commit);
    if !is_path_part(&commit) || !snapshot.is_dir() {
        return Err(match named {
            Some(_) => wanted.missing(format!("the cache knows its revision `{revision}` and has no file of it")),
            None => wanted.unknown_revision(&folder),
        });
    }
    let hub = Some((id.to_owned(), commit));
    if present(&snapshot.join("config.json")) || dangling(&snapshot.join("config.json")) {
        let missing = missing_files(&snapshot);
        if !missing.is_empty() {
            return Err(wanted.incomplete(&snapshot, &missing, incomplete_downloads(&folder).len()));
        }
        let name = id.rsplit('/').next().unwrap_or(id).to_owned();
        let format = format::detect(&snapshot)?;
        return Ok(Source { path: snapshot, format, name, hub });
    }
    let partial = || incomplete_downloads(&folder).len();
    let mut ggufs = weights::ggufs(&snapshot);
    if let Some(file) = file {
        ggufs.retain(|gguf| gguf.path == snapshot.join(file));
        if ggufs.is_empty() {
            return Err(wanted.incomplete(&snapshot, &[file.into()], incomplete_downloads(&folder).len()));
        }
    }
    let whole: Vec<&Gguf> = ggufs.iter().filter(|gguf| gguf.missing.is_empty()).collect();
    match (ggufs.as_slice(), whole.as_slice()) {
        ([], _) => Err(wanted.incomplete(&snapshot, &["config.json".into()], partial())),
        (_, []) => {
            let missing: Vec<String> = ggufs.iter().flat_map(|gguf| gguf.missing.iter().cloned()).collect();
            Err(wanted.incomplete(&snapshot, &missing, partial()))
        }
        ([Gguf { path, .. }], _) => {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let format = format::detect(path)?;
            Ok(Source { path: path.clone(), format, name, hub })
        }
        (several, [first, ..]) => Err(Error::ModelNotFound {
            reference: reference.into(),
            reason: format!(
                "it has {} GGUF files:{}",
                several.len(),
                listed(several.iter().map(|Gguf { path, missing }| {
                    let note = if missing.is_empty() { "" } else { " (not complete)" };
                    format!("{}{note}", path.display())
                }))
            ),
            hint: format!("give one of them by its path: `{}`", first.path.display()),
        }),
    }
}

/// What was asked for, for the errors' sake.
struct Wanted<'a> {
    reference: &'a str,
    id: &'a str,
    revision: &'a str,
}

impl<'a> Wanted<'a> {
    fn new(reference: &'a str, id: &'a str, revision: &'a str) -> Self {
        Self { reference, id, revision }
    }

    fn download(&self) -> String {
        if matches!(self.revision, "main" | "") {
            format!("pajamas models pull {}", self.id)
        } else {
            format!("pajamas models pull {}@{}", self.id, self.revision)
        }
    }

    fn missing(&self, reason: impl Into<String>) -> Error {
        Error::ModelNotFound {
            reference: self.reference.into(),
            reason: reason.into(),
            hint: if self.id.contains('/') {
                format!("fetch it first: `{}`, or give a path to a GGUF file or a folder", self.download())
            } else {
                "`pajamas models` lists what was made; a model on the Hub is named `org/name`".into()
            },
        }
    }

    fn unknown_id(&self, cache: &Path) -> Error {
        let reason = format!("there is no such path, and it is not in the cache `{}`", cache.display());
        let known = cached_ids(cache);
        let Some(near) = nearest_id(self.id, &known) else { return self.missing(reason) };
        let revision = if self.revision.is_empty() { "" } else { &self.reference[self.id.len()..] };
        let hint = format!("did you mean `{near}{revision}`? `{}` fetches the other", self.download());
        Error::ModelNotFound { reference: self.reference.into(), reason, hint }
    }

    fn incomplete(&self, snapshot: &Path, missing: &[String], partial: usize) -> Error {
        let partial = match partial {
            0 => String::new(),
            1 => " (one download was cut short)".into(),
            count => format!(" ({count} downloads were cut short)"),
        };
        Error::ModelNotFound {
            reference: self.reference.into(),
            reason: format!(
                "its snapshot `{}` is not complete{partial}; missing:{}",
                snapshot.display(),
                listed(missing.iter().cloned())
            ),
            hint: format!("fetch the rest: `{}`", self.download()),
        }
    }

    fn empty_revision(&self, there: &[String]) -> Error {
        let hint = match there.iter().find(|known| *known == "main").or(there.first()).map(String::as_str) {
            Some("main") => format!("without the `@` it is `main`: `{}`", self.id),
            Some(other) => format!("did you mean `{}@{other}`? `{}` fetches `main`", self.id, self.download()),
            None => format!("fetch it first: `{}`", self.download()),
        };
        let reason = "there is no revision without a name, and none is behind the `@`".into();
        Error::ModelNotFound { reference: self.reference.into(), reason, hint }
    }

    fn unknown_revision(&self, folder: &Path) -> Error {
        let there = revisions(folder);
        if self.revision.is_empty() {
            return self.empty_revision(&there);
        }
        // A commit may be cut short, as git shows it.
        let begun = there.iter().find(|known| self.revision.len() >= 4 && known.starts_with(self.revision));
        let near = begun.map(String::as_str).or_else(|| nearest(self.revision, there.iter().map(String::as_str)));
        Error::ModelNotFound {
            reference: self.reference.into(),
            reason: if there.is_empty() {
                format!("the cache has the model, but not its revision `{}` nor any other", self.revision)
            } else {
                format!(
                    "the cache has the model, but not its revision `{}`; there are:{}",
                    self.revision,
                    listed(there.iter().cloned())
                )
            },
            hint: match near {
                Some(near) => format!("did you mean `{}@{near}`? `{}` fetches the other", self.id, self.download()),
                None => format!("fetch it first: `{}`", self.download()),
            },
        }
    }
}

/// The id among `known` that `id` was most likely meant to be: the same in other case first, else one whose last part is
/// near; the organization may be left out.
fn nearest_id<'a>(id: &str, known: &'a [String]) -> Option<&'a str> {
    let name = |id: &str| id.rsplit('/').next().unwrap_or(id).to_owned();
    if let Some(same) = known.iter().find(|known| known.eq_ignore_ascii_case(id)) {
        return Some(same);
    }
    // Two models of one organization begin alike, and are none the nearer for it.
    let near: Vec<&str> = known.iter().map(String::as_str).filter(|known| is_near(&name(id), &name(known))).collect();
    if id.contains('/') {
        return nearest(id, near.into_iter());
    }
    let names: Vec<String> = near.iter().map(|near| name(near)).collect();
    let nearest = nearest(id, names.iter().map(String::as_str))?;
    near.into_iter().find(|near| name(near) == nearest)
}

fn is_near(one: &str, other: &str) -> bool {
    nearest(one, std::iter::once(other)).is_some()
}

/// The ids of the models of which something is in the cache, sorted.
fn cached_ids(cache: &Path) -> Vec<String> {
    let folders = std::fs::read_dir(cache).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut ids: Vec<String> = folders.take(FILES_MAX).filter_map(|folder| id_of(&folder)).collect();
    ids.sort();
    ids
}

/// The id of the model that the cache's folder `models--org--name` is for.
pub fn id_of(folder: &Path) -> Option<String> {
    Some(folder.file_name()?.to_str()?.strip_prefix("models--")?.replace("--", "/"))
}

/// One name a line, the first ones, then how many more.
fn listed(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(LISTED_MAX);
    let mut text: String = names.take(LISTED_MAX).map(|name| format!("\n  {name}")).collect();
    if more > 0 {
        text += &format!("\n  and {more} more");
    }
    text
}

/// The commit that the branch or tag `revision` of the repository in `folder` stands for.
fn read_ref(folder: &Path, revision: &str) -> Option<String> {
    std::fs::read_to_string(folder.join("refs").join(revision)).ok().map(|commit| commit.trim().to_owned())
}

/// The branches, tags and commits of which something is in the cache.
fn revisions(folder: &Path) -> Vec<String> {
    let refs = folder.join("refs");
    let mut names: Vec<String> = files_below(&refs)
        .iter()
        .filter_map(|path| path.strip_prefix(&refs).ok())
        .map(|path| path.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/"))
        .collect();
    let commits = std::fs::read_dir(folder.join("snapshots")).into_iter().flatten().flatten();
    let mut commits: Vec<String> = commits.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    commits.sort();
    names.extend(commits);
    names
}

/// Downloads in the repository `folder` that were cut short or are under way, with their bytes so far.
pub fn incomplete_downloads(folder: &Path) -> Vec<(PathBuf, u64)> {
    let blobs = std::fs::read_dir(folder.join("blobs")).into_iter().flatten().flatten();
    let partial = blobs.filter(|entry| entry.file_name().to_string_lossy().ends_with(".incomplete"));
    let mut found: Vec<_> =
        partial.map(|entry| (entry.path(), entry.metadata().map_or(0, |metadata| metadata.len()))).collect();
    found.sort();
    found
}

/// What a model in `snapshot` needs and does not have: its configuration, its tokenizer, its weights.
fn missing_files(snapshot: &Path) -> Vec<String> {
    let is_there = |name: &str| present(&snapshot.join(name));
    let mut missing = Vec::new();
    if !is_there("config.json") {
        missing.push("config.json".to_owned());
    }
    // Older models have a tokenizer in another form; then the reader says what it makes of that.
    if !["tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"].into_iter().any(is_there) {
        missing.push("tokenizer.json".to_owned());
    }
    missing.extend(weights::missing(snapshot));
    missing
}

/// Whether there is a file, at the end of a link or not.
fn present(path: &Path) -> bool {
    path.is_file()
}

/// Whether there is a link that leads nowhere: its blob is gone, or was never fetched.
fn dangling(path: &Path) -> bool {
    path.symlink_metadata().is_ok() && !path.exists()
}

/// Files and links in `folder` and the folders in it, sorted.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(folder, DEPTH_MAX, &mut found);
    found.sort();
    found
}

fn collect(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if found.len() >= FILES_MAX {
            return;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 1 => collect(&entry.path(), depth - 1, found),
            Ok(kind) if !kind.is_dir() => found.push(entry.path()),
            _ => (),
        }
    }
}

#[cfg(test)]
mod tests;
