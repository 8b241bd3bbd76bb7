//! `pajamas benchmark`: speed, time to first token, load time and memory, by llama-bench's method.

use super::interrupt::Interrupt;
use super::output;
use super::progress::Bar;
use crate::Pajamas;
use crate::benchmark::export::{Csv, Exporter, Json, LEGEND, Markdown, Table};
use crate::benchmark::report::Report;
use crate::config::Config;
use crate::error::Error;
use crate::pipeline::Artifact;
use crate::runtime::open::Observer;
use pajamas_plugin_api::ProgressUpdate;
use std::time::Duration;

/// The longest prompt, answer or depth that makes sense to ask for.
const TOKENS_MAX: u32 = 16 << 20;

/// The longest rest before a test, in seconds.
const DELAY_S_MAX: f64 = 3600.0;

/// What `pajamas benchmark` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = LEGEND)]
pub struct Args {
    /// GGUF files, MLX folders, names of models already made, Hugging Face folders, or ids on the Hub.
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<String>,
    /// A backend to run on, without fallback; may be given several times. `all` stands for every one that can run the
    /// model [default: the first of `pajamas plugins list` that can].
    #[arg(short, long)]
    backend: Vec<String>,
    /// Lengths of prompts to process, in tokens; 0 for none.
    #[arg(short, long, value_name = "N", value_delimiter = ',', default_value = "512", value_parser = tokens, allow_negative_numbers = true)]
    prompt_tokens: Vec<u32>,
    /// How many tokens to generate; 0 for none.
    #[arg(short = 'n', long, value_name = "N", value_delimiter = ',', default_value = "128", value_parser = tokens, allow_negative_numbers = true)]
    generate_tokens: Vec<u32>,
    /// How many tokens the KV cache holds before each test.
    #[arg(short, long, value_name = "N", value_delimiter = ',', default_value = "0", value_parser = tokens, allow_negative_numbers = true)]
    depth: Vec<u32>,
    /// How often each test is measured.
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repetitions: u32,
    /// Measure from the first run on; by default each test runs once before, uncounted.
    #[arg(long)]
    no_warmup: bool,
    /// Seconds of rest before each test, in which the machine can cool down.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds, allow_negative_numbers = true)]
    delay: Duration,
    /// Print the result as this.
    #[arg(short, long, value_name = "FORMAT", default_value = "table", conflicts_with = "json")]
    output: Format,
    /// Fail when the backend that the config prefers cannot run, instead of running on the next one.
    #[arg(long)]
    strict: bool,
    /// The quantization method, where a model must be quantized first [default: Q4_K_M for GGUF, 4bit for MLX].
    #[arg(short, long)]
    method: Option<String>,
    /// Tokens of context [default: what the tests need].
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    context_length: Option<u32>,
    /// Threads to compute with [default: one for each core that is free].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,
    /// An option of the backends, as NAME=VALUE; may be given several times. `pajamas plugins info BACKEND` lists them.
    #[arg(long, value_name = "NAME=VALUE", value_parser = output::name_and_value)]
    set: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// Markdown, with llama-bench's columns.
    Md,
    /// One record for each test, with its samples.
    Csv,
    /// Everything; the same as `--json`.
    Json,
}

impl Format {
    fn exporter(self) -> &'static dyn Exporter {
        match self {
            Self::Table => &Table,
            Self::Md => &Markdown,
            Self::Csv => &Csv,
            Self::Json => &Json,
        }
    }
}

fn tokens(text: &str) -> Result<u32, String> {
    let tokens = text.trim().parse().ok().filter(|tokens| *tokens <= TOKENS_MAX);
    tokens.ok_or_else(|| format!("expected whole numbers from 0 to {TOKENS_MAX}, as in `512` or `512,1024`"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=DELAY_S_MAX).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| format!("expected a number from 0 to {DELAY_S_MAX}"))
}

/// Runs the command.
pub fn execute(args: &Args, common: &super::Common, config: &Config) -> anyhow::Result<()> {
    let pajamas = Pajamas::with(Config { threads: args.threads.or(config.threads), ..config.clone() });
    let interrupt = Interrupt::install()?;
    let screen = Screen(Bar::new());
    let work = pajamas
        .benchmark(args.models.iter().cloned())
        .prompt_tokens(&args.prompt_tokens)
        .generate_tokens(&args.generate_tokens)
        .depths(&args.depth)
        .repetitions(args.repetitions)
        .with(|options| {
            options.backends.clone_from(&args.backend);
            options.warm_up = !args.no_warmup;
            options.delay = args.delay;
            options.fallback &= !args.strict;
            options.method.clone_from(&args.method);
            options.context_length = args.context_length;
            options.set.clone_from(&args.set);
        });
    let report = work.observer(&screen).cancel(interrupt.begin()).run()?;
    interrupt.end();
    drop(screen);
    let format = if common.json { Format::Json } else { args.output };
    conclude(report, format)
}

/// Prints the report, and fails if something in it did.
fn conclude(mut report: Report, format: Format) -> anyhow::Result<()> {
    if let [run] = report.runs.as_mut_slice()
        && run.tests.is_empty()
        && let Some(error) = run.error.take()
    {
        // One thing was asked for and it failed: that is the result.
        return Err(error.into());
    }
    if !report.is_empty() {
        let text = format.exporter().export(&report)?;
        output::print(&output::clean(&text));
    }
    if report.interrupted {
        return Err(Error::Interrupted.into());
    }
    match report.failures() {
        0 => Ok(()),
        failed => {
            let hints: Vec<String> = report.runs.iter().filter_map(|run| run.error.as_ref()?.hint()).collect();
            let message = format!("{failed} of {} failed{}", report.runs.len(), reasons(&report));
            Err(Error::Refused { message, hint: hints.join("; ") }.into())
        }
    }
}

/// What failed and why, a line for each.
fn reasons(report: &Report) -> String {
    let mut reasons = String::new();
    for run in &report.runs {
        let place = format!("\n  {} on {}", run.model, run.backend.as_deref().unwrap_or("any backend"));
        let failed = run.tests.iter().filter_map(|test| Some((&test.test, test.failure()?)));
        failed.for_each(|(test, reason)| reasons += &format!("{place}, {test}: {reason}"));
        if let (Some(error), None) = (&run.error, run.tests.last().and_then(|test| test.failure())) {
            reasons += &format!("{place}: {error}");
        }
    }
    reasons
}

/// Shows a user what is being measured.
struct Screen(Bar);

impl Observer for Screen {
    fn warn(&self, message: &str) {
        self.0.say(&format!("warning: {}", output::clean(message)));
    }

    fn note(&self, message: &str) {
        self.0.say(&output::clean(message));
    }

    fn progress(&self, update: &ProgressUpdate) {
        self.0.update(update);
    }

    fn made(&self, artifact: &Artifact) {
        let (path, method, seconds) = (artifact.path.display(), &artifact.method, artifact.elapsed_ms / 1e3);
        self.0.say(&output::clean(&format!("made {path} ({method}) in {seconds:.2} s")));
    }
}
