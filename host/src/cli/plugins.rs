//! `pajamas plugins`: `list` shows every plugin file found, with its rank, status and reason; `info` tells all about one;
//! `install`, `remove` and `trust` change what is there; `verify` checks one against the rules; `new` begins another.

mod info;
mod install;
mod new;
mod remove;
mod trust;
mod verify;

use super::output;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::plugins::{self, Backend, Candidate};
use std::path::Path;

/// What `pajamas plugins` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

/// Whether what is remembered counts.
#[derive(Debug, Default, clap::Args)]
struct Asking {
    /// Ask every plugin again, whatever is remembered of its last answer, and have its arithmetic checked again.
    #[arg(long)]
    rescan: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List every plugin file found, the best backend first, with its status and reason (the default).
    List(Asking),
    /// Show everything about one plugin: files, devices, options for `--set`, what it quantizes to.
    #[command(alias = "show")]
    Info(info::Args),
    /// Check a plugin and copy it into the plugin folder; one of the same file name is replaced, also while it is in use.
    Install(install::Args),
    /// Remove a plugin from the plugin folder.
    Remove(remove::Args),
    /// Accept a plugin's present contents, where the settings say `trust = "pinned"`.
    Trust(trust::Args),
    /// Check a plugin against the rules that every plugin must keep, each in a process of its own.
    Verify(verify::Args),
    /// Begin a new plugin: a folder with a complete backend in it, ready to be built and changed.
    New(new::Args),
}

/// Runs the command.
pub fn execute(args: &Args, common: &super::Common, config: &Config) -> anyhow::Result<()> {
    match args.action.as_ref().unwrap_or(&Action::List(Asking::default())) {
        Action::List(asking) => list(&survey(asking, config), common, config),
        Action::Info(args) => info::execute(args, common, config),
        Action::Install(args) => install::execute(args, common, config),
        Action::Remove(args) => remove::execute(args, common, config),
        Action::Trust(args) => trust::execute(args, common, config),
        Action::Verify(args) => verify::execute(args, common, config),
        Action::New(args) => new::execute(args, common, config),
    }
}

fn survey(asking: &Asking, config: &Config) -> Vec<Candidate> {
    if asking.rescan { plugins::survey_afresh(config) } else { plugins::survey(config) }
}

fn list(candidates: &[Candidate], common: &super::Common, config: &Config) -> anyhow::Result<()> {
    let rows = plugins::backends(candidates, config);
    if common.json {
        return output::json(&rows);
    }
    if rows.is_empty() {
        output::say("no plugins in");
        config.plugin_dirs.iter().for_each(|dir| output::say(&format!("  {}", dir.display())));
        output::say(&format!("hint: {}", crate::error::no_plugin_hint()));
        return Ok(());
    }
    print(&rows);
    Ok(())
}

/// The candidates that go by `name`; one at least.
///
/// # Errors
/// When there is none.
fn named<'a>(candidates: &'a [Candidate], name: &str) -> Result<Vec<&'a Candidate>> {
    let named = plugins::named(candidates, name);
    if named.is_empty() {
        let mut installed: Vec<String> = candidates.iter().map(Candidate::name).collect();
        installed.dedup();
        return Err(Error::UnknownBackend { name: name.into(), installed });
    }
    Ok(named)
}

/// The name of the file, the bundle or the link by which a candidate was found.
fn file_name(candidate: &Candidate) -> String {
    candidate.found_at.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The error for a `name` that several files have.
fn ambiguous(name: &str, candidates: &[&Candidate]) -> Error {
    let files: Vec<String> = candidates.iter().map(|candidate| file_name(candidate)).collect();
    let message = format!("`{name}` is the name of {} plugin files", files.len());
    Error::Usage { message, hint: format!("name one of them: {}", files.join(", ")) }
}

/// Prints the table, and below it what could be done about the rest.
pub fn print(rows: &[Backend]) {
    let head = ["RANK", "NAME", "VERSION", "API", "STATUS", "TIME", "DEVICE OR REASON"].map(String::from).to_vec();
    let dash = || "-".to_owned();
    let mut cells = vec![head];
    for row in rows {
        let status = row.status.as_str().to_owned();
        let mut text = if row.reason.is_empty() { row.devices.join(", ") } else { row.reason.clone() };
        if rows.iter().filter(|other| other.name == row.name).count() > 1 {
            let file = Path::new(&row.path).file_name().unwrap_or_default();
            text = format!("{}: {text}", file.to_string_lossy());
        }
        cells.push(vec![
            row.rank.map_or_else(dash, |rank| rank.to_string()),
            row.name.clone(),
            row.version.clone().unwrap_or_else(dash),
            row.api_version.clone().unwrap_or_else(dash),
            status,
            row.probe_ms.map_or_else(dash, |ms| format!("{ms:.1} ms")),
            text,
        ]);
    }
    output::table(&cells);
    print_remedies(rows);
}

/// Says what could be done about each plugin that is not as it could be.
fn print_remedies(rows: &[Backend]) {
    for row in rows.iter().filter(|row| !row.remedy.is_empty()) {
        output::say(&format!("hint: {}: {}", output::clean(&row.name), output::clean(&row.remedy)));
    }
}
