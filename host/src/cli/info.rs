//! `pajamas info`: this machine, its backends, the models that were made.

use super::{output, plugins};
use crate::config::Config;
use crate::hardware::{self, Hardware};
use crate::models::store::{self, Record};
use serde::Serialize;
use std::path::Path;

/// What `pajamas info` takes.
#[derive(Debug, clap::Args)]
pub struct Args {}

#[derive(Debug, Serialize)]
struct Info<'a> {
    version: &'static str,
    plugin_api_version: &'static str,
    hardware: Hardware,
    home: &'a Path,
    plugin_dirs: &'a [std::path::PathBuf],
    backends: Vec<plugins::Row>,
    models: Vec<Record>,
}

/// Runs the command.
pub fn execute(_: &Args, common: &super::Common, config: &Config) -> anyhow::Result<()> {
    let info = Info {
        version: env!("CARGO_PKG_VERSION"),
        plugin_api_version: pajamas_plugin_api::API_VERSION,
        hardware: hardware::detect(),
        home: &config.home,
        plugin_dirs: &config.plugin_dirs,
        backends: plugins::rows(&crate::plugins::survey(config)),
        models: store::list(config),
    };
    if common.json {
        return output::json(&info);
    }
    output::print(&format!(
        "pajamas {} (plugin API {}), home {}",
        info.version,
        info.plugin_api_version,
        info.home.display()
    ));
    let machine = &info.hardware;
    let cpu = if machine.cpu.is_empty() { "unknown CPU" } else { &machine.cpu };
    output::print(&format!("{}, {cpu}, {} cores", machine.platform, machine.cores));
    if machine.memory_total_bytes > 0 {
        let (available, total) =
            (output::size(machine.memory_available_bytes), output::size(machine.memory_total_bytes));
        output::print(&format!("memory {available} available of {total}"));
    }
    output::print("\nBackends");
    if info.backends.is_empty() {
        output::print(&format!("none; {}", crate::error::NO_PLUGIN_HINT));
    } else {
        plugins::print(&info.backends);
    }
    output::print(&format!("\nModels in {}", config.models_dir().display()));
    if info.models.is_empty() {
        output::print("none; `pajamas quantize MODEL` makes one");
    }
    let row = |r: &Record| vec![r.file.clone(), r.method.clone(), output::size(r.size_bytes), r.source.clone()];
    output::table(&info.models.iter().map(row).collect::<Vec<_>>());
    Ok(())
}
