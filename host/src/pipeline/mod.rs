//! Source → quantized artifact: finds the quantizer, runs it in a worker, and gives the result its name only when whole.

mod find;
mod partial;
mod publish;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::models::hashes::{self, Sums};
use crate::models::source::{self, Source};
use crate::models::store::{self, Record};
use crate::models::{format, provenance};
use crate::plugins::Candidate;
use crate::search;
use crate::worker::client::Worker;
use crate::worker::protocol::{Reply, Request};
use find::{find_quantizer, recipes};
use pajamas_plugin_api::{
    ArtifactKind, CancelToken, OptionSpec, Options, ProgressUpdate, QuantizeJob, QuantizeReport, Recipe, options,
};
use partial::Partial;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use partial::lock;

/// What to make.
#[derive(Debug, Clone, Default)]
pub struct QuantizeOptions {
    /// `gguf`, `mlx`, …; none takes GGUF, or the method's own.
    pub format: Option<String>,
    /// The recipe; none takes the quantizer's default.
    pub method: Option<String>,
    /// The folder to write to; none is the store.
    pub output_dir: Option<PathBuf>,
    /// The artifact's name without extension; none makes it from the model's name and the recipe's.
    pub name: Option<String>,
    /// What is searched for, where it is.
    pub search: Option<Asked>,
    /// Whether an artifact of that name in the store may be replaced also if it is another model, or by another method.
    pub replace: bool,
    /// Options of the recipe, as a user writes them.
    pub options: BTreeMap<String, String>,
    /// Why it is made in this way, to be kept in the artifact under [`provenance::CHOICE`].
    pub evidence: Option<String>,
}

/// What a search is to find.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The artifact's name, where none is given. What an earlier search for the same found is replaced.
    pub name: String,
    /// Options of the user's, which all that is tried has.
    pub options: BTreeMap<String, String>,
}

/// What was made.
#[derive(Debug, Clone, Serialize)]
pub struct Artifact {
    /// Where it is.
    pub path: PathBuf,
    /// `gguf`, `mlx`, …
    pub format: String,
    /// By which recipe.
    pub method: String,
    /// By which backend's quantizer.
    pub backend: String,
    /// What the quantizer says.
    #[serde(flatten)]
    pub report: QuantizeReport,
    /// Source bytes by output bytes.
    pub ratio: f64,
    /// How long it took, in milliseconds.
    pub elapsed_ms: f64,
}

/// How long a cancelled worker may take to clean up before it is killed.
const CANCEL_GRACE: Duration = Duration::from_secs(4);

/// Makes a quantized model from `source`.
///
/// # Errors
/// When no quantizer makes it, or the making fails or is cancelled. Then nothing is left behind.
pub fn quantize(
    source: &Source,
    options: &QuantizeOptions,
    candidates: &[Candidate],
    config: &Config,
    progress: &dyn Fn(&ProgressUpdate),
    cancel: &CancelToken,
) -> Result<Artifact> {
    let plan = Plan::new(source, options, candidates, config)?;
    let dir = plan.target.parent().unwrap_or(Path::new(".")).to_owned();
    let dir_is_new = !dir.exists();
    std::fs::create_dir_all(&dir).map_err(Error::io("creating", &dir))?;
    let dir = dir.canonicalize().map_err(Error::io("resolving", &dir))?;
    let target = dir.join(plan.target.file_name().unwrap_or_default());
    publish::check_replaceable(&target, plan.recipe.artifact)?;
    let _lock = lock(&target, config)?;
    plan.check_name(options, config)?;
    let started = Instant::now();
    let partial = Partial::create(&target, dir_is_new)?;
    let output = partial.dir.join(target.file_name().unwrap_or_default());
    let mut job = plan.job(source, output, partial.dir.join("scratch"), config);
    std::fs::create_dir(&job.scratch_dir).map_err(Error::io("creating", &job.scratch_dir))?;
    let files = hashes::files_of(source)?;
    if plan.recipe.format == format::GGUF {
        for (key, room) in provenance::rooms(&files) {
            job.provenance.insert(key.into(), room);
        }
    }
    let (mut report, worker, sums) = make(plan.candidate, &job, &files, config, progress, cancel)?;
    provenance::seal(&job.output, &mut job.provenance, &sums, progress, cancel)?;
    let replaced = store::record_of(config, &target).map_or_else(Vec::new, |record| record.companions);
    if plan.in_store {
        // Whatever happens between the two next steps, no record describes a file that it was not made for.
        store::forget(config, &target);
    }
    if target.exists() {
        report.notes.push("it replaces the one of that name".into());
    }
    publish::publish(&job.output, &target, &job.provenance)?;
    let placed = match plan.recipe.artifact {
        ArtifactKind::Folder => Ok(Vec::new()),
        _ => publish::companions(&job.scratch_dir, &report.companions, &target),
    };
    let mut companions = placed.unwrap_or_else(|error| {
        // The model itself is whole, and has its name.
        report.notes.push(format!("what belongs beside the model could not be put there: {error}"));
        Vec::new()
    });
    // What it was made with may have belonged to the one that it replaces.
    companions.extend(plan.inputs().filter(|input| replaced.iter().any(|name| dir.join(name) == *input)));
    report.companions = companions.iter().map(|path| path.display().to_string()).collect();
    store::remove_companions(&dir, &replaced, &companions);
    // Until here the worker would have cleaned up after a host that was killed.
    drop(worker);
    drop(partial);
    if plan.in_store {
        let file_name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let record = Record {
            file: file_name(&target),
            format: plan.recipe.format.clone(),
            method: plan.recipe.name.clone(),
            source: plan.origin.clone(),
            fingerprint: plan.fingerprint.clone(),
            commit: plan.commit.clone(),
            size_bytes: store::size_on_disk(&target),
            options: plan.written_options(),
            created_unix_s: now_unix_s(),
            validation: None,
            companions: companions.iter().map(file_name).collect(),
        };
        store::remember(config, &record)?;
    }
    Ok(plan.artifact(target, report, started))
}

/// Whether [`dry_run`] can say what [`quantize`] would make.
///
/// # Errors
/// When no quantizer makes it.
pub fn can_dry_run(
    source: &Source,
    options: &QuantizeOptions,
    candidates: &[Candidate],
    config: &Config,
) -> Result<bool> {
    find_quantizer(candidates, source, options, config).map(|(_, recipe)| recipe.dry_run)
}

/// Says what [`quantize`] would make, and writes nothing.
///
/// # Errors
/// When no quantizer makes it, or the one that does cannot say.
pub fn dry_run(
    source: &Source,
    options: &QuantizeOptions,
    candidates: &[Candidate],
    config: &Config,
    cancel: &CancelToken,
) -> Result<Artifact> {
    let plan = Plan::new(source, options, candidates, config)?;
    if options.name.is_some() || options.search.is_some() {
        plan.check_name(options, config)?;
    }
    if !plan.recipe.dry_run {
        return Err(Error::Refused {
            message: format!("the quantizer of `{}` cannot say what it would make", plan.candidate.name()),
            hint: "leave `--dry-run` out".into(),
        });
    }
    publish::check_replaceable(&plan.target, plan.recipe.artifact)?;
    let started = Instant::now();
    let scratch = tempfile::tempdir().map_err(Error::io("creating", &std::env::temp_dir()))?;
    let mut job = plan.job(source, plan.target.clone(), scratch.path().to_owned(), config);
    job.dry_run = true;
    if plan.recipe.format == format::GGUF {
        // What is not known yet takes as much room as what will be.
        job.provenance.extend(provenance::rooms(&hashes::files_of(source)?).map(|(key, room)| (key.to_owned(), room)));
    }
    let (report, _) = run_worker(plan.candidate, &job, config, &|_| (), cancel)?;
    let target = plan.target.clone();
    Ok(plan.artifact(target, report, started))
}

/// What is to be made, by whom, and where it goes.
struct Plan<'a> {
    candidate: &'a Candidate,
    recipe: Recipe,
    options: Options,
    provenance: BTreeMap<String, String>,
    /// Path or id of what it is made from, and its fingerprint.
    origin: String,
    /// The commit, where that is a model of the hub's.
    commit: Option<String>,
    fingerprint: String,
    target: PathBuf,
    /// Whether that is in the store.
    in_store: bool,
}

impl<'a> Plan<'a> {
    fn new(source: &Source, options: &QuantizeOptions, candidates: &'a [Candidate], config: &Config) -> Result<Self> {
        let (candidate, recipe) = find_quantizer(candidates, source, options, config)?;
        let mut chosen = Options::default();
        for (name, value) in &options.options {
            let value = options::parse(&recipe.options, name, value)?;
            // Naming the default makes what not naming it makes, under the same name.
            let is_default = |spec: &OptionSpec| spec.name == *name && spec.default == value.to_string();
            if !recipe.options.iter().any(is_default) {
                chosen.set(name, value);
            }
        }
        let fingerprint = source::fingerprint(source)?;
        let origin = source.hub.as_ref().map_or_else(|| source.path.display().to_string(), |(id, _)| id.clone());
        let extension = match recipe.artifact {
            ArtifactKind::Folder => String::new(),
            _ => format!(".{}", recipe.format),
        };
        let name = match (&options.name, &options.search) {
            (Some(name), _) => checked_name(name)?,
            (None, Some(asked)) => asked.name.clone(),
            (None, None) => default_name(&source.name, &recipe, &chosen),
        };
        let file = format!("{}{extension}", name.strip_suffix(&extension).unwrap_or(&name));
        let store = config.models_dir();
        // It may not be there yet.
        let real = |dir: &Path| dir.canonicalize().or_else(|_| std::path::absolute(dir)).unwrap_or_else(|_| dir.into());
        let other_dir = options.output_dir.as_ref().filter(|dir| real(dir) != real(&store));
        let target = match other_dir {
            Some(dir) => dir.join(&file),
            // A name that was chosen is the name, or an error.
            None if options.name.is_some() => store.join(&file),
            None => {
                let commit = source.hub.as_ref().map(|(_, commit)| commit.as_str());
                store::place(config, &file, &extension, &origin, commit, &fingerprint)
            }
        };
        let dir = target.parent().unwrap_or(Path::new("."));
        if dir.exists() && !dir.is_dir() {
            let hint = "`-o` names the folder to write to; `--name` names the file".into();
            return Err(Error::Invalid { path: dir.to_owned(), message: "this is not a folder".into(), hint });
        }
        if target.canonicalize().is_ok_and(|target| target == source.path) {
            return Err(Error::Refused {
                message: format!("`{}` is the source itself", target.display()),
                hint: "choose another name with `--name`".into(),
            });
        }
        let mut provenance = origin_keys(source, &recipe, candidate, &chosen);
        if let Some(evidence) = &options.evidence {
            provenance.insert(provenance::CHOICE.into(), evidence.clone());
        }
        let in_store = other_dir.is_none();
        let commit = source.hub.as_ref().map(|(_, commit)| commit.clone());
        Ok(Self { candidate, recipe, options: chosen, provenance, origin, commit, fingerprint, target, in_store })
    }

    /// Refuses a name in the store that another model has: of something else, or made in another way.
    ///
    /// # Errors
    /// Just then.
    fn check_name(&self, options: &QuantizeOptions, config: &Config) -> Result<()> {
        if !self.in_store || options.replace {
            return Ok(());
        }
        let file = self.target.file_name().unwrap_or_default().to_string_lossy();
        let name = file.strip_suffix(&format!(".{}", self.recipe.format)).unwrap_or(&file);
        let is_same = |other: &Record| {
            other.file == file
                && (&other.source, &other.commit) == (&self.origin, &self.commit)
                && match options.search.as_ref().filter(|_| options.name.is_none()) {
                    // The next search for the same may find another method.
                    Some(asked) => search::is_found(&config.models_dir().join(&other.file), asked),
                    None => (&other.method, &other.options) == (&self.recipe.name, &self.written_options()),
                }
        };
        // Not every file system tells `Mine` from `mine`.
        let has_name = |other: &Record| match options.name {
            Some(_) => other.name().eq_ignore_ascii_case(name),
            None => other.file.eq_ignore_ascii_case(&file),
        };
        let taken = store::list(config).into_iter().find(|other| has_name(other) && !is_same(other));
        let Some(other) = taken else { return Ok(()) };
        let name = other.name();
        let what = if other.is_ours() {
            format!("{} of `{}`", other.method, other.source)
        } else {
            "pajamas did not make it, or it was changed since".into()
        };
        Err(Error::Refused {
            message: format!("`{name}` is there already: {what}"),
            hint: format!(
                "choose another name with `--name`; `--force` replaces it, `pajamas models remove {name}` removes it"
            ),
        })
    }

    /// The files that options name.
    fn inputs(&self) -> impl Iterator<Item = PathBuf> {
        let texts = self.options.iter().map(|(_, value)| PathBuf::from(value.to_string()));
        texts.filter_map(|path| path.canonicalize().ok())
    }

    fn job(&self, source: &Source, output: PathBuf, scratch_dir: PathBuf, config: &Config) -> QuantizeJob {
        let mut job = QuantizeJob::new(&source.path, &self.recipe.name, output, scratch_dir);
        job.source_format.clone_from(&source.format);
        job.threads = config.threads;
        job.options = self.options.clone();
        job.provenance = self.provenance.clone();
        job
    }

    fn written_options(&self) -> BTreeMap<String, String> {
        self.options.iter().map(|(name, value)| (name.to_owned(), value.to_string())).collect()
    }

    fn artifact(self, path: PathBuf, report: QuantizeReport, started: Instant) -> Artifact {
        let ratio = if report.output_bytes > 0 { report.source_bytes as f64 / report.output_bytes as f64 } else { 0.0 };
        Artifact {
            path,
            format: self.recipe.format,
            method: self.recipe.name,
            backend: self.candidate.name(),
            report,
            ratio,
            elapsed_ms: started.elapsed().as_secs_f64() * 1e3,
        }
    }
}

/// Lets a worker do `job`, and adds up the source's `files` meanwhile.
fn make(
    candidate: &Candidate,
    job: &QuantizeJob,
    files: &[PathBuf],
    config: &Config,
    progress: &dyn Fn(&ProgressUpdate),
    cancel: &CancelToken,
) -> Result<(QuantizeReport, Worker, Sums)> {
    let failed = Arc::new(AtomicBool::new(false));
    let stop = {
        let (failed, cancel) = (Arc::clone(&failed), cancel.clone());
        CancelToken::new(move || failed.load(Ordering::Relaxed) || cancel.is_cancelled())
    };
    std::thread::scope(|scope| {
        let adding_up = scope.spawn(move || Sums::of(files, true, &mut |_| (), &stop));
        let made = run_worker(candidate, job, config, progress, cancel);
        failed.store(made.is_err(), Ordering::Relaxed);
        let sums = adding_up.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        let (report, worker) = made?;
        Ok((report, worker, sums?))
    })
}

/// Seconds since 1970; 0 on a machine whose clock is before that.
fn now_unix_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// The format and name of the recipe that `options` come to, for `source`.
///
/// # Errors
/// When no quantizer makes it.
pub fn method(
    source: &Source,
    options: &QuantizeOptions,
    candidates: &[Candidate],
    config: &Config,
) -> Result<(String, String)> {
    find_quantizer(candidates, source, options, config).map(|(_, recipe)| (recipe.format, recipe.name))
}

/// Whether any quantizer has `method`.
///
/// # Errors
/// `UnknownRecipe`, where none has.
pub fn is_known(method: &str, candidates: &[Candidate]) -> Result<()> {
    if recipes(candidates).any(|(_, recipe)| recipe.name.eq_ignore_ascii_case(method)) {
        return Ok(());
    }
    let known = find::distinct(recipes(candidates).map(|(_, recipe)| &recipe.name));
    Err(Error::UnknownRecipe { name: method.into(), known })
}

/// The methods by which `format` can be made of `source`.
pub fn methods_of(source: &Source, format: &str, candidates: &[Candidate]) -> Vec<String> {
    let mut names = Vec::new();
    for (_, recipe) in recipes(candidates) {
        let fits = recipe.format == format && recipe.sources.contains(&source.format);
        if fits && !names.contains(&recipe.name) {
            names.push(recipe.name.clone());
        }
    }
    names
}

/// The formats that can be made of a source in `source_format`, by `method` if it is given.
pub fn makeable(source_format: &str, method: Option<&str>, candidates: &[Candidate]) -> Vec<String> {
    let mut formats: Vec<String> = recipes(candidates)
        .filter(|(_, recipe)| method.is_none_or(|method| recipe.name.eq_ignore_ascii_case(method)))
        .filter(|(_, recipe)| recipe.sources.iter().any(|known| known == source_format))
        .map(|(_, recipe)| recipe.format.clone())
        .collect();
    formats.sort();
    formats.dedup();
    formats
}

/// `<model>-<method>` for a file, whose extension tells the format; `<model>-<format>-<method>` for a folder; then
/// every option that was set.
fn default_name(model: &str, recipe: &Recipe, options: &Options) -> String {
    let mut name = match recipe.artifact {
        ArtifactKind::Folder => format!("{model}-{}-{}", recipe.format, recipe.name),
        _ => format!("{model}-{}", recipe.name),
    };
    for (option, value) in options.iter() {
        name += &in_name(option, &value.to_string());
    }
    file_name(&name)
}

/// What an option that was set contributes to a model's name.
pub fn in_name(option: &str, value: &str) -> String {
    if value == "true" { format!("-{option}") } else { format!("-{option}-{}", short_name(value)) }
}

/// `name` as one that any file may have.
pub fn file_name(name: &str) -> String {
    name.to_lowercase().replace(['/', '\\', '\0'], "_")
}

/// What an option's text, which may be anything, contributes to a file's name: of a path its last part without extension.
/// What is lost stands for itself as a few digits of its SHA-256, so that other options make another name; of what is longer
/// than a name, only they are left.
fn short_name(text: &str) -> String {
    const CHARS_MAX: usize = 40;
    let path = Path::new(text);
    let text = if path.is_absolute() { path.file_stem().unwrap_or_default().to_string_lossy() } else { text.into() };
    let plain = |letter: char| if letter.is_alphanumeric() || "-_.=".contains(letter) { letter } else { '_' };
    let short: String = text.chars().map(plain).take(CHARS_MAX).collect();
    if short == text {
        return short;
    }
    let digest: String = Sha256::digest(text.as_bytes()).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    if short.chars().count() < CHARS_MAX { format!("{short}-{digest}") } else { digest }
}

fn checked_name(name: &str) -> Result<String> {
    if name.to_ascii_lowercase().trim_end_matches(".gguf").ends_with(".imatrix") {
        return Err(Error::Refused {
            message: format!("`{name}` cannot be a model's name: so are importance matrices called"),
            hint: "leave `.imatrix` out".into(),
        });
    }
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
        return Err(Error::Refused {
            message: format!("`{name}` cannot be a file name"),
            hint: "name the file only; `-o` names the folder".into(),
        });
    }
    Ok(name.to_owned())
}

fn origin_keys(source: &Source, recipe: &Recipe, candidate: &Candidate, options: &Options) -> BTreeMap<String, String> {
    let version = candidate.manifest.as_ref().map_or_else(String::new, |m| m.version.to_string());
    let mut keys = vec![
        ("pajamas.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("pajamas.method", recipe.name.clone()),
        ("pajamas.quantizer", format!("{} {version}", candidate.name())),
    ];
    if !options.is_empty() {
        keys.push(("pajamas.options", serde_json::to_string(options).unwrap_or_default()));
    }
    if let Some((id, commit)) = &source.hub {
        keys.push(("general.source.huggingface.repository", id.clone()));
        keys.push(("pajamas.source.commit", commit.clone()));
    }
    keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn run_worker(
    candidate: &Candidate,
    job: &QuantizeJob,
    config: &Config,
    progress: &dyn Fn(&ProgressUpdate),
    cancel: &CancelToken,
) -> Result<(QuantizeReport, Worker)> {
    let mut worker = Worker::start(config)?;
    worker.send(&Request::Quantize { plugin: candidate.file()?.clone(), job: job.clone() })?;
    let mut cancelled_at: Option<Instant> = None;
    loop {
        match worker.poll(Duration::from_millis(50)) {
            Ok(Some(Reply::Progress(update))) => progress(&update),
            Ok(Some(Reply::Quantized(report))) if cancelled_at.is_none() => return Ok((report, worker)),
            Ok(Some(Reply::Failed(error))) if cancelled_at.is_none() => return Err(error.into()),
            Ok(Some(Reply::Quantized(_) | Reply::Failed(_))) => return Err(Error::Interrupted),
            Ok(Some(other)) => return Err(worker.confused(&other)),
            Err(_) if cancelled_at.is_some() => return Err(Error::Interrupted),
            Err(error) => return Err(error),
            Ok(None) => (),
        }
        match cancelled_at {
            None if cancel.is_cancelled() => {
                cancelled_at = Some(Instant::now());
                // A worker that is gone says so at the next poll.
                let _ = worker.send(&Request::Cancel);
            }
            Some(at) if at.elapsed() > CANCEL_GRACE => return Err(Error::Interrupted),
            _ => (),
        }
    }
}
