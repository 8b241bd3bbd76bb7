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

/// A file that may be a plugin.
#[derive(Debug)]
pub struct Found {
    /// Its path, canonical unless it is shadowed or leads nowhere.
    pub path: PathBuf,
    /// The bundle folder that it is the library of.
    pub bundle: Option<PathBuf>,
    /// The file that hides it: of the same name in an earlier folder, or the same file under another name.
    pub shadowed_by: Option<PathBuf>,
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

/// Every file with a shared library's extension in `dirs`, and the entry library of every bundle folder.
pub fn discover(dirs: &[PathBuf]) -> Vec<Found> {
    let mut by_name: HashMap<OsString, PathBuf> = HashMap::new();
    let mut by_path: HashMap<PathBuf, PathBuf> = HashMap::new();
    let mut found = Vec::new();
    for entry in dirs.iter().flat_map(|dir| entries(dir).unwrap_or_default()) {
        let Entry { name, path, mut bundle, mut refusal } = entry;
        let canonical = path.canonicalize().unwrap_or_else(|error| {
            refusal.get_or_insert_with(|| leads_nowhere(&path, &error));
            path.clone()
        });
        // The same folder named twice is no news.
        if by_name.get(&name) == Some(&canonical) {
            continue;
        }
        let shadowed_by = by_name.get(&name).or_else(|| by_path.get(&canonical)).cloned();
        if refusal.is_none() {
            by_name.entry(name).or_insert_with(|| canonical.clone());
            by_path.entry(canonical.clone()).or_insert_with(|| canonical.clone());
        }
        bundle = bundle.map(|bundle| bundle.canonicalize().unwrap_or(bundle));
        found.push(Found { path: if shadowed_by.is_some() { path } else { canonical }, bundle, shadowed_by, refusal });
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
    let entry = bundle(&path).unwrap_or(Entry { name: OsString::new(), path, bundle: None, refusal: None });
    let Entry { path, bundle, mut refusal, .. } = entry;
    let canonical = path.canonicalize().unwrap_or_else(|error| {
        refusal.get_or_insert_with(|| leads_nowhere(&path, &error));
        path
    });
    let bundle = bundle.map(|bundle| bundle.canonicalize().unwrap_or(bundle));
    Found { path: canonical, bundle, shadowed_by: None, refusal }
}

/// Something in a folder that goes by the name of a plugin.
struct Entry {
    /// The file's name, or the bundle folder's.
    name: OsString,
    path: PathBuf,
    bundle: Option<PathBuf>,
    refusal: Option<Refusal>,
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
    bundle(&path).or_else(|| is_library(&path).then_some(Entry { name, path, bundle: None, refusal: None }))
}

/// The bundle at `path`, if it is one.
fn bundle(path: &Path) -> Option<Entry> {
    let bundle_file = path.join(BUNDLE_FILE);
    if !path.is_dir() || bundle_file.symlink_metadata().is_err() {
        return None;
    }
    let name = path.file_name()?.to_owned();
    Some(match bundle_library(&bundle_file) {
        Ok(library) => Entry { name, path: path.join(library), bundle: Some(path.to_owned()), refusal: None },
        Err(reason) => {
            let remedy = format!("`{BUNDLE_FILE}` names the library: library = \"libname.so\"");
            Entry { name, path: path.to_owned(), bundle: None, refusal: Some(Refusal::new(reason, remedy)) }
        }
    })
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
fn leads_nowhere(path: &Path, error: &std::io::Error) -> Refusal {
    let remedy = format!("rm {}", crate::text::quoted(&path.to_string_lossy()));
    match std::fs::read_link(path) {
        Ok(target) if error.kind() == ErrorKind::NotFound => {
            let reason = format!("it is a link to `{}`, which is not there", target.display());
            Refusal::new(reason, remedy)
        }
        Ok(_) => Refusal::new(format!("it is a link that leads nowhere: {error}"), remedy),
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
        assert_eq!(found[2].shadowed_by.as_deref(), Some(a.join("libz.so").canonicalize().unwrap().as_path()));
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
        assert_eq!(found("library = 'libgone.so'").refusal.unwrap().remedy, NO_PLUGIN);
    }

    #[cfg(unix)]
    #[test]
    fn links_that_lead_nowhere_are_refused_and_hide_nobody() {
        use std::os::unix::fs::symlink;
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink("gone.so", a.path().join("libx.so")).unwrap();
        symlink("loop.so", a.path().join("loop.so")).unwrap();
        std::fs::write(b.path().join("libx.so"), "x").unwrap();
        let found = discover(&[a.path().to_owned(), b.path().to_owned()]);
        let reason = |index: usize| found[index].refusal.as_ref().map(|refusal| refusal.reason.clone());
        assert_eq!(reason(0).unwrap(), "it is a link to `gone.so`, which is not there");
        assert!(reason(1).unwrap().starts_with("it is a link that leads nowhere"));
        assert!(reason(2).is_none() && found[2].shadowed_by.is_none());
    }
}
