//! `gguf-rocm`: the llama.cpp engine on AMD GPUs, through ROCm, as a plugin.

mod kernel;

use pajamas_gguf::{CPU_FEATURES, GgufBackend};
use pajamas_plugin_api::export_plugin;

export_plugin! {
    name: "gguf-rocm",
    formats: "gguf,huggingface",
    cpu_features: CPU_FEATURES,
    backend: || Box::new(GgufBackend { hardware: "rocm", ready: kernel::ready, class: |_, class| Some(class) }),
}
