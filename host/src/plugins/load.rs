//! Loads the plugin that won, into this process.

use super::file::PluginFile;
use super::preflight::Refusal;
use crate::config::Config;
use crate::error::Result;
use pajamas_plugin_api::abi::client::Plugin;
use pajamas_plugin_api::{Error, HostServices, LogLevel};

/// Loads the plugin `file`, which has passed preflight, trust and probe.
///
/// # Errors
/// When it is no longer what it was, or fails.
pub fn load(file: &PluginFile, config: &Config) -> Result<Plugin> {
    Ok(open(file, services(config))?)
}

/// Opens the library of `file` if it is still what was judged: between a judgement and the loader's look at the path
/// there is time for another file to be put there.
///
/// # Errors
/// `Unsupported` when it is another file or may not be loaded any more; else those of [`Plugin::open`].
pub fn open(file: &PluginFile, services: HostServices) -> pajamas_plugin_api::Result<Plugin> {
    super::trust::check(file, &file.path).map_err(|Refusal { reason, remedy, .. }| {
        Error::unsupported(format!("`{}` may not be loaded: {reason}", file.path.display())).with_hint(remedy)
    })?;
    if !file.is_unchanged() {
        let message = format!("`{}` has changed since it was looked at a moment ago", file.path.display());
        return Err(Error::unsupported(message).with_hint("run the command again"));
    }
    // SAFETY: preflight found a plugin's manifest in these very files, and trust their owner.
    unsafe { Plugin::open(&file.path, services) }
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
