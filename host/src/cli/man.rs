//! `pajamas man`: the manual pages.

use crate::config::Config;

/// What `pajamas man` takes.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn execute(_: &Args, _: &super::Common, _: &Config) -> anyhow::Result<()> {
    anyhow::bail!("being built")
}
