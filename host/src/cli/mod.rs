//! The command line: one file per command, each with its `Args` and `execute`. Parsing does no I/O.

mod benchmark;
mod completions;
mod config;
mod describe;
mod doctor;
mod info;
mod interrupt;
pub(crate) mod log;
mod man;
mod models;
mod open_args;
mod output;
mod plugins;
mod progress;
mod quantize;
#[cfg(test)]
mod reference;
mod run;
mod sweep;
mod validate;
mod verify;

use crate::config::{Config, Flags};
use crate::error::Error;
use clap::error::{ContextKind, ContextValue};
use clap::{Parser, Subcommand};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// What scripts go by. In one sentence, because a manual page joins lines.
const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the model is not good enough, 130 interrupted \
                          (also by SIGTERM).";

/// Makes a Hugging Face model small, proves that it is still good, and runs it on the best hardware present.
#[derive(Debug, Parser)]
#[command(name = "pajamas", version, max_term_width = 110, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

/// Where help lists the flags of every command: apart, or they stand among a command's own by chance.
const GLOBAL: &str = "Global options";

/// Flags of every command.
#[derive(Debug, clap::Args)]
struct Common {
    /// Say more on stderr; twice for debugging.
    #[arg(short, long, global = true, help_heading = GLOBAL, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Look for plugins here first; may be given several times.
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "DIR")]
    plugin_dir: Vec<PathBuf>,
    /// Fetch nothing: what is not on this machine is an error.
    #[arg(long, global = true, help_heading = GLOBAL)]
    offline: bool,
    /// Print the result as JSON on stdout.
    #[arg(long, global = true, help_heading = GLOBAL)]
    json: bool,
}

impl Common {
    fn flags(&self) -> Flags {
        Flags { plugin_dirs: self.plugin_dir.clone(), offline: self.offline, ..Flags::default() }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a quantized model from a Hugging Face folder, an id on the Hub, or a GGUF file.
    Quantize(quantize::Args),
    /// Answer a prompt, or chat.
    Run(run::Args),
    /// Measure how much worse a quantized model is than its source, and judge it.
    Validate(validate::Args),
    /// Check that a model is still what was made, byte for byte, that its source is unchanged, and that a backend loads it.
    Verify(verify::Args),
    /// Measure speed, time to first token, load time and memory.
    Benchmark(benchmark::Args),
    /// Try several quantization methods, and show what each costs and brings: a table, a plot, a report.
    Sweep(sweep::Args),
    /// List, install, check or remove plugins, or begin a new one.
    Plugins(plugins::Args),
    /// List, show or remove the models that were made.
    Models(models::Args),
    /// Show this machine, its backends and the models that were made; or all about one model.
    Info(info::Args),
    /// Check that this installation is sound, and say what to do where it is not.
    Doctor(doctor::Args),
    /// Show every setting, its value and where that came from.
    Config(config::Args),
    /// Write the completions for a shell to stdout.
    Completions(completions::Args),
    /// Write the manual pages.
    Man(man::Args),
}

/// Parses the command line, runs the command and returns the exit code, one of those that the help names.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => return say_answer(&answer),
    };
    log::start(cli.common.verbose);
    match dispatch(cli.command, &cli.common) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error, cli.common.json),
    }
}

/// Prints what the parser says: help, the version, or what is wrong. Help that could not be written is a failure.
fn say_answer(answer: &clap::Error) -> ExitCode {
    if answer.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
        let text = answer.render().to_string();
        let message = text.split("\n\nUsage").next().unwrap_or_default().trim().trim_start_matches("error: ");
        let hint = "`--help` shows what the command takes".into();
        return report(&Error::Usage { message: message.into(), hint }.into(), true);
    }
    if let Some(ContextValue::String(word)) = answer.get(ContextKind::InvalidSubcommand)
        && let Some(hint) = hint_for(word)
    {
        output::say(&format!("error: there is no command `{word}`\nhint: {hint}"));
        return ExitCode::from(2);
    }
    let written = answer.print().and_then(|()| std::io::stdout().flush());
    if let Err(error) = written
        && !answer.use_stderr()
    {
        output::gone(&error);
    }
    ExitCode::from(u8::try_from(answer.exit_code()).unwrap_or(2))
}

/// What other tools call by `word`, here.
fn hint_for(word: &str) -> Option<&'static str> {
    Some(match word {
        "ls" | "list" => "`pajamas models` lists the models that were made, `pajamas plugins` the backends",
        "rm" | "remove" | "delete" => "`pajamas models remove NAME` removes a model",
        "pull" | "download" => {
            "`pajamas models pull org/name` downloads a model; `quantize` and `run` do so themselves"
        }
        "chat" | "generate" => "`pajamas run MODEL` chats, `pajamas run MODEL \"prompt\"` answers",
        "convert" | "create" => "`pajamas quantize MODEL` converts and quantizes; `-m F16` and `-m BF16` only convert",
        "bench" => "`pajamas benchmark MODEL` measures speed",
        "serve" => "there is no server; `pajamas run` answers, and the Python package is for programs",
        "version" => "`pajamas --version` tells the version",
        _ => return None,
    })
}

/// Runs the command. The settings are read where they are needed: what helps when they are broken must do without.
fn dispatch(command: Command, common: &Common) -> anyhow::Result<()> {
    let config = || Config::load(&common.flags());
    match command {
        Command::Quantize(args) => quantize::execute(&args, common, &config()?),
        Command::Run(args) => run::execute(args, common, &config()?),
        Command::Validate(args) => validate::execute(&args, common, &config()?),
        Command::Verify(args) => verify::execute(&args, common, &config()?),
        Command::Benchmark(args) => benchmark::execute(&args, common, &config()?),
        Command::Sweep(args) => sweep::execute(&args, common, &config()?),
        Command::Plugins(args) => plugins::execute(&args, common, &config()?),
        Command::Models(args) => models::execute(&args, common, &config()?),
        Command::Info(args) => info::execute(&args, common, &config()?),
        Command::Doctor(args) => doctor::execute(&args, common),
        Command::Config(args) => config::execute(&args, common),
        Command::Completions(args) => completions::execute(&args),
        Command::Man(args) => man::execute(&args, common),
    }
}

/// Says what went wrong on stderr, as JSON where the result would have been JSON, and gives the exit code.
fn report(error: &anyhow::Error, json: bool) -> ExitCode {
    let known = error.downcast_ref::<Error>();
    let code = ExitCode::from(known.map_or(1, Error::exit_code));
    // The library's errors say all there is in one line; their sources would say it twice.
    let message = known.map_or_else(|| format!("{error:#}"), ToString::to_string);
    let hint = known.and_then(Error::hint);
    if json {
        let kind = known.map_or("other", Error::kind);
        output::say(&serde_json::json!({ "error": { "kind": kind, "message": message, "hint": hint } }).to_string());
        return code;
    }
    match known {
        Some(Error::Interrupted) => output::say("interrupted"),
        _ => output::say(&format!("error: {}", output::clean(&message))),
    }
    if let Some(hint) = hint {
        output::say(&format!("hint: {}", output::clean(&hint)));
    }
    code
}
