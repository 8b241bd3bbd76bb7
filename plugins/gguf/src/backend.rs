//! A llama.cpp backend for one kind of hardware: all of a plugin, but for whether its hardware is here.

use crate::engine::{self, devices};
use crate::{GgufModel, GgufQuantizer};
use pajamas_plugin_api::{
    Availability, Backend, CancelToken, Capabilities, LoadRequest, MemoryUsage, Model, Progress, Quantizer, Result,
};

/// llama.cpp for one kind of hardware, as a plugin's backend.
pub struct GgufBackend {
    /// `cpu`, `cuda`, `metal`, `rocm`, `vulkan`.
    pub hardware: &'static str,
    /// Whether what the hardware needs (a driver, libraries) is here, and what llama.cpp is to find set up. It is called
    /// before llama.cpp is started, which looks for devices once, and before every use: it should remember its answer. Its
    /// error's hint is what the user can do.
    pub ready: fn() -> Result<()>,
    /// The class of the device that llama.cpp describes by this text and takes for one of this class; none for one that is
    /// not to be used. It is asked after `ready` has said yes.
    pub class: devices::Classify,
}

impl GgufBackend {
    /// For the CPU that this library was compiled for.
    pub const fn cpu() -> Self {
        Self { hardware: "cpu", ready: || Ok(()), class: |_, class| Some(class) }
    }

    /// What every use of llama.cpp begins with.
    fn start(&self) -> Result<()> {
        devices::classify_by(self.class);
        (self.ready)()
    }

    fn is_gpu(&self) -> bool {
        self.hardware != "cpu"
    }
}

impl Backend for GgufBackend {
    fn is_available(&self) -> Availability {
        if let Err(error) = self.start() {
            return Availability::no(error.to_string(), error.hint.unwrap_or_default());
        }
        if !self.is_gpu() {
            return match devices::cpu_device() {
                Some(device) => Availability::on([device]),
                None => Availability::no("llama.cpp was built without its CPU backend", "rebuild the plugin"),
            };
        }
        let (devices, log) = devices::gpu_devices();
        if devices.is_empty() {
            let log = if log.is_empty() { String::new() } else { format!(": {}", log.join("; ")) };
            let reason = format!("llama.cpp finds no device for {}{log}", self.hardware);
            return Availability::no(
                reason,
                "update the GPU's driver; `RUST_LOG=debug pajamas plugins list --rescan` says more",
            );
        }
        Availability::on(devices)
    }

    fn capabilities(&self) -> Capabilities {
        const PRECISIONS: [&str; 18] = [
            "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m", "q4_k_s", "q4_1",
            "q4_0", "iq4_nl", "iq4_xs", "q3_k_m", "q2_k", "mxfp4",
        ];
        let mut capabilities = Capabilities::new(self.hardware, &["gguf", "huggingface"]);
        capabilities.precisions = PRECISIONS.map(String::from).into();
        capabilities.logits = true;
        capabilities.sessions = true;
        capabilities.logprobs = true;
        // On one and the same GPU its maker's own interface is faster than Vulkan.
        capabilities.score = i32::from(!matches!(self.hardware, "cpu" | "vulkan"));
        capabilities.options = engine::option_specs(self.hardware);
        capabilities
    }

    fn load_model(&self, request: &LoadRequest, progress: &Progress, cancel: &CancelToken) -> Result<Box<dyn Model>> {
        self.start()?;
        Ok(Box::new(GgufModel::load(request, progress, cancel)?))
    }

    fn forecast_memory(&self, request: &LoadRequest) -> Result<MemoryUsage> {
        self.start()?;
        engine::forecast_memory(request)
    }

    fn quantizer(&self) -> Option<&dyn Quantizer> {
        // The CPU's plugin makes models for all of them.
        if self.is_gpu() { None } else { Some(&GgufQuantizer) }
    }
}
