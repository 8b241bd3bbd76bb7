//! Quantizing: the method named or found by measuring, the model made, and measured against its source.

use super::call::{Call, call_methods};
use super::open_options;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::models::source::{self, Source};
use crate::pipeline::{self, Artifact, Asked, QuantizeOptions};
use crate::runtime::obtain::Purpose;
use crate::runtime::open::OpenOptions;
use crate::search::{self, Goal, Trial};
use crate::validate::text::Text;
use crate::validate::verdict::Limits;
use crate::validate::{self, Host, Report, ValidateOptions};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Tokens that a new model is measured on by default: enough to notice damage, and seconds for a small model.
pub const TOKENS: usize = 2048;

/// Tokens that the trials of a search are measured on by default: twice as many as it takes to be sure early.
pub const TOKENS_TO_SEARCH: usize = 8192;

/// Whether a new model is measured against its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// No.
    Never,
    /// Where that can be done here.
    IfPossible,
    /// Yes, and it is an error where that cannot be done.
    Always,
}

/// What is to be made; [`Pajamas::quantize`](super::Pajamas::quantize) begins it.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/installed.rs"));
/// # fn main() -> pajamas::Result<()> {
/// # let Installed { pajamas, model, .. } = &Installed::new();
/// use pajamas::Measure;
///
/// // By a method, measured against the source.
/// let made = pajamas.quantize(model).method("Q8_0").measure(Measure::Always).tokens(1024).run()?;
/// println!("{:.2} times smaller", made.artifact.ratio);
/// let validation = made.validation.expect("it was to be measured");
/// assert!(validation.comparison.is_some_and(|comparison| comparison.kl_divergence.mean < 0.001));
///
/// // Or the best that fits, found by measuring.
/// let found = pajamas.quantize(model).fit(2 << 20).tokens(1024).run()?;
/// assert!(found.artifact.report.output_bytes <= 2 << 20);
/// println!("{}", found.search.expect("it was searched for").reason);
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is made before `run`"]
pub struct Quantize<'a> {
    call: Call<'a>,
    model: String,
    options: QuantizeOptions,
    max_bytes: Option<u64>,
    max_kld: Option<f64>,
    max_degradation: Option<f64>,
    /// As asked for; without that it goes by the limits and the settings.
    measure: Option<Measure>,
    text: Option<Text>,
    tokens: Option<usize>,
    isolated: bool,
}

/// What was made, and how good it is.
#[derive(Debug, Serialize)]
pub struct Quantized {
    /// What was made.
    #[serde(flatten)]
    pub artifact: Artifact,
    /// What was tried to find it; none where the method was named.
    pub search: Option<Search>,
    /// How good it is; none if that was not measured.
    pub validation: Option<Report>,
    /// Why it was not measured; empty when it was.
    pub not_validated: String,
    /// What went wrong in measuring, where that was insisted on. The model is there all the same.
    #[serde(skip)]
    pub failure: Option<Error>,
}

/// How a method was found.
#[derive(Debug, Serialize)]
pub struct Search {
    /// Why it is this one, in a sentence.
    pub reason: String,
    /// Everything that was measured, by size.
    pub trials: Vec<Trial>,
}

impl<'a> Quantize<'a> {
    pub(super) fn new(call: Call<'a>, model: String) -> Self {
        let options = QuantizeOptions::default();
        Self {
            call,
            model,
            options,
            max_bytes: None,
            max_kld: None,
            max_degradation: None,
            measure: None,
            text: None,
            tokens: None,
            isolated: false,
        }
    }

    call_methods!('a);

    /// The method: `Q4_K_M`, `4bit`, … Without it, and without a limit to search for, it is the format's default.
    pub fn method(mut self, method: impl Into<String>) -> Self {
        self.options.method = Some(method.into());
        self
    }

    /// The format: `gguf` (the default), `mlx`, or what a plugin adds.
    pub fn format(mut self, format: impl Into<String>) -> Self {
        self.options.format = Some(format.into());
        self
    }

    /// An option of the method; may be called several times.
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.options.insert(name.into(), value.into());
        self
    }

    /// The folder to write to, instead of the store.
    pub fn output_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.options.output_dir = Some(folder.into());
        self
    }

    /// The artifact's name without extension.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = Some(name.into());
        self
    }

    /// Replaces an artifact of that [`name`](Self::name) in the store also if it is another model, or by another method.
    pub fn replace(mut self, replace: bool) -> Self {
        self.options.replace = replace;
        self
    }

    /// Bytes of the artifact, at the most: the best that is no larger is found by measuring. Names no method beside it.
    pub fn fit(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// The mean KL divergence from the source to allow, in nats. Where no method is named, the smallest that keeps to it is
    /// found by measuring.
    pub fn max_kld(mut self, nats: f64) -> Self {
        self.max_kld = Some(nats);
        self
    }

    /// How much perplexity may grow: 0.05, which is the default, is five percent. What is only to [`fit`](Self::fit) may
    /// double it.
    pub fn max_degradation(mut self, part: f64) -> Self {
        self.max_degradation = Some(part);
        self
    }

    /// Whether it is measured against its source. Without this it is where that can be done, and must be where a limit is set.
    pub fn measure(mut self, measure: Measure) -> Self {
        self.measure = Some(measure);
        self
    }

    /// Runs the models that are measured in processes of their own: a crash of an engine is an error, and not the end of this
    /// program. Without this they run in this process. Quantizing always has a process of its own.
    pub fn isolated(mut self, isolated: bool) -> Self {
        self.isolated = isolated;
        self
    }

    /// A file of UTF-8 text to measure on.
    pub fn text(mut self, file: impl Into<PathBuf>) -> Self {
        self.text = Some(Text::File(file.into()));
        self
    }

    /// Tokens of the text to read at the most; 2048 without this, in a search 8192.
    pub fn tokens(mut self, tokens: usize) -> Self {
        self.tokens = Some(tokens);
        self
    }

    /// Says what would be made, and writes nothing. The model must be on this machine.
    ///
    /// # Errors
    /// When no quantizer makes it, or the one that does cannot say.
    pub fn dry_run(self) -> Result<Artifact> {
        let (config, candidates) = self.call.begin();
        let source = source::resolve(&self.model, &config)?;
        pipeline::dry_run(&source, &self.options, &candidates, &config, &self.call.cancel)
    }

    /// Makes it, and measures it. The observer hears of the artifact as soon as it is there.
    ///
    /// # Errors
    /// When there is no such model, no quantizer makes it, nothing meets the limits, or the making fails or is cancelled; then
    /// nothing is left behind. Failures that come later are in the result.
    pub fn run(self) -> Result<Quantized> {
        if let Some(text) = &self.text {
            // Before hours of work for it.
            text.check()?;
        }
        if let (Some(method), Some(_)) = (&self.options.method, self.max_bytes) {
            return Err(Error::Usage {
                message: format!("a size to fit and the method {method} exclude each other"),
                hint: "leave one of them out: what fits is found by trying methods".into(),
            });
        }
        if self.measure == Some(Measure::Never) && (self.is_limited() || self.max_bytes.is_some()) {
            return Err(Error::Usage {
                message: "a limit was set, and nothing is to be measured".into(),
                hint: "leave one of them out".into(),
            });
        }
        self.limits().check()?;
        let (config, candidates) = self.call.begin();
        let host = Host { candidates: &candidates, config: &config, observer: self.call.observer };
        let goal = self.goal();
        let purpose = match &goal {
            Some(goal) => Purpose::Search(&self.options, goal),
            None => Purpose::Quantize(&self.options),
        };
        let source = self.call.source(&self.model, purpose, &host)?;
        let (options, search) = match goal {
            None => (self.options.clone(), None),
            Some(goal) => {
                // The backend that the user prefers may run other formats only.
                let config = Config { backend: None, ..config.clone() };
                let host = Host { config: &config, ..host };
                let name = goal.name(&source.name, &self.options);
                let asked = Asked { name, options: self.options.options.clone() };
                let options = QuantizeOptions { search: Some(asked), ..self.options.clone() };
                let found = search::search(&source, &goal, &options, &host, &self.call.cancel)?;
                (found.options, Some(Search { reason: found.reason, trials: found.trials }))
            }
        };
        let progress = |update: &_| self.call.observer.progress(update);
        let artifact = pipeline::quantize(&source, &options, &candidates, &config, &progress, &self.call.cancel)?;
        self.call.observer.made(&artifact);
        let (validation, not_validated, failure) = match self.measured(&source, &artifact, &host) {
            Ok(Ok(report)) => (Some(report), String::new(), None),
            Ok(Err(reason)) => (None, reason, None),
            // Whatever became of the measurement, the model is there.
            Err(error) => (None, error.to_string(), Some(error)),
        };
        Ok(Quantized { artifact, search, validation, not_validated, failure })
    }

    /// What is to be searched for, where no method is named and a size or a divergence is.
    fn goal(&self) -> Option<Goal> {
        let asked = self.max_bytes.is_some() || self.max_kld.is_some();
        (asked && self.options.method.is_none()).then(|| Goal {
            max_bytes: self.max_bytes,
            limits: self.limits(),
            text: self.text.clone(),
            tokens: self.tokens_to_read(),
            isolated: self.isolated,
        })
    }

    fn is_limited(&self) -> bool {
        self.max_kld.is_some() || self.max_degradation.is_some()
    }

    /// Whether it is measured, in the end.
    fn measure_or_default(&self) -> Measure {
        match self.measure {
            Some(measure) => measure,
            None if self.is_limited() || self.max_bytes.is_some() => Measure::Always,
            None if self.call.pajamas.config().validate => Measure::IfPossible,
            None => Measure::Never,
        }
    }

    fn limits(&self) -> Limits {
        // Who asks for a size gets the best of it, unless that is no model any more.
        let usual = (self.max_bytes.is_some() && self.max_kld.is_none()).then_some(1.0);
        Limits { max_degradation: self.max_degradation.or(usual), max_kld: self.max_kld }
    }

    fn tokens_to_read(&self) -> usize {
        let searched = self.options.method.is_none() && (self.max_bytes.is_some() || self.max_kld.is_some());
        self.tokens.unwrap_or(if searched { TOKENS_TO_SEARCH } else { TOKENS })
    }

    /// Measures `artifact` against `source`; the inner error is the reason why that is not done, where nobody insists on it.
    fn measured(&self, source: &Source, artifact: &Artifact, host: &Host<'_>) -> Result<Result<Report, String>> {
        let measure = self.measure_or_default();
        if measure == Measure::Never {
            return Ok(Err("it was not asked for".to_owned()));
        }
        let open = OpenOptions { isolate: self.isolated, ..open_options(host.config) };
        let measured_on = self.text.clone().unwrap_or_else(|| Text::of_model(Some(&source.path)));
        if let (Text::File(text), Some(calibrated)) = (&measured_on, self.options.options.get("calibration"))
            && text.canonicalize().ok() == Path::new(calibrated).canonicalize().ok()
        {
            host.observer.warn(&format!(
                "`{}` is the text that it was calibrated with, too: the figures flatter. Measure on another text",
                text.display()
            ));
        }
        let options = ValidateOptions {
            open: open.clone(),
            reference_open: open,
            text: self.text.clone(),
            tokens: self.tokens_to_read(),
            window: None,
            limits: self.limits(),
            insisted: false,
            made_now: true,
            stop_at: None,
        };
        let made = Source { path: artifact.path.clone(), format: artifact.format.clone(), hub: None, ..source.clone() };
        // The backend that the user prefers may run other formats only.
        let config = Config { backend: None, ..host.config.clone() };
        let host = Host { config: &config, ..*host };
        match validate::validate(&made, Some((&self.model, source)), &options, &host, &self.call.cancel) {
            Ok(report) => Ok(Ok(report)),
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Err(error) if measure == Measure::Always => Err(error),
            Err(error) => Ok(Err(error.to_string())),
        }
    }
}
