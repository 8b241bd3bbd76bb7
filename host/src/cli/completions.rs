//! `pajamas completions`: what a shell needs to complete the command line.

use crate::config::Config;

/// What `pajamas completions` takes.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn execute(_: &Args, _: &super::Common, _: &Config) -> anyhow::Result<()> {
    anyhow::bail!("being built")
}
