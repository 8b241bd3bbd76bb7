//! `pajamas quantize`: a model in, a smaller one out; its path is the last line on stdout.

use super::interrupt::Interrupt;
use super::output;
use super::progress::Console;
use super::validate::{LimitArgs, in_short, tokens, too_low};
use crate::config::Config;
use crate::error::Error;
use crate::models::source::Source;
use crate::models::{format, source};
use crate::pipeline::{self, Artifact, QuantizeOptions};
use crate::runtime::obtain::{Obtain, Purpose};
use crate::runtime::open::{Observer, OpenOptions};
use crate::search::{self, Goal, Trial};
use crate::validate::text::Text;
use crate::validate::{self, Host, Report, ValidateOptions};
use pajamas_plugin_api::CancelToken;
use serde::Serialize;
use std::path::PathBuf;

/// Tokens that a new model is measured on by default: enough to notice damage, and seconds for a small model.
const TOKENS: usize = 2048;

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
    /// Find the best method that makes it at most this large, by measuring: `6GiB`, `500MB` (GGUF). Without `--method`,
    /// `--max-kld` likewise finds the smallest that is good enough; with both, that must also fit.
    #[arg(long, value_name = "SIZE", value_parser = bytes, conflicts_with_all = ["method", "bits", "no_validate"])]
    fit: Option<u64>,
    /// Say what would be made, tensor by tensor, and write nothing (GGUF).
    #[arg(long, conflicts_with_all = ["validate", "text", "max_degradation", "max_kld", "fit"])]
    dry_run: bool,
    #[command(flatten)]
    tuning: TuningArgs,
    /// Measure the model against its source, and fail when that cannot be done [default: measure if it can be done].
    #[arg(long, conflicts_with = "no_validate")]
    validate: bool,
    /// Do not measure the model against its source.
    #[arg(long, conflicts_with_all = ["max_degradation", "max_kld"])]
    no_validate: bool,
    /// A file of UTF-8 text to measure on [default: `validation.txt` in the source's folder, else the bundled text].
    #[arg(long, value_name = "FILE", conflicts_with = "no_validate")]
    text: Option<PathBuf>,
    /// Tokens of the text to read at the most.
    #[arg(long, value_name = "N", default_value_t = TOKENS, value_parser = tokens, conflicts_with = "no_validate")]
    tokens: usize,
    #[command(flatten)]
    limits: LimitArgs,
}

/// How GGUF models are made beyond the method: options of its recipes that have flags of their own.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options for GGUF")]
struct TuningArgs {
    /// A text that the model reads to make an importance matrix, by which errors are weighed. It is kept beside the model.
    #[arg(long, value_name = "TEXT", conflicts_with = "imatrix")]
    calibration: Option<PathBuf>,
    /// Tokens of that text to read at the most [default: all].
    #[arg(long, value_name = "N", requires = "calibration")]
    calibration_tokens: Option<u32>,
    /// A file with an importance matrix, as llama-imatrix writes it.
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// The type of tensors whose names fit a regular expression: `ffn_down=Q6_K`. May be given several times; the first that
    /// fits counts.
    #[arg(long, value_name = "PATTERN=TYPE")]
    tensor_type: Vec<String>,
    /// The type of the output tensor.
    #[arg(long, value_name = "TYPE", conflicts_with = "leave_output_tensor")]
    output_tensor_type: Option<String>,
    /// The type of the embedding.
    #[arg(long, value_name = "TYPE")]
    token_embedding_type: Option<String>,
    /// Keep the output tensor at the source's precision.
    #[arg(long)]
    leave_output_tensor: bool,
    /// Give every tensor the method's own type, without a mixture.
    #[arg(long)]
    pure: bool,
    /// Quantize also what is quantized already; both losses add up.
    #[arg(long, visible_alias = "allow-requantize")]
    requantize: bool,
    /// llama.cpp's name of the tokenizer's pre-tokenizer, where it is not recognised.
    #[arg(long, value_name = "NAME")]
    pre_tokenizer: Option<String>,
}

impl TuningArgs {
    /// The recipe's options that these flags come to.
    fn options(&self) -> Result<Vec<(String, String)>, Error> {
        // A worker and a file's name need the path in full.
        let path = |path: &Option<PathBuf>| -> Result<Option<String>, Error> {
            let Some(path) = path else { return Ok(None) };
            let whole = path.canonicalize().map_err(Error::io("opening", path))?;
            Ok(Some(whole.display().to_string()))
        };
        let flag = |set: bool| set.then(|| "true".to_owned());
        let types = (!self.tensor_type.is_empty()).then(|| self.tensor_type.join(";"));
        let options = [
            ("calibration", path(&self.calibration)?),
            ("calibration_tokens", self.calibration_tokens.map(|tokens| tokens.to_string())),
            ("imatrix", path(&self.imatrix)?),
            ("tensor_types", types),
            ("output_tensor_type", self.output_tensor_type.clone()),
            ("token_embedding_type", self.token_embedding_type.clone()),
            ("leave_output_tensor", flag(self.leave_output_tensor)),
            ("pure", flag(self.pure)),
            ("requantize", flag(self.requantize)),
            ("pre_tokenizer", self.pre_tokenizer.clone()),
        ];
        Ok(options.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
    }
}

/// What is printed as JSON.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(flatten)]
    artifact: Artifact,
    /// What was tried to find it; none where the method was named.
    search: Option<Search>,
    /// How good it is; none if that was not measured.
    validation: Option<Report>,
    /// Why it was not measured; empty when it was.
    not_validated: String,
}

#[derive(Debug, Serialize)]
struct Search {
    reason: String,
    trials: Vec<Trial>,
}

/// A size as people write it, in bytes: `6GiB`, `500 MB`, `4.5G`.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1_048_576.0,
        "g" | "gib" => 1_073_741_824.0,
        "t" | "tib" => 1_099_511_627_776.0,
        _ => f64::NAN,
    };
    let value = digits.parse::<f64>().unwrap_or(f64::NAN) * unit;
    if value.is_finite() && value >= 1.0 {
        Ok(value as u64)
    } else {
        Err("expected a size, as in `6GiB` or `500MB`".into())
    }
}

impl Args {
    /// What is to be searched for, where no method is named and a size or a divergence is.
    fn goal(&self) -> Option<Goal> {
        let max_kld = self.limits.limits().max_kld;
        let named = self.method.is_some() || self.bits.is_some();
        (self.fit.is_some() || (max_kld.is_some() && !named)).then(|| Goal {
            max_bytes: self.fit,
            max_kld,
            text: self.text.clone().map(Text::File),
            tokens: self.tokens,
        })
    }

    /// Whether the user wants a measurement or an error.
    fn must_validate(&self) -> bool {
        self.validate || self.text.is_some() || self.limits.given()
    }

    fn options(&self) -> Result<QuantizeOptions, Error> {
        let group_size = self.group_size.map(|size| ("group_size".to_owned(), size.to_string()));
        let tuning = self.tuning.options()?;
        Ok(QuantizeOptions {
            // Both are words of MLX alone; a method tells its format itself.
            format: self.format.clone().or_else(|| {
                let mlx = self.bits.is_some() || (self.group_size.is_some() && self.method.is_none());
                mlx.then(|| format::MLX.into())
            }),
            method: self.method.clone().or_else(|| self.bits.map(|bits| format!("{bits}bit"))),
            output_dir: self.output.clone(),
            name: self.name.clone(),
            options: self.set.iter().cloned().chain(group_size).chain(tuning).collect(),
            evidence: None,
        })
    }
}

/// Runs the command.
pub fn execute(args: &Args, common: &super::Common, config: &Config) -> anyhow::Result<()> {
    if let Some(text) = &args.text {
        // Before hours of work for it.
        Text::File(text.clone()).check()?;
    }
    let options = args.options()?;
    let candidates = crate::plugins::survey(config);
    if args.dry_run {
        let source = source::resolve(&args.model, config)?;
        let forecast = pipeline::dry_run(&source, &options, &candidates, config, &CancelToken::never())?;
        return show_forecast(&forecast, &args.model, common);
    }
    let interrupt = Interrupt::install()?;
    let console = Console::new(&args.model);
    let progress = |update: &_| console.progress(update);
    let cancel = interrupt.begin();
    let purpose = Purpose::Quantize(&options);
    let obtain = Obtain { purpose, candidates: &candidates, config, observer: &console, cancel: &cancel };
    let source = obtain.source(&args.model)?;
    let host = Host { candidates: &candidates, config, observer: &console };
    let (options, search) = match args.goal() {
        None => (options, None),
        Some(goal) => {
            let found = search::search(&source, &goal, &options, &host, &cancel)?;
            (found.options.clone(), Some(found))
        }
    };
    let artifact = pipeline::quantize(&source, &options, &candidates, config, &progress, &cancel)?;
    console.clear();
    if !common.json {
        summarize(&artifact, &args.model);
        if let Some(found) = &search {
            output::say(&format!("  chosen because {}", found.reason));
        }
    }
    let path = artifact.path.display().to_string();
    let measured = if args.no_validate || !(config.validate || args.must_validate()) {
        Ok(Err("it was not asked for".to_owned()))
    } else {
        measure(args, &source, &artifact, &host, &cancel)
    };
    console.clear();
    let (validation, not_validated, failed) = match measured {
        Ok(Ok(report)) => (Some(report), String::new(), None),
        Ok(Err(reason)) => (None, reason, None),
        // Whatever became of the measurement, the model is there.
        Err(error) => (None, error.to_string(), Some(error)),
    };
    let search = search.map(|found| Search { reason: found.reason, trials: found.trials });
    let outcome = Outcome { artifact, search, validation, not_validated };
    if common.json {
        output::json(&outcome)?;
    } else {
        if let Some(report) = &outcome.validation {
            in_short(report).iter().for_each(|line| output::say(&output::clean(line)));
        } else if failed.is_some() {
            output::say("  note   the model is finished, and measuring it failed");
        } else if !args.no_validate && config.validate {
            output::say(&format!("  note   not validated: {}", output::clean(&outcome.not_validated)));
        }
        output::print(&output::shown(&path));
    }
    if let Some(error) = failed {
        return Err(error.into());
    }
    match &outcome.validation {
        Some(report) if report.verdict.as_ref().is_some_and(|verdict| !verdict.passed) => Err(too_low(report).into()),
        _ => Ok(()),
    }
}

/// Measures `artifact` against `source`; the inner error is the reason why that cannot be done here, where the user did not
/// insist on it.
fn measure(
    args: &Args,
    source: &Source,
    artifact: &Artifact,
    host: &Host<'_>,
    cancel: &CancelToken,
) -> Result<Result<Report, String>, Error> {
    let open = OpenOptions { fallback: true, ..OpenOptions::default() };
    let options = ValidateOptions {
        open: open.clone(),
        reference_open: open,
        text: args.text.clone().map(Text::File),
        tokens: args.tokens,
        window: None,
        limits: args.limits.limits(),
        made_now: true,
        stop_at: None,
    };
    let made = Source { path: artifact.path.clone(), format: artifact.format.clone(), hub: None, ..source.clone() };
    // The backend that the user prefers may run other formats only.
    let config = Config { backend: None, ..host.config.clone() };
    let host = Host { config: &config, ..*host };
    match validate::validate(&made, Some((&args.model, source)), &options, &host, cancel) {
        Ok(report) => Ok(Ok(report)),
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(error) if args.must_validate() => Err(error),
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// Shows what would be made: the tensors on stdout, the sum of it on stderr.
fn show_forecast(forecast: &Artifact, model: &str, common: &super::Common) -> anyhow::Result<()> {
    if common.json {
        return output::json(forecast);
    }
    let report = &forecast.report;
    let mut rows = vec![["TENSOR", "SHAPE", "FROM", "TO", "BYTES", ""].map(String::from).to_vec()];
    rows.extend(report.tensors.iter().map(|tensor| {
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        let why = match tensor.fallback_from.as_str() {
            "" => String::new(),
            meant => format!("not {meant}: {}", tensor.fallback_reason),
        };
        vec![
            tensor.name.clone(),
            shape.join(" x "),
            tensor.source_type.clone(),
            tensor.output_type.clone(),
            tensor.output_bytes.to_string(),
            why,
        ]
    }));
    output::table(&rows);
    output::say(&format!(
        "{} ({}) to {}, nothing is written",
        output::clean(model),
        report.source_precision,
        forecast.method
    ));
    output::say(&format!("  size   {}", sizes(forecast)));
    output::say(&format!("  path   {}", output::shown(&forecast.path.display().to_string())));
    report.notes.iter().for_each(|note| output::say(&format!("  note   {}", output::clean(note))));
    Ok(())
}

/// What it comes from, what it comes to, and how much smaller that is.
fn sizes(artifact: &Artifact) -> String {
    let report = &artifact.report;
    format!(
        "{} -> {} ({})",
        output::size(report.source_bytes),
        output::size(report.output_bytes),
        match artifact.ratio {
            ratio if ratio >= 1.05 => format!("{ratio:.2} times smaller than {}", report.source_precision),
            ratio if ratio >= 0.95 => format!("as large as {}", report.source_precision),
            ratio => format!("{:.2} times larger than {}", 1.0 / ratio, report.source_precision),
        }
    )
}

/// Tells on stderr what was made.
pub fn summarize(artifact: &Artifact, model: &str) {
    let report = &artifact.report;
    output::say(&format!("quantized {} ({}) to {}", output::clean(model), report.source_precision, artifact.method));
    output::say(&format!("  size   {}", sizes(artifact)));
    output::say(&format!("  time   {:.2} s", artifact.elapsed_ms / 1e3));
    if report.tokenizer_checks > 0 {
        output::say(&format!("  checks {} tokenizations are those of the source", report.tokenizer_checks));
    }
    for companion in &report.companions {
        output::say(&format!("  beside {}", output::shown(companion)));
    }
    for note in &report.notes {
        output::say(&format!("  note   {}", output::clean(note)));
    }
}
