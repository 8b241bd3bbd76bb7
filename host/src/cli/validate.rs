//! `pajamas validate`: measures how much worse a quantized model is than what it was made from, and judges it.

use super::interrupt::Interrupt;
use super::open_args::OpenArgs;
use super::output;
use super::progress::Console;
use crate::config::Config;
use crate::error::Error;
use crate::runtime::open::OpenOptions;
use crate::validate::statistics::{Comparison, Estimate};
use crate::validate::text::{TOKENS_MAX, TOKENS_MIN};
use crate::validate::verdict::{Verdict, percent};
use crate::validate::{Participant, Report};
use crate::{Pajamas, TOKENS_TO_VALIDATE, Validate};
use std::path::PathBuf;

/// What `pajamas validate` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model to measure: a GGUF file, an MLX folder, the name of a model already made, or what one can be made from.
    model: String,
    /// What to compare it with: a Hugging Face folder or id, or a finished model [default: what it was made from].
    #[arg(short, long, value_name = "MODEL")]
    reference: Option<String>,
    /// A file of UTF-8 text to measure on [default: `validation.txt` in the source's folder, else the bundled text].
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Tokens of the text to read at the most.
    #[arg(long, value_name = "N", default_value_t = TOKENS_TO_VALIDATE, value_parser = tokens)]
    tokens: usize,
    /// Tokens in a window; each is read on its own, and all its tokens but the first are scored [default: 512, or the
    /// model's trained context].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=1_048_576))]
    window: Option<u32>,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    open: OpenArgs,
    /// The backend to run the reference on [default: the model's, if it can].
    #[arg(long, value_name = "BACKEND")]
    reference_backend: Option<String>,
    /// An option of the reference's backend, as NAME=VALUE; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = output::name_and_value)]
    reference_set: Vec<(String, String)>,
}

/// What a model must not exceed; for every command that judges one.
#[derive(Debug, Clone, clap::Args)]
pub struct LimitArgs {
    /// How much perplexity may grow: `5%` or `0.05` [default: 5%; of a model that was judged before, as then].
    #[arg(long, value_name = "PART", value_parser = part, allow_negative_numbers = true)]
    pub max_degradation: Option<f64>,
    /// The mean KL divergence from the reference to allow, in nats [default: any].
    #[arg(long, value_name = "NATS", value_parser = non_negative, allow_negative_numbers = true)]
    pub max_kld: Option<f64>,
}

impl LimitArgs {
    /// Whether the user asked to be judged.
    pub fn given(&self) -> bool {
        self.max_degradation.is_some() || self.max_kld.is_some()
    }
}

fn part(text: &str) -> Result<f64, String> {
    let (number, unit) = match text.strip_suffix('%') {
        Some(number) => (number.trim(), 100.0),
        None => (text, 1.0),
    };
    let value = number.parse::<f64>().ok().map(|value| value / unit);
    let value = value.filter(|value| value.is_finite() && *value >= 0.0);
    // `5` is a slip for `5%`, not five times as bad.
    value.filter(|value| unit > 1.0 || *value < 1.0).ok_or_else(|| "expected a part, as in `5%` or `0.05`".into())
}

fn non_negative(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0);
    value.ok_or_else(|| "expected a number from 0 up".into())
}

/// Reads a number of tokens; for clap.
pub fn tokens(text: &str) -> Result<usize, String> {
    let value = text.parse::<usize>().ok().filter(|value| (TOKENS_MIN..=TOKENS_MAX).contains(value));
    value.ok_or_else(|| format!("expected a whole number from {TOKENS_MIN} to {TOKENS_MAX}"))
}

impl Args {
    /// The work that these arguments describe.
    fn work<'a>(&self, pajamas: &'a Pajamas, config: &Config) -> Validate<'a> {
        let open = self.open.options(config);
        let reference = OpenOptions {
            backend: self.reference_backend.clone(),
            method: None,
            set: self.reference_set.clone(),
            ..open.clone()
        };
        let mut work = pajamas.validate(&self.model).opening(open, reference).tokens(self.tokens);
        if let Some(part) = self.limits.max_degradation {
            work = work.max_degradation(part);
        }
        if let Some(nats) = self.limits.max_kld {
            work = work.max_kld(nats);
        }
        if let Some(reference) = &self.reference {
            work = work.reference(reference);
        }
        if let Some(text) = &self.text {
            work = work.text(text);
        }
        match self.window {
            Some(window) => work.window(window),
            None => work,
        }
    }
}

/// Runs the command.
pub fn execute(args: &Args, common: &super::Common, config: &Config) -> anyhow::Result<()> {
    let config = args.open.over(config);
    let pajamas = Pajamas::with(config.clone());
    let interrupt = Interrupt::install()?;
    let console = Console::new(&args.model);
    let report = args.work(&pajamas, &config).observer(&console).cancel(interrupt.begin()).run()?;
    console.clear();
    if common.json {
        output::json(&report)?;
    } else {
        print(&report);
    }
    if report.verdict.is_none() && !args.limits.given() && !common.json {
        output::say("note: without a reference there is no verdict; name what it was made from: `--reference MODEL`");
    }
    match &report.verdict {
        Some(verdict) if !verdict.passed => Err(too_low(&report).into()),
        None if args.limits.given() => {
            let message = format!("there is no verdict: {}", report.no_reference);
            Err(Error::Refused { message, hint: "name what it was made from: `--reference MODEL`".into() }.into())
        }
        _ => Ok(()),
    }
}

/// The error that a failed verdict is.
pub fn too_low(report: &Report) -> Error {
    let reasons = report.verdict.as_ref().map_or(&[][..], |verdict| &verdict.reasons);
    Error::QualityTooLow(format!("`{}` is not good enough: {}", report.candidate.path.display(), reasons.join("; ")))
}

/// The result for people, on stdout.
fn print(report: &Report) {
    lines(report).iter().for_each(|line| output::print(&output::clean(line)));
}

/// The result in the few lines that fit below what else is said of a new model.
pub fn in_short(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    if let (Some(perplexity), Some(comparison)) = (&report.perplexity, &report.comparison) {
        lines.push(format!(
            "  quality perplexity {:.4}, the source's {:.4} ({} ± {}); KLD mean {:.5}, 99 % {:.5}; top-1 {}",
            perplexity.value,
            comparison.reference_perplexity.value,
            signed(comparison.perplexity_change.value),
            percent(comparison.perplexity_change.standard_error),
            comparison.kl_divergence.mean,
            comparison.kl_divergence.p99,
            percent(comparison.top1_agreement.value),
        ));
    }
    if let Some(verdict) = &report.verdict {
        let text = &report.text;
        lines.push(format!("          {} tokens of {}: {}", text.tokens, text.name, judged(verdict)));
    }
    lines.extend(report.notes.iter().map(|note| format!("  note    {note}")));
    lines
}

fn judged(verdict: &Verdict) -> String {
    let limits = match verdict.max_kld {
        Some(kld) => format!("at most {} worse, KL divergence at most {kld}", percent(verdict.max_degradation)),
        None => format!("at most {} worse", percent(verdict.max_degradation)),
    };
    format!("{} ({limits})", if verdict.passed { "passed" } else { "FAILED" })
}

fn signed(part: f64) -> String {
    format!("{:+.2} %", part * 100.0)
}

/// The result for people.
fn lines(report: &Report) -> Vec<String> {
    let participant = |p: &Participant| {
        format!("{} ({}, {}, on {})", p.path.display(), p.quantization, output::size(p.size_bytes), p.backend)
    };
    let text = &report.text;
    let mut lines = vec![
        format!("model       {}", participant(&report.candidate)),
        match &report.reference {
            Some(reference) => format!("reference   {}", participant(reference)),
            None => format!("reference   none: {}", report.no_reference),
        },
        format!("text        {}: {} tokens in windows of {}", text.name, text.tokens, text.window),
    ];
    match &report.perplexity {
        Some(perplexity) => lines.push(format!("perplexity  {}", with_error(perplexity))),
        None => lines.push("perplexity  none: the model gives no finite numbers".into()),
    }
    if let Some(comparison) = &report.comparison {
        lines.extend(differences(comparison));
    }
    lines.extend(report.notes.iter().map(|note| format!("note        {note}")));
    if let Some(verdict) = &report.verdict {
        lines.push(format!("verdict     {}", judged(verdict)));
    }
    lines
}

fn with_error(estimate: &Estimate) -> String {
    format!("{:.4} ± {:.4}", estimate.value, estimate.standard_error)
}

fn differences(comparison: &Comparison) -> [String; 5] {
    let (kld, change) = (&comparison.kl_divergence, &comparison.probability_change);
    [
        format!("  reference {}", with_error(&comparison.reference_perplexity)),
        format!(
            "  change    {} ± {}",
            signed(comparison.perplexity_change.value),
            percent(comparison.perplexity_change.standard_error)
        ),
        format!(
            "KLD         mean {:.6} ± {:.6}, median {:.6}, 90 % {:.6}, 99 % {:.6}, 99.9 % {:.6}, max {:.6}",
            kld.mean, kld.standard_error, kld.median, kld.p90, kld.p99, kld.p999, kld.maximum
        ),
        format!(
            "top-1       {} ± {} the same",
            percent(comparison.top1_agreement.value),
            percent(comparison.top1_agreement.standard_error)
        ),
        format!(
            "Δp          mean {}, rms {}, 1 % {}, 99 % {}",
            signed(change.mean),
            percent(comparison.probability_change_rms),
            signed(change.p01),
            signed(change.p99)
        ),
    ]
}
