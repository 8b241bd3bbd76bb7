//! How much memory a model takes: forecast before a context is made, and as llama.cpp reported it afterwards.

use super::handle::ModelHandle;
use super::options::Settings;
use llama_cpp_sys_2 as sys;
use pajamas_plugin_api::{Error, ErrorKind, LogLevel, MemoryUsage, Result};

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
    let values_per_token = positive(layers) * positive(heads_kv) * (positive(width) / positive(heads));
    // llama.cpp rounds the context up to multiples of 256 tokens.
    let cells = u64::from(context_length).next_multiple_of(256) * u64::from(settings.slots);
    let block_bytes = settings.cache_type_k.block_bytes + settings.cache_type_v.block_bytes;
    (values_per_token / 32).saturating_mul(cells).saturating_mul(block_bytes)
}

/// Refuses a context whose KV cache could never fit into this machine: Linux would promise the memory and then kill.
///
/// # Errors
/// `OutOfMemory`.
pub(crate) fn check_forecast(kv_bytes: u64, context_length: u32, slots: u32) -> Result<()> {
    let total = host_memory_bytes();
    if total == 0 || kv_bytes <= total {
        return Ok(());
    }
    Err(out_of_memory(kv_bytes, context_length, slots))
}

/// The error of a context that does not fit.
pub(crate) fn out_of_memory(kv_bytes: u64, context_length: u32, slots: u32) -> Error {
    let message = format!(
        "a context of {context_length} tokens in {slots} {} takes {} of KV cache, more than there is (this machine has {})",
        if slots == 1 { "slot" } else { "slots" },
        gib(kv_bytes),
        gib(host_memory_bytes()),
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

/// The sum of the sizes in the lines that contain one of `labels`: `… KV buffer size =    12.00 MiB`.
fn logged_bytes(lines: &[(LogLevel, String)], labels: &[&str]) -> u64 {
    let size = |line: &String| {
        let (_, after) = labels.iter().find_map(|label| line.split_once(label))?;
        let number = after.trim().strip_suffix("MiB")?.trim().parse::<f64>().ok()?;
        Some((number * 1024.0 * 1024.0) as u64)
    };
    lines.iter().filter_map(|(_, line)| size(line)).sum()
}

/// Physical memory of this machine, or what its container may use; 0 if unknown.
fn host_memory_bytes() -> u64 {
    // SAFETY: the library is started; the CPU device always exists where the CPU backend is built in.
    let total = device_total(unsafe { sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU) });
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    limit.map_or(total, |limit: u64| if total == 0 { limit } else { limit.min(total) })
}

/// Memory of the first GPU that ggml found, or of this machine.
fn device_memory_bytes() -> u64 {
    // SAFETY: the library is started; the answer may be null, which `device_total` knows.
    let gpu = device_total(unsafe { sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_GPU) });
    if gpu == 0 { host_memory_bytes() } else { gpu }
}

fn device_total(device: sys::ggml_backend_dev_t) -> u64 {
    if device.is_null() {
        return 0;
    }
    let (mut free, mut total) = (0_usize, 0_usize);
    // SAFETY: the device is one of ggml's own, and the two places are valid for writing.
    unsafe { sys::ggml_backend_dev_memory(device, &raw mut free, &raw mut total) };
    total as u64
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

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
