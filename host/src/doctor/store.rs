//! The models folder: records and artifacts that do not belong together, and what an interrupted run left behind.

use super::{Check, shell};
use crate::config::Config;
use crate::hardware;
use crate::models::store::{self, Record};
use crate::text::{counted, size};
use std::path::{Path, PathBuf};

const MODELS: &str = "models";

/// Looks at the models folder and the locks.
pub(super) fn check(config: &Config) -> Vec<Check> {
    let dir = config.models_dir();
    let listing = match std::fs::read_dir(&dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return vec![Check::ok(MODELS, format!("`{}` is not there: nothing was made yet", dir.display()))];
        }
        Err(error) => {
            let found = format!("`{}` cannot be read: {error}", dir.display());
            return vec![Check::problem(MODELS, found, format!("chmod u+rwx {}", shell(&dir)))];
        }
    };
    let mut paths: Vec<PathBuf> = listing.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let kept = store::list(config);
    let bytes = kept.iter().map(|record| record.size_bytes).sum();
    let mut checks =
        vec![Check::ok(MODELS, format!("{} in `{}`, {}", counted(kept.len(), "model"), dir.display(), size(bytes)))];
    checks.extend(paths.iter().filter_map(|path| left_behind(path)));
    checks.extend(paths.iter().filter_map(|path| misfit(path)));
    checks.extend(locks(&config.cache_dir().join("locks")));
    checks
}

/// What a run whose process is gone left under its hidden name.
fn left_behind(path: &Path) -> Option<Check> {
    let name = path.file_name()?.to_str()?;
    let (artifact, process) = name.strip_prefix('.')?.strip_suffix(".partial")?.rsplit_once('.')?;
    let process: u32 = process.parse().ok()?;
    if hardware::process_exists(process) {
        return None;
    }
    let found = format!(
        "an interrupted run left `{name}` behind ({}), unfinished `{artifact}`",
        size(store::size_on_disk(path))
    );
    Some(Check::warning(MODELS, found, format!("rm -r {}", shell(path))))
}

/// A record whose artifact is gone or is no longer what it tells of.
fn misfit(path: &Path) -> Option<Check> {
    let artifact = path.to_str()?.strip_suffix(".json").map(PathBuf::from)?;
    if path.is_dir() {
        return None;
    }
    let record: Option<Record> = std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let remove = format!("rm {}", shell(path));
    let name = artifact.file_name()?.to_string_lossy().into_owned();
    let Some(record) = record else {
        let found = format!("the record of `{name}` is damaged");
        return Some(Check::warning(MODELS, found, remove));
    };
    if !artifact.exists() {
        return Some(Check::warning(MODELS, format!("there is a record of `{name}`, and no such model"), remove));
    }
    let bytes = store::size_on_disk(&artifact);
    (bytes != record.size_bytes).then(|| {
        let found = format!(
            "`{name}` has {bytes} bytes, its record says {}: it was changed since it was made",
            record.size_bytes
        );
        let again = crate::text::quoted(&record.source);
        let remedy = format!(
            "pajamas models remove --force {} && pajamas quantize {again} -m {}",
            crate::text::quoted(&name),
            record.method
        );
        Check::warning(MODELS, found, remedy)
    })
}

/// Lock files stay where they are made and weigh nothing; what counts is whether one is held.
fn locks(dir: &Path) -> Option<Check> {
    let files: Vec<PathBuf> = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    let held = files.iter().filter(|path| is_held(path)).count();
    Some(match held {
        0 => Check::ok("locks", format!("{}, none held", counted(files.len(), "file"))),
        held => Check::ok("locks", format!("{} held: a model is being made", counted(held, "lock"))),
    })
}

fn is_held(path: &Path) -> bool {
    let Ok(file) = std::fs::File::open(path) else { return false };
    matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn what_does_not_belong_together_is_found_and_what_does_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::of_home(dir.path());
        assert_eq!(check(&config)[0].status, Status::Ok);
        let models = config.models_dir();
        std::fs::create_dir_all(&models).unwrap();
        let write = |name: &str, text: &str| std::fs::write(models.join(name), text).unwrap();
        let remember = |file: &str, size_bytes| {
            let record = Record {
                file: file.into(),
                format: "gguf".into(),
                method: "Q8_0".into(),
                source: "acme/loom".into(),
                size_bytes,
                ..Record::default()
            };
            store::remember(&config, &record).unwrap();
        };
        write("good.gguf", "GGUF....");
        remember("good.gguf", 8);
        assert!(check(&config).iter().all(|check| check.status == Status::Ok), "{:?}", check(&config));
        remember("gone.gguf", 8);
        write("changed.gguf", "GGUF");
        remember("changed.gguf", 8);
        write("broken.gguf.json", "{");
        std::fs::create_dir(models.join(".new.gguf.4294967294.partial")).unwrap();
        std::fs::create_dir(models.join(format!(".busy.gguf.{}.partial", std::process::id()))).unwrap();
        let checks = check(&config);
        let found: Vec<&str> =
            checks.iter().filter(|c| c.status == Status::Warning).map(|c| c.remedy.as_str()).collect();
        let at = |name: &str| models.join(name).display().to_string();
        assert_eq!(
            found,
            [
                format!("rm -r {}", at(".new.gguf.4294967294.partial")).as_str(),
                &format!("rm {}", at("broken.gguf.json")),
                "pajamas models remove --force changed.gguf && pajamas quantize acme/loom -m Q8_0",
                &format!("rm {}", at("gone.gguf.json")),
            ]
        );
    }

    #[test]
    fn a_lock_that_is_held_is_told_from_one_that_lies_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let file = std::fs::File::create(&path).unwrap();
        assert!(locks(dir.path()).unwrap().found.contains("none held"));
        file.lock().unwrap();
        assert_eq!(locks(dir.path()).unwrap().found, "1 lock held: a model is being made");
    }
}
