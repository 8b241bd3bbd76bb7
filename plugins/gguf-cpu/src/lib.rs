//! `gguf-cpu`: the llama.cpp engine on the CPU, as a plugin.

use pajamas_gguf::{CPU_FEATURES, GgufBackend};
use pajamas_plugin_api::export_plugin;

export_plugin! {
    name: "gguf-cpu",
    formats: "gguf,huggingface",
    cpu_features: CPU_FEATURES,
    backend: || Box::new(GgufBackend::cpu()),
}
