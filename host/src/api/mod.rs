//! What a program does with models, in a few words: [`Pajamas`] is the way in, each of its methods begins one piece of work
//! that is described step by step and begun with `run`. The command line is written on top of this.

mod benchmark;
mod call;
mod generate;
mod load;
mod model;
mod pull;
mod quantize;
mod reference;
mod sweep;
mod validate;

pub use benchmark::Benchmark;
pub(crate) use generate::fail_if_broken_off;
pub use generate::{Generate, Stream};
pub use load::Load;
pub use model::{Logits, Messages, Model};
pub use pull::Pull;
pub use quantize::{Measure, Quantize, Quantized, Search};
pub use reference::ModelRef;
pub use sweep::SweepMethods;
pub(crate) use validate::TOKENS as TOKENS_TO_VALIDATE;
pub use validate::Validate;

use crate::config::{Config, Flags};
use crate::error::Result;
use crate::hardware::{self, Hardware};
use crate::models::source::{self, Source};
use crate::models::store::{self, Record};
use crate::plugins::{self, Backend, Candidate};
use crate::runtime::open::OpenOptions;
use call::Call;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// The settings and the plugins of one installation. Cheap to clone; its methods may be called from several threads.
///
/// ```no_run
/// # fn main() -> pajamas::Result<()> {
/// let pajamas = pajamas::Pajamas::new()?;
/// let made = pajamas.quantize("Qwen/Qwen2.5-0.5B-Instruct").method("Q4_K_M").run()?;
/// let model = pajamas.load(&made).run()?;
/// for piece in model.chat("What is the capital of France?").stream() {
///     print!("{}", piece?);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Pajamas(Arc<Inner>);

struct Inner {
    config: Config,
    /// The plugins, once they were asked.
    candidates: Mutex<Option<Arc<[Candidate]>>>,
}

/// How to begin: everything has a default, which is what the program `pajamas` would take.
///
/// ```
/// # fn main() -> pajamas::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// let pajamas = pajamas::Pajamas::builder().home(folder).threads(4).offline(true).build()?;
/// assert!(pajamas.models().is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Builder {
    flags: Flags,
    threads: Option<u32>,
    backend: Option<String>,
}

impl Builder {
    /// The folder of settings, models and plugins, instead of `PAJAMAS_HOME` or `~/.pajamas`.
    #[must_use]
    pub fn home(mut self, folder: impl Into<PathBuf>) -> Self {
        self.flags.home = Some(folder.into());
        self
    }

    /// Looks for plugins here first; may be called several times.
    #[must_use]
    pub fn plugin_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.flags.plugin_dirs.push(folder.into());
        self
    }

    /// Where pajamas is installed: a folder with `bin/pajamas-worker` and `lib/pajamas/plugins` in it. Without this it is the
    /// one above the running program's.
    #[must_use]
    pub fn prefix(mut self, folder: impl Into<PathBuf>) -> Self {
        self.flags.prefix = Some(folder.into());
        self
    }

    /// The program `pajamas-worker`, in which plugins are asked and quantizing and isolated models run. Without this it is
    /// what `PAJAMAS_WORKER` names, or lies beside the running program or in `bin` of the home folder.
    #[must_use]
    pub fn worker(mut self, program: impl Into<PathBuf>) -> Self {
        self.flags.worker = Some(program.into());
        self
    }

    /// Never asks the hub: what is not on this machine is an error.
    #[must_use]
    pub fn offline(mut self, offline: bool) -> Self {
        self.flags.offline = offline;
        self
    }

    /// Threads to compute with.
    #[must_use]
    pub fn threads(mut self, threads: u32) -> Self {
        self.threads = Some(threads);
        self
    }

    /// The backend to prefer.
    #[must_use]
    pub fn backend(mut self, name: impl Into<String>) -> Self {
        self.backend = Some(name.into());
        self
    }

    /// Reads the settings. No plugin is loaded yet.
    ///
    /// # Errors
    /// When a folder that was named is not there, or the settings' file is not as expected.
    pub fn build(self) -> Result<Pajamas> {
        let mut config = Config::load(&self.flags)?;
        config.threads = self.threads.or(config.threads);
        config.backend = self.backend.or(config.backend);
        Ok(Pajamas::with(config))
    }
}

impl Pajamas {
    /// Begins with the settings that the program `pajamas` has.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// Begins with other settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Begins with these settings.
    #[doc(hidden)]
    pub fn with(config: Config) -> Self {
        Self(Arc::new(Inner { config, candidates: Mutex::default() }))
    }

    /// The settings.
    #[doc(hidden)]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The plugins, best first. They are asked once, each in a process of its own, and that is remembered.
    #[doc(hidden)]
    pub fn candidates(&self) -> Arc<[Candidate]> {
        let mut candidates = self.0.candidates.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(candidates.get_or_insert_with(|| plugins::survey(&self.0.config).into()))
    }

    /// Makes a quantized model of `model`: a Hugging Face folder or id, or a GGUF file.
    pub fn quantize(&self, model: impl Into<ModelRef>) -> Quantize<'_> {
        Quantize::new(Call::new(self), model.into().0)
    }

    /// Opens `model`: a GGUF file, an MLX folder, the name of one that was made, or what one can be made of.
    pub fn load(&self, model: impl Into<ModelRef>) -> Load<'_> {
        Load::new(Call::new(self), model.into().0)
    }

    /// Measures how much worse `model` is than what it was made from.
    pub fn validate(&self, model: impl Into<ModelRef>) -> Validate<'_> {
        Validate::new(Call::new(self), model.into().0)
    }

    /// Measures how fast models are.
    pub fn benchmark<M: Into<ModelRef>>(&self, models: impl IntoIterator<Item = M>) -> Benchmark<'_> {
        Benchmark::new(Call::new(self), models.into_iter().map(|model| model.into().0).collect())
    }

    /// Makes `model` by several methods and measures each.
    pub fn sweep(&self, model: impl Into<ModelRef>) -> SweepMethods<'_> {
        SweepMethods::new(Call::new(self), model.into().0)
    }

    /// Fetches the model `reference` (`org/name`, `org/name@revision`) of the hub into Hugging Face's cache, whatever it is; what
    /// is there already is not fetched again.
    pub fn pull(&self, reference: impl Into<String>) -> Pull<'_> {
        Pull::new(Call::new(self), reference.into())
    }

    /// Every plugin that was found, the best backend first, with its state and the reason for that.
    pub fn backends(&self) -> Vec<Backend> {
        plugins::backends(&self.candidates(), self.config())
    }

    /// Asks every plugin again, whatever is remembered.
    pub fn rescan(&self) -> Vec<Backend> {
        let found: Arc<[Candidate]> = plugins::survey_afresh(self.config()).into();
        *self.0.candidates.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&found));
        plugins::backends(&found, self.config())
    }

    /// This machine.
    pub fn hardware(&self) -> Hardware {
        hardware::detect()
    }

    /// The models that were made and are kept.
    pub fn models(&self) -> Vec<Record> {
        store::list(self.config())
    }

    /// The file or folder that `model` means, where it is on this machine.
    ///
    /// # Errors
    /// When it is not, with where it was looked for.
    pub fn path_of(&self, model: impl Into<ModelRef>) -> Result<PathBuf> {
        source::resolve(&model.into().0, self.config()).map(|source: Source| source.path)
    }
}

/// What opening takes by default under `config`.
fn open_options(config: &Config) -> OpenOptions {
    OpenOptions { fallback: config.fallback, ..OpenOptions::default() }
}
