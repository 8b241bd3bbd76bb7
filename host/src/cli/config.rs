//! `pajamas config`: every setting, its value and where that came from.

use crate::config::Config;

/// What `pajamas config` takes.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn execute(_: &Args, _: &super::Common, _: &Config) -> anyhow::Result<()> {
    anyhow::bail!("being built")
}
