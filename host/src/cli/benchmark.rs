//! `pajamas benchmark`: speed, time to first token, load time and memory, by llama-bench's method.

use crate::config::Config;

/// What `pajamas benchmark` takes.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn execute(_: &Args, _: &super::Common, _: &Config) -> anyhow::Result<()> {
    anyhow::bail!("being built")
}
