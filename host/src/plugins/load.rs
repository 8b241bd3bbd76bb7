//! Loads the plugin that won, into this process.

use crate::config::Config;
use crate::error::Result;
use pajamas_plugin_api::abi::client::Plugin;
use pajamas_plugin_api::{HostServices, LogLevel};
use std::path::Path;

/// Loads the plugin at `path`, which has passed preflight, trust and probe.
///
/// # Errors
/// When it is no longer what it was, or fails.
pub fn load(path: &Path, config: &Config) -> Result<Plugin> {
    super::trust::check(path).map_err(|refusal| crate::error::Error::Refused {
        message: format!("`{}` may not be loaded: {}", path.display(), refusal.reason),
        hint: refusal.remedy,
    })?;
    // SAFETY: preflight found a plugin's manifest, trust its owner, and the probe loaded it once without harm.
    Ok(unsafe { Plugin::open(path, services(config)) }?)
}

/// What this host lends to its plugins.
pub fn services(config: &Config) -> HostServices {
    let threads = config.threads.unwrap_or_else(crate::hardware::physical_cores);
    HostServices::new(log, config.cache_dir(), threads)
}

/// Hands a plugin's line to this process's `tracing`.
fn log(level: LogLevel, target: &str, message: &str) {
    match level {
        LogLevel::Error => tracing::error!(target: "plugin", "{target}: {message}"),
        LogLevel::Warn => tracing::warn!(target: "plugin", "{target}: {message}"),
        LogLevel::Info => tracing::info!(target: "plugin", "{target}: {message}"),
        LogLevel::Debug => tracing::debug!(target: "plugin", "{target}: {message}"),
        LogLevel::Trace => tracing::trace!(target: "plugin", "{target}: {message}"),
    }
}
