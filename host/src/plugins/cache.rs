//! Remembers what plugins answered, so that a warm start runs none of their code. A cache: whatever is wrong with the
//! file, plugins are asked again, and a file that cannot be written costs the time only.

use super::file::PluginFile;
use crate::config::Config;
use crate::worker::protocol::ProbeReport;
use pajamas_plugin_api::Availability;
use pajamas_plugin_api::abi::wire;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The first bytes of the file; the number is that of its layout.
const MAGIC: &[u8] = b"pajamas-plugin-cache-1\n";
/// Bytes that the file may have.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Environments that a plugin's answers are remembered for.
const ENVIRONMENTS_MAX: usize = 4;
/// How long the answer of a plugin that runs here counts. What changes it is noticed before, as a rule.
const AVAILABLE_FOR: Duration = Duration::from_secs(3600);
/// How long any other answer counts: whoever mends something wants to see it.
const OTHERWISE_FOR: Duration = Duration::from_secs(300);

/// What is remembered of every plugin file, by its path.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Cache {
    /// By what it was written: another host, API or worker asks afresh.
    writer: String,
    entries: BTreeMap<PathBuf, Entry>,
    /// The paths whose entries changed since they were read.
    #[serde(skip)]
    changed: BTreeSet<PathBuf>,
}

/// What is remembered of one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The files as they were.
    pub file: PluginFile,
    /// The SHA-256 of what was in them.
    pub sha256: String,
    /// What it answered in each of the last environments, the latest first.
    answers: Vec<Answer>,
    /// What its arithmetic came to; none if that was never checked.
    pub verdict: Option<Verdict>,
}

/// What a plugin answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// In seconds since 1970.
    pub asked_at: u64,
    /// The [`everything`](super::environment::everything) of then.
    pub environment: String,
    /// The answer, or why there is none.
    pub result: Result<ProbeReport, Failure>,
    /// The end of what it wrote to stderr.
    pub stderr: String,
}

/// Why a plugin gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// In a sentence.
    pub reason: String,
    /// What the user can do about it; may be empty.
    pub remedy: String,
}

/// What checking a backend's arithmetic came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// In seconds since 1970.
    pub reached_at: u64,
    /// The [`drivers`](super::environment::drivers) of then.
    pub drivers: String,
    /// What it was checked against.
    pub reference: String,
    /// What was found.
    pub finding: Finding,
}

/// What was found of a backend's arithmetic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finding {
    /// It computes rightly.
    Right,
    /// It computes wrongly, so.
    Wrong(String),
    /// It took its process along, so.
    Crashed(String),
    /// It could not be checked, because.
    Unchecked(String),
}

impl Verdict {
    /// Whether it still counts, at `now` with these `drivers`, for this `reference`. Numbers do not change by themselves; what
    /// crashed may have lacked memory.
    pub fn counts(&self, now: u64, drivers: &str, reference: &str) -> bool {
        let lasts = match self.finding {
            Finding::Right | Finding::Wrong(_) => Duration::MAX,
            Finding::Crashed(_) => OTHERWISE_FOR,
            Finding::Unchecked(_) => AVAILABLE_FOR,
        };
        let age = now.saturating_sub(self.reached_at);
        self.drivers == drivers && self.reference == reference && age < lasts.as_secs()
    }
}

impl Answer {
    /// Whether it still counts, at `now` in this `environment`.
    fn is_fresh(&self, now: u64, environment: &str) -> bool {
        let lasts = match &self.result {
            Ok(report) if !matches!(report.availability, Availability::Unavailable { .. }) => AVAILABLE_FOR,
            _ => OTHERWISE_FOR,
        };
        // One from the future is of another clock.
        self.environment == environment && self.asked_at <= now && now - self.asked_at < lasts.as_secs()
    }
}

impl Cache {
    /// Reads the cache; empty where there is none that this host can use.
    pub fn read(config: &Config) -> Self {
        let writer = writer(config);
        let read = Self::parse(&path(config)).filter(|cache| cache.writer == writer);
        read.unwrap_or_else(|| Self { writer, ..Self::default() })
    }

    fn parse(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
            return None;
        }
        let mut bytes = Vec::new();
        std::fs::File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        wire::decode(bytes.strip_prefix(MAGIC)?, "the plugin cache").ok()
    }

    /// What is known of `file`, if it is still the same; its sum needs no reading then.
    pub fn entry(&self, file: &PluginFile) -> Option<&Entry> {
        self.entries.get(&file.path).filter(|entry| entry.file == *file)
    }

    /// The answer that `file` gave, if it still counts.
    pub fn answer(&self, file: &PluginFile, environment: &str) -> Option<&Answer> {
        self.entry(file)?.answers.iter().find(|answer| answer.is_fresh(now(), environment))
    }

    /// Remembers `file` and its sum. What was known of other contents is forgotten.
    pub fn remember(&mut self, file: &PluginFile, sha256: &str) {
        let old = self.entries.get(&file.path);
        if old.is_some_and(|entry| entry.file == *file) {
            return;
        }
        // The same bytes under a new date compute what they did.
        let verdict = old.filter(|entry| entry.sha256 == sha256).and_then(|entry| entry.verdict.clone());
        let entry = Entry { file: file.clone(), sha256: sha256.into(), answers: vec![], verdict };
        self.entries.insert(file.path.clone(), entry);
        self.changed.insert(file.path.clone());
    }

    /// Remembers an answer of `file`, which is remembered.
    pub fn set_answer(&mut self, file: &PluginFile, answer: Answer) {
        if let Some(entry) = self.entries.get_mut(&file.path).filter(|entry| entry.file == *file) {
            entry.answers.retain(|other| other.environment != answer.environment);
            entry.answers.insert(0, answer);
            entry.answers.truncate(ENVIRONMENTS_MAX);
            self.changed.insert(file.path.clone());
        }
    }

    /// Remembers what checking `file`, which is remembered, came to.
    pub fn set_verdict(&mut self, file: &PluginFile, verdict: Option<Verdict>) {
        let entry = self.entries.get_mut(&file.path).filter(|entry| entry.file == *file && entry.verdict != verdict);
        if let Some(entry) = entry {
            entry.verdict = verdict;
            self.changed.insert(file.path.clone());
        }
    }

    /// Writes what changed, whole or not at all. What others have written meanwhile of other plugins stays; entries of files
    /// that are gone go.
    pub fn write(mut self, config: &Config) {
        if self.changed.is_empty() {
            return;
        }
        let path = path(config);
        if let Some(theirs) = Self::parse(&path).filter(|cache| cache.writer == self.writer) {
            let own = std::mem::replace(&mut self.entries, theirs.entries);
            self.entries.extend(own.into_iter().filter(|(path, _)| self.changed.contains(path)));
        }
        self.entries.retain(|path, _| path.exists());
        let bytes = [MAGIC, &wire::encode(&self)].concat();
        let made =
            std::fs::create_dir_all(config.cache_dir()).map_err(crate::Error::io("creating", &config.cache_dir()));
        if let Err(error) = made.and_then(|()| crate::files::replace(&path, &bytes, 0o600)) {
            tracing::debug!("the answers of plugins are not remembered: {error}");
        }
    }
}

fn path(config: &Config) -> PathBuf {
    config.cache_dir().join("plugins.cache")
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// What an answer depends on besides plugin and machine: this host, its API, and the worker that asks.
fn writer(config: &Config) -> String {
    let worker = crate::worker::client::find_executable(config).ok();
    let worker = worker.and_then(|path| PluginFile::examine(&path, None).ok());
    format!("{} {} {worker:?}", env!("CARGO_PKG_VERSION"), pajamas_plugin_api::API_VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pajamas_plugin_api::Capabilities;

    fn answer(availability: Availability, asked_at: u64) -> Answer {
        let capabilities = Capabilities::new("cpu", &["gguf"]);
        let report = ProbeReport { availability, capabilities, recipes: vec![], elapsed_ms: 1.0 };
        Answer { asked_at, environment: "here".into(), result: Ok(report), stderr: String::new() }
    }

    #[test]
    fn an_answer_counts_for_a_while_and_one_that_could_be_mended_for_less() {
        let good = answer(Availability::QuantizeOnly, 1000);
        assert!(good.is_fresh(1000 + AVAILABLE_FOR.as_secs() - 1, "here"));
        assert!(!good.is_fresh(1000 + AVAILABLE_FOR.as_secs(), "here"));
        assert!(!good.is_fresh(1001, "elsewhere") && !good.is_fresh(999, "here"));
        let bad = answer(Availability::no("no driver", "install one"), 1000);
        assert!(bad.is_fresh(1001, "here") && !bad.is_fresh(1000 + OTHERWISE_FOR.as_secs(), "here"));
    }

    #[test]
    fn what_was_written_is_read_and_what_is_damaged_is_nothing() {
        let home = tempfile::tempdir().unwrap();
        let config = Config::of_home(home.path());
        let library = home.path().join("libx.so");
        std::fs::write(&library, "x").unwrap();
        let file = PluginFile::examine(&library, None).unwrap();
        let mut cache = Cache::read(&config);
        cache.remember(&file, "sum");
        cache.set_answer(&file, answer(Availability::QuantizeOnly, now()));
        cache.write(&config);
        let cache = Cache::read(&config);
        assert_eq!(cache.entry(&file).unwrap().sha256, "sum");
        assert!(cache.answer(&file, "here").is_some() && cache.answer(&file, "elsewhere").is_none());
        // Written by another process at the same time.
        let other = home.path().join("liby.so");
        std::fs::write(&other, "y").unwrap();
        let other = PluginFile::examine(&other, None).unwrap();
        let (mut early, mut late) = (Cache::read(&config), Cache::read(&config));
        early.set_answer(&file, answer(Availability::no("no driver", ""), now()));
        early.write(&config);
        late.remember(&other, "other");
        late.write(&config);
        let both = Cache::read(&config);
        assert!(both.entry(&other).is_some());
        let kept = both.answer(&file, "here").unwrap().result.as_ref().unwrap();
        assert_ne!(kept.availability, Availability::QuantizeOnly, "the newer answer stays");
        let whole = std::fs::read(path(&config)).unwrap();
        for damaged in [&whole[..whole.len() / 2], b"", b"nonsense", &[MAGIC, &[0xc1; 100]].concat()] {
            std::fs::write(path(&config), damaged).unwrap();
            assert!(Cache::read(&config).entries.is_empty());
        }
        std::fs::write(&library, "changed").unwrap();
        std::fs::write(path(&config), whole).unwrap();
        assert!(Cache::read(&config).entry(&PluginFile::examine(&library, None).unwrap()).is_none());
    }

    #[test]
    fn the_same_bytes_keep_their_verdict_and_others_lose_it() {
        let home = tempfile::tempdir().unwrap();
        let library = home.path().join("libx.so");
        let examine = |text: &str| {
            std::fs::write(&library, text).unwrap();
            std::thread::sleep(Duration::from_millis(5));
            PluginFile::examine(&library, None).unwrap()
        };
        let mut cache = Cache::default();
        let first = examine("x");
        cache.remember(&first, "sum");
        let verdict = Verdict { reached_at: 5, drivers: "d".into(), reference: "r".into(), finding: Finding::Right };
        assert!(verdict.counts(u64::MAX, "d", "r") && !verdict.counts(5, "other", "r") && !verdict.counts(5, "d", "s"));
        let crashed = Verdict { finding: Finding::Crashed("x".into()), ..verdict.clone() };
        assert!(crashed.counts(6, "d", "r") && !crashed.counts(5 + OTHERWISE_FOR.as_secs(), "d", "r"));
        cache.set_verdict(&first, Some(verdict.clone()));
        let again = examine("y");
        cache.remember(&again, "sum");
        assert_eq!(cache.entry(&again).unwrap().verdict, Some(verdict));
        let other = examine("z");
        cache.remember(&other, "other");
        assert_eq!(cache.entry(&other).unwrap().verdict, None);
    }
}
