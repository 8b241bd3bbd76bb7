//! `pajamas plugins trust NAME`: accepts the present contents of a plugin.

use crate::cli::output;
use crate::config::Config;
use crate::plugins::{self, Status, install};
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
    let mut accepted = Vec::new();
    for candidate in named.into_iter().filter(|candidate| candidate.status != Status::Shadowed) {
        let sha256 = install::accept(candidate, config)?;
        accepted.push(Accepted { name: candidate.name(), path: candidate.path.clone(), sha256 });
    }
    if common.json {
        return output::json(&accepted);
    }
    for Accepted { name, path, sha256 } in &accepted {
        output::say(&output::clean(&format!(
            "`{name}` is trusted as it is now: `{}`, SHA-256 {sha256}",
            path.display()
        )));
    }
    Ok(())
}
