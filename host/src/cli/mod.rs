//! The command line: one file per command, each with its `Args` and `execute`. Parsing does no I/O.

mod info;
mod interrupt;
mod output;
mod plugins;
mod progress;
mod quantize;
mod run;

use crate::config::Config;
use crate::error::Error;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Makes a Hugging Face model small and runs it on the best hardware present.
#[derive(Debug, Parser)]
#[command(name = "pajamas", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

/// Flags of every command.
#[derive(Debug, clap::Args)]
struct Common {
    /// Say more on stderr; twice for debugging.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Look for plugins here first; may be given several times.
    #[arg(long, global = true, value_name = "DIR")]
    plugin_dir: Vec<PathBuf>,
    /// Print the result as JSON on stdout.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a quantized model from a Hugging Face folder, an id in its cache, or a GGUF file.
    Quantize(quantize::Args),
    /// Answer a prompt, or chat.
    Run(run::Args),
    /// Show the backends that are installed.
    #[command(subcommand)]
    Plugins(plugins::Command),
    /// Show this machine, its backends and the models that were made.
    Info(info::Args),
}

/// Parses the command line, runs the command and returns the exit code: 0 done, 1 failed, 2 wrong usage, 130
/// interrupted.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.common.verbose);
    let done = Config::load(&cli.common.plugin_dir).map_err(Into::into).and_then(|config| match cli.command {
        Command::Quantize(args) => quantize::execute(args, &cli.common, &config),
        Command::Run(args) => run::execute(args, &cli.common, config),
        Command::Plugins(command) => plugins::execute(&command, &cli.common, &config),
        Command::Info(args) => info::execute(&args, &cli.common, &config),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

fn report(error: &anyhow::Error) -> ExitCode {
    let known = error.downcast_ref::<Error>();
    if matches!(known, Some(Error::Interrupted)) {
        output::say("interrupted");
        return ExitCode::from(130);
    }
    // The library's errors say all there is in one line; their sources would say it twice.
    let text = known.map_or_else(|| format!("{error:#}"), ToString::to_string);
    output::say(&format!("error: {}", output::clean(&text)));
    if let Some(hint) = known.and_then(Error::hint) {
        output::say(&format!("hint: {}", output::clean(&hint)));
    }
    ExitCode::from(1)
}

fn start_log(verbose: u8) {
    use tracing_subscriber::EnvFilter;
    let default = ["warn", "info", "debug", "trace"][usize::from(verbose.min(3))];
    let filter = EnvFilter::try_from_env(crate::env_vars::RUST_LOG).unwrap_or_else(|_| EnvFilter::new(default));
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr())
        && crate::env_vars::value(crate::env_vars::NO_COLOR).is_none();
    // A second start, in a test that calls `main` twice, keeps the first.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .without_time()
        .with_target(false)
        .try_init();
}
