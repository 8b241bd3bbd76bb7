//! Source → quantized artifact: finds the quantizer, runs it in a worker, and gives the result its name only when whole.

mod publish;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::models::source::{self, Source};
use crate::models::store::{self, Record};
use crate::models::{format, provenance};
use crate::plugins::Candidate;
use crate::worker::client::Worker;
use crate::worker::protocol::{Reply, Request};
use pajamas_plugin_api::{
    ArtifactKind, CancelToken, OptionSpec, OptionValue, Options, ProgressUpdate, QuantizeJob, QuantizeReport, Recipe,
    options,
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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
    /// Options of the recipe, as a user writes them.
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
    let (candidate, recipe) = find_quantizer(candidates, source, options, config)?;
    let mut recipe_options = Options::default();
    for (name, value) in &options.options {
        let value = options::parse(&recipe.options, name, value)?;
        // Naming the default makes what not naming it makes, under the same name.
        let is_default = |spec: &OptionSpec| spec.name == *name && spec.default == value.to_string();
        if !recipe.options.iter().any(is_default) {
            recipe_options.set(name, value);
        }
    }
    let written = recipe_options.iter().map(|(name, value)| (name.to_owned(), value.to_string())).collect();
    let fingerprint = source::fingerprint(source)?;
    let origin = source.hub.as_ref().map_or_else(|| source.path.display().to_string(), |(id, _)| id.clone());
    let extension = match recipe.artifact {
        ArtifactKind::Folder => String::new(),
        _ => format!(".{}", recipe.format),
    };
    let name = match &options.name {
        Some(name) => checked_name(name)?,
        None => default_name(&source.name, &recipe, &recipe_options),
    };
    let file = format!("{}{extension}", name.strip_suffix(&extension).unwrap_or(&name));
    let target = match &options.output_dir {
        Some(dir) => dir.join(&file),
        None => store::place(config, &file, &extension, &origin, &fingerprint),
    };
    let dir = target.parent().unwrap_or(Path::new(".")).to_owned();
    if dir.exists() && !dir.is_dir() {
        let hint = "`-o` names the folder to write to; `--name` names the file".into();
        return Err(Error::Invalid { path: dir, message: "this is not a folder".into(), hint });
    }
    let dir_is_new = !dir.exists();
    std::fs::create_dir_all(&dir).map_err(Error::io("creating", &dir))?;
    let dir = dir.canonicalize().map_err(Error::io("resolving", &dir))?;
    let target = dir.join(target.file_name().unwrap_or_default());
    if target == source.path {
        return Err(Error::Refused {
            message: format!("`{}` is the source itself", target.display()),
            hint: "choose another name with `--name`".into(),
        });
    }
    publish::check_replaceable(&target, recipe.artifact)?;
    let _lock = lock(&target, config)?;
    let started = Instant::now();
    let partial = Partial::create(&target, dir_is_new)?;
    let output = partial.dir.join(target.file_name().unwrap_or_default());
    let mut job = QuantizeJob::new(&source.path, &recipe.name, output, partial.dir.join("scratch"));
    job.source_format.clone_from(&source.format);
    job.threads = config.threads;
    job.options = recipe_options;
    job.provenance = origin_keys(source, &recipe, candidate);
    if recipe.format == format::GGUF {
        job.provenance.insert(provenance::VALIDATION.into(), provenance::room_for_validation());
    }
    std::fs::create_dir(&job.scratch_dir).map_err(Error::io("creating", &job.scratch_dir))?;
    let (report, worker) = run_worker(candidate, &job, config, progress, cancel)?;
    if options.output_dir.is_none() {
        // Whatever happens between the two next steps, no record describes a file that it was not made for.
        store::forget(config, &target);
    }
    publish::publish(&job.output, &target, &job.provenance)?;
    // Until here the worker would have cleaned up after a host that was killed.
    drop(worker);
    drop(partial);
    if options.output_dir.is_none() {
        store::remember(
            config,
            &Record {
                file: target.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                format: recipe.format.clone(),
                method: recipe.name.clone(),
                source: origin,
                fingerprint,
                size_bytes: store::size_on_disk(&target),
                options: written,
                created_unix_s: now_unix_s(),
                validation: None,
            },
        )?;
    }
    let ratio = if report.output_bytes > 0 { report.source_bytes as f64 / report.output_bytes as f64 } else { 0.0 };
    Ok(Artifact {
        path: target,
        format: recipe.format,
        method: recipe.name,
        backend: candidate.name(),
        report,
        ratio,
        elapsed_ms: started.elapsed().as_secs_f64() * 1e3,
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

/// Every recipe of every candidate, available or not: a quantizer works without its backend's device.
fn recipes(candidates: &[Candidate]) -> impl Iterator<Item = (&Candidate, &Recipe)> {
    candidates.iter().flat_map(|candidate| {
        let recipes = candidate.report.as_ref().map_or(&[][..], |report| &report.recipes);
        let known = recipes.iter().filter(|recipe| recipe.artifact != ArtifactKind::Unknown);
        known.map(move |recipe| (candidate, recipe))
    })
}

/// The first candidate whose quantizer makes what is wanted, and its recipe for that.
fn find_quantizer<'a>(
    candidates: &'a [Candidate],
    source: &Source,
    options: &QuantizeOptions,
    config: &Config,
) -> Result<(&'a Candidate, Recipe)> {
    let source_format = source.format.as_str();
    let able: Vec<_> = recipes(candidates)
        .filter(|(_, recipe)| recipe.sources.iter().any(|known| known == source_format))
        .filter(|(_, recipe)| options.format.as_ref().is_none_or(|format| recipe.format.eq_ignore_ascii_case(format)))
        .collect();
    let by_name = |name: &str| able.iter().find(|(_, recipe)| recipe.name.eq_ignore_ascii_case(name));
    let found = match &options.method {
        Some(name) => by_name(name),
        // The method of the config is for the formats that have it.
        None => (config.method.as_deref().and_then(by_name))
            .or_else(|| able.iter().find(|(_, recipe)| recipe.format == format::GGUF))
            .or_else(|| able.first()),
    };
    if let Some((candidate, recipe)) = found {
        return Ok((candidate, (*recipe).clone()));
    }
    let known = |names: &mut dyn Iterator<Item = &String>| {
        let mut known: Vec<String> = Vec::new();
        names.for_each(|name| {
            if !known.contains(name) {
                known.push(name.clone());
            }
        });
        known
    };
    let formats = known(&mut recipes(candidates).map(|(_, recipe)| &recipe.format));
    if let Some(format) = options.format.as_ref().filter(|format| !formats.contains(&format.to_lowercase()))
        && !formats.is_empty()
        // One of ours that is only not installed has a better answer.
        && ![format::GGUF, format::MLX].contains(&format.to_lowercase().as_str())
    {
        let near = options::nearest(format, formats.iter().map(String::as_str));
        let hint =
            near.map_or_else(|| format!("formats: {}", formats.join(", ")), |near| format!("did you mean `{near}`?"));
        return Err(Error::Usage { message: format!("no plugin makes the format `{format}`"), hint });
    }
    match &options.method {
        Some(name) if !able.is_empty() => {
            let elsewhere = recipes(candidates).find(|(_, recipe)| recipe.name.eq_ignore_ascii_case(name));
            let known = known(&mut able.iter().map(|(_, recipe)| &recipe.name));
            match (elsewhere, &options.format) {
                (Some((_, recipe)), Some(format)) => Err(Error::Usage {
                    message: format!(
                        "`{name}` makes {} models, not {}",
                        recipe.format.to_uppercase(),
                        format.to_uppercase()
                    ),
                    hint: format!("methods: {}", known.join(", ")),
                }),
                _ => Err(Error::UnknownRecipe { name: name.clone(), known }),
            }
        }
        _ => Err(Error::NoBackend {
            task: match (&options.format, source_format) {
                (None, format::HUGGING_FACE) => "quantize models".into(),
                (None, source) => format!("make anything of {} models", source.to_uppercase()),
                (Some(format), format::HUGGING_FACE) => format!("make {} models", format.to_uppercase()),
                (Some(format), source) => {
                    format!("make {} models of {} models", format.to_uppercase(), source.to_uppercase())
                }
            },
            reasons: candidates.iter().map(|c| format!("{}: {}", c.name(), describe(c))).collect(),
        }),
    }
}

/// `<model>-<method>` for a file, whose extension tells the format; `<model>-<format>-<method>` for a folder; then
/// every option that was set.
fn default_name(model: &str, recipe: &Recipe, options: &Options) -> String {
    let mut name = match recipe.artifact {
        ArtifactKind::Folder => format!("{model}-{}-{}", recipe.format, recipe.name),
        _ => format!("{model}-{}", recipe.name),
    };
    for (option, value) in options.iter() {
        match value {
            OptionValue::Bool(true) => name += &format!("-{option}"),
            value => name += &format!("-{option}-{value}"),
        }
    }
    // An option's text may be anything.
    name.to_lowercase().replace(['/', '\\', '\0'], "_")
}

fn describe(candidate: &Candidate) -> &str {
    if candidate.report.is_some() { "it has no quantizer for that" } else { &candidate.reason }
}

fn checked_name(name: &str) -> Result<String> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
        return Err(Error::Refused {
            message: format!("`{name}` cannot be a file name"),
            hint: "name the file only; `-o` names the folder".into(),
        });
    }
    Ok(name.to_owned())
}

fn origin_keys(source: &Source, recipe: &Recipe, candidate: &Candidate) -> BTreeMap<String, String> {
    let version = candidate.manifest.as_ref().map_or_else(String::new, |m| m.version.to_string());
    let mut keys = vec![
        ("pajamas.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("pajamas.method", recipe.name.clone()),
        ("pajamas.quantizer", format!("{} {version}", candidate.name())),
    ];
    if let Some((id, commit)) = &source.hub {
        keys.push(("general.source.huggingface.repository", id.clone()));
        keys.push(("pajamas.source.commit", commit.clone()));
    }
    keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// One writer to a target: the lock lives in the cache folder, so that nothing is left beside the target.
///
/// # Errors
/// When another process holds it.
pub fn lock(target: &Path, config: &Config) -> Result<File> {
    let dir = config.cache_dir().join("locks");
    std::fs::create_dir_all(&dir).map_err(|error| no_lock(&dir, &error))?;
    let key = Sha256::digest(target.as_os_str().as_encoded_bytes());
    let path =
        dir.join(format!("{:02x}{:02x}{:02x}{:02x}{:02x}{:02x}.lock", key[0], key[1], key[2], key[3], key[4], key[5]));
    let file = File::create(&path).map_err(|error| no_lock(&path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Refused {
            message: format!("another pajamas is writing `{}`", target.display()),
            hint: "wait for it, or choose another name with `--name`".into(),
        }),
        Err(TryLockError::Error(error)) => Err(Error::io("locking", &path)(error)),
    }
}

fn no_lock(path: &Path, error: &std::io::Error) -> Error {
    Error::Refused {
        message: format!("creating `{}`, which keeps two writers apart, failed: {error}", path.display()),
        hint: "PAJAMAS_HOME must name a folder that you may write to".into(),
    }
}

/// The folder beside the target that holds everything unfinished; removed when dropped.
struct Partial {
    dir: PathBuf,
    /// The folder that was made for the target, if it was: it goes too when nothing was put into it.
    new_parent: Option<PathBuf>,
}

impl Partial {
    fn create(target: &Path, parent_is_new: bool) -> Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let (prefix, suffix) = (format!(".{name}."), ".partial");
        // Whoever left one behind was killed: the lock says that no host is at it now. A worker that is just cleaning
        // up after its host knows its own folder only, so this one's name is new.
        for entry in target.parent().and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let process = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(suffix));
            // Of this target: `.m.` begins what is left of `m.gguf` as well.
            if process.is_some_and(|id| !id.is_empty() && id.bytes().all(|digit| digit.is_ascii_digit())) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let dir = target.with_file_name(format!("{prefix}{}{suffix}", std::process::id()));
        std::fs::create_dir(&dir).map_err(Error::io("creating", &dir))?;
        let new_parent = target.parent().filter(|_| parent_is_new).map(Path::to_owned);
        Ok(Self { dir, new_parent })
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
        if let Some(parent) = &self.new_parent {
            let _ = std::fs::remove_dir(parent);
        }
    }
}

fn run_worker(
    candidate: &Candidate,
    job: &QuantizeJob,
    config: &Config,
    progress: &dyn Fn(&ProgressUpdate),
    cancel: &CancelToken,
) -> Result<(QuantizeReport, Worker)> {
    let mut worker = Worker::start(config)?;
    worker.send(&Request::Quantize { plugin: candidate.path.clone(), job: job.clone() })?;
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
