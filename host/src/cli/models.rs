//! `pajamas models`: what was made and is kept.

use super::interrupt::Interrupt;
use super::progress::Console;
use super::{describe, output};
use crate::config::Config;
use crate::models::hub::download::{Pull, Pulled};
use crate::models::store::prune::{self, Also, Useless};
use crate::models::store::{self, Record, Removal};
use crate::plugins;
use crate::runtime::obtain::{Obtain, Purpose};
use crate::validate::Summary;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What `pajamas models` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the models that were made, with their sizes and what they were made from (the default).
    List,
    /// Show all about one model, as `pajamas info MODEL` does.
    Show {
        /// The model's name, or any other reference to a model.
        name: String,
        /// The backend to ask how much memory the model takes [default: the one that would run it].
        #[arg(short, long)]
        backend: Option<String>,
    },
    /// Fetch a model from the hub into Hugging Face's cache: what makes it, and of that what is not there yet.
    Pull {
        /// Its id: `org/name`, or `org/name@revision` for a branch, a tag or a commit.
        reference: String,
        /// Of a repository of several GGUF files, this one, with all its parts.
        #[arg(long, value_name = "NAME")]
        file: Option<String>,
        /// Fetch it also where nothing installed here can use it.
        #[arg(long)]
        force: bool,
    },
    /// Remove what is of no use: what interrupted runs left, and the models that the flags name.
    Prune {
        /// Also models of which there is one by the same method of a newer state of the source.
        #[arg(long)]
        superseded: bool,
        /// Also models that were measured and are not good enough.
        #[arg(long)]
        failed: bool,
        /// Also models whose source is gone, or is another by now.
        #[arg(long)]
        stale: bool,
        /// Say what would be removed, and remove nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove models and what is recorded of them.
    #[command(visible_alias = "rm")]
    Remove {
        /// Names, as the list shows them.
        #[arg(required = true)]
        name: Vec<String>,
        /// Say what would be removed, and remove nothing.
        #[arg(long)]
        dry_run: bool,
        /// Remove also what pajamas did not make.
        #[arg(long)]
        force: bool,
    },
}

/// A model of the list.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    file: String,
    path: PathBuf,
    format: String,
    method: String,
    size_bytes: u64,
    source: String,
    options: BTreeMap<String, String>,
    created_unix_s: u64,
    validation: Option<Summary>,
}

#[derive(Debug, Serialize)]
struct PulledModel {
    id: String,
    commit: String,
    path: PathBuf,
    format: String,
    size_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Pruned {
    removed: Vec<Useless>,
    size_bytes: u64,
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Removed {
    removed: Vec<PathBuf>,
    size_bytes: u64,
    dry_run: bool,
}

/// Runs the command.
pub fn execute(args: &Args, common: &super::Common, config: &Config) -> anyhow::Result<()> {
    match args.action.as_ref().unwrap_or(&Action::List) {
        Action::List => list(common, config),
        Action::Show { name, backend } => describe::execute(name, backend.as_deref(), common, config),
        Action::Pull { reference, file, force } => {
            let purpose = if *force { Purpose::Any } else { Purpose::Keep };
            pull(&Pull { reference: reference.clone(), file: file.clone() }, purpose, common, config)
        }
        Action::Prune { superseded, failed, stale, dry_run } => {
            prune(Also { superseded: *superseded, failed: *failed, stale: *stale }, *dry_run, common, config)
        }
        Action::Remove { name, dry_run, force } => remove(name, *dry_run, *force, common, config),
    }
}

fn pull(wanted: &Pull, purpose: Purpose<'_>, common: &super::Common, config: &Config) -> anyhow::Result<()> {
    let interrupt = Interrupt::install()?;
    let console = Console::new(&wanted.reference);
    let candidates = match purpose {
        Purpose::Any => Vec::new(),
        _ => plugins::survey(config),
    };
    let cancel = interrupt.begin();
    let obtain = Obtain { purpose, candidates: &candidates, config, observer: &console, cancel: &cancel };
    let Pulled { source, size_bytes } = obtain.pull(wanted)?;
    console.clear();
    let (id, commit) = source.hub.clone().unwrap_or_default();
    if common.json {
        return output::json(&PulledModel { id, commit, path: source.path, format: source.format, size_bytes });
    }
    output::say(&format!("{id} at {commit}: {}, {}", output::size(size_bytes), source.format));
    output::print(&output::one_line(&source.path.display().to_string()));
    Ok(())
}

fn list(common: &super::Common, config: &Config) -> anyhow::Result<()> {
    let records = store::list(config);
    let row = |record: Record| Row {
        name: record.name().to_owned(),
        path: config.models_dir().join(&record.file),
        file: record.file,
        format: record.format,
        method: record.method,
        size_bytes: record.size_bytes,
        source: record.source,
        options: record.options,
        created_unix_s: record.created_unix_s,
        validation: record.validation,
    };
    if common.json {
        return output::json(&records.into_iter().map(row).collect::<Vec<_>>());
    }
    if records.is_empty() {
        output::say(&format!("no models in {}", output::one_line(&config.models_dir().display().to_string())));
        output::say("hint: `pajamas quantize MODEL` makes one");
        return Ok(());
    }
    print(&records);
    Ok(())
}

/// Prints the table of what is in the store.
pub fn print(records: &[Record]) {
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let mut cells =
        vec![["NAME", "FORMAT", "METHOD", "SIZE", "QUALITY", "MADE FROM", "WHEN (UTC)"].map(String::from).to_vec()];
    cells.extend(records.iter().map(|row| {
        let when = if row.created_unix_s == 0 { "-".into() } else { output::date(row.created_unix_s) };
        let size = output::size(row.size_bytes);
        let quality = row.validation.as_ref().map_or("-", |summary| if summary.passed { "passed" } else { "failed" });
        // What was mixed is in `pajamas info MODEL`.
        let mixed = if row.options.contains_key("tensor_types") { ", mixed" } else { "" };
        let (method, source) = (or_dash(&row.method) + mixed, or_dash(&row.source));
        vec![row.name().to_owned(), row.format.clone(), method, size, quality.into(), source, when]
    }));
    output::table(&cells);
}

fn prune(also: Also, dry_run: bool, common: &super::Common, config: &Config) -> anyhow::Result<()> {
    let removed = prune::find(config, also);
    let size_bytes = removed.iter().map(|useless| useless.size_bytes).sum();
    if !dry_run {
        prune::remove(config, &removed)?;
    }
    let pruned = Pruned { removed, size_bytes, dry_run };
    if common.json {
        return output::json(&pruned);
    }
    for useless in &pruned.removed {
        let line = format!("{}: {}", useless.path.display(), useless.reason);
        output::print(&output::one_line(&line));
    }
    let what = if dry_run { "would be freed" } else { "freed" };
    output::say(&format!("{} {what}", output::size(size_bytes)));
    Ok(())
}

fn remove(names: &[String], dry_run: bool, force: bool, common: &super::Common, config: &Config) -> anyhow::Result<()> {
    let removal = Removal::plan(config, names, force)?;
    let removed = Removed { removed: removal.paths(), size_bytes: removal.size_bytes(), dry_run };
    if !dry_run {
        removal.carry_out(config)?;
    }
    if common.json {
        return output::json(&removed);
    }
    for path in &removed.removed {
        output::print(&output::one_line(&path.display().to_string()));
    }
    let what = if dry_run { "would be freed" } else { "freed" };
    output::say(&format!("{} {what}", output::size(removed.size_bytes)));
    Ok(())
}
