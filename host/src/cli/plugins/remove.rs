//! `pajamas plugins remove NAME`: takes a plugin out of the plugin folder.

use crate::cli::output;
use crate::config::Config;
use crate::error::Error;
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
    let home = home.canonicalize().unwrap_or(home);
    let own: Vec<&Candidate> = named.iter().copied().filter(|candidate| candidate.path.starts_with(&home)).collect();
    let candidate = match own.as_slice() {
        [] => named[0],
        [one] => one,
        several => {
            let files: Vec<String> =
                several.iter().filter_map(|c| Some(c.path.file_name()?.to_string_lossy().into_owned())).collect();
            let message = format!("`{}` is the name of {} plugin files", args.name, files.len());
            return Err(Error::Usage { message, hint: format!("name one of them: {}", files.join(", ")) }.into());
        }
    };
    let removed = Removed { name: candidate.name(), path: install::uninstall(candidate, config)? };
    if common.json {
        return output::json(&removed);
    }
    output::say(&output::clean(&format!("removed `{}`: {}", removed.name, removed.path.display())));
    Ok(())
}
