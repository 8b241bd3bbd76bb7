//! The flags of every command that opens one model: where it runs, and how.

use super::output;
use crate::config::Config;
use crate::runtime::open::OpenOptions;

/// Where a model runs, and how.
#[derive(Debug, clap::Args)]
pub struct OpenArgs {
    /// The backend to run the model on [default: the first of `pajamas plugins list` that can].
    #[arg(short, long)]
    backend: Option<String>,
    /// Fail when the backend cannot run, instead of running on the next one.
    #[arg(long)]
    strict: bool,
    /// Run the model in a process of its own: if its engine crashes, that is an error and not the end of pajamas.
    #[arg(long)]
    isolate: bool,
    /// The quantization method, where the model must be quantized first [default: Q4_K_M for GGUF, 4bit for MLX].
    #[arg(short, long)]
    method: Option<String>,
    /// Threads to compute with [default: one for each core that is free].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,
    /// An option of the backend, as NAME=VALUE; may be given several times. `pajamas plugins info BACKEND` lists them.
    #[arg(long, value_name = "NAME=VALUE", value_parser = output::name_and_value)]
    set: Vec<(String, String)>,
}

impl OpenArgs {
    /// The settings, with what a flag says instead.
    pub fn over(&self, config: &Config) -> Config {
        Config { threads: self.threads.or(config.threads), ..config.clone() }
    }

    /// How to open the model, under `config`; the context's length is the command's own.
    pub fn options(&self, config: &Config) -> OpenOptions {
        OpenOptions {
            backend: self.backend.clone(),
            fallback: config.fallback && !self.strict,
            isolate: self.isolate,
            method: self.method.clone(),
            context_length: None,
            parallel: None,
            set: self.set.clone(),
        }
    }
}
