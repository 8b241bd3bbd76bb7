//! `pajamas doctor`: is the installation sound, and what to do if not.

use crate::config::Config;

/// What `pajamas doctor` takes.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn execute(_: &Args, _: &super::Common, _: &Config) -> anyhow::Result<()> {
    anyhow::bail!("being built")
}
