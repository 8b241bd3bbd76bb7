//! Finds the files that may be plugins: each folder in order, sorted by name, not recursive, bundle folders aside.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A file that may be a plugin.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Its path, canonical unless it is shadowed.
    pub path: PathBuf,
    /// The file that hides it: of the same name in an earlier folder, or the same file under another name.
    pub shadowed_by: Option<PathBuf>,
}

/// Every file with a shared library's extension in `dirs`, and the entry library of every bundle folder.
/// Folders that do not exist or cannot be read have nothing in them.
pub fn discover(dirs: &[PathBuf]) -> Vec<Found> {
    let mut by_name: HashMap<OsString, PathBuf> = HashMap::new();
    let mut by_path: HashMap<PathBuf, PathBuf> = HashMap::new();
    let mut found = Vec::new();
    for dir in dirs {
        for (name, path) in entries(dir) {
            let canonical = path.canonicalize().unwrap_or_else(|_| path.clone());
            // The same folder named twice is no news.
            if by_name.get(&name) == Some(&canonical) {
                continue;
            }
            let shadowed_by = by_name.get(&name).or_else(|| by_path.get(&canonical)).cloned();
            by_name.entry(name).or_insert_with(|| canonical.clone());
            by_path.entry(canonical.clone()).or_insert_with(|| canonical.clone());
            found.push(Found { path: if shadowed_by.is_some() { path } else { canonical }, shadowed_by });
        }
    }
    found
}

/// The libraries in `dir` with the names they go by: the file's, or the bundle folder's.
fn entries(dir: &Path) -> Vec<(OsString, PathBuf)> {
    let Ok(listing) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = listing.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let library = |path: PathBuf| {
        let name = path.file_name()?.to_owned();
        let library = if path.is_dir() { bundle_entry(&path)? } else { is_library(&path).then_some(path)? };
        Some((name, library))
    };
    paths.into_iter().filter_map(library).collect()
}

fn is_library(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    !hidden && path.extension().is_some_and(|extension| ["so", "dylib", "dll"].iter().any(|known| extension == *known))
}

/// The entry library that a folder's `plugin.toml` names: a plain file name, never a way out of the folder.
fn bundle_entry(dir: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(dir.join("plugin.toml")).ok()?;
    let table: toml::Table = toml::from_str(&text).ok()?;
    let library = Path::new(table.get("library")?.as_str()?);
    (library.components().count() == 1 && library.file_name().is_some()).then(|| dir.join(library))
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
        let found = discover(&[a.clone(), b.clone(), a.clone(), root.path().join("none")]);
        let names: Vec<_> =
            found.iter().map(|f| f.path.strip_prefix(root.path().canonicalize().unwrap()).unwrap()).collect();
        assert_eq!(names, ["a/libb.so", "a/libz.so", "b/libz.so"].map(Path::new));
        assert_eq!(found[2].shadowed_by.as_deref(), Some(a.join("libz.so").canonicalize().unwrap().as_path()));
    }

    #[test]
    fn a_bundle_names_its_library_and_nothing_outside_itself() {
        let root = tempfile::tempdir().unwrap();
        let bundle = root.path().join("mlx");
        std::fs::create_dir(&bundle).unwrap();
        std::fs::write(bundle.join("libmlx_backend.so"), "").unwrap();
        std::fs::write(bundle.join("libsidecar.so"), "").unwrap();
        let paths = |library: &str| {
            std::fs::write(bundle.join("plugin.toml"), format!("library = '{library}'")).unwrap();
            discover(&[root.path().to_owned()]).into_iter().map(|f| f.path).collect::<Vec<_>>()
        };
        assert_eq!(paths("libmlx_backend.so"), [bundle.canonicalize().unwrap().join("libmlx_backend.so")]);
        assert!(paths("../libevil.so").is_empty());
        assert!(paths("/libevil.so").is_empty());
    }
}
