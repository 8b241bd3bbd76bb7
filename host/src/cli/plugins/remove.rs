//! `pajamas plugins remove NAME`: takes a plugin out of the plugin folder.

use crate::cli::output;
use crate::config::Config;
use crate::plugins::{self, Candidate, install};
use serde::Serialize;
use std::path::PathBuf;

/// What `pajamas plugins remove` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The plugin's name, or its file's.
    name: String,
}

#[derive(Debug, Serialize)]
struct Removed {
    name: String,
    path: PathBuf,
}

/// Runs the command.
pub fn execute(args: &Args, common: &crate::cli::Common, config: &Config) -> anyhow::Result<()> {
    // None of them is asked: one that hangs can be removed, too.
    let candidates = plugins::inventory(config);
    let named = super::named(&candidates, &args.name)?;
    let home = config.home.join("plugins");
    let own: Vec<&Candidate> = named.iter().copied().filter(|found| install::is_in(&found.found_at, &home)).collect();
    let candidate = match own.as_slice() {
        [] => named[0],
        [one] => one,
        // By the name of its file, one of them may still be meant.
        several => match several.iter().find(|found| super::file_name(found) == args.name) {
            Some(one) => one,
            None => return Err(super::ambiguous(&args.name, several).into()),
        },
    };
    let removed = Removed { name: candidate.name(), path: install::uninstall(candidate, config)? };
    if common.json {
        return output::json(&removed);
    }
    output::say(&output::clean(&format!("removed `{}`: {}", removed.name, removed.path.display())));
    Ok(())
}
