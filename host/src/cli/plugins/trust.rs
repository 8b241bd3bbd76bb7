//! `pajamas plugins trust NAME`: accepts the present contents of a plugin.

use crate::cli::output;
use crate::config::Config;
use crate::plugins::{self, Candidate, Status, install};
use serde::Serialize;
use std::path::PathBuf;

/// What `pajamas plugins trust` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The plugin's name, or its file's.
    name: String,
}

#[derive(Debug, Serialize)]
struct Accepted {
    name: String,
    path: PathBuf,
    sha256: String,
}

/// Runs the command.
pub fn execute(args: &Args, common: &crate::cli::Common, config: &Config) -> anyhow::Result<()> {
    let candidates = plugins::inventory(config);
    let named = super::named(&candidates, &args.name)?;
    let counting: Vec<&Candidate> = named.into_iter().filter(|found| found.status != Status::Shadowed).collect();
    // A backend's name any file may claim: it says which one only where there is no other.
    let candidate = match counting.as_slice() {
        [one] => one,
        several => match several.iter().find(|found| super::file_name(found) == args.name) {
            Some(one) => one,
            None => return Err(super::ambiguous(&args.name, several).into()),
        },
    };
    let sha256 = install::accept(candidate, config)?;
    let accepted = Accepted { name: candidate.name(), path: candidate.path.clone(), sha256 };
    if common.json {
        return output::json(&accepted);
    }
    let Accepted { name, path, sha256 } = &accepted;
    output::say(&output::clean(&format!("`{name}` is trusted as it is now: `{}`, SHA-256 {sha256}", path.display())));
    Ok(())
}
