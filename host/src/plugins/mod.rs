//! The stages of a plugin: discover → preflight → trust → probe → rank → load. One file each; [`survey`] runs all but
//! the last and keeps a row for every file, with its status and reason. Around them: [`mod@file`] what a plugin consists of,
//! [`pins`] which contents were accepted, [`cache`] what was answered, [`environment`] when that is stale, [`arithmetic`]
//! whether a backend computes rightly, [`conformance`] whether a plugin keeps the rules, [`install`], and [`scaffold`], which begins a new plugin.

pub mod arithmetic;
mod backends;
pub mod cache;
pub mod conformance;
pub mod discover;
pub mod environment;
pub mod file;
pub mod install;
pub mod load;
pub mod pins;
pub mod preflight;
pub mod probe;
pub mod rank;
pub mod scaffold;
pub mod trust;

pub use backends::{Backend, backend, backends};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::worker::protocol::ProbeReport;
use cache::{Answer, Cache, Failure};
use discover::Found;
use file::PluginFile;
use pajamas_plugin_api::Availability;
use pajamas_plugin_api::manifest::Manifest;
use pins::{Pins, Trust};
use preflight::Refusal;
use serde::Serialize;
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Where a plugin's way through the stages ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It can run.
    Available,
    /// It makes models and runs none.
    QuantizeOnly,
    /// It loads, and says that it cannot run here.
    Unavailable,
    /// A file of that name, or a backend of that name, came earlier in the search.
    Shadowed,
    /// It was not loaded: its file, its manifest or its owner do not allow it.
    Refused,
    /// It crashed, hung or failed when it was asked.
    Failed,
}

impl Status {
    /// As a table shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::QuantizeOnly => "quantizes",
            Self::Unavailable => "unavailable",
            Self::Shadowed => "shadowed",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// One file found in the plugin folders, and what became of it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Where it was found: its file, its bundle folder, or a link to either.
    pub found_at: PathBuf,
    /// Its library's canonical path.
    pub path: PathBuf,
    /// The bundle folder that it is the library of.
    pub bundle: Option<PathBuf>,
    /// Its files as they were when they were judged; none where it did not come that far.
    pub file: Option<PluginFile>,
    /// The SHA-256 of its contents; empty where it did not come that far.
    pub sha256: String,
    /// What it says of itself, if it could be read.
    pub manifest: Option<Manifest>,
    /// Where its way ended.
    pub status: Status,
    /// Why it is no more than that; empty for the available.
    pub reason: String,
    /// What the user can do about it; may be empty.
    pub remedy: String,
    /// What it answered when asked.
    pub report: Option<ProbeReport>,
    /// When it was asked, in seconds since 1970; none if it never was.
    pub asked_at: Option<u64>,
    /// The end of what it wrote to stderr when it was asked.
    pub stderr: String,
}

impl Candidate {
    /// The backend's name, or the file's where there is no manifest.
    pub fn name(&self) -> String {
        self.manifest.as_ref().map_or_else(
            || self.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            |manifest| manifest.name.clone(),
        )
    }

    /// Its files, to be loaded.
    ///
    /// # Errors
    /// When it did not come so far that it may be.
    pub fn file(&self) -> Result<&PluginFile> {
        self.file.as_ref().ok_or_else(|| Error::Refused {
            message: format!("`{}` cannot be loaded: {}", self.path.display(), self.reason),
            hint: self.remedy.clone(),
        })
    }

    /// A candidate of which nothing is known yet.
    pub fn new(path: PathBuf) -> Self {
        Self {
            found_at: path.clone(),
            path,
            bundle: None,
            file: None,
            sha256: String::new(),
            manifest: None,
            status: Status::Refused,
            reason: String::new(),
            remedy: String::new(),
            report: None,
            asked_at: None,
            stderr: String::new(),
        }
    }

    fn of(found: &Found) -> Self {
        let (found_at, bundle) = (found.found_at.clone(), found.bundle.clone());
        Self { found_at, bundle, ..Self::new(found.path.clone()) }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.status = Status::Refused;
        self.manifest = refusal.manifest.map(|manifest| *manifest).or(self.manifest.take());
        self.reason = refusal.reason;
        self.remedy = refusal.remedy;
    }

    fn fail(&mut self, failure: &Failure) {
        self.status = Status::Failed;
        self.reason.clone_from(&failure.reason);
        self.remedy.clone_from(&failure.remedy);
    }

    /// Takes over what it answered.
    fn answered(&mut self, answer: &Answer) {
        self.asked_at = Some(answer.asked_at);
        self.stderr.clone_from(&answer.stderr);
        let report = match &answer.result {
            Ok(report) => report,
            Err(failure) => return self.fail(failure),
        };
        match &report.availability {
            Availability::Available { .. } => self.status = Status::Available,
            Availability::QuantizeOnly => {
                self.status = Status::QuantizeOnly;
                let mut formats: Vec<&str> = report.recipes.iter().map(|recipe| recipe.format.as_str()).collect();
                formats.dedup();
                self.reason = format!("it makes {} models and runs none", formats.join(", "));
            }
            Availability::Unavailable { reason, remedy } => {
                self.status = Status::Unavailable;
                self.reason.clone_from(reason);
                self.remedy.clone_from(remedy);
            }
            other => self.reason = format!("it gave an answer that this pajamas does not know: {other:?}"),
        }
        self.report = Some(report.clone());
    }
}

/// Finds every plugin and asks, in worker processes, each that may be loaded and whose last answer no longer counts.
/// Sorted by rank, the available first.
pub fn survey(config: &Config) -> Vec<Candidate> {
    Survey::new(config, false).run()
}

/// As [`survey`], and asks all of them again, whatever they answered before; what was found of their arithmetic is
/// forgotten.
pub fn survey_afresh(config: &Config) -> Vec<Candidate> {
    Survey::new(config, true).run()
}

/// As [`survey_afresh`], and remembers nothing of it.
pub fn survey_and_forget(config: &Config) -> Vec<Candidate> {
    Survey { keep: false, ..Survey::new(config, true) }.run()
}

/// As [`survey_afresh`], for one file that need not lie in a plugin folder: a library, or a bundle folder. What it answers
/// is not remembered.
pub fn examine(path: &Path, config: &Config) -> Candidate {
    let mut survey = Survey::new(config, true);
    let mut candidate = survey.judge(discover::at(path), false);
    survey.ask(std::slice::from_mut(&mut candidate), &[0]);
    candidate
}

/// Every plugin file, looked at without asking any: what may be loaded has its `file`.
pub fn inventory(config: &Config) -> Vec<Candidate> {
    Survey::new(config, false).judge_all()
}

/// Looks at one file as [`examine`] does, without loading it.
pub fn judge(path: &Path, config: &Config) -> Candidate {
    Survey::new(config, true).judge(discover::at(path), false)
}

/// The candidates that go by `name`: the backend's, or the file's.
pub fn named<'a>(candidates: &'a [Candidate], name: &str) -> Vec<&'a Candidate> {
    let called = |candidate: &&Candidate| {
        let files = [&candidate.found_at, &candidate.path].map(|path| path.file_name());
        candidate.name() == name || files.iter().flatten().any(|file| file.to_string_lossy() == name)
    };
    candidates.iter().filter(called).collect()
}

/// One run through the stages.
struct Survey<'a> {
    config: &'a Config,
    cache: Cache,
    pins: Pins,
    /// Why no plugin is trusted.
    pins_error: Option<Error>,
    environment: String,
    /// Whether answers that are remembered do not count.
    afresh: bool,
    /// Whether answers and sums are remembered.
    keep: bool,
}

impl<'a> Survey<'a> {
    fn new(config: &'a Config, afresh: bool) -> Self {
        let (pins, pins_error) = match Pins::read(config) {
            Ok(pins) => (pins, None),
            Err(error) => {
                tracing::warn!("{error}; changes of plugins are not noticed");
                (Pins::default(), Some(error))
            }
        };
        let environment = environment::everything();
        Self { config, cache: Cache::read(config), pins, pins_error, environment, afresh, keep: true }
    }

    fn run(mut self) -> Vec<Candidate> {
        let mut candidates = self.judge_all();
        // Of several builds of one backend for one CPU level, the next is asked only when those before it had no answer.
        let mut rest: Vec<usize> = (0..candidates.len()).filter(|&index| candidates[index].file.is_some()).collect();
        while !rest.is_empty() {
            let mut round: Vec<usize> = Vec::new();
            rest.retain(|&index| {
                let twin = |&other: &usize| same_backend(&candidates[other], &candidates[index]);
                let later = round.iter().any(twin);
                if !later {
                    round.push(index);
                }
                later
            });
            self.ask(&mut candidates, &round);
            rest.retain(|&index| {
                // One that computes wrongly has answered, and is no reason to leave another out.
                let answered = |other: &&Candidate| other.report.is_some() && other.status != Status::Failed;
                let twin = |other: &&Candidate| answered(other) && same_backend(other, &candidates[index]);
                let Some(twin) = candidates.iter().find(twin).map(|twin| twin.path.clone()) else { return true };
                let candidate = &mut candidates[index];
                candidate.status = Status::Shadowed;
                candidate.reason = format!("another `{}` comes first: `{}`", candidate.name(), twin.display());
                false
            });
        }
        if self.keep {
            if self.pins_error.is_none()
                && let Err(error) = self.pins.write(self.config)
            {
                tracing::debug!("the sums of plugins are not remembered: {error}");
            }
            self.cache.write(self.config);
        }
        rank::sort(&mut candidates, self.config.backend.as_deref());
        candidates
    }

    /// Looks at every file in the plugin folders. A file whose name an earlier one has is shadowed, unless that one may not be
    /// loaded.
    fn judge_all(&mut self) -> Vec<Candidate> {
        let mut taken: HashMap<OsString, PathBuf> = HashMap::new();
        let mut candidates = Vec::new();
        for found in discover::discover(&self.config.plugin_dirs) {
            let name = found.name.clone();
            if let Some(first) = found.same_as.as_ref().or_else(|| taken.get(&name)).cloned() {
                let mut candidate = Candidate::of(&found);
                candidate.manifest = preflight::preflight(&candidate.path).ok();
                candidate.status = Status::Shadowed;
                candidate.reason = format!("`{}` comes first", first.display());
                candidates.push(candidate);
                continue;
            }
            let candidate = self.judge(found, true);
            if candidate.file.is_some() {
                taken.insert(name, candidate.found_at.clone());
            }
            candidates.push(candidate);
        }
        candidates
    }

    /// Looks at a file without loading it. What may be loaded has its `file`; what is `pinned` must have been accepted.
    fn judge(&mut self, found: Found, pinned: bool) -> Candidate {
        let mut candidate = Candidate::of(&found);
        if let Err(refusal) = self.accept(&mut candidate, found.refusal, pinned) {
            candidate.file = None;
            candidate.refuse(refusal);
        }
        candidate
    }

    fn accept(
        &mut self,
        candidate: &mut Candidate,
        refusal: Option<Refusal>,
        pinned: bool,
    ) -> std::result::Result<(), Refusal> {
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        if candidate.path.to_str().is_none() {
            return Err(Refusal::new("its path is not UTF-8", "rename it"));
        }
        let unreadable = |error: std::io::Error| Refusal::new(format!("it cannot be read: {error}"), "");
        // Before anything is read: what is read later and differs is noticed when it is loaded.
        let file = PluginFile::examine(&candidate.path, candidate.bundle.as_deref());
        candidate.manifest = Some(preflight::preflight(&candidate.path)?);
        let file = file.map_err(unreadable)?;
        trust::check(&file, &candidate.found_at)?;
        let known = self.cache.entry(&file).map(|entry| entry.sha256.clone());
        candidate.sha256 = known.map_or_else(|| file.sha256(), Ok).map_err(unreadable)?;
        if pinned {
            match &self.pins_error {
                Some(error) if self.config.trust == Trust::Pinned => {
                    return Err(Refusal::new(error.to_string(), error.hint().unwrap_or_default()));
                }
                _ => self.pins.judge(&candidate.path, &candidate.sha256, self.config.trust)?,
            }
        }
        self.cache.remember(&file, &candidate.sha256);
        candidate.file = Some(file);
        Ok(())
    }

    /// Gives the `chosen` candidates their answers: those that are remembered and still count, or new ones, asked for side by
    /// side.
    fn ask(&mut self, candidates: &mut [Candidate], chosen: &[usize]) {
        let mut stale = Vec::new();
        for &index in chosen {
            let Some(file) = &candidates[index].file else { continue };
            match self.cache.answer(file, &self.environment).filter(|_| !self.afresh) {
                Some(answer) => candidates[index].answered(&answer.clone()),
                None => stale.push((index, file.clone())),
            }
        }
        let queue = Mutex::new(stale.iter());
        let answers = Mutex::new(Vec::new());
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(stale.len());
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some((index, file)) = next else { break };
                        let answer = probe::probe(file, &self.environment, self.config);
                        answers.lock().unwrap_or_else(PoisonError::into_inner).push((*index, file, answer));
                    }
                });
            }
        });
        for (index, file, answer) in answers.into_inner().unwrap_or_else(PoisonError::into_inner) {
            match answer {
                Ok(answer) => {
                    candidates[index].answered(&answer);
                    self.cache.set_answer(file, answer);
                }
                // That is no fault of the plugin's, and not remembered.
                Err(error) => candidates[index]
                    .fail(&Failure { reason: error.to_string(), remedy: error.hint().unwrap_or_default() }),
            }
            if self.afresh && self.keep {
                self.cache.set_verdict(file, None);
            }
        }
        for &index in chosen {
            let candidate = &mut candidates[index];
            if candidate.status != Status::Available {
                continue;
            }
            let entry = candidate.file.as_ref().and_then(|file| self.cache.entry(file));
            let verdict = entry.and_then(|entry| entry.verdict.as_ref());
            if let Some(failure) = verdict.and_then(arithmetic::against) {
                candidate.fail(&failure);
            }
        }
    }
}

/// Whether two files make the same backend known, for the same CPU level; builds for other levels are variants.
fn same_backend(a: &Candidate, b: &Candidate) -> bool {
    match (&a.manifest, &b.manifest) {
        (Some(a), Some(b)) => a.name == b.name && a.cpu_features == b.cpu_features,
        _ => false,
    }
}
