//! `gguf-metal`: the llama.cpp engine on Apple GPUs, as a plugin.

#[cfg(target_vendor = "apple")]
mod plugin {
    use pajamas_gguf::{CPU_FEATURES, GgufBackend};
    use pajamas_plugin_api::{DeviceClass, export_plugin};

    export_plugin! {
        name: "gguf-metal",
        formats: "gguf,huggingface",
        cpu_features: CPU_FEATURES,
        // Metal is a part of the system. Its GPUs share the machine's memory, whatever llama.cpp calls them.
        backend: || Box::new(GgufBackend {
            hardware: "metal",
            ready: || Ok(()),
            class: |_, _| Some(DeviceClass::IntegratedGpu),
        }),
    }
}

#[cfg(not(target_vendor = "apple"))]
compile_error!(
    "gguf-metal is for macOS; `make plugin-vulkan` and `make plugin-cuda` build the backends for other GPUs"
);
