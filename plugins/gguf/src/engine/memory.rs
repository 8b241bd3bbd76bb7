//! How much memory a model takes: forecast before a context is made, and as llama.cpp reported it afterwards.

use super::devices;
use super::handle::ModelHandle;
use super::options::Settings;
use llama_cpp_sys_2 as sys;
use pajamas_plugin_api::{Error, ErrorKind, LogLevel, MemoryUsage, Result};
use std::path::Path;

/// Bytes of KV cache for `context_length` tokens in every slot: keys and values of every layer, as if every layer kept
/// the whole context. Zero for models that keep no such cache.
pub(crate) fn kv_cache_bytes(model: &ModelHandle, settings: &Settings, context_length: u32) -> u64 {
    let pointer = model.as_ptr();
    // SAFETY: the model is loaded; these only read.
    let (recurrent, layers, heads, heads_kv, width) = unsafe {
        (
            sys::llama_model_is_recurrent(pointer),
            sys::llama_model_n_layer(pointer),
            sys::llama_model_n_head(pointer),
            sys::llama_model_n_head_kv(pointer),
            sys::llama_model_n_embd(pointer),
        )
    };
    let positive = |value: i32| u64::try_from(value).unwrap_or(0);
    if recurrent || heads <= 0 {
        return 0;
    }
    let head_width = positive(width) / positive(heads);
    attention_cache_bytes(positive(layers), positive(heads_kv).saturating_mul(head_width), settings, context_length)
}

/// Bytes of a KV cache for `context_length` tokens in every slot, where a layer keeps a key and a value of `width`
/// elements for each.
pub(crate) fn attention_cache_bytes(layers: u64, width: u64, settings: &Settings, context_length: u32) -> u64 {
    // llama.cpp rounds the context up to multiples of 256 tokens.
    let cells = u64::from(context_length).next_multiple_of(256) * u64::from(settings.slots);
    let block_bytes = settings.cache_type_k.block_bytes + settings.cache_type_v.block_bytes;
    (layers.saturating_mul(width) / 32).saturating_mul(cells).saturating_mul(block_bytes)
}

/// Refuses a context whose KV cache could never fit into this machine and its GPUs: Linux would promise the memory and then
/// kill.
///
/// # Errors
/// `OutOfMemory`.
pub(crate) fn check_forecast(kv_bytes: u64, context_length: u32, settings: &Settings) -> Result<()> {
    let total = with_gpus(host_memory_bytes(), settings, |(_, total)| total);
    if total == 0 || kv_bytes <= total {
        return Ok(());
    }
    Err(out_of_memory(kv_bytes, context_length, settings))
}

/// Refuses a model of `weights` bytes that have to be copied into memory and a KV cache of `kv` bytes, from `path`, where
/// there is less memory to be had: Linux would promise it and then kill.
///
/// # Errors
/// `OutOfMemory`.
pub(crate) fn check_room(path: &Path, weights: u64, kv: u64, settings: &Settings) -> Result<()> {
    check_room_in(path, weights, kv, with_gpus(host_memory_available_bytes(), settings, |(free, _)| free))
}

/// `host` bytes, 0 if unknown, and those of the GPUs with memory of their own on which the settings put layers.
fn with_gpus(host: u64, settings: &Settings, bytes: fn((u64, u64)) -> u64) -> u64 {
    if host == 0 || settings.gpu_layers == 0 {
        return host;
    }
    settings
        .gpus
        .iter()
        .filter(|gpu| gpu.has_own_memory())
        .map(|gpu| bytes(gpu.memory()))
        .fold(host, u64::saturating_add)
}

fn check_room_in(path: &Path, weights: u64, kv: u64, available: u64) -> Result<()> {
    if available == 0 || weights.saturating_add(kv) <= available {
        return Ok(());
    }
    let message = format!(
        "`{}` takes {} of memory in its own precision and {} of KV cache, more than can be had now ({})",
        path.display(),
        gib(weights),
        gib(kv),
        gib(available)
    );
    Err(Error::new(ErrorKind::OutOfMemory, message)
        .with_hint("quantize it, which makes it smaller: pajamas quantize MODEL"))
}

/// The error of a context that does not fit.
pub(crate) fn out_of_memory(kv_bytes: u64, context_length: u32, settings: &Settings) -> Error {
    let slots = settings.slots;
    let gpus = if with_gpus(1, settings, |_| 1) > 1 { " with its GPUs" } else { "" };
    let message = format!(
        "a context of {context_length} tokens in {slots} {} takes {} of KV cache, more than there is (this machine{gpus} has {})",
        if slots == 1 { "slot" } else { "slots" },
        gib(kv_bytes),
        gib(with_gpus(host_memory_bytes(), settings, |(_, total)| total)),
    );
    Error::new(ErrorKind::OutOfMemory, message)
        .with_hint("--context-length with a smaller number, or --set cache_type_k=q8_0")
}

/// What the model holds, from the sizes that llama.cpp logged while it made the context.
pub(crate) fn usage(weights_bytes: u64, kv_forecast: u64, lines: &[(LogLevel, String)]) -> MemoryUsage {
    let kv = logged_bytes(lines, &[" KV buffer size = ", " RS buffer size = "]);
    let mut usage = MemoryUsage::default();
    usage.weights_bytes = weights_bytes;
    usage.kv_cache_bytes = if kv == 0 { kv_forecast } else { kv };
    usage.compute_bytes = logged_bytes(lines, &["compute buffer size = ", " output buffer size = "]);
    usage.device_total_bytes = device_memory_bytes();
    usage
}

/// What a model without weights and its context would hold, from what llama.cpp logged while it made them. It gives no
/// room to the cache of such a model, so that only the line about the tensors in it tells how large it would be.
pub(crate) fn forecast(weights_bytes: u64, kv_forecast: u64, lines: &[(LogLevel, String)]) -> MemoryUsage {
    let tensors = |line: &&(LogLevel, String)| line.1.contains(" cells, ");
    let kv: u64 = lines.iter().filter(tensors).filter_map(|(_, line)| mebibytes(line.split_once("size = ")?.1)).sum();
    let mut usage = usage(weights_bytes, kv_forecast, lines);
    usage.kv_cache_bytes = if kv == 0 { usage.kv_cache_bytes } else { kv };
    usage
}

/// The sum of the sizes in the lines that contain one of `labels`: `… KV buffer size =    12.00 MiB`.
pub(super) fn logged_bytes(lines: &[(LogLevel, String)], labels: &[&str]) -> u64 {
    let size = |line: &String| {
        let (_, after) = labels.iter().find_map(|label| line.split_once(label))?;
        mebibytes(after)
    };
    lines.iter().filter_map(|(_, line)| size(line)).sum()
}

/// The size that `text` begins with: `  12.00 MiB`.
fn mebibytes(text: &str) -> Option<u64> {
    let (number, _) = text.split_once("MiB")?;
    Some((number.trim().parse::<f64>().ok()? * 1024.0 * 1024.0) as u64)
}

/// Physical memory of this machine, or what its container may use; 0 if unknown.
fn host_memory_bytes() -> u64 {
    // SAFETY: the library is started; the CPU device always exists where the CPU backend is built in.
    let (_, total) = devices::memory(unsafe { sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU) });
    smaller_known(total, container_number("memory.max"))
}

/// Memory that programs on this machine, or in its container, can still get; 0 if unknown.
fn host_memory_available_bytes() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let machine = field(&meminfo, "MemAvailable:").map_or_else(
        || {
            // SAFETY: the library is started; the CPU device always exists where the CPU backend is built in.
            devices::memory(unsafe { sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU) }).0
        },
        |kibibytes| kibibytes.saturating_mul(1024),
    );
    let container = container_number("memory.max").map(|limit| {
        let used = container_number("memory.current").unwrap_or(0);
        // What the kernel keeps of files that nobody reads now, it gives back first.
        let statistics = std::fs::read_to_string("/sys/fs/cgroup/memory.stat").unwrap_or_default();
        let reclaimable = field(&statistics, "inactive_file").unwrap_or(0);
        // Nothing left is not the same as unknown.
        limit.saturating_sub(used.saturating_sub(reclaimable)).max(1)
    });
    smaller_known(machine, container)
}

/// The smaller one of what the machine has, 0 if unknown, and a limit.
fn smaller_known(machine: u64, limit: Option<u64>) -> u64 {
    limit.map_or(machine, |limit| if machine == 0 { limit } else { limit.min(machine) })
}

/// A number that the kernel states for this container; none without a container, or a limit.
fn container_number(name: &str) -> Option<u64> {
    std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(name)).ok()?.trim().parse().ok()
}

/// The number behind `name` in lines such as `MemAvailable:   1024 kB`.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut words = text.lines().map(str::split_whitespace).find(|words| words.clone().next() == Some(name))?;
    words.nth(1)?.parse().ok()
}

/// Memory of the GPUs that ggml found, or of this machine.
fn device_memory_bytes() -> u64 {
    let gpus: u64 = devices::gpus().iter().map(|gpu| gpu.memory().1).sum();
    if gpus == 0 { host_memory_bytes() } else { gpus }
}

pub(super) fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_that_do_not_fit_are_refused_with_both_sizes() {
        let path = Path::new("models/large");
        let error = check_room_in(path, 14 << 30, 1 << 29, 7 << 30).expect_err("too large");
        assert_eq!(error.kind, ErrorKind::OutOfMemory);
        for part in ["models/large", "14.0 GiB", "0.5 GiB", "7.0 GiB"] {
            assert!(error.message.contains(part), "{error}");
        }
        assert!(check_room_in(path, 6 << 30, 1 << 30, 7 << 30).is_ok());
        assert!(check_room_in(path, u64::MAX, 1, 0).is_ok(), "nobody knows how much there is");
    }

    #[test]
    fn what_the_kernel_says_of_memory_is_read() {
        let meminfo = "MemTotal:       16000000 kB\nMemFree: 1 kB\nMemAvailable:    8000000 kB\n";
        assert_eq!(field(meminfo, "MemAvailable:"), Some(8_000_000));
        assert_eq!(field("anon 5\ninactive_file 77\n", "inactive_file"), Some(77));
        assert_eq!(field("max\n", "max"), None);
        assert_eq!((smaller_known(5, None), smaller_known(5, Some(3)), smaller_known(0, Some(3))), (5, 3, 3));
    }

    #[test]
    fn sizes_are_read_from_the_log() {
        let lines: Vec<_> = [
            "llama_kv_cache:        CPU KV buffer size =    12.50 MiB",
            "llama_kv_cache:      CUDA0 KV buffer size =     1.50 MiB",
            "sched_reserve:        CPU compute buffer size =     2.00 MiB",
            "something else = 3.00 MiB",
        ]
        .map(|line| (LogLevel::Debug, line.to_owned()))
        .into();
        let usage = usage(1, 99, &lines);
        assert_eq!((usage.kv_cache_bytes, usage.compute_bytes), (14 << 20, 2 << 20));
    }
}
