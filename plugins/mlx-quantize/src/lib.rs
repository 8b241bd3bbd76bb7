//! `mlx-quantize`: makes MLX models on any machine, as a plugin. It runs none.

use pajamas_mlx_folder::MlxQuantizer;
use pajamas_plugin_api::{
    Availability, Backend, CancelToken, Capabilities, Error, LoadRequest, Model, Progress, Quantizer, Result,
    export_plugin,
};

struct MlxQuantize;

impl Backend for MlxQuantize {
    fn is_available(&self) -> Availability {
        Availability::QuantizeOnly
    }

    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::new("cpu", &["mlx"]);
        (can.streaming, can.sampling) = (false, Vec::new());
        can
    }

    fn load_model(&self, request: &LoadRequest, _: &Progress, _: &CancelToken) -> Result<Box<dyn Model>> {
        Err(Error::unsupported(format!(
            "`mlx-quantize` makes MLX models and runs none; it cannot load `{}`",
            request.path.display()
        ))
        .with_hint("the `mlx` backend runs them"))
    }

    fn quantizer(&self) -> Option<&dyn Quantizer> {
        Some(&MlxQuantizer)
    }
}

export_plugin! {
    name: "mlx-quantize",
    formats: "mlx",
    backend: || Box::new(MlxQuantize),
}
