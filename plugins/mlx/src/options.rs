//! The load options of the MLX backend, and the settings that a request comes to.

use crate::devices::{Hardware, hardware};
use mlx_rs::Dtype;
use pajamas_plugin_api::{Error, LoadRequest, OptionKind, OptionSpec, Result, host};

/// Tokens of context where neither the request nor the model sets another limit.
const CONTEXT_LENGTH_DEFAULT: u32 = 4096;
/// Positions are 32-bit numbers in MLX.
const CONTEXT_LENGTH_MAX: u32 = 1 << 30;
/// Sessions that may be kept side by side.
const SLOTS_MAX: u32 = 256;

const COMPUTE_DTYPES: [&str; 5] = ["auto", "model", "float32", "bfloat16", "float16"];

/// The options that the backend takes.
pub(crate) fn specs() -> Vec<OptionSpec> {
    vec![
        OptionSpec::new(
            "compute_dtype",
            OptionKind::choice(&COMPUTE_DTYPES),
            COMPUTE_DTYPES[0],
            "The type that floats are computed in: the model's own, or another. `auto` is float32 on a CPU, where MLX has \
             quick routines for nothing else, and the model's own on a GPU.",
        ),
        OptionSpec::new(
            "prefill_step_size",
            OptionKind::Int { min: 1, max: 65_536 },
            &prefill_step_default().to_string(),
            "Prompt tokens processed at a time; more is faster on a GPU, and takes more memory and longer to cancel.",
        ),
    ]
}

/// mlx-lm's own on a GPU; on a CPU a step of that size would keep a cancelled caller waiting.
fn prefill_step_default() -> usize {
    if hardware() == Hardware::Cpu { 128 } else { 2048 }
}

/// A load request with every choice made.
pub(crate) struct Settings {
    pub(crate) context_length: u32,
    pub(crate) slots: usize,
    pub(crate) prefill_step: usize,
    /// The type that floats are computed in; none keeps the model's own.
    pub(crate) compute: Option<Dtype>,
}

impl Settings {
    /// For a model that was trained with `trained` tokens of context.
    ///
    /// # Errors
    /// `InvalidRequest` for numbers out of range.
    pub(crate) fn new(request: &LoadRequest, trained: u32) -> Result<Self> {
        let context_length = request.context_length.unwrap_or(CONTEXT_LENGTH_DEFAULT.min(trained.max(1)));
        if !(1..=CONTEXT_LENGTH_MAX).contains(&context_length) {
            return Err(Error::invalid_request(format!(
                "a context of {context_length} tokens; from 1 to {CONTEXT_LENGTH_MAX} are possible"
            )));
        }
        if context_length > trained {
            let message = format!(
                "a context of {context_length} tokens is longer than the {trained} that the model was trained with; \
                 expect worse answers beyond them"
            );
            host().log(pajamas_plugin_api::LogLevel::Warn, "pajamas_mlx", &message);
        }
        if !(1..=SLOTS_MAX).contains(&request.parallel_slots) {
            return Err(Error::invalid_request(format!(
                "{} parallel slots; from 1 to {SLOTS_MAX} are possible",
                request.parallel_slots
            )));
        }
        let step = request.options.int("prefill_step_size").and_then(|step| usize::try_from(step).ok());
        Ok(Self {
            context_length,
            slots: request.parallel_slots as usize,
            compute: match request.options.text("compute_dtype").unwrap_or(COMPUTE_DTYPES[0]) {
                "float32" => Some(Dtype::Float32),
                "bfloat16" => Some(Dtype::Bfloat16),
                "float16" => Some(Dtype::Float16),
                "auto" if hardware() == Hardware::Cpu => Some(Dtype::Float32),
                _ => None,
            },
            prefill_step: step.unwrap_or_else(prefill_step_default),
        })
    }
}
