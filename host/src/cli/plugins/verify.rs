//! `pajamas plugins verify FILE`: checks a plugin against the rules of the conformance kit.

use crate::cli::output;
use crate::cli::progress::Console;
use crate::config::Config;
use crate::error::Error;
use crate::models::source;
use crate::plugins::conformance::{self, Checked};
use crate::runtime::open::Observer;
use pajamas_plugin_api::ProgressUpdate;
use pajamas_plugin_api::conformance::{Outcome, RULES};
use serde::Serialize;
use std::path::PathBuf;

/// What `pajamas plugins verify` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The plugin's library or bundle folder, or the name of an installed plugin.
    file: PathBuf,
    /// A model that it can load, for the rules that need one [default: a small bundled one, for plugins that load GGUF].
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Check this rule only, by number or name; may be given several times.
    #[arg(long, value_name = "RULE")]
    rule: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    name: String,
    path: PathBuf,
    passed: usize,
    failed: usize,
    skipped: usize,
    rules: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    rule: String,
    name: &'static str,
    text: &'static str,
    outcome: &'static str,
    found: String,
    seconds: f64,
}

/// Runs the command.
pub fn execute(args: &Args, common: &crate::cli::Common, config: &Config) -> anyhow::Result<()> {
    let rules = args.rule.iter().map(|name| conformance::rule(name)).collect::<Result<Vec<_>, _>>()?;
    let path = conformance::find(&args.file, config)?;
    let model = args.model.as_ref().map(|model| source::resolve(model, config)).transpose()?;
    let model = model.as_ref().map(|model| model.path.as_path());
    let shown = path.display().to_string();
    let console = Console::new(&shown);
    let mut done = 0;
    let wanted = |number: u16| rules.is_empty() || rules.contains(&number);
    let count = RULES.iter().filter(|rule| wanted(rule.number)).count();
    let checked = conformance::verify(&path, model, &wanted, config, &mut |name| {
        let fraction = done as f32 / count as f32;
        console.progress(&ProgressUpdate { stage: "checking".into(), fraction, detail: name.into() });
        done += 1;
    })?;
    console.clear();
    let report = report(checked);
    if common.json {
        output::json(&report)?;
    } else {
        print(&report);
    }
    match report.failed {
        0 => Ok(()),
        failed => Err(Error::Unsound(failed).into()),
    }
}

fn report(checked: Checked) -> Report {
    let count = |outcome: &str, rows: &[Row]| rows.iter().filter(|row| row.outcome == outcome).count();
    let rows: Vec<Row> = checked
        .results
        .into_iter()
        .map(|result| {
            let (outcome, found) = match result.outcome {
                Outcome::Passed { note } => ("passed", note),
                Outcome::Failed { reason } => ("failed", reason),
                Outcome::Skipped { reason } => ("skipped", reason),
                _ => ("skipped", "its outcome is one that this pajamas does not know".into()),
            };
            let (rule, name, text) = (format!("R{:02}", result.rule.number), result.rule.name, result.rule.text);
            Row { rule, name, text, outcome, found, seconds: (result.seconds * 1e3).round() / 1e3 }
        })
        .collect();
    Report {
        name: checked.name,
        path: checked.path,
        passed: count("passed", &rows),
        failed: count("failed", &rows),
        skipped: count("skipped", &rows),
        rules: rows,
    }
}

fn print(report: &Report) {
    for row in &report.rules {
        let outcome = match row.outcome {
            "passed" => "ok",
            "failed" => "FAILED",
            other => other,
        };
        output::print(&format!("{} {outcome:<8}{:>7.2} s  {}: {}", row.rule, row.seconds, row.name, row.text));
        if !row.found.is_empty() {
            output::print(&format!("{:24}{}", "", output::one_line(&row.found)));
        }
    }
    let Report { passed, failed, skipped, .. } = report;
    output::print(&format!(
        "\n{}: {passed} passed, {failed} failed, {skipped} skipped",
        output::one_line(&report.name)
    ));
}
