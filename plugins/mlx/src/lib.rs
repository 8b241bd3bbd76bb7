//! `mlx`: MLX as a plugin, on Apple silicon's GPU, on NVIDIA GPUs, and on CPUs.
//!
//! - `devices`: what this build of MLX can work on here
//! - `options`: load options, and the settings that they come to
//! - `source`, `folder`, `gguf`: what can be loaded, and how each is read
//! - `vocabulary`: tokenizing
//! - `model`, `engine`: a loaded model, and running it

mod devices;
mod engine;
mod folder;
mod gguf;
mod model;
mod options;
mod source;
mod vocabulary;

use devices::Hardware;
use pajamas_mlx_folder::MlxQuantizer;
use pajamas_plugin_api::{
    Availability, Backend, CancelToken, Capabilities, LoadRequest, MemoryUsage, Model, Progress, Quantizer, Result,
    export_plugin,
};

struct Mlx;

impl Backend for Mlx {
    fn is_available(&self) -> Availability {
        devices::availability()
    }

    fn capabilities(&self) -> Capabilities {
        const PRECISIONS: [&str; 9] = ["f32", "f16", "bf16", "8bit", "6bit", "5bit", "4bit", "3bit", "2bit"];
        let hardware = devices::hardware();
        let mut capabilities = Capabilities::new(hardware.name(), &["mlx", "gguf", "huggingface"]);
        capabilities.precisions = PRECISIONS.map(String::from).into();
        capabilities.logits = true;
        capabilities.logprobs = true;
        capabilities.sessions = true;
        capabilities.options = options::specs();
        // On Apple silicon it is the quickest there is. On a CPU MLX computes most things on one core.
        capabilities.score = match hardware {
            Hardware::Metal => 10,
            Hardware::Cuda => 0,
            Hardware::Cpu => -10,
        };
        capabilities
    }

    fn load_model(&self, request: &LoadRequest, progress: &Progress, cancel: &CancelToken) -> Result<Box<dyn Model>> {
        Ok(Box::new(model::MlxModel::load(request, progress, cancel)?))
    }

    fn forecast_memory(&self, request: &LoadRequest) -> Result<MemoryUsage> {
        model::forecast_memory(request)
    }

    fn quantizer(&self) -> Option<&dyn Quantizer> {
        Some(&MlxQuantizer)
    }
}

export_plugin! {
    name: env!("PAJAMAS_BACKEND_NAME"),
    formats: "mlx,gguf,huggingface",
    backend: || Box::new(Mlx),
}
