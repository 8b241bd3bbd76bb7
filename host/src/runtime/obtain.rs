//! A reference → a model on this machine: the one that is here, or the hub's, fetched once it is known that something can be
//! made of it and that there is room for it.

use super::forecast;
use super::open::{self, Observer, OpenOptions};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::hardware::{self, disk};
use crate::models::describe::{self, Description};
use crate::models::format;
use crate::models::hub::download::outline::Outline;
use crate::models::hub::download::{self, Ahead, Pull, Pulled};
use crate::models::source::{self, Source};
use crate::models::store;
use crate::pipeline::{self, Artifact, QuantizeOptions};
use crate::plugins::{Candidate, rank};
use crate::search::{self, Goal};
use crate::validate::Host;
use pajamas_plugin_api::{CancelToken, ProgressUpdate};

/// Tokens of context for which a model is looked at, where nobody says how many: what backends take by default.
const CONTEXT: u32 = 4096;

/// What a model is fetched for, which tells what to look at before.
#[derive(Debug, Clone, Copy)]
pub enum Purpose<'a> {
    /// To make another one of it.
    Quantize(&'a QuantizeOptions),
    /// To find out by measuring what to make of it.
    Search(&'a QuantizeOptions, &'a Goal),
    /// To run it.
    Run(&'a OpenOptions),
    /// To have it: whether it can be used here at all.
    Keep,
    /// To have it, whatever it is.
    Any,
}

/// Who asks, and what for.
#[derive(Clone, Copy)]
pub struct Obtain<'a> {
    /// What for.
    pub purpose: Purpose<'a>,
    /// The plugins, sorted by rank.
    pub candidates: &'a [Candidate],
    /// The settings.
    pub config: &'a Config,
    /// Who wants to know what happens.
    pub observer: &'a dyn Observer,
    /// To stop.
    pub cancel: &'a CancelToken,
}

impl Obtain<'_> {
    /// The model that `reference` means, fetched where it is the hub's and not all of it is here.
    ///
    /// # Errors
    /// Those of [`source::resolve`] and [`download::pull`]; when nothing can be made of it here, or it has no room.
    pub fn source(&self, reference: &str) -> Result<Source> {
        let missing = match source::resolve(reference, self.config) {
            Err(error @ Error::ModelNotFound { .. }) if source::may_be_on_hub(reference) => error,
            result => return result,
        };
        if let Purpose::Run(options) = self.purpose {
            let requested = options.backend.as_deref().or(self.config.backend.as_deref());
            let runner = |format: &str| {
                let choice = rank::choose(self.candidates, &[format.to_owned()], requested, options.fallback).ok()?;
                Some(open::memory_of(choice.candidate))
            };
            if let Some(record) = store::best_of_hub(self.config, reference, options.method.as_deref(), &runner) {
                self.observer
                    .note(&format!("its source is not here; running `{}`, made from it before", record.name()));
                let path = self.config.models_dir().join(&record.file);
                return source::resolve(&path.display().to_string(), self.config);
            }
        }
        if self.config.offline {
            return Err(offline(missing, self.config));
        }
        let wanted = Pull { reference: reference.into(), file: None };
        self.pull(&wanted).map(|pulled| pulled.source).map_err(|error| both(missing, error))
    }

    /// Fetches `wanted`, unless it is here.
    ///
    /// # Errors
    /// As [`Self::source`].
    pub fn pull(&self, wanted: &Pull) -> Result<Pulled> {
        let progress = |update: &ProgressUpdate| self.observer.progress(update);
        let pulled = download::pull(wanted, self.config, &|ahead| self.look(ahead), &progress, self.cancel);
        match pulled {
            Err(error) if self.config.offline => Err(offline(error, self.config)),
            result => result,
        }
    }

    /// Refuses what would be of no use here.
    fn look(&self, ahead: &Ahead<'_>) -> Result<()> {
        let missing = ahead.missing_bytes();
        if missing > 0 {
            self.observer.note(&format!("fetching {}: {}", ahead.id, crate::text::size(missing)));
        }
        match self.purpose {
            Purpose::Any => return Ok(()),
            // Without a plugin nobody can tell, and who only fetches needs none.
            Purpose::Keep if self.candidates.iter().all(|candidate| candidate.report.is_none()) => return Ok(()),
            _ => (),
        }
        let purpose = self.purpose;
        let outline = ahead.outline()?;
        let source = &outline.source;
        if !rank::is_known(self.candidates, &source.format) {
            return Err(Error::NoBackend {
                task: format!("use {} models", source.format),
                reasons: self.candidates.iter().map(|c| format!("{}: {}", c.name(), c.reason)).collect(),
            });
        }
        let description = describe::describe(source, self.config).map_err(|error| named(error, &outline, ahead))?;
        let named = |error| named(error, &outline, ahead);
        match purpose {
            Purpose::Quantize(options) => self.made(&outline, options, missing).map(drop).map_err(named),
            Purpose::Search(options, goal) => {
                let host = Host { candidates: self.candidates, config: self.config, observer: self.observer };
                search::check(source, goal, options, &host, self.cancel).map_err(named)
            }
            Purpose::Run(options) => {
                let (candidate, format) = open::planned(source, options, self.candidates, self.config)?;
                let (format, method) = (Some(format), options.method.clone());
                let quantize = QuantizeOptions { format, method, ..QuantizeOptions::default() };
                let as_it_is =
                    quantize.format.as_ref() == Some(&source.format) && source.format != format::HUGGING_FACE;
                let made = if as_it_is { None } else { self.made(&outline, &quantize, missing).map_err(named)? };
                if made.is_none() && !as_it_is {
                    // Its quantizer does not say how large it will be.
                    return Ok(());
                }
                self.check_memory(&description, made, options.context_length, candidate)
            }
            // Whoever keeps a model may have more memory, or room, elsewhere or later.
            Purpose::Keep if source.format == format::HUGGING_FACE => {
                let format = pipeline::makeable(&source.format, None, self.candidates).into_iter().next();
                self.forecast(&outline, &QuantizeOptions { format, ..QuantizeOptions::default() })
                    .map(drop)
                    .map_err(named)
            }
            Purpose::Keep | Purpose::Any => Ok(()),
        }
    }

    /// What will be made of the model, where its quantizer can say; refuses what no quantizer makes.
    fn forecast(&self, outline: &Outline, options: &QuantizeOptions) -> Result<Option<Artifact>> {
        let source = &outline.source;
        if !pipeline::can_dry_run(source, options, self.candidates, self.config)? {
            return Ok(None);
        }
        pipeline::dry_run(source, options, self.candidates, self.config, self.cancel).map(Some)
    }

    /// The bytes of that; refuses what the disk has no room for.
    fn made(&self, outline: &Outline, options: &QuantizeOptions, missing: u64) -> Result<Option<u64>> {
        let Some(made) = self.forecast(outline, options)? else { return Ok(None) };
        let (bytes, dir) = (made.report.output_bytes, made.path.parent().unwrap_or(&made.path));
        // Where both lie on one disk, what is fetched takes its part.
        let one_disk = crate::models::hub::cache().is_some_and(|cache| disk::is_same(&cache, dir));
        if let Some(room) = disk::room(dir) {
            let needed = bytes + if one_disk { missing } else { 0 };
            if needed > room.free_bytes {
                return Err(Error::Refused {
                    message: format!(
                        "`{}` has no room for what is to be made: {} are needed, and {} are free",
                        dir.display(),
                        crate::text::size(needed),
                        crate::text::size(room.free_bytes)
                    ),
                    hint: "make room, or name another folder: `pajamas quantize -o DIR`".into(),
                });
            }
        }
        Ok(Some(bytes))
    }

    /// Refuses what can never fit into the memory it would run in; warns of what does not fit now.
    fn check_memory(
        &self,
        description: &Description,
        made: Option<u64>,
        context_length: Option<u32>,
        candidate: &Candidate,
    ) -> Result<()> {
        let trained = description.context_length_trained.and_then(|tokens| u32::try_from(tokens).ok());
        let default = trained.filter(|tokens| *tokens > 0).map_or(CONTEXT, |trained| trained.min(CONTEXT));
        let length = context_length.or(self.config.context_length).unwrap_or(default);
        let machine = hardware::detect();
        let Some(forecast) = forecast::at(description, made, length, candidate, &machine, self.config) else {
            return Ok(());
        };
        let Some(need) = forecast.contexts.first() else { return Ok(()) };
        let size = crate::text::size;
        let text = format!("with {length} tokens of context it takes about {}", size(need.total_bytes));
        let hint = "try a method that makes it smaller (`-m Q3_K_M`) or a shorter context; `pajamas models pull` fetches \
                    it all the same";
        if forecast.total_bytes > 0 && need.total_bytes > forecast.total_bytes {
            let message = format!("{text}, and {} has {}", forecast.device, size(forecast.total_bytes));
            return Err(Error::Refused { message, hint: hint.into() });
        }
        if need.fits == Some(false) {
            let available = size(forecast.available_bytes);
            self.observer.warn(&format!("{text}, and of {} only {available} are free now", forecast.device));
        }
        Ok(())
    }
}

/// `error` with the hub's name of the model in place of the folder that stands for it.
fn named(error: Error, outline: &Outline, ahead: &Ahead<'_>) -> Error {
    let path = &outline.source.path;
    let dir = if path.is_dir() { path.as_path() } else { path.parent().unwrap_or(path) };
    let (dir, id) = (dir.display().to_string(), ahead.id);
    match error {
        Error::Plugin(mut error) => {
            error.message = error.message.replace(&dir, id);
            error.causes.iter_mut().for_each(|cause| *cause = cause.replace(&dir, id));
            Error::Plugin(error)
        }
        Error::Invalid { path, message, hint } => {
            let path = path.display().to_string().replace(&dir, id).into();
            Error::Invalid { path, message: message.replace(&dir, id), hint }
        }
        error => error,
    }
}

/// Says that nothing was asked, and who wants it so.
fn offline(error: Error, config: &Config) -> Error {
    match error {
        Error::ModelNotFound { reference, reason, hint } => Error::ModelNotFound {
            reference,
            reason,
            hint: format!("{hint}; nothing is fetched now, because of {}", config.origins.of("offline")),
        },
        error => error,
    }
}

/// What is neither here nor on the hub may be either's slip.
fn both(here: Error, there: Error) -> Error {
    let Error::ModelNotFound { reference, reason: here, hint: near } = here else { return there };
    let (reason, hint) = match there {
        Error::ModelNotFound { reason, hint, .. } => (format!("on the hub: {reason}"), hint),
        Error::Refused { message, hint } if message.starts_with(download::UNREACHABLE) => (message, hint),
        there => return there,
    };
    let hint = if near.starts_with("did you mean") { near } else { hint };
    Error::ModelNotFound { reference, reason: format!("{here}; {reason}"), hint }
}
