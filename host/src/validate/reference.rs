//! What a candidate is measured against: the model that it was made from, in the precision that it had there, on
//! whatever here can run that.

use super::Host;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::models::source::{self, Source};
use crate::models::{format, provenance, store};
use crate::pipeline::{self, QuantizeOptions};
use crate::plugins::{Candidate, Status, rank};
use crate::runtime::open::{self, OpenModel, OpenOptions};
use crate::scratch::Scratch;
use pajamas_plugin_api::{CancelToken, ErrorKind};
use std::path::{Path, PathBuf};

/// A reference that is loaded.
pub struct Reference {
    /// It.
    pub model: OpenModel,
    /// The file or folder that it is, whatever was loaded for it.
    pub source: PathBuf,
    /// What that holds now.
    pub fingerprint: String,
    /// The file that was written for it.
    _temporary: Option<Scratch>,
}

/// The model that the one at `path` was made from, by its record or by what it tells itself.
///
/// # Errors
/// With the reason why there is none: nothing is known of it, or it is gone or has changed.
pub fn origin(path: &Path, config: &Config) -> Result<Source> {
    let unknown = |message: String| {
        let hint = "name what it was made from: `--reference MODEL`".into();
        Error::Refused { message, hint }
    };
    let keys = provenance::read(path)?;
    if let (Some(id), Some(commit)) =
        (keys.get("general.source.huggingface.repository"), keys.get("pajamas.source.commit"))
    {
        return source::resolve(&format!("{id}@{commit}"), config);
    }
    let Some(record) = store::record_of(config, path).filter(|record| !record.source.is_empty()) else {
        return Err(unknown(format!("nothing tells what `{}` was made from", path.display())));
    };
    let source = source::resolve(&record.source, config)?;
    if source::fingerprint(&source)? != record.fingerprint {
        return Err(unknown(format!("`{}` has changed since the model was made from it", record.source)));
    }
    Ok(source)
}

/// Loads `source` on the backend of `options`, else on the candidate's, else on the best that can. A folder that none can
/// run as it is, is run from a temporary F16 file. `name` is for messages.
///
/// # Errors
/// When nothing here can run it, with each backend's reason.
pub fn open(
    source: &Source,
    name: &str,
    options: &OpenOptions,
    candidate: &OpenModel,
    host: &Host<'_>,
    cancel: &CancelToken,
) -> Result<Reference> {
    if source.path == candidate.path {
        return Err(Error::Usage {
            message: format!("`{}` cannot be its own reference", source.path.display()),
            hint: "name what it was made from: `--reference MODEL`".into(),
        });
    }
    let Host { candidates, config, observer } = *host;
    let requested = options.backend.as_deref();
    if let Some(backend) = requested {
        // For its sentence about what is wrong with that one.
        let mut formats = vec![source.format.clone()];
        formats.extend(temporary_format(source));
        rank::choose(candidates, &formats, Some(backend), false)?;
    }
    let mut able: Vec<&Candidate> = candidates
        .iter()
        .filter(|c| c.status == Status::Available && rank::loads(c).contains(&source.format))
        .filter(|c| requested.is_none_or(|name| c.name() == name))
        .collect();
    // Those whose own format it is first, then the candidate's own backend: what differs is then the model alone.
    able.sort_by_key(|c| (rank::loads(c).first() != Some(&source.format), c.name() != candidate.backend));
    let mut failures = Vec::new();
    for candidate in able {
        let set = open::load_options(candidate, &options.set)?;
        let request = open::request(&source.path, set, options, config);
        match open::load(&source.path, candidate, &request, options.isolate, config, observer, cancel) {
            Ok(model) => {
                return Ok(Reference {
                    model,
                    source: source.path.clone(),
                    fingerprint: source::fingerprint(source)?,
                    _temporary: None,
                });
            }
            Err(error) if another_may_do_better(&error) => failures.push(format!("{}: {error}", candidate.name())),
            Err(error) => return Err(error),
        }
    }
    if temporary_format(source).is_some() {
        match from_temporary_file(source, name, options, host, cancel) {
            Err(error) if another_may_do_better(&error) => failures.push(format!("a temporary F16 file: {error}")),
            done => return done,
        }
    }
    if failures.is_empty() {
        return Err(rank::choose(candidates, std::slice::from_ref(&source.format), requested, false)
            .err()
            .unwrap_or(Error::NoBackend { task: "run the reference".into(), reasons: failures }));
    }
    Err(Error::NoBackend { task: format!("run the reference `{name}`"), reasons: failures })
}

/// The format of the file that a folder can be run from.
fn temporary_format(source: &Source) -> Option<String> {
    (source.format == format::HUGGING_FACE).then(|| format::GGUF.to_owned())
}

fn from_temporary_file(
    source: &Source,
    name: &str,
    options: &OpenOptions,
    host: &Host<'_>,
    cancel: &CancelToken,
) -> Result<Reference> {
    let Host { candidates, config, observer } = *host;
    let temporary = Scratch::create("reference", config)?;
    let size = store::size_with_links(&source.path);
    let free = crate::hardware::disk::room(temporary.path()).map(|room| room.free_bytes);
    // Weights in single precision halve, others keep their size.
    if let Some(free) = free.filter(|free| *free < size) {
        let (free, size) = (crate::text::size(free), crate::text::size(size));
        let message = format!("`{}` has {free} free, and up to {size} are needed", temporary.path().display());
        return Err(Error::Plugin(pajamas_plugin_api::Error::new(ErrorKind::OutOfMemory, message)));
    }
    observer.warn(&format!("no backend runs `{name}` as it is; it is written to a temporary F16 file for this"));
    let made = QuantizeOptions {
        format: Some(format::GGUF.into()),
        method: Some("F16".into()),
        output_dir: Some(temporary.path().to_owned()),
        ..QuantizeOptions::default()
    };
    let progress = |update: &pajamas_plugin_api::ProgressUpdate| observer.progress(update);
    let artifact = pipeline::quantize(source, &made, candidates, config, &progress, cancel)?;
    let file = Source { path: artifact.path, format: format::GGUF.into(), ..source.clone() };
    let open_file = OpenOptions { fallback: true, ..options.clone() };
    let model = open::open(&file, &open_file, candidates, config, observer, cancel)?;
    Ok(Reference {
        model,
        source: source.path.clone(),
        fingerprint: source::fingerprint(source)?,
        _temporary: Some(temporary),
    })
}

/// Whether the next way may lead further.
fn another_may_do_better(error: &Error) -> bool {
    matches!(error, Error::NoBackend { .. }) || open::another_may_do_better(error)
}
