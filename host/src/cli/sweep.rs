//! `pajamas sweep`: several methods of one model, each made, measured and timed; a table, a plot and a report.

use super::interrupt::Interrupt;
use super::output;
use super::progress::Console;
use super::validate::tokens;
use crate::config::Config;
use crate::error::Error;
use crate::files;
use crate::sweep::{self, Sweep, plot, report};
use crate::{Pajamas, TOKENS_TO_VALIDATE};
use std::path::{Path, PathBuf};

/// What `pajamas sweep` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A Hugging Face folder or id, or a GGUF file.
    model: String,
    /// The methods to try, separated by commas [default: the usual ones of each format].
    #[arg(short, long, value_delimiter = ',', value_name = "METHOD,…")]
    method: Vec<String>,
    /// The formats to try, separated by commas [default: all that can be made and run here].
    #[arg(short, long, value_delimiter = ',', value_name = "FORMAT,…")]
    format: Vec<String>,
    /// Keep the models that are made.
    #[arg(long)]
    keep: bool,
    /// A file of UTF-8 text to measure on [default: `validation.txt` in the source's folder, else the bundled text].
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Tokens of the text to read at the most.
    #[arg(long, value_name = "N", default_value_t = TOKENS_TO_VALIDATE, value_parser = tokens)]
    tokens: usize,
    /// Tokens of prompt to time.
    #[arg(short, long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    prompt_tokens: u32,
    /// Tokens of answer to time.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    generate_tokens: u32,
    /// How often each is timed.
    #[arg(short, long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repetitions: u32,
    /// The folder to write report.html, plot.svg and sweep.json to [default: a new folder in
    /// ~/.pajamas/sweeps/<model>, by the time].
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Runs the command.
pub fn execute(args: &Args, common: &super::Common, config: &Config) -> anyhow::Result<()> {
    let pajamas = Pajamas::with(config.clone());
    let interrupt = Interrupt::install()?;
    let console = Console::new(&args.model);
    let mut work = pajamas
        .sweep(&args.model)
        .methods(args.method.iter().cloned())
        .formats(args.format.iter().cloned())
        .keep(args.keep)
        .tokens(args.tokens)
        .speed(args.prompt_tokens, args.generate_tokens)
        .repetitions(args.repetitions);
    if let Some(text) = &args.text {
        work = work.text(text);
    }
    if let Some(dir) = &args.output {
        // Before an hour of work for it.
        std::fs::create_dir_all(dir).map_err(Error::io("creating", dir))?;
    }
    let found = work.observer(&console).cancel(interrupt.begin()).run()?;
    console.clear();
    // First what took so long: the files may not find room.
    if common.json {
        output::json(&found)?;
    } else {
        table(&found);
    }
    let dir = match &args.output {
        Some(dir) => dir.clone(),
        None => new_dir(&config.home.join("sweeps").join(&found.name), &found.started_at.replace(':', ""))?,
    };
    let report = write(&found, &dir)?;
    if !common.json {
        output::print(&output::shown(&report.display().to_string()));
    }
    if found.interrupted { Err(Error::Interrupted.into()) } else { Ok(()) }
}

/// Makes a folder called `name` in `parent`; where another sweep has that, with a number behind.
fn new_dir(parent: &Path, name: &str) -> Result<PathBuf, Error> {
    std::fs::create_dir_all(parent).map_err(Error::io("creating", parent))?;
    let mut dir = parent.join(name);
    for number in 2.. {
        match std::fs::create_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                dir = parent.join(format!("{name}-{number}"))
            }
            made => return made.map_err(Error::io("creating", &dir)).map(|()| dir),
        }
    }
    Ok(dir)
}

/// Writes the files; gives the page's path.
fn write(found: &Sweep, dir: &Path) -> Result<PathBuf, Error> {
    std::fs::create_dir_all(dir).map_err(Error::io("creating", dir))?;
    let json = serde_json::to_string_pretty(found).unwrap_or_default() + "\n";
    for (name, text) in [("sweep.json", json), ("plot.svg", plot::svg(found)?), ("report.html", report::html(found)?)] {
        files::replace(&dir.join(name), text.as_bytes(), 0o644)?;
    }
    Ok(dir.join("report.html"))
}

fn table(found: &Sweep) {
    let header = ["METHOD", "FORMAT", "SIZE", "KLD", "PERPLEXITY", "TOP-1", "PP TOK/S", "TG TOK/S", ""];
    let mut rows = vec![header.map(String::from).to_vec()];
    let rate = |rate: Option<f64>, deviation: Option<f64>| match (rate, deviation) {
        (Some(rate), Some(deviation)) => format!("{rate:.1} ± {deviation:.1}"),
        (Some(rate), None) => format!("{rate:.1}"),
        (None, _) => "-".into(),
    };
    rows.extend(found.rows.iter().enumerate().map(|(index, row)| {
        // By size, rising: what a smaller one does better is what there is no reason to take.
        let better = found.rows[..index].iter().find(|other| other.size_bytes < row.size_bytes && other.kld <= row.kld);
        vec![
            row.method.clone(),
            row.format.clone(),
            output::size(row.size_bytes),
            format!("{:.5}", row.kld),
            sweep::change(row.perplexity_change),
            format!("{:.1} %", row.top1 * 100.0),
            rate(row.prompt_tokens_per_second, row.prompt_tokens_per_second_deviation),
            rate(row.tokens_per_second, row.tokens_per_second_deviation),
            better.map_or_else(String::new, |better| format!("{} is smaller and better", better.method)),
        ]
    }));
    output::table(&rows);
    for failure in &found.failures {
        output::say(&output::clean(&format!("{} {}: {}", failure.format, failure.method, failure.reason)));
    }
}
