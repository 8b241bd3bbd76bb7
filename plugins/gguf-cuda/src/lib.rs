//! `gguf-cuda`: the llama.cpp engine on NVIDIA GPUs, as a plugin.

mod late;

use pajamas_gguf::{CPU_FEATURES, GgufBackend};
use pajamas_plugin_api::export_plugin;

export_plugin! {
    name: "gguf-cuda",
    formats: "gguf,huggingface",
    cpu_features: CPU_FEATURES,
    backend: || Box::new(GgufBackend { hardware: "cuda", ready: late::ready, class: late::class }),
}
