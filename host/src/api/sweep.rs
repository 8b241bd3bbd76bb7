//! Several methods side by side.

use super::call::{Call, call_methods};
use super::validate::TOKENS;
use crate::config::Config;
use crate::error::Result;
use crate::pipeline::{self, QuantizeOptions};
use crate::runtime::obtain::Purpose;
use crate::sweep::{self, Sweep, SweepOptions};
use crate::validate::Host;
use crate::validate::text::Text;
use std::path::PathBuf;

/// What is to be tried; [`Pajamas::sweep`](super::Pajamas::sweep) begins it.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/installed.rs"));
/// # fn main() -> pajamas::Result<()> {
/// # let Installed { pajamas, model, .. } = &Installed::new();
/// let sweep = pajamas.sweep(model).methods(["Q4_K_M", "Q8_0"]).tokens(1024).speed(32, 8).repetitions(1).run()?;
/// for row in &sweep.rows {
///     println!("{}: {} bytes, mean KL divergence {:.5}", row.method, row.size_bytes, row.kld);
/// }
/// assert_eq!(sweep.rows.len(), 2);
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is tried before `run`"]
pub struct SweepMethods<'a> {
    call: Call<'a>,
    model: String,
    options: SweepOptions,
}

impl<'a> SweepMethods<'a> {
    pub(super) fn new(call: Call<'a>, model: String) -> Self {
        let options = SweepOptions {
            methods: Vec::new(),
            formats: Vec::new(),
            keep: false,
            text: None,
            tokens: TOKENS,
            speed: (512, 128),
            repetitions: 3,
            isolated: false,
        };
        Self { call, model, options }
    }

    call_methods!('a);

    /// The methods; the usual ones of each format without this.
    pub fn methods<M: Into<String>>(mut self, methods: impl IntoIterator<Item = M>) -> Self {
        self.options.methods = methods.into_iter().map(Into::into).collect();
        self
    }

    /// The formats; all that can be made and run here without this.
    pub fn formats<F: Into<String>>(mut self, formats: impl IntoIterator<Item = F>) -> Self {
        self.options.formats = formats.into_iter().map(Into::into).collect();
        self
    }

    /// Keeps what is made.
    pub fn keep(mut self, keep: bool) -> Self {
        self.options.keep = keep;
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

    /// Tokens of prompt and of answer to time, each at least 1; 512 and 128 without this.
    pub fn speed(mut self, prompt_tokens: u32, generate_tokens: u32) -> Self {
        self.options.speed = (prompt_tokens, generate_tokens);
        self
    }

    /// How often each is timed; 3 times without this.
    pub fn repetitions(mut self, repetitions: u32) -> Self {
        self.options.repetitions = repetitions.max(1);
        self
    }

    /// Runs the models that are measured in processes of their own: a crash of an engine is an error, and not the end of this
    /// program. Without this they run in this process.
    pub fn isolated(mut self, isolated: bool) -> Self {
        self.options.isolated = isolated;
        self
    }

    /// Tries them. One that fails is in the result, with the reason; the others go on. Where it is stopped, those that were
    /// measured by then are the result.
    ///
    /// # Errors
    /// When there is no such model, or nothing can be tried with it here.
    pub fn run(self) -> Result<Sweep> {
        if let Some(text) = &self.options.text {
            text.check()?;
        }
        let (config, candidates) = self.call.begin();
        // The backend that the user prefers may run other formats only.
        let config = Config { backend: None, ..config };
        let host = Host { candidates: &candidates, config: &config, observer: self.call.observer };
        // Before hours of fetching for it; whether it makes anything of this model is told by that.
        for method in &self.options.methods {
            pipeline::is_known(method, &candidates)?;
        }
        let first = QuantizeOptions { method: self.options.methods.first().cloned(), ..QuantizeOptions::default() };
        let source = self.call.source(&self.model, Purpose::Quantize(&first), &host)?;
        sweep::sweep(&source, &self.options, &host, &self.call.cancel)
    }
}
