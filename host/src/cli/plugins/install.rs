//! `pajamas plugins install FILE`: checks a plugin and copies it into the plugin folder; its new path is printed last.

use crate::cli::output;
use crate::config::Config;
use crate::error::Error;
use crate::plugins::{self, Backend, Status, install};
use std::path::PathBuf;

/// What `pajamas plugins install` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The plugin's library, or the folder of a bundle.
    file: PathBuf,
    /// Install also a plugin that fails when it is asked what it can do.
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub fn execute(args: &Args, common: &crate::cli::Common, config: &Config) -> anyhow::Result<()> {
    let path = install::install(&args.file, args.force, config)?;
    let candidates = plugins::survey(config);
    let index = candidates.iter().position(|candidate| candidate.path == path);
    let row: Option<Backend> = index.map(|index| plugins::backend(index, &candidates, config));
    if common.json {
        let missing = || Error::Refused {
            message: format!("`{}` is installed, and was gone a moment later", path.display()),
            hint: String::new(),
        };
        return output::json(&row.ok_or_else(missing)?);
    }
    if let (Some(row), Some(index)) = (&row, index) {
        match candidates[index].status {
            Status::Available => output::say(&format!("installed `{}`: available, rank {}", row.name, index + 1)),
            Status::QuantizeOnly => output::say(&format!("installed `{}`: {}", row.name, row.reason)),
            status => {
                let status = status.as_str();
                output::say(&output::clean(&format!("installed `{}`, which is {status}: {}", row.name, row.reason)));
                super::print_remedies(std::slice::from_ref(row));
            }
        }
    }
    output::print(&path.display().to_string());
    Ok(())
}
