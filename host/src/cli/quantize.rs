//! `pajamas quantize`: a model in, a smaller one out; its path is the last line on stdout.

use super::interrupt::Interrupt;
use super::output;
use super::progress::Bar;
use crate::config::Config;
use crate::models::{format, source};
use crate::pipeline::{self, Artifact, QuantizeOptions};
use std::path::PathBuf;

/// What `pajamas quantize` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A Hugging Face folder, an id in its cache (`org/name` or `org/name@revision`), or a GGUF file.
    model: String,
    /// The quantization method. GGUF: Q4_K_M (default), Q4_K_S, Q5_K_M, Q6_K, Q8_0, F16, BF16, F32, …
    /// MLX: 4bit (default), 8bit, 6bit, 5bit, 3bit, 2bit, mixed_3_6, bf16, …
    #[arg(short, long, visible_alias = "recipe")]
    method: Option<String>,
    /// The format to make: gguf (default) or mlx, or what a plugin adds.
    #[arg(short, long)]
    format: Option<String>,
    /// Bits per weight, for MLX: the same as `--format mlx --method <N>bit`.
    #[arg(long, value_name = "N", conflicts_with = "method")]
    bits: Option<u32>,
    /// Weights that share a scale, for MLX: 32, 64 (default) or 128.
    #[arg(long, value_name = "N")]
    group_size: Option<u32>,
    /// An option of the method, as NAME=VALUE; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = output::name_and_value)]
    set: Vec<(String, String)>,
    /// The folder to write to [default: ~/.pajamas/models].
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// The artifact's name without extension [default: <model>-<method>, for a folder <model>-<format>-<method>].
    #[arg(short, long)]
    name: Option<String>,
    /// Keep the output tensor at the source's precision.
    #[arg(long)]
    leave_output_tensor: bool,
}

impl Args {
    fn into_options(self) -> QuantizeOptions {
        let group_size = self.group_size.map(|size| ("group_size".to_owned(), size.to_string()));
        let leave = self.leave_output_tensor.then(|| ("leave_output_tensor".to_owned(), "true".to_owned()));
        QuantizeOptions {
            // Both are words of MLX alone; a method tells its format itself.
            format: self.format.or_else(|| {
                let mlx = self.bits.is_some() || (self.group_size.is_some() && self.method.is_none());
                mlx.then(|| format::MLX.into())
            }),
            method: self.method.or_else(|| self.bits.map(|bits| format!("{bits}bit"))),
            output_dir: self.output,
            name: self.name,
            options: self.set.into_iter().chain(group_size).chain(leave).collect(),
        }
    }
}

/// Runs the command.
pub fn execute(args: Args, common: &super::Common, config: &Config) -> anyhow::Result<()> {
    let source = source::resolve(&args.model, config)?;
    let model = args.model.clone();
    let options = args.into_options();
    let candidates = crate::plugins::survey(config);
    let interrupt = Interrupt::install()?;
    let bar = Bar::new();
    let artifact =
        pipeline::quantize(&source, &options, &candidates, config, &|update| bar.update(update), &interrupt.begin())?;
    bar.clear();
    if common.json {
        return output::json(&artifact);
    }
    summarize(&artifact, &model);
    output::print(&artifact.path.display().to_string());
    Ok(())
}

/// Tells on stderr what was made.
pub fn summarize(artifact: &Artifact, model: &str) {
    let report = &artifact.report;
    output::say(&format!("quantized {} ({}) to {}", output::clean(model), report.source_precision, artifact.method));
    output::say(&format!(
        "  size   {} -> {} ({})",
        output::size(report.source_bytes),
        output::size(report.output_bytes),
        match artifact.ratio {
            ratio if ratio >= 1.05 => format!("{ratio:.2} times smaller than {}", report.source_precision),
            ratio if ratio >= 0.95 => format!("as large as {}", report.source_precision),
            ratio => format!("{:.2} times larger than {}", 1.0 / ratio, report.source_precision),
        }
    ));
    output::say(&format!("  time   {:.2} s", artifact.elapsed_ms / 1e3));
    if report.tokenizer_checks > 0 {
        output::say(&format!("  checks {} tokenizations are those of the source", report.tokenizer_checks));
    }
    for note in &report.notes {
        output::say(&format!("  note   {}", output::clean(note)));
    }
}
