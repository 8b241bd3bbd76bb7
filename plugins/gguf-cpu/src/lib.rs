//! `gguf-cpu`: the llama.cpp engine on the CPU, as a plugin.

use pajamas_plugin_api::{
    Availability, Backend, CancelToken, Capabilities, LoadRequest, MemoryUsage, Model, Progress, Quantizer, Result,
    export_plugin,
};

struct GgufCpu;

impl Backend for GgufCpu {
    fn is_available(&self) -> Availability {
        match pajamas_gguf::cpu_device() {
            Some(device) => Availability::on([device]),
            None => Availability::no(
                "llama.cpp was built without its CPU backend",
                "rebuild the plugin: `make plugin-gguf-cpu`",
            ),
        }
    }

    fn capabilities(&self) -> Capabilities {
        pajamas_gguf::capabilities("cpu", false)
    }

    fn load_model(&self, request: &LoadRequest, progress: &Progress, cancel: &CancelToken) -> Result<Box<dyn Model>> {
        pajamas_gguf::load(request, progress, cancel)
    }

    fn forecast_memory(&self, request: &LoadRequest) -> Result<MemoryUsage> {
        pajamas_gguf::forecast_memory(request)
    }

    fn quantizer(&self) -> Option<&dyn Quantizer> {
        Some(&pajamas_gguf::GgufQuantizer)
    }
}

export_plugin! {
    name: "gguf-cpu",
    formats: "gguf,huggingface",
    cpu_features: env!("PAJAMAS_CPU_FEATURES"),
    backend: || Box::new(GgufCpu),
}
