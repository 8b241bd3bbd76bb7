//! Several methods and formats of one model, each made, measured against the source and timed: what a choice costs and
//! brings. [`plot`] draws it, [`report`] writes it down.

pub mod plot;
pub mod report;

use crate::benchmark::plan::{self, Kind};
use crate::benchmark::report::Outcome;
use crate::benchmark::{self, BenchmarkOptions};
use crate::error::{Error, Result};
use crate::hardware::Hardware;
use crate::models::source::Source;
use crate::models::{format, store};
use crate::pipeline::{self, QuantizeOptions};
use crate::runtime::open::OpenOptions;
use crate::scratch::Scratch;
use crate::validate::text::{Text, TextSummary};
use crate::validate::verdict::Limits;
use crate::validate::{self, Host, ValidateOptions};
use pajamas_plugin_api::CancelToken;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// What is tried of GGUF where no methods are named.
const GGUF_METHODS: [&str; 8] = ["Q2_K", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "BF16"];
/// The same of MLX.
const MLX_METHODS: [&str; 5] = ["3bit", "4bit", "5bit", "6bit", "8bit"];

/// What to try, and how to measure it.
#[derive(Debug, Clone)]
pub struct SweepOptions {
    /// The methods; empty for the usual ones of each format.
    pub methods: Vec<String>,
    /// The formats; empty for all that can be made and run here.
    pub formats: Vec<String>,
    /// Whether what is made stays in the store.
    pub keep: bool,
    /// The text to measure on; none takes the one in the source's folder, else the bundled one.
    pub text: Option<Text>,
    /// Tokens of it, at the most.
    pub tokens: usize,
    /// Tokens of prompt and of answer to time.
    pub speed: (u32, u32),
    /// How often each is timed.
    pub repetitions: u32,
    /// Whether models are measured in processes of their own; they always are when they are timed.
    pub isolated: bool,
}

/// What came of one method.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// `gguf`, `mlx`, …
    pub format: String,
    /// The method.
    pub method: String,
    /// Bytes of the artifact.
    pub size_bytes: u64,
    /// Source bytes by artifact bytes.
    pub ratio: f64,
    /// Where it is, if it was kept.
    pub path: Option<PathBuf>,
    /// The backend that it ran on.
    pub backend: String,
    /// Mean KL divergence from the source, in nats.
    pub kld: f64,
    /// The error of that.
    pub kld_error: f64,
    /// Growth of perplexity: 0.05 is five percent.
    pub perplexity_change: f64,
    /// Part of the positions with the same likeliest token.
    pub top1: f64,
    /// Tokens of prompt per second; none if not measured.
    pub prompt_tokens_per_second: Option<f64>,
    /// Standard deviation of that; none of a single measurement.
    pub prompt_tokens_per_second_deviation: Option<f64>,
    /// Tokens generated per second; none if not measured.
    pub tokens_per_second: Option<f64>,
    /// Standard deviation of that; none of a single measurement.
    pub tokens_per_second_deviation: Option<f64>,
    /// Whether nothing that is as small has a smaller divergence.
    pub pareto_quality: bool,
    /// Whether nothing that is as small is faster.
    pub pareto_speed: bool,
}

/// One that could not be made or measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// `gguf`, `mlx`, …
    pub format: String,
    /// The method.
    pub method: String,
    /// Why.
    pub reason: String,
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Sweep {
    /// The version of pajamas that measured.
    pub pajamas_version: &'static str,
    /// When it began: RFC 3339, UTC.
    pub started_at: String,
    /// The machine.
    pub hardware: Hardware,
    /// What everything was made from, as a user writes it.
    pub model: String,
    /// Its name, for file names.
    #[serde(skip)]
    pub name: String,
    /// Whether it was stopped before all were tried.
    pub interrupted: bool,
    /// Bytes of its weights.
    pub source_bytes: u64,
    /// Its precision.
    pub source_precision: String,
    /// What was read to measure quality.
    pub text: Option<TextSummary>,
    /// Tokens of prompt that were timed.
    pub speed_prompt_tokens: u32,
    /// Tokens of answer that were timed.
    pub speed_generated_tokens: u32,
    /// By size, rising.
    pub rows: Vec<Row>,
    /// What came to nothing.
    pub failures: Vec<Failure>,
}

/// Makes, measures and times `source` by every method.
///
/// # Errors
/// `Usage` for methods that nobody makes; `Interrupted` before the first was measured; the reason of the first failure where nothing came of anything.
pub fn sweep(source: &Source, options: &SweepOptions, host: &Host<'_>, cancel: &CancelToken) -> Result<Sweep> {
    let mut sweep = Sweep {
        pajamas_version: env!("CARGO_PKG_VERSION"),
        started_at: jiff::Timestamp::now().strftime("%FT%TZ").to_string(),
        hardware: crate::hardware::detect(),
        model: source.hub.as_ref().map_or_else(|| source.display(), |(id, commit)| format!("{id}@{commit}")),
        name: source.hub.as_ref().map_or_else(|| source.name.clone(), |(id, _)| id.replace('/', "--")),
        interrupted: false,
        source_bytes: 0,
        source_precision: String::new(),
        text: None,
        speed_prompt_tokens: options.speed.0,
        speed_generated_tokens: options.speed.1,
        rows: Vec::new(),
        failures: Vec::new(),
    };
    let mut hint = None;
    for (format, method) in methods(source, options, host)? {
        host.observer.note(&format!("{format} {method}"));
        match one(source, &format, &method, options, host, &mut sweep, cancel) {
            Ok(row) => sweep.rows.push(row),
            // Hours of work are not lost for the last one.
            Err(Error::Interrupted) if !sweep.rows.is_empty() => {
                sweep.interrupted = true;
                break;
            }
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => {
                host.observer.warn(&format!("{method}: {error}"));
                hint.get_or_insert_with(|| error.hint().unwrap_or_default());
                sweep.failures.push(Failure { format, method, reason: error.to_string() });
            }
        }
    }
    if let ([], Some((first, hint))) = (sweep.rows.as_slice(), sweep.failures.first().zip(hint)) {
        let message = format!("nothing could be made and measured; {}: {}", first.method, first.reason);
        return Err(Error::Refused { message, hint });
    }
    sweep.rows.sort_by(|one, other| one.size_bytes.cmp(&other.size_bytes).then(one.kld.total_cmp(&other.kld)));
    mark_fronts(&mut sweep.rows);
    Ok(sweep)
}

/// Formats and methods, in order.
fn methods(source: &Source, options: &SweepOptions, host: &Host<'_>) -> Result<Vec<(String, String)>> {
    let makeable = pipeline::makeable(&source.format, None, host.candidates);
    if makeable.is_empty() {
        pipeline::method(source, &QuantizeOptions::default(), host.candidates, host.config)?;
    }
    for wanted in &options.formats {
        if !makeable.iter().any(|format| format.eq_ignore_ascii_case(wanted)) {
            let wanted = QuantizeOptions { format: Some(wanted.clone()), ..QuantizeOptions::default() };
            pipeline::method(source, &wanted, host.candidates, host.config)?;
        }
    }
    let runs = |format: &String| {
        let formats = crate::plugins::rank::choose(host.candidates, std::slice::from_ref(format), None, true);
        formats.is_ok()
    };
    let named = |format: &String| options.formats.iter().any(|wanted| wanted.eq_ignore_ascii_case(format));
    let formats: Vec<String> = makeable
        .into_iter()
        .filter(|format| if options.formats.is_empty() { runs(format) } else { named(format) })
        .collect();
    let mut found = Vec::new();
    for format in &formats {
        let known = pipeline::methods_of(source, format, host.candidates);
        let usual = |name: &String| match format.as_str() {
            format::GGUF => GGUF_METHODS.contains(&name.as_str()),
            format::MLX => MLX_METHODS.contains(&name.as_str()),
            _ => true,
        };
        let wanted = |name: &String| options.methods.iter().any(|method| method.eq_ignore_ascii_case(name));
        let chosen =
            known.into_iter().filter(|name| if options.methods.is_empty() { usual(name) } else { wanted(name) });
        found.extend(chosen.map(|name| (format.clone(), name)));
    }
    for method in &options.methods {
        if !found.iter().any(|(_, name)| name.eq_ignore_ascii_case(method)) {
            let options = QuantizeOptions { method: Some(method.clone()), ..QuantizeOptions::default() };
            pipeline::method(source, &options, host.candidates, host.config)?;
            let message = format!("`{method}` makes none of the formats {}", formats.join(", "));
            return Err(Error::Usage { message, hint: "leave `--format` out".into() });
        }
    }
    Ok(found)
}

fn one(
    source: &Source,
    format: &str,
    method: &str,
    options: &SweepOptions,
    host: &Host<'_>,
    sweep: &mut Sweep,
    cancel: &CancelToken,
) -> Result<Row> {
    // One that is there already is made anew, and judged as before.
    let known = store::find(host.config, source, format, method)?.filter(|_| options.keep);
    let known = known.and_then(|path| store::record_of(host.config, &path)?.validation);
    let scratch = (!options.keep).then(|| Scratch::create("trial", host.config)).transpose()?;
    let quantize = QuantizeOptions {
        format: Some(format.into()),
        method: Some(method.into()),
        output_dir: scratch.as_ref().map(|scratch| scratch.path().to_owned()),
        ..QuantizeOptions::default()
    };
    let progress = |update: &_| host.observer.progress(update);
    let artifact = pipeline::quantize(source, &quantize, host.candidates, host.config, &progress, cancel)?;
    (sweep.source_bytes, sweep.source_precision) =
        (artifact.report.source_bytes, artifact.report.source_precision.clone());
    let made = Source { path: artifact.path.clone(), format: artifact.format.clone(), hub: None, ..source.clone() };
    let open = OpenOptions { fallback: true, isolate: options.isolated, ..OpenOptions::default() };
    let measure = ValidateOptions {
        open: open.clone(),
        reference_open: open,
        text: options.text.clone(),
        tokens: options.tokens,
        window: None,
        limits: known.map_or_else(Limits::default, |summary| summary.limits()),
        insisted: false,
        made_now: true,
        stop_at: None,
    };
    let name = source.display();
    let measured = validate::validate(&made, Some((&name, source)), &measure, host, cancel)?;
    let Some(comparison) = measured.comparison else {
        return Err(Error::QualityTooLow("it gives no finite numbers".into()));
    };
    if sweep.text.replace(measured.text).is_none() {
        measured.notes.iter().for_each(|note| host.observer.warn(note));
    }
    let (prompt, generated) = options.speed;
    let speed = BenchmarkOptions {
        backends: vec![measured.candidate.backend.clone()],
        tests: plan::tests(&[prompt], &[generated], &[0]),
        repetitions: options.repetitions,
        warm_up: true,
        delay: Duration::ZERO,
        fallback: false,
        method: None,
        context_length: None,
        set: Vec::new(),
    };
    let timed = benchmark::benchmark(
        &[(method.to_owned(), made)],
        &speed,
        host.candidates,
        host.config,
        host.observer,
        cancel,
    )?;
    let rate = |kind: Kind| {
        timed.runs.iter().flat_map(|run| &run.tests).find_map(|test| match &test.outcome {
            Outcome::Measured(measurement) if test.kind == kind => Some(&measurement.tokens_per_second),
            _ => None,
        })
    };
    let (prompt, answer) = (rate(Kind::PromptProcessing), rate(Kind::TokenGeneration));
    if timed.interrupted {
        return Err(Error::Interrupted);
    }
    Ok(Row {
        format: format.into(),
        method: artifact.method.clone(),
        size_bytes: store::size_on_disk(&artifact.path),
        ratio: artifact.ratio,
        path: options.keep.then(|| artifact.path.clone()),
        backend: measured.candidate.backend,
        kld: comparison.kl_divergence.mean,
        kld_error: comparison.kl_divergence.standard_error,
        perplexity_change: comparison.perplexity_change.value,
        top1: comparison.top1_agreement.value,
        prompt_tokens_per_second: prompt.map(|rate| rate.mean),
        prompt_tokens_per_second_deviation: prompt.and_then(|rate| rate.standard_deviation),
        tokens_per_second: answer.map(|rate| rate.mean),
        tokens_per_second_deviation: answer.and_then(|rate| rate.standard_deviation),
        pareto_quality: false,
        pareto_speed: false,
    })
}

/// A change for people: `+0.02 %`; what rounds to nothing has no sign.
pub fn change(part: f64) -> String {
    let text = format!("{:+.2} %", part * 100.0);
    if text == "-0.00 %" { "+0.00 %".into() } else { text }
}

/// Marks those of `rows` (rising by size) that no other beats in both.
fn mark_fronts(rows: &mut [Row]) {
    let (mut least, mut fastest) = (f64::INFINITY, f64::NEG_INFINITY);
    for row in rows {
        row.pareto_quality = row.kld < least;
        least = least.min(row.kld);
        let speed = row.tokens_per_second.unwrap_or(f64::NEG_INFINITY);
        row.pareto_speed = speed > fastest;
        fastest = fastest.max(speed);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn row(method: &str, size_bytes: u64, kld: f64, speed: f64) -> Row {
        Row {
            format: "gguf".into(),
            method: method.into(),
            size_bytes,
            ratio: 1.0,
            path: None,
            backend: "gguf-cpu".into(),
            kld,
            kld_error: 0.0,
            perplexity_change: 0.0,
            top1: 1.0,
            prompt_tokens_per_second: Some(speed * 3.0),
            prompt_tokens_per_second_deviation: None,
            tokens_per_second: Some(speed),
            tokens_per_second_deviation: None,
            pareto_quality: false,
            pareto_speed: false,
        }
    }

    #[test]
    fn the_front_is_what_nothing_smaller_beats() {
        let mut rows = [row("a", 1, 0.3, 9.0), row("b", 2, 0.4, 8.0), row("c", 3, 0.1, 10.0), row("d", 4, 0.1, 7.0)];
        mark_fronts(&mut rows);
        assert_eq!(rows.each_ref().map(|row| row.pareto_quality), [true, false, true, false]);
        assert_eq!(rows.each_ref().map(|row| row.pareto_speed), [true, false, true, false]);
    }
}
