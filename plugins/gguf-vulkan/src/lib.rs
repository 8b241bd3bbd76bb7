//! `gguf-vulkan`: the llama.cpp engine on GPUs of any maker, through Vulkan, as a plugin.

mod loader;

use pajamas_gguf::{CPU_FEATURES, GgufBackend};
use pajamas_plugin_api::export_plugin;

export_plugin! {
    name: "gguf-vulkan",
    formats: "gguf,huggingface",
    cpu_features: CPU_FEATURES,
    backend: || Box::new(GgufBackend { hardware: "vulkan", ready: loader::ready, class: loader::class }),
}
