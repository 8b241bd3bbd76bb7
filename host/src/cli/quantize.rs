//! `pajamas quantize`: a model in, a smaller one out; its path is the last line on stdout.

use super::interrupt::Interrupt;
use super::output;
use super::progress::Console;
use super::validate::{LimitArgs, in_short, tokens, too_low};
use crate::config::Config;
use crate::error::Error;
use crate::models::format;
use crate::pipeline::Artifact;
use crate::{Measure, Pajamas, Quantize};
use std::path::PathBuf;

/// What `pajamas quantize` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A Hugging Face folder, an id on the Hub (`org/name` or `org/name@revision`), or a GGUF file.
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
    /// The artifact's name without extension [default: <model>-<method>, for a folder <model>-<format>-<method>, for what
    /// was searched for <model>-fit-<size>, <model>-kld-<limit>].
    #[arg(short, long)]
    name: Option<String>,
    /// Replace a model of that name also if it is another, or by another method.
    #[arg(long, requires = "name", conflicts_with = "output")]
    force: bool,
    /// Find the best method that makes it at most this large, by measuring: `6GiB`, `500MB` (GGUF). Without `--method`,
    /// `--max-kld` likewise finds the smallest that is good enough; with both, that must also fit.
    /// By size alone, what was found passes until its perplexity is twice the source's, or by `--max-degradation`.
    #[arg(long, value_name = "SIZE", value_parser = bytes, conflicts_with_all = ["method", "bits", "no_validate"])]
    fit: Option<u64>,
    /// Say what would be made, tensor by tensor, and write nothing (GGUF).
    #[arg(long, conflicts_with_all = ["validate", "text", "max_degradation", "max_kld", "fit"])]
    dry_run: bool,
    #[command(flatten)]
    tuning: TuningArgs,
    #[command(flatten)]
    measure: MeasureArgs,
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

/// Whether it is measured what was lost, on what, and what is too much.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Measuring")]
struct MeasureArgs {
    /// Measure the model against its source, and fail when that cannot be done [default: measure if it can be done].
    #[arg(long, conflicts_with = "no_validate")]
    validate: bool,
    /// Do not measure the model against its source.
    #[arg(long, conflicts_with_all = ["max_degradation", "max_kld"])]
    no_validate: bool,
    /// A file of UTF-8 text to measure on [default: `validation.txt` in the source's folder, else the bundled text].
    #[arg(long, value_name = "FILE", conflicts_with = "no_validate")]
    text: Option<PathBuf>,
    /// Tokens of the text to read at the most [default: 2048, to find a method 8192].
    #[arg(long, value_name = "N", value_parser = tokens, conflicts_with = "no_validate")]
    tokens: Option<usize>,
    #[command(flatten)]
    limits: LimitArgs,
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
    /// The work that these arguments describe.
    fn work<'a>(&self, pajamas: &'a Pajamas) -> Result<Quantize<'a>, Error> {
        let mut work = pajamas.quantize(&self.model);
        if let Some(tokens) = self.measure.tokens {
            work = work.tokens(tokens);
        }
        // Both are words of MLX alone; a method tells its format itself.
        let mlx = self.bits.is_some() || (self.group_size.is_some() && self.method.is_none());
        if let Some(format) = self.format.clone().or_else(|| mlx.then(|| format::MLX.into())) {
            work = work.format(format);
        }
        if let Some(method) = self.method.clone().or_else(|| self.bits.map(|bits| format!("{bits}bit"))) {
            work = work.method(method);
        }
        let group_size = self.group_size.map(|size| ("group_size".to_owned(), size.to_string()));
        let flags: Vec<(String, String)> = group_size.into_iter().chain(self.tuning.options()?).collect();
        for (name, value) in self.set.iter().cloned().chain(flags.iter().cloned()) {
            work = work.set(name, value);
        }
        if let Some((name, _)) = self.set.iter().find(|(name, _)| flags.iter().any(|(flag, _)| flag == name)) {
            let message = format!("`--set {name}=…` and the flag for the same say two things");
            return Err(Error::Usage { message, hint: "leave one of them out".into() });
        }
        if let Some(dir) = &self.output {
            if dir.extension().is_some_and(|it| it.eq_ignore_ascii_case(format::GGUF)) && !dir.exists() {
                let message = format!("`--output` takes a folder, and `{}` is named like a file", dir.display());
                let hint = "`--output FOLDER --name NAME` writes FOLDER/NAME.gguf".into();
                return Err(Error::Usage { message, hint });
            }
            work = work.output_dir(dir);
        }
        if let Some(name) = &self.name {
            work = work.name(name);
        }
        work = work.replace(self.force);
        if let Some(bytes) = self.fit {
            work = work.fit(bytes);
        }
        if let Some(text) = &self.measure.text {
            work = work.text(text);
        }
        if self.measure.no_validate {
            work = work.measure(Measure::Never);
        } else if self.measure.validate || self.measure.text.is_some() {
            work = work.measure(Measure::Always);
        }
        let limits = &self.measure.limits;
        if let Some(part) = limits.max_degradation {
            work = work.max_degradation(part);
        }
        Ok(match limits.max_kld {
            Some(nats) => work.max_kld(nats),
            None => work,
        })
    }
}

/// Runs the command.
pub fn execute(args: &Args, common: &super::Common, config: &Config) -> anyhow::Result<()> {
    let pajamas = Pajamas::with(config.clone());
    let work = args.work(&pajamas)?;
    if args.dry_run {
        return show_forecast(&work.dry_run()?, &args.model, common);
    }
    let interrupt = Interrupt::install()?;
    let console = Console::new(&args.model);
    let made = work.observer(&console).cancel(interrupt.begin()).run()?;
    console.clear();
    if common.json {
        output::json(&made)?;
    } else {
        if let Some(search) = &made.search {
            output::say(&format!("  chosen {}", search.reason));
        }
        if let Some(report) = &made.validation {
            in_short(report).iter().for_each(|line| output::say(&output::clean(line)));
        } else if let Some(failure) = &made.failure {
            let what = if matches!(failure, Error::Interrupted) { "was interrupted" } else { "failed" };
            output::say(&format!("  note   the model is finished; measuring it {what}"));
        } else if !args.measure.no_validate && config.validate {
            output::say(&format!("  note   not validated: {}", output::clean(&made.not_validated)));
        }
        output::print(&output::shown(&made.artifact.path.display().to_string()));
    }
    if let Some(error) = made.failure {
        return Err(error.into());
    }
    match &made.validation {
        Some(report) if report.verdict.as_ref().is_some_and(|verdict| !verdict.passed) => Err(too_low(report).into()),
        _ => Ok(()),
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
