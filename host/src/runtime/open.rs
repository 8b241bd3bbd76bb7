//! Opens a model: finds the backend and the format, makes the artifact where one is missing, and loads it; on the next
//! best backend where the first one fails for reasons of its own.

use super::Engine;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::hardware;
use crate::models::source::Source;
use crate::models::{format, store};
use crate::pipeline::{self, Artifact, QuantizeOptions};
use crate::plugins::{Candidate, arithmetic, load, rank};
use crate::text::counted;
use crate::worker::remote_model::RemoteModel;
use pajamas_plugin_api::{
    Availability, CancelToken, Capabilities, DeviceClass, ErrorKind, LoadRequest, Options, ProgressUpdate, options,
};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// How to open a model. `Default` asks for nothing in particular.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// The backend to run on; none takes the best.
    pub backend: Option<String>,
    /// Whether another backend may run when that one cannot.
    pub fallback: bool,
    /// Whether the model runs in a worker process.
    pub isolate: bool,
    /// The quantization method, where the model must be made first; none takes the default.
    pub method: Option<String>,
    /// Tokens of context; none takes the model's, 4096 at the most.
    pub context_length: Option<u32>,
    /// How many requests may run at once; none takes one.
    pub parallel: Option<u32>,
    /// Options of the backend, as a user writes them.
    pub set: Vec<(String, String)>,
}

/// Who wants to know what happens in a piece of work; by default nobody does.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/installed.rs"));
/// # fn main() -> pajamas::Result<()> {
/// # let Installed { pajamas, model, .. } = &Installed::new();
/// struct OnStderr;
///
/// impl pajamas::Observer for OnStderr {
///     fn progress(&self, update: &pajamas::ProgressUpdate) {
///         eprintln!("{} {:.0} % {}", update.stage, update.fraction * 100.0, update.detail);
///     }
/// }
///
/// pajamas.quantize(model).method("Q8_0").observer(&OnStderr).run()?;
/// # Ok(())
/// # }
/// ```
pub trait Observer: Sync {
    /// Something that a user should read, because it may not be what they want.
    fn warn(&self, message: &str) {
        let _ = message;
    }
    /// Something that a user may like to know.
    fn note(&self, message: &str) {
        let _ = message;
    }
    /// Progress of fetching, making, loading or measuring. Comes from any thread.
    fn progress(&self, update: &ProgressUpdate) {
        let _ = update;
    }
    /// An artifact was made.
    fn made(&self, artifact: &Artifact) {
        let _ = artifact;
    }
}

/// Nobody; what a user should read goes to the log.
pub struct Unobserved;

impl Observer for Unobserved {
    fn warn(&self, message: &str) {
        tracing::warn!("{message}");
    }
}

/// A model that is ready to answer.
pub struct OpenModel {
    /// It.
    pub engine: Engine,
    /// The backend that it runs on.
    pub backend: String,
    /// The file or folder that was loaded.
    pub path: PathBuf,
    /// How long loading took, in milliseconds.
    pub load_ms: f64,
    /// What the backend can do.
    pub capabilities: Capabilities,
}

/// Opens `source` on the best backend that can; on the next best where that one fails for its own reasons.
///
/// # Errors
/// When no backend can, an option is none of the backend's, or making or loading fails or is cancelled.
pub fn open(
    source: &Source,
    options: &OpenOptions,
    candidates: &[Candidate],
    config: &Config,
    observer: &dyn Observer,
    cancel: &CancelToken,
) -> Result<OpenModel> {
    if !rank::is_known(candidates, &source.format) {
        return Err(Error::Invalid {
            path: source.path.clone(),
            message: format!("this is no model: no installed plugin knows the format `{}`", source.format),
            hint: "give a GGUF file, or the folder of a Hugging Face or MLX model".into(),
        });
    }
    let wanted = Wanted::new(source, options, candidates, config)?;
    let requested = options.backend.as_deref().or(config.backend.as_deref());
    let chosen = rank::choose(candidates, &wanted.formats, requested, options.fallback);
    let mut choice = chosen.map_err(|error| match error {
        // Who typed no backend does not know what is meant.
        Error::UnknownBackend { name, installed } if options.backend.is_none() => Error::Usage {
            message: format!("the settings prefer the backend `{name}`, and no such backend is installed"),
            hint: format!("`pajamas config` shows where that comes from; installed: {}", installed.join(", ")),
        },
        error => error,
    })?;
    let mut left = candidates.to_vec();
    loop {
        if let Some(warning) = &choice.warning {
            observer.warn(warning);
        }
        // A wrong option is an error before anything is made for it.
        let set = load_options(choice.candidate, &options.set)?;
        let path = wanted.path(&choice, candidates, config, observer, cancel)?;
        let error = match load(
            &path,
            choice.candidate,
            &request(&path, set, options, config),
            options.isolate,
            config,
            observer,
            cancel,
        ) {
            Ok(model) => {
                // An interruption that came at the very end of loading is meant all the same.
                cancel.check()?;
                return Ok(model);
            }
            Err(error) => error,
        };
        let failed = choice.candidate.name();
        left.retain(|candidate| candidate.path != choice.candidate.path);
        match rank::choose(&left, &wanted.formats, None, true) {
            // Another backend has other options.
            Ok(next) if options.fallback && options.set.is_empty() && another_may_do_better(&error) => {
                let next = candidates.iter().find(|c| c.path == next.candidate.path).map(|c| (c, next.format));
                let Some((candidate, format)) = next else { return Err(error) };
                let hint = error.hint().map_or_else(String::new, |hint| format!(" (to fix it: {hint})"));
                let warning = format!("`{failed}` failed: {error}{hint}; running on `{}`", candidate.name());
                choice = rank::Choice { candidate, format, warning: Some(warning) };
            }
            _ => return Err(error),
        }
    }
}

/// The formats that [`open`] would run `source` in: its own, or those that it can be made in.
///
/// # Errors
/// When nothing makes what has to be made first, or a method is named for a model that is finished.
pub fn formats(
    source: &Source,
    options: &OpenOptions,
    candidates: &[Candidate],
    config: &Config,
) -> Result<Vec<String>> {
    Wanted::new(source, options, candidates, config).map(|wanted| wanted.formats)
}

/// The format that [`open`] would run `source` in, and the backend that it would begin with.
///
/// # Errors
/// As [`formats`]; when no backend runs any of them.
pub fn planned<'a>(
    source: &Source,
    options: &OpenOptions,
    candidates: &'a [Candidate],
    config: &Config,
) -> Result<(&'a Candidate, String)> {
    let formats = formats(source, options, candidates, config)?;
    let requested = options.backend.as_deref().or(config.backend.as_deref());
    let choice = rank::choose(candidates, &formats, requested, options.fallback)?;
    Ok((choice.candidate, choice.format))
}

/// The options `set` as `candidate` takes them.
///
/// # Errors
/// When one is unknown to it, or has a value that does not fit.
pub fn load_options(candidate: &Candidate, set: &[(String, String)]) -> Result<Options> {
    let specs = candidate.report.as_ref().map_or(&[][..], |report| &report.capabilities.options);
    let name = candidate.name();
    set.iter()
        .map(|(option, value)| Ok((option, options::parse(specs, option, value)?)))
        .collect::<pajamas_plugin_api::Result<_>>()
        .map_err(|error| Error::Usage {
            message: error.message,
            hint: error.hint.unwrap_or_else(|| format!("`pajamas plugins info {name}` lists its options")),
        })
}

/// The request that loads `path`.
pub fn request(path: &Path, set: Options, options: &OpenOptions, config: &Config) -> LoadRequest {
    let mut request = LoadRequest::new(path);
    request.context_length = options.context_length.or(config.context_length);
    request.threads = config.threads.or_else(|| {
        let threads = hardware::threads_beside_others()?;
        tracing::info!("computing with {}: other programs have the other cores", counted(threads as usize, "thread"));
        Some(threads)
    });
    request.parallel_slots = options.parallel.unwrap_or(1).max(1);
    request.options = set;
    request
}

/// Loads the model that `request` names on `candidate`, in this process or in a worker, once it is sure that the backend
/// computes rightly here.
///
/// # Errors
/// The plugin's.
pub fn load(
    path: &Path,
    candidate: &Candidate,
    request: &LoadRequest,
    isolate: bool,
    config: &Config,
    observer: &dyn Observer,
    cancel: &CancelToken,
) -> Result<OpenModel> {
    let capabilities = candidate.report.as_ref().map(|report| report.capabilities.clone());
    observer.progress(&ProgressUpdate { stage: "loading".into(), fraction: 0.0, detail: String::new() });
    arithmetic::ensure(candidate, config, cancel)?;
    let progress = |update: &ProgressUpdate| observer.progress(update);
    let started;
    let engine = if isolate {
        started = Instant::now();
        Engine::Isolated(RemoteModel::load(candidate.file()?, request, config, &progress, cancel)?)
    } else {
        let plugin = load::load(candidate.file()?, config)?;
        started = Instant::now();
        Engine::InProcess(plugin.load_model(request, &progress, cancel)?)
    };
    Ok(OpenModel {
        engine,
        backend: candidate.name(),
        path: path.into(),
        load_ms: started.elapsed().as_secs_f64() * 1e3,
        capabilities: capabilities.unwrap_or_else(|| Capabilities::new("", &[])),
    })
}

/// Bytes of memory that `candidate` computes in: its first device's, where that has its own, else the machine's.
pub fn memory_of(candidate: &Candidate) -> u64 {
    let availability = candidate.report.as_ref().map(|report| &report.availability);
    if let Some(Availability::Available { devices }) = availability
        && let Some(first) = devices.first()
        && first.class == DeviceClass::DiscreteGpu
        && first.memory_total_bytes > 0
    {
        return first.memory_total_bytes;
    }
    hardware::detect().memory_total_bytes
}

/// Whether a backend's failure to load says more about it than about the model or the request.
pub fn another_may_do_better(error: &Error) -> bool {
    use ErrorKind::{DeviceLost, OutOfMemory, Panic, Unsupported};
    match error {
        Error::Plugin(error) => matches!(error.kind, OutOfMemory | Unsupported | DeviceLost | Panic),
        // The engine took its process along.
        Error::Worker { .. } => true,
        _ => false,
    }
}

/// What is to be run: a model as it is, or one to be made first.
struct Wanted<'a> {
    source: &'a Source,
    method: Option<&'a str>,
    /// The formats that it has or can be made in.
    formats: Vec<String>,
    as_it_is: bool,
}

impl<'a> Wanted<'a> {
    fn new(source: &'a Source, options: &'a OpenOptions, candidates: &[Candidate], config: &Config) -> Result<Self> {
        let method = options.method.as_deref();
        let makeable = pipeline::makeable(&source.format, method, candidates);
        let loadable = candidates.iter().any(|candidate| rank::loads(candidate).contains(&source.format));
        if source.format == format::HUGGING_FACE || (!loadable && !makeable.is_empty()) {
            if makeable.is_empty() {
                // Says which quantizer is missing, or which method there is none of.
                let options = QuantizeOptions { method: options.method.clone(), ..QuantizeOptions::default() };
                pipeline::method(source, &options, candidates, config)?;
            }
            return Ok(Self { source, method, formats: makeable, as_it_is: false });
        }
        let made_by = store::record_of(config, &source.path).map(|record| record.method).unwrap_or_default();
        if let Some(method) = method.filter(|method| !made_by.eq_ignore_ascii_case(method)) {
            let hint = format!("leave `-m` out, or make another one: `pajamas quantize SOURCE -m {method}`");
            let message = format!("`-m {method}` has no effect: `{}` is a finished model", source.path.display());
            return Err(Error::Usage { message, hint });
        }
        Ok(Self { source, method, formats: vec![source.format.clone()], as_it_is: true })
    }

    /// The model in the format of `choice`: the source itself, the artifact made from it before, or one made now.
    fn path(
        &self,
        choice: &rank::Choice<'_>,
        candidates: &[Candidate],
        config: &Config,
        observer: &dyn Observer,
        cancel: &CancelToken,
    ) -> Result<PathBuf> {
        let format = choice.format.as_str();
        if self.as_it_is {
            return Ok(self.source.path.clone());
        }
        let options = QuantizeOptions {
            format: Some(format.into()),
            method: self.method.map(Into::into),
            ..QuantizeOptions::default()
        };
        if self.method.is_none() {
            // What was made on purpose is better than what would be made by default.
            let memory = memory_of(choice.candidate);
            if let Some(record) = store::best(config, self.source, format, memory)? {
                let (_, usual) = pipeline::method(self.source, &options, candidates, config)?;
                if !record.options.is_empty() || !record.method.eq_ignore_ascii_case(&usual) {
                    observer.note(&format!("running `{}`, made from it before; `-m` chooses another", record.name()));
                }
                return Ok(config.models_dir().join(record.file));
            }
        }
        let (_, method) = pipeline::method(self.source, &options, candidates, config)?;
        if let Some(path) = store::find(config, self.source, format, &method)? {
            return Ok(path);
        }
        let update = |update: &_| observer.progress(update);
        let artifact = pipeline::quantize(self.source, &options, candidates, config, &update, cancel)?;
        observer.made(&artifact);
        Ok(artifact.path)
    }
}
