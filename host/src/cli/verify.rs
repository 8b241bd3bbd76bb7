//! `pajamas verify`: is this model still the one that was made.

use super::interrupt::Interrupt;
use super::output;
use super::progress::Console;
use crate::config::Config;
use crate::error::Error;
use crate::models::source;
use crate::runtime::open::Observer;
use crate::verify::{self, Context, Outcome};

/// What `pajamas verify` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A model that was made: its name, file or folder.
    model: String,
    /// What it was made from [default: what the model or its record names].
    #[arg(long, value_name = "MODEL")]
    source: Option<String>,
}

/// Runs the command.
pub fn execute(args: &Args, common: &super::Common, config: &Config) -> anyhow::Result<()> {
    let artifact = source::resolve(&args.model, config)?;
    let from = args.source.as_ref().map(|reference| source::resolve(reference, config)).transpose()?;
    let candidates = crate::plugins::survey(config);
    let interrupt = Interrupt::install()?;
    let console = Console::new(&args.model);
    let cancel = interrupt.begin();
    let progress = |update: &_| console.progress(update);
    let context = Context { candidates: &candidates, config, progress: &progress, cancel: &cancel };
    let report = verify::verify(&artifact, from.as_ref(), &context)?;
    console.clear();
    if common.json {
        output::json(&report)?;
    } else {
        let mut rows = vec![["CHECK", "RESULT", "FOUND"].map(String::from).to_vec()];
        rows.extend(report.checks.iter().map(|check| {
            let outcome = match check.outcome {
                Outcome::Passed => "ok",
                Outcome::Failed => "FAILED",
                Outcome::Skipped => "skipped",
            };
            vec![check.name.to_owned(), outcome.to_owned(), check.detail.clone()]
        }));
        output::table(&rows);
    }
    match report.checks.iter().filter(|check| check.outcome == Outcome::Failed).count() {
        0 => Ok(()),
        count => Err(Error::Unsound(count).into()),
    }
}
