//! Finds the files that may be plugins: each folder in order, sorted by name, not recursive, bundle folders aside.

use super::preflight::{NO_PLUGIN, Refusal};
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Bytes that a bundle's `plugin.toml` may have.
const BUNDLE_FILE_BYTES_MAX: u64 = 64 * 1024;
/// The file that makes a folder a bundle.
pub const BUNDLE_FILE: &str = "plugin.toml";
const BUNDLE_REMEDY: &str = "`plugin.toml` names a library of its own folder: library = \"libname.so\"";

/// A file that may be a plugin.
#[derive(Debug)]
pub struct Found {
    /// The name it goes by in its folder: the file's, or the bundle folder's.
    pub name: OsString,
    /// Where it was found: a file, a bundle folder, or a link to either.
    pub found_at: PathBuf,
    /// The library, by its canonical path where it has one.
    pub path: PathBuf,
    /// The bundle folder that it is the library of.
    pub bundle: Option<PathBuf>,
    /// The place where the same file was found, too, if that one counts.
    pub same_as: Option<PathBuf>,
    /// Why it cannot be one, where that shows already.
    pub refusal: Option<Refusal>,
}

/// What became of searching one folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Searched {
    /// It has so many entries that may be plugins.
    Found(usize),
    /// There is no such folder.
    Missing,
    /// It cannot be read, for this reason.
    Unreadable(String),
}

/// Every file with a shared library's extension in `dirs`, and the entry library of every bundle folder. Of one file that
/// is found in several places the first counts, but for links: a link counts where nothing else leads to its file.
pub fn discover(dirs: &[PathBuf]) -> Vec<Found> {
    let mut searched: Vec<PathBuf> = Vec::new();
    let mut found = Vec::new();
    for dir in dirs {
        // The same folder named twice is no news.
        let canonical = dir.canonicalize().unwrap_or_else(|_| dir.clone());
        if !searched.contains(&canonical) {
            found.extend(entries(dir).unwrap_or_default().into_iter().map(Entry::resolve));
            searched.push(canonical);
        }
    }
    let mut counts: HashMap<PathBuf, (bool, PathBuf)> = HashMap::new();
    for file in &found {
        let is_link = file.found_at.is_symlink();
        let known = counts.entry(file.path.clone()).or_insert_with(|| (is_link, file.found_at.clone()));
        if known.0 && !is_link {
            *known = (false, file.found_at.clone());
        }
    }
    for file in &mut found {
        let counting = counts.get(&file.path).map(|(_, found_at)| found_at);
        file.same_as = counting.filter(|counting| **counting != file.found_at).cloned();
    }
    found
}

/// What became of searching each of `dirs`.
pub fn folders(dirs: &[PathBuf]) -> Vec<Searched> {
    let searched = |dir: &PathBuf| match entries(dir) {
        Ok(entries) => Searched::Found(entries.len()),
        Err(error) if error.kind() == ErrorKind::NotFound => Searched::Missing,
        Err(error) => Searched::Unreadable(error.to_string()),
    };
    dirs.iter().map(searched).collect()
}

/// What lies at `path`: a bundle folder, or something that is taken for a library, whatever its name.
pub fn at(path: &Path) -> Found {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let alone =
        || Entry { name: OsString::new(), path: path.clone(), library: path.clone(), is_bundle: false, refusal: None };
    bundle(&path).unwrap_or_else(alone).resolve()
}

/// Something in a folder that goes by the name of a plugin.
struct Entry {
    name: OsString,
    /// A file or a bundle folder.
    path: PathBuf,
    library: PathBuf,
    is_bundle: bool,
    refusal: Option<Refusal>,
}

impl Entry {
    fn resolve(self) -> Found {
        let Self { name, path: found_at, library, is_bundle, mut refusal } = self;
        let path = library.canonicalize().unwrap_or_else(|error| {
            refusal.get_or_insert_with(|| leads_nowhere(&library, is_bundle, &error));
            library
        });
        let bundle = is_bundle.then(|| found_at.canonicalize().unwrap_or_else(|_| found_at.clone()));
        Found { name, found_at, path, bundle, same_as: None, refusal }
    }
}

/// What may be plugins in `dir`, sorted by name.
fn entries(dir: &Path) -> std::io::Result<Vec<Entry>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)?.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths.into_iter().filter_map(entry).collect())
}

fn entry(path: PathBuf) -> Option<Entry> {
    let name = path.file_name()?.to_owned();
    if name.to_string_lossy().starts_with('.') {
        return None;
    }
    let library = || Entry { name, library: path.clone(), path: path.clone(), is_bundle: false, refusal: None };
    bundle(&path).or_else(|| is_library(&path).then(library))
}

/// The bundle at `path`, if it is one.
fn bundle(path: &Path) -> Option<Entry> {
    let bundle_file = path.join(BUNDLE_FILE);
    if !path.is_dir() || bundle_file.symlink_metadata().is_err() {
        return None;
    }
    let name = path.file_name()?.to_owned();
    let (library, refusal) = match bundle_library(&bundle_file) {
        Ok(library) => (path.join(library), None),
        Err(reason) => (path.to_owned(), Some(Refusal::new(reason, BUNDLE_REMEDY))),
    };
    Some(Entry { name, path: path.to_owned(), library, is_bundle: true, refusal })
}

/// Whether `path` has the name of a shared library, of whatever system.
pub fn is_library(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["so", "dylib", "dll"].iter().any(|known| extension == *known))
}

/// The entry library that a bundle's file names: a plain file name, never a way out of the folder.
fn bundle_library(path: &Path) -> Result<PathBuf, String> {
    // A pipe would never end.
    let file = std::fs::metadata(path).and_then(|metadata| match metadata.is_file() {
        true => std::fs::File::open(path),
        false => Err(std::io::Error::other("not a regular file")),
    });
    let mut text = String::new();
    file.and_then(|file| file.take(BUNDLE_FILE_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| format!("its `{BUNDLE_FILE}` cannot be read: {error}"))?;
    let table: toml::Table =
        toml::from_str(&text).map_err(|error| format!("its `{BUNDLE_FILE}` cannot be read: {}", error.message()))?;
    let library = table.get("library").and_then(toml::Value::as_str);
    let library = Path::new(library.ok_or_else(|| format!("its `{BUNDLE_FILE}` names no library"))?);
    if library.components().count() == 1 && library.file_name().is_some() {
        return Ok(library.to_owned());
    }
    Err(format!("its `{BUNDLE_FILE}` names `{}`, which is not a file of its own folder", library.display()))
}

/// Why `path` has no canonical one.
fn leads_nowhere(path: &Path, is_bundle: bool, error: &std::io::Error) -> Refusal {
    let remedy = format!("rm {}", crate::text::quoted(&path.to_string_lossy()));
    match std::fs::read_link(path) {
        Ok(target) if error.kind() == ErrorKind::NotFound => {
            let reason = format!("it is a link to `{}`, which is not there", target.display());
            Refusal::new(reason, remedy)
        }
        Ok(_) => Refusal::new(format!("it is a link that leads nowhere: {error}"), remedy),
        Err(_) if is_bundle && error.kind() == ErrorKind::NotFound => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            Refusal::new(format!("its `{BUNDLE_FILE}` names `{name}`, which is not there"), BUNDLE_REMEDY)
        }
        Err(_) => Refusal::new(format!("it cannot be read: {error}"), NO_PLUGIN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_folders_and_sorted_names_come_first_and_only_libraries_count() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (root.path().join("a"), root.path().join("b"));
        for file in ["a/libz.so", "a/libb.so", "a/notes.txt", "a/.hidden.so", "b/libz.so", "b/deep/libx.so"] {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        let dirs = [a.clone(), b.clone(), a.clone(), root.path().join("none"), a.join("notes.txt")];
        let found = discover(&dirs);
        let names: Vec<_> =
            found.iter().map(|f| f.path.strip_prefix(root.path().canonicalize().unwrap()).unwrap()).collect();
        assert_eq!(names, ["a/libb.so", "a/libz.so", "b/libz.so"].map(Path::new));
        assert!(found.iter().all(|file| file.same_as.is_none()));
        let searched = folders(&dirs);
        assert_eq!(searched[1..4], [Searched::Found(1), Searched::Found(2), Searched::Missing]);
        assert!(matches!(&searched[4], Searched::Unreadable(_)));
    }

    #[test]
    fn a_bundle_names_its_library_and_nothing_outside_itself() {
        let root = tempfile::tempdir().unwrap();
        let bundle = root.path().join("mlx");
        std::fs::create_dir(&bundle).unwrap();
        std::fs::write(bundle.join("libmlx_backend.so"), "").unwrap();
        std::fs::write(bundle.join("libsidecar.so"), "").unwrap();
        let found = |text: &str| {
            std::fs::write(bundle.join(BUNDLE_FILE), text).unwrap();
            let mut all = discover(&[root.path().to_owned()]);
            assert_eq!(all.len(), 1);
            all.remove(0)
        };
        let whole = found("library = 'libmlx_backend.so'");
        let folder = bundle.canonicalize().unwrap();
        assert_eq!((&whole.path, whole.bundle.as_ref()), (&folder.join("libmlx_backend.so"), Some(&folder)));
        assert!(whole.refusal.is_none());
        for (text, reason) in [
            ("library = '../libevil.so'", "not a file of its own folder"),
            ("library = '/libevil.so'", "not a file of its own folder"),
            ("library = 3", "names no library"),
            ("library", "cannot be read"),
        ] {
            let refusal = found(text).refusal.unwrap();
            assert!(refusal.reason.contains(reason), "{text}: {}", refusal.reason);
        }
        let gone = found("library = 'libgone.so'").refusal.unwrap();
        assert_eq!(gone.reason, "its `plugin.toml` names `libgone.so`, which is not there");
    }

    #[cfg(unix)]
    #[test]
    fn links_that_lead_nowhere_are_refused_and_a_file_counts_before_a_link_to_it() {
        use std::os::unix::fs::symlink;
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink("gone.so", a.path().join("libx.so")).unwrap();
        symlink("loop.so", a.path().join("loop.so")).unwrap();
        std::fs::write(b.path().join("libx.so"), "x").unwrap();
        let found = discover(&[a.path().to_owned(), b.path().to_owned()]);
        let reason = |index: usize| found[index].refusal.as_ref().map(|refusal| refusal.reason.clone());
        assert_eq!(reason(0).unwrap(), "it is a link to `gone.so`, which is not there");
        assert!(reason(1).unwrap().starts_with("it is a link that leads nowhere"));
        assert!(reason(2).is_none() && found[2].same_as.is_none());
        let (first, file) = (b.path().join("a.so"), b.path().join("libx.so"));
        symlink(&file, &first).unwrap();
        let found = discover(&[b.path().to_owned()]);
        assert_eq!((found[0].same_as.as_ref(), found[1].same_as.as_ref()), (Some(&file), None));
        std::fs::rename(&file, b.path().join("elsewhere")).unwrap();
        symlink("elsewhere", &file).unwrap();
        let found = discover(&[b.path().to_owned()]);
        assert_eq!((found[0].same_as.as_ref(), found[1].same_as.as_ref()), (None, Some(&first)), "of links the first");
    }
}
