//! `pajamas info`: this machine, its backends, the models that were made; or all about one model.

use super::{describe, models, output, plugins};
use crate::config::Config;
use crate::hardware::disk::{self, Room};
use crate::hardware::gpu::{self, Gpu};
use crate::hardware::{self, Hardware};
use crate::models::hub;
use crate::models::store::{self, Record};
use crate::plugins::{Candidate, Status};
use pajamas_plugin_api::{Availability, Device};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What `pajamas info` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A model to describe: a GGUF file, an MLX or Hugging Face folder, an id in its cache, or the name of a model
    /// already made. Without it, the machine is shown.
    model: Option<String>,
    /// The backend to ask how much memory the model takes [default: the one that would run it].
    #[arg(short, long, requires = "model")]
    backend: Option<String>,
}

#[derive(Debug, Serialize)]
struct Info<'a> {
    version: &'static str,
    plugin_api_version: &'static str,
    hardware: Hardware,
    gpus: Vec<Gpu>,
    disks: Vec<Disk>,
    home: &'a Path,
    plugin_dirs: &'a [PathBuf],
    backends: Vec<crate::plugins::Backend>,
    models: Vec<Record>,
}

/// Room where something is kept.
#[derive(Debug, Serialize)]
struct Disk {
    /// `models` or `hugging_face_cache`.
    holds: &'static str,
    path: PathBuf,
    #[serde(flatten)]
    room: Room,
}

/// Runs the command.
pub fn execute(args: &Args, common: &super::Common, config: &Config) -> anyhow::Result<()> {
    if let Some(model) = &args.model {
        return describe::execute(model, args.backend.as_deref(), common, config);
    }
    let candidates = crate::plugins::survey(config);
    let info = Info {
        version: env!("CARGO_PKG_VERSION"),
        plugin_api_version: pajamas_plugin_api::API_VERSION,
        hardware: hardware::detect(),
        gpus: gpus(&candidates),
        disks: disks(config),
        home: &config.home,
        plugin_dirs: &config.plugin_dirs,
        backends: crate::plugins::backends(&candidates, config),
        models: store::list(config),
    };
    if common.json {
        return output::json(&info);
    }
    print(&info, config);
    Ok(())
}

/// The GPUs that the system or an available backend knows.
fn gpus(candidates: &[Candidate]) -> Vec<Gpu> {
    let available = candidates.iter().filter(|candidate| candidate.status == Status::Available);
    let devices: Vec<(String, &[Device])> = available
        .filter_map(|candidate| match &candidate.report.as_ref()?.availability {
            Availability::Available { devices } => Some((candidate.name(), devices.as_slice())),
            _ => None,
        })
        .collect();
    gpu::merge(gpu::detect(), &devices)
}

fn disks(config: &Config) -> Vec<Disk> {
    let disk = |holds, path: PathBuf| Some(Disk { holds, room: disk::room(&path)?, path });
    let cache = hub::cache().and_then(|cache| disk("hugging_face_cache", cache));
    [disk("models", config.models_dir()), cache].into_iter().flatten().collect()
}

fn print(info: &Info<'_>, config: &Config) {
    output::print(&format!(
        "pajamas {} (plugin API {}), home {}",
        info.version,
        info.plugin_api_version,
        output::one_line(&info.home.display().to_string())
    ));
    output::print("\nMachine");
    let machine = &info.hardware;
    let memory = |available: u64, total: u64, word: &str| {
        (total > 0).then(|| format!("{} {word} of {}", output::size(available), output::size(total)))
    };
    let mut rows = vec![
        ("platform", Some(machine.platform.clone())),
        ("CPU", Some(if machine.cpu.is_empty() { "unknown" } else { &machine.cpu }.to_owned())),
        ("instruction sets", Some(machine.cpu_features.join(" ")).filter(|names| !names.is_empty())),
        ("cores", Some(format!("{} ({} threads)", machine.cores, machine.threads))),
        ("memory", memory(machine.memory_available_bytes, machine.memory_total_bytes, "available")),
        ("swap", memory(machine.swap_free_bytes, machine.swap_total_bytes, "free").or_else(|| Some("none".into()))),
    ];
    if info.gpus.is_empty() {
        rows.push(("GPU", Some("none found".into())));
    }
    rows.extend(info.gpus.iter().map(|gpu| ("GPU", Some(describe_gpu(gpu)))));
    rows.extend(info.disks.iter().map(|disk| ("disk", Some(describe_disk(disk)))));
    output::fields(&rows);
    output::print("\nBackends");
    if info.backends.is_empty() {
        output::print(&format!("none; {}", crate::error::GET_PLUGINS));
    } else {
        plugins::print(&info.backends);
    }
    output::print(&format!("\nModels in {}", output::one_line(&config.models_dir().display().to_string())));
    if info.models.is_empty() {
        output::print("none; `pajamas quantize MODEL` makes one");
    } else {
        models::print(&info.models);
    }
}

fn describe_gpu(gpu: &Gpu) -> String {
    let mut text = gpu.name.clone();
    if gpu.memory_total_bytes > 0 {
        let (free, total) = (output::size(gpu.memory_free_bytes), output::size(gpu.memory_total_bytes));
        text += &format!(", {free} free of {total}");
    }
    if let Some(driver) = &gpu.driver {
        text += &format!(", driver {driver}");
    }
    if !gpu.backends.is_empty() {
        text += &format!(", used by {}", gpu.backends.join(" and "));
    }
    if !gpu.remark.is_empty() {
        text += &format!("; {}", gpu.remark);
    }
    text
}

fn describe_disk(disk: &Disk) -> String {
    let what = if disk.holds == "models" { "models" } else { "Hugging Face cache" };
    let (free, total) = (output::size(disk.room.free_bytes), output::size(disk.room.total_bytes));
    format!("{free} free of {total} for {what}: {}", disk.path.display())
}
