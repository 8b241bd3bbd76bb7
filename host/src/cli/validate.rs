//! `pajamas validate`: measures how much worse a quantized model is than what it was made from.

use crate::config::Config;

/// What `pajamas validate` takes.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn execute(_: &Args, _: &super::Common, _: &Config) -> anyhow::Result<()> {
    anyhow::bail!("being built")
}
