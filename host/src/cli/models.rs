//! `pajamas models`: what was made and is kept.

use crate::config::Config;

/// What `pajamas models` takes.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn execute(_: &Args, _: &super::Common, _: &Config) -> anyhow::Result<()> {
    anyhow::bail!("being built")
}
