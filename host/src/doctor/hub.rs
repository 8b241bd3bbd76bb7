//! Hugging Face's cache: whether it can be read, and what was not fetched whole.

use super::{Check, shell};
use crate::models::hub;
use crate::text::{counted, size};
use std::path::Path;

const CACHE: &str = "Hugging Face cache";
/// Cut-short downloads that are listed one by one.
const LISTED_MAX: usize = 10;

/// Looks at the cache of this user.
pub(super) fn check() -> Vec<Check> {
    match hub::cache() {
        Some(cache) => check_at(&cache),
        None => vec![Check::warning(CACHE, "the home folder is unknown", "export HF_HOME=/path/to/a/folder")],
    }
}

fn check_at(cache: &Path) -> Vec<Check> {
    let shown = format!("`{}`", cache.display());
    let listing = match std::fs::read_dir(cache) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return vec![Check::ok(CACHE, format!("{shown} is not there: nothing was fetched yet"))];
        }
        Err(error) => {
            let found = format!("{shown} cannot be read: {error}");
            return vec![Check::problem(CACHE, found, format!("chmod -R u+rX {}", shell(cache)))];
        }
    };
    let mut folders: Vec<_> = listing.flatten().map(|entry| entry.path()).collect();
    folders.sort();
    let models: Vec<_> = folders.iter().filter_map(|folder| Some((folder, hub::id_of(folder)?))).collect();
    let mut checks = vec![Check::ok(CACHE, format!("{shown} holds {}", counted(models.len(), "model")))];
    let cut_short = models.iter().filter_map(|(folder, id)| cut_short(folder, id));
    checks.extend(cut_short.take(LISTED_MAX));
    checks
}

fn cut_short(folder: &Path, id: &str) -> Option<Check> {
    let downloads = hub::incomplete_downloads(folder);
    let bytes = downloads.iter().map(|(_, bytes)| bytes).sum();
    (!downloads.is_empty()).then(|| {
        let found = format!(
            "{} of `{id}` cut short or under way, {} so far",
            counted(downloads.len(), "download"),
            size(bytes)
        );
        Check::warning(CACHE, found, format!("pajamas models pull {}", crate::text::quoted(id)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn cut_short_downloads_are_named_with_their_size() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check_at(&dir.path().join("none"))[0].status, Status::Ok);
        let blobs = dir.path().join("models--acme--loom/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::create_dir_all(dir.path().join("datasets--acme--words/blobs")).unwrap();
        std::fs::write(blobs.join("whole"), "x").unwrap();
        assert_eq!(check_at(dir.path()), [Check::ok(CACHE, format!("`{}` holds 1 model", dir.path().display()))]);
        std::fs::write(blobs.join("a.incomplete"), vec![0; 1024]).unwrap();
        std::fs::write(blobs.join("b.incomplete"), vec![0; 1024]).unwrap();
        let check = check_at(dir.path()).remove(1);
        assert_eq!(check.found, "2 downloads of `acme/loom` cut short or under way, 2.0 KiB so far");
        assert_eq!((check.status, check.remedy.as_str()), (Status::Warning, "pajamas models pull acme/loom"));
    }
}
