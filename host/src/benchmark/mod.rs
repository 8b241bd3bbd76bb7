//! Measures models on backends by llama-bench's method: each model on each backend in a worker process of its own, one
//! after another. [`benchmark`] gives a [`Report`], which [`export`] writes.
//!
//! - `plan`: which tests. `tokens`: what is fed to a model. `measure`: one test. `statistics`: what repetitions come to.

pub mod export;
mod measure;
pub mod plan;
pub mod report;
pub mod statistics;
pub mod tokens;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::hardware;
use crate::models::source::Source;
use crate::plugins::{Candidate, Status, rank};
use crate::runtime::open::{self, Observer, OpenModel, OpenOptions};
use measure::Subject;
use pajamas_plugin_api::{CancelToken, ProgressUpdate};
use plan::Test;
use report::{Loaded, Outcome, Report, Run, Settings, TestResult};
use std::time::{Duration, Instant};

/// Stands for every backend that can run a model.
pub const ALL_BACKENDS: &str = "all";

/// What to measure and how.
#[derive(Debug, Clone)]
pub struct BenchmarkOptions {
    /// The backends by name, or [`ALL_BACKENDS`]; empty takes the best for each model.
    pub backends: Vec<String>,
    /// The tests; not empty.
    pub tests: Vec<Test>,
    /// How often each test is measured, at least once.
    pub repetitions: u32,
    /// Whether each test runs once before, uncounted.
    pub warm_up: bool,
    /// A rest before each test, in which a machine can cool down.
    pub delay: Duration,
    /// Whether the backend that was not named may be another one than the config prefers.
    pub fallback: bool,
    /// The quantization method, where a model must be made first; none takes the default.
    pub method: Option<String>,
    /// Tokens of context; none takes what the tests need.
    pub context_length: Option<u32>,
    /// Options of the backends, as a user writes them.
    pub set: Vec<(String, String)>,
}

/// Measures `models` (as the user named them, and what that means).
///
/// A backend that fails is a run with an error in the report, and so is one that was named and cannot run; the others go
/// on. An interruption ends the report where it came, with the tests that were finished.
///
/// # Errors
/// What is wrong before anything is measured: tests that do not fit the context, an unknown backend or option, and, with
/// no backend named, a model that none can run.
pub fn benchmark(
    models: &[(String, Source)],
    options: &BenchmarkOptions,
    candidates: &[Candidate],
    config: &Config,
    observer: &dyn Observer,
    cancel: &CancelToken,
) -> Result<Report> {
    // One number for all of it, and for what is said of it.
    let config = &Config { threads: config.threads.or_else(hardware::threads_beside_others), ..config.clone() };
    let context_length = context_length(options)?;
    let bench = Bench { options, context_length, candidates, config, observer, cancel };
    let combinations = bench.combinations(models)?;
    let mut report = Report {
        pajamas_version: env!("CARGO_PKG_VERSION"),
        started_at: jiff::Timestamp::now().strftime("%FT%TZ").to_string(),
        interrupted: false,
        hardware: hardware::detect(),
        settings: bench.settings(),
        runs: Vec::new(),
    };
    for (index, combination) in combinations.iter().enumerate() {
        let mut run = combination.run(models);
        let ended = bench.run(combination, (index, combinations.len()), &mut run);
        report.interrupted = matches!(ended, Err(Error::Interrupted));
        if !report.interrupted {
            run.error = ended.err();
        }
        report.runs.push(run);
        if report.interrupted {
            break;
        }
    }
    report.runs.retain(|run| run.error.is_some() || !run.tests.is_empty());
    report.compare();
    Ok(report)
}

/// The context to load with: the user's, in which every test must fit, or what the longest test takes.
fn context_length(options: &BenchmarkOptions) -> Result<u32> {
    let Some(longest) = options.tests.iter().max_by_key(|test| test.context_length()) else {
        let message = "there is nothing to measure: no prompt and no generation".into();
        return Err(Error::Usage { message, hint: "leave only one of `-p 0` and `-n 0`".into() });
    };
    let needed = longest.context_length();
    match options.context_length {
        Some(given) if given < needed => Err(Error::Usage {
            message: format!("{longest} takes a context of {needed} tokens, and `--context-length` is {given}"),
            hint: "leave `--context-length` out, or make the tests shorter".into(),
        }),
        given => Ok(given.unwrap_or(needed)),
    }
}

/// One model on one backend.
struct Combination<'a> {
    model: &'a str,
    source: &'a Source,
    /// None takes the best.
    backend: Option<String>,
}

impl Combination<'_> {
    /// Nothing of it measured yet.
    fn run(&self, models: &[(String, Source)]) -> Run {
        let twin = models.iter().any(|(model, source)| model != self.model && source.name == self.source.name);
        Run {
            model: self.model.into(),
            name: if twin { self.model.into() } else { self.source.name.clone() },
            backend: self.backend.clone(),
            backend_version: None,
            path: None,
            loaded: None,
            tests: Vec::new(),
            error: None,
        }
    }
}

struct Bench<'a> {
    options: &'a BenchmarkOptions,
    context_length: u32,
    candidates: &'a [Candidate],
    config: &'a Config,
    observer: &'a dyn Observer,
    cancel: &'a CancelToken,
}

impl Bench<'_> {
    fn settings(&self) -> Settings {
        Settings {
            repetitions: self.options.repetitions,
            warm_up: self.options.warm_up,
            delay_s: self.options.delay.as_secs_f64(),
            threads: self.config.threads.unwrap_or_else(hardware::physical_cores),
            context_length: self.context_length,
            method: self.options.method.clone(),
            options: self.options.set.iter().cloned().collect(),
        }
    }

    /// For `backend`, or the best. A benchmark of a backend that silently runs on another one would be a lie.
    fn open_options(&self, backend: Option<&str>) -> OpenOptions {
        OpenOptions {
            backend: backend.map(Into::into),
            fallback: backend.is_none() && self.options.fallback,
            isolate: true,
            method: self.options.method.clone(),
            context_length: Some(self.context_length),
            parallel: None,
            set: self.options.set.clone(),
        }
    }

    /// Each model on each of its backends, in the order given.
    fn combinations<'m>(&self, models: &'m [(String, Source)]) -> Result<Vec<Combination<'m>>> {
        let mut combinations = Vec::new();
        for (model, source) in models {
            for backend in self.backends(source, models.len() > 1)? {
                combinations.push(Combination { model, source, backend });
            }
        }
        Ok(combinations)
    }

    /// The backends to run `source` on. Names and options that do not exist are errors here, before anything is
    /// measured; that a named backend cannot run is found out in its turn, and so is that none can run one of `several` models.
    fn backends(&self, source: &Source, several: bool) -> Result<Vec<Option<String>>> {
        let formats = open::formats(source, &self.open_options(None), self.candidates, self.config)?;
        if self.options.backends.is_empty() {
            let preferred = self.config.backend.as_deref();
            match rank::choose(self.candidates, &formats, preferred, self.options.fallback) {
                Ok(choice) => _ = open::load_options(choice.candidate, &self.options.set)?,
                // Of several models, the others are measured all the same.
                Err(Error::NoBackend { .. }) if several => (),
                Err(error) => return Err(error),
            }
            return Ok(vec![None]);
        }
        let mut backends = Vec::new();
        for name in &self.options.backends {
            if name == ALL_BACKENDS {
                backends.extend(self.all(&formats)?);
            } else {
                backends.push(name.clone());
            }
        }
        for name in &backends {
            match rank::choose(self.candidates, &formats, Some(name), false) {
                Ok(choice) => _ = open::load_options(choice.candidate, &self.options.set)?,
                Err(error @ Error::UnknownBackend { .. }) => return Err(error),
                Err(_) => (),
            }
        }
        Ok(backends.into_iter().map(Some).collect())
    }

    /// Every available backend that loads one of `formats`, best first.
    fn all(&self, formats: &[String]) -> Result<Vec<String>> {
        let mut names: Vec<String> = Vec::new();
        for candidate in self.candidates.iter().filter(|candidate| candidate.status == Status::Available) {
            let name = candidate.name();
            // The builds of one backend for different CPUs are one backend.
            if !names.contains(&name) && rank::choose(self.candidates, formats, Some(&name), false).is_ok() {
                names.push(name);
            }
        }
        if names.is_empty() {
            rank::choose(self.candidates, formats, None, false)?;
        }
        Ok(names)
    }

    /// Loads the model and runs every test; `run` keeps what was finished, whatever happens then.
    fn run(&self, combination: &Combination<'_>, place: (usize, usize), run: &mut Run) -> Result<()> {
        let options = self.open_options(combination.backend.as_deref());
        let model = open::open(combination.source, &options, self.candidates, self.config, self.observer, self.cancel)?;
        let version = self.candidates.iter().find(|candidate| candidate.name() == model.backend);
        run.backend_version = version.and_then(|c| c.manifest.as_ref()).map(|manifest| manifest.version.to_string());
        run.backend = Some(model.backend.clone());
        run.path = Some(model.path.display().to_string());
        run.loaded = Some(Loaded::new(model.engine.info(), model.load_ms));
        note_memory(&model, run)?;
        let mut subject = Subject::new(&model, self.cancel);
        for (index, test) in self.options.tests.iter().enumerate() {
            self.rest()?;
            let share = |part: f64| {
                let tests = self.options.tests.len() as f64;
                ((place.0 as f64 + (index as f64 + part) / tests) / place.1 as f64) as f32
            };
            let next = &mut |repetition| {
                let part = f64::from(repetition) / f64::from(self.options.repetitions);
                let of = format!("{} of {}", repetition + 1, self.options.repetitions);
                self.observer.progress(&ProgressUpdate {
                    stage: "measuring".into(),
                    fraction: share(part),
                    detail: format!("{} on {}: {test}, {of}", run.name, model.backend),
                });
            };
            let (outcome, fatal) = match subject.measure(test, self.options.repetitions, self.options.warm_up, next) {
                Ok(outcome) => (outcome, None),
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => {
                    let reason = error.to_string();
                    // The process is gone; after other errors the next test may well succeed.
                    let fatal = matches!(error, Error::Worker { .. }).then_some(error);
                    (Outcome::Failed { reason }, fatal)
                }
            };
            run.tests.push(TestResult::new(test, outcome, beyond_training(&model, test)));
            tracing::info!("{} on {}: {test} is done", run.name, model.backend);
            match fatal {
                Some(error) => return Err(error),
                None => note_memory(&model, run)?,
            }
        }
        Ok(())
    }

    /// The rest before a test.
    fn rest(&self) -> Result<()> {
        const STEP: Duration = Duration::from_millis(50);
        let until = Instant::now() + self.options.delay;
        while !until.saturating_duration_since(Instant::now()).is_zero() {
            self.cancel.check()?;
            std::thread::sleep(STEP.min(until.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }
}

/// Notes down what the model and its process have held so far.
fn note_memory(model: &OpenModel, run: &mut Run) -> Result<()> {
    let (usage, peak_resident_bytes) = model.engine.memory_usage()?;
    if let Some(loaded) = &mut run.loaded {
        loaded.memory = report::Memory {
            weights_bytes: usage.weights_bytes,
            kv_cache_bytes: usage.kv_cache_bytes,
            compute_bytes: usage.compute_bytes,
            peak_resident_bytes,
        };
    }
    Ok(())
}

/// What to say of a test that reaches beyond the context that the model was trained with.
fn beyond_training(model: &OpenModel, test: &Test) -> Option<String> {
    let trained = model.engine.info().context_length_trained;
    let last = test.depth.saturating_add(test.tokens);
    (trained > 0 && last > trained)
        .then(|| format!("it reaches beyond the {trained} tokens that the model was trained with"))
}
