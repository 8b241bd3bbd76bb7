//! Which weight files a snapshot in the cache has, and which it lacks: of a model in parts, the name of any part tells the
//! names of all, so that none can be missing unseen.

use super::{dangling, files_below, present};
use crate::models::safetensors;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Parts of a model, the most. A name that tells of more is a name like any other.
const PARTS_MAX: usize = 1000;

/// The weight files that a model with a configuration needs and `snapshot` lacks: by the index, else by the names of
/// those that are there.
pub fn missing(snapshot: &Path) -> Vec<String> {
    let lacks = |name: &String| !present(&snapshot.join(name));
    if let Ok(Some(shards)) = safetensors::indexed_shards(snapshot) {
        return shards.into_iter().filter(lacks).collect();
    }
    let mut missing = Vec::new();
    if dangling(&snapshot.join(safetensors::INDEX)) {
        missing.push(safetensors::INDEX.to_owned());
    }
    let files = files_below(snapshot);
    let names = files.iter().filter(|path| path.parent() == Some(snapshot)).filter_map(|path| file_name(path));
    let names: Vec<&str> = names.collect();
    let with = |extension: &&str| names.iter().copied().filter(|name| has_extension(name, extension)).collect();
    // The first kind of which there is something is the one that is read: whoever fetched one needs no other.
    let weights: Vec<Vec<&str>> = ["safetensors", "bin", "gguf"].iter().map(with).collect();
    match weights.into_iter().find(|names| !names.is_empty()) {
        Some(names) => missing.extend(wholes(names.into_iter()).flatten().filter(lacks)),
        None if missing.is_empty() => missing.push("model.safetensors".to_owned()),
        None => (),
    }
    missing
}

/// A GGUF model in a snapshot.
pub struct Gguf {
    /// Its file; of one in parts, the first, which leads to the others.
    pub path: PathBuf,
    /// Its files that are not there, named from the snapshot's folder.
    pub missing: Vec<String>,
}

/// The GGUF models in `snapshot` and the folders in it, sorted by path.
pub fn ggufs(snapshot: &Path) -> Vec<Gguf> {
    let files = files_below(snapshot);
    let names = files.iter().filter_map(|path| path.strip_prefix(snapshot).ok()?.to_str());
    let models = wholes(names.filter(|name| has_extension(name, "gguf")));
    let gguf = |files: Vec<String>| {
        let path = snapshot.join(files.first()?);
        Some(Gguf { path, missing: files.into_iter().filter(|name| !present(&snapshot.join(name))).collect() })
    };
    models.filter_map(gguf).collect()
}

/// The files of each model that the files of these names are of, sorted.
fn wholes<'a>(names: impl Iterator<Item = &'a str>) -> impl Iterator<Item = Vec<String>> {
    let models: BTreeSet<Model> = names.map(Model::of).collect();
    models.into_iter().map(|model| model.files())
}

/// A model by the names of its files: before the parts' numbers, how many parts, and behind that.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Model<'a> {
    stem: &'a str,
    parts: Option<(usize, &'a str)>,
}

impl<'a> Model<'a> {
    /// The model that the file `name` is of: `STEM-00002-of-00003.gguf` is of three files, any other of itself.
    fn of(name: &'a str) -> Self {
        let in_parts = || {
            let (whole, extension) = name.rsplit_once('.')?;
            let (before, count) = whole.rsplit_once("-of-")?;
            let (stem, part) = before.rsplit_once('-')?;
            let (part, count) = (part_number(part)?, part_number(count)?);
            let is_part = (1..=count).contains(&part) && count <= PARTS_MAX;
            is_part.then_some(Self { stem, parts: Some((count, extension)) })
        };
        in_parts().unwrap_or(Self { stem: name, parts: None })
    }

    fn files(&self) -> Vec<String> {
        let stem = self.stem;
        match self.parts {
            None => vec![stem.to_owned()],
            Some((count, extension)) => {
                (1..=count).map(|part| format!("{stem}-{part:05}-of-{count:05}.{extension}")).collect()
            }
        }
    }
}

fn part_number(digits: &str) -> Option<usize> {
    let is_number = digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { digits.parse().ok() } else { None }
}

fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

fn has_extension(name: &str, extension: &str) -> bool {
    Path::new(name).extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}
