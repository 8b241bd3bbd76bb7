//! Measuring a model against what it was made from.

use super::call::{Call, call_methods};
use super::{ModelRef, open_options};
use crate::error::{Error, Result};
use crate::runtime::obtain::Purpose;
use crate::runtime::open::OpenOptions;
use crate::validate::text::Text;
use crate::validate::{self, Host, Report, ValidateOptions, verdict::Limits};
use std::path::PathBuf;

/// Tokens that are read by default.
pub const TOKENS: usize = 8192;

/// What is to be measured; [`Pajamas::validate`](super::Pajamas::validate) begins it.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/installed.rs"));
/// # fn main() -> pajamas::Result<()> {
/// # let Installed { pajamas, model, .. } = &Installed::new();
/// let made = pajamas.quantize(model).method("Q4_K_M").run()?;
/// // Without a reference it is compared with what it was made from.
/// let report = pajamas.validate(&made).max_kld(0.05).tokens(1024).run()?;
/// let comparison = report.comparison.expect("its source is here");
/// println!("{:.5} ± {:.5}", comparison.kl_divergence.mean, comparison.kl_divergence.standard_error);
/// assert!(report.verdict.is_some_and(|verdict| verdict.passed));
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is measured before `run`"]
pub struct Validate<'a> {
    call: Call<'a>,
    model: String,
    reference: Option<String>,
    options: ValidateOptions,
}

impl<'a> Validate<'a> {
    pub(super) fn new(call: Call<'a>, model: String) -> Self {
        let open = open_options(call.pajamas.config());
        let options = ValidateOptions {
            open: open.clone(),
            reference_open: open,
            text: None,
            tokens: TOKENS,
            window: None,
            limits: Limits::default(),
            insisted: false,
            made_now: false,
            stop_at: None,
        };
        Self { call, model, reference: None, options }
    }

    call_methods!('a);

    /// What to compare it with, instead of what it was made from.
    pub fn reference(mut self, model: impl Into<ModelRef>) -> Self {
        self.reference = Some(model.into().0);
        self
    }

    /// The backend to run both on, where it can.
    pub fn backend(mut self, name: impl Into<String>) -> Self {
        self.options.open.backend = Some(name.into());
        self
    }

    /// How both are opened.
    #[doc(hidden)]
    pub fn opening(mut self, model: OpenOptions, reference: OpenOptions) -> Self {
        self.options.insisted = reference.backend.is_some();
        (self.options.open, self.options.reference_open) = (model, reference);
        self
    }

    /// A file of UTF-8 text to measure on.
    pub fn text(mut self, file: impl Into<PathBuf>) -> Self {
        self.options.text = Some(Text::File(file.into()));
        self
    }

    /// Tokens of the text to read at the most; 8192 without this.
    pub fn tokens(mut self, tokens: usize) -> Self {
        self.options.tokens = tokens;
        self
    }

    /// Tokens in a window, each of which is read on its own; 512 without this.
    pub fn window(mut self, tokens: u32) -> Self {
        self.options.window = Some(tokens);
        self
    }

    /// The mean KL divergence from the reference to allow, in nats; without this, what the model was made under.
    pub fn max_kld(mut self, nats: f64) -> Self {
        self.options.limits.max_kld = Some(nats);
        self
    }

    /// How much perplexity may grow: 0.05 is five percent; without this, what the model was made under, else that.
    pub fn max_degradation(mut self, part: f64) -> Self {
        self.options.limits.max_degradation = Some(part);
        self
    }

    /// Runs the models that are measured in processes of their own: a crash of an engine is an error, and not the end of this
    /// program. Without this they run in this process.
    pub fn isolated(mut self, isolated: bool) -> Self {
        (self.options.open.isolate, self.options.reference_open.isolate) = (isolated, isolated);
        self
    }

    /// Measures. A model that is not good enough is no error: the report's verdict says so.
    ///
    /// # Errors
    /// When the model or a named reference is not there or cannot be run, the text cannot be read, or the two do not speak the
    /// same tokens.
    pub fn run(self) -> Result<Report> {
        let (config, candidates) = self.call.begin();
        let host = Host { candidates: &candidates, config: &config, observer: self.call.observer };
        let source = self.call.source(&self.model, Purpose::Run(&self.options.open), &host)?;
        // In its own precision, by another backend perhaps.
        let reference = self.reference.as_ref().map(|name| {
            let source = self.call.source(name, Purpose::Keep, &host)?;
            Ok::<_, Error>((name.as_str(), source))
        });
        let reference = reference.transpose()?;
        let reference = reference.as_ref().map(|(name, source)| (*name, source));
        validate::validate(&source, reference, &self.options, &host, &self.call.cancel)
    }
}
