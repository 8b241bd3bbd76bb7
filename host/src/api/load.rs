//! Opening a model.

use super::call::{Call, call_methods};
use super::{Model, open_options};
use crate::error::Result;
use crate::runtime::obtain::Purpose;
use crate::runtime::open::{self, OpenOptions};
use crate::validate::Host;

/// How a model is opened; [`Pajamas::load`](super::Pajamas::load) begins it.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/installed.rs"));
/// # fn main() -> pajamas::Result<()> {
/// # let Installed { pajamas, model, .. } = &Installed::new();
/// // What must be quantized first is, and found again the next time.
/// let model = pajamas.load(model).method("Q8_0").backend("gguf-cpu").isolated(true).context_length(256).run()?;
/// assert_eq!(model.backend(), "gguf-cpu");
/// assert_eq!(model.info().context_length, 256);
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is loaded before `run`"]
pub struct Load<'a> {
    call: Call<'a>,
    model: String,
    options: OpenOptions,
    threads: Option<u32>,
}

impl<'a> Load<'a> {
    pub(super) fn new(call: Call<'a>, model: String) -> Self {
        let options = open_options(call.pajamas.config());
        Self { call, model, options, threads: None }
    }

    call_methods!('a);

    /// The backend to run on; where it cannot, the next best does. Without this the best one.
    pub fn backend(mut self, name: impl Into<String>) -> Self {
        self.options.backend = Some(name.into());
        self
    }

    /// Fails where that backend cannot run, instead of taking the next best.
    pub fn strict(mut self) -> Self {
        self.options.fallback = false;
        self
    }

    /// Runs the model in a process of its own: a crash of its engine is an error, and not the end of this program. Without
    /// this it runs in this process.
    pub fn isolated(mut self, isolated: bool) -> Self {
        self.options.isolate = isolated;
        self
    }

    /// The quantization method, where the model must be made first.
    pub fn method(mut self, method: impl Into<String>) -> Self {
        self.options.method = Some(method.into());
        self
    }

    /// Tokens of context for each of the requests that run at once; without this the model's, 4096 at the most.
    pub fn context_length(mut self, tokens: u32) -> Self {
        self.options.context_length = Some(tokens);
        self
    }

    /// How many requests may run at once, at least 1 (the default); on backends that batch, they share the passes through
    /// the model. Each takes memory for its context.
    pub fn parallel(mut self, requests: u32) -> Self {
        self.options.parallel = Some(requests);
        self
    }

    /// Threads to compute with.
    pub fn threads(mut self, threads: u32) -> Self {
        self.threads = Some(threads);
        self
    }

    /// An option of the backend, as `pajamas plugins info BACKEND` lists them; may be called several times.
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.set.push((name.into(), value.into()));
        self
    }

    /// Opens it. What must be fetched or quantized first, is.
    ///
    /// # Errors
    /// When there is no such model, no backend runs it, an option is none of the backend's, or making or loading fails.
    pub fn run(self) -> Result<Model> {
        let (mut config, candidates) = self.call.begin();
        config.threads = self.threads.or(config.threads);
        let host = Host { candidates: &candidates, config: &config, observer: self.call.observer };
        let source = self.call.source(&self.model, Purpose::Run(&self.options), &host)?;
        open::open(&source, &self.options, &candidates, &config, self.call.observer, &self.call.cancel).map(Model::new)
    }
}
