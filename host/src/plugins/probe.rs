//! Asks a plugin, in a worker process, what it is and whether it can run here. A crash or a hang ends the worker.

use crate::config::Config;
use crate::error::Result;
use crate::worker::client::Worker;
use crate::worker::protocol::{ProbeReport, Reply, Request};
use std::path::Path;
use std::time::Duration;

/// Loads the plugin at `path` in a worker and returns its answers.
///
/// # Errors
/// When the worker cannot be started, or the plugin crashed, hung or failed.
pub fn probe(path: &Path, config: &Config) -> Result<ProbeReport> {
    let mut worker = Worker::start(config)?;
    worker.send(&Request::Probe { plugin: path.to_owned() })?;
    match worker.receive(Some(Duration::from_secs(config.probe_timeout_s)))? {
        Reply::Probed(report) => Ok(report),
        Reply::Failed(error) => Err(error.into()),
        other => Err(worker.confused(&other)),
    }
}
