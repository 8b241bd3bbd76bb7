//! `pajamas plugins`: `list` shows every plugin file found, with its rank, status and reason; `show` tells all
//! about one; `new` begins another.

mod new;
mod show;

use super::output;
use crate::config::Config;
use crate::plugins::{self, Candidate, Status};
use pajamas_plugin_api::Availability;
use serde::Serialize;

/// What `pajamas plugins` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List every plugin file found, the best backend first, with its status and reason (the default).
    List,
    /// Show everything about one plugin: devices, options for `--set`, what it quantizes to.
    Show(show::Args),
    /// Begin a new plugin: a folder with a complete backend in it, ready to be built and changed.
    New(new::Args),
}

/// One row.
#[derive(Debug, Serialize)]
pub struct Row {
    /// 1 for the backend that runs by default; none for those that cannot run.
    rank: Option<usize>,
    name: String,
    version: Option<String>,
    api_version: Option<String>,
    status: Status,
    /// The devices of an available backend.
    devices: Vec<String>,
    formats: Vec<String>,
    reason: String,
    remedy: String,
    /// How long it took to say whether it is available.
    probe_ms: Option<f64>,
    path: String,
}

/// Runs the command.
pub fn execute(args: &Args, common: &super::Common, config: &Config) -> anyhow::Result<()> {
    match args.action.as_ref().unwrap_or(&Action::List) {
        Action::List => list(common, config),
        Action::Show(args) => show::execute(args, common, config),
        Action::New(args) => new::execute(args, common, config),
    }
}

fn list(common: &super::Common, config: &Config) -> anyhow::Result<()> {
    let rows = rows(&plugins::survey(config));
    if common.json {
        return output::json(&rows);
    }
    if rows.is_empty() {
        output::say("no plugins in");
        config.plugin_dirs.iter().for_each(|dir| output::say(&format!("  {}", dir.display())));
        output::say(&format!("hint: {}", crate::error::NO_PLUGIN_HINT));
        return Ok(());
    }
    print(&rows);
    Ok(())
}

/// The rows for `candidates`, which are sorted.
pub fn rows(candidates: &[Candidate]) -> Vec<Row> {
    candidates.iter().enumerate().map(|(index, candidate)| row(index, candidate)).collect()
}

fn row(index: usize, candidate: &Candidate) -> Row {
    let manifest = candidate.manifest.as_ref();
    let devices = match candidate.report.as_ref().map(|report| &report.availability) {
        Some(Availability::Available { devices }) => devices.iter().map(|device| device.name.clone()).collect(),
        _ => Vec::new(),
    };
    Row {
        rank: (candidate.status == Status::Available).then_some(index + 1),
        name: candidate.name(),
        version: manifest.map(|m| m.version.to_string()),
        api_version: manifest.map(|m| m.api_version.to_string()),
        status: candidate.status,
        devices,
        formats: manifest.map(|m| m.formats.clone()).unwrap_or_default(),
        reason: candidate.reason.clone(),
        remedy: candidate.remedy.clone(),
        probe_ms: candidate.report.as_ref().map(|report| (report.elapsed_ms * 1e3).round() / 1e3),
        path: candidate.path.display().to_string(),
    }
}

/// Prints the table, and below it what could be done about the rest.
pub fn print(rows: &[Row]) {
    let head = ["RANK", "NAME", "VERSION", "API", "STATUS", "DEVICE OR REASON"].map(String::from).to_vec();
    let dash = || "-".to_owned();
    let mut cells = vec![head];
    for row in rows {
        let status = row.status.as_str().to_owned();
        let text = if row.reason.is_empty() { row.devices.join(", ") } else { row.reason.clone() };
        cells.push(vec![
            row.rank.map_or_else(dash, |rank| rank.to_string()),
            row.name.clone(),
            row.version.clone().unwrap_or_else(dash),
            row.api_version.clone().unwrap_or_else(dash),
            status,
            text,
        ]);
    }
    output::table(&cells);
    for row in rows.iter().filter(|row| !row.remedy.is_empty()) {
        output::say(&format!("hint: {}: {}", output::clean(&row.name), output::clean(&row.remedy)));
    }
}
