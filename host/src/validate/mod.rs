//! How much worse a quantized model is than what it was made from: both go through the same text in lockstep, and the
//! result is judged.
//!
//! [`text`] → [`lockstep`] → [`compare`] → [`statistics`] → [`verdict`]; [`mod@reference`] finds what to compare with.
//! No logits are written anywhere, and memory does not grow with the text.

pub mod compare;
pub mod lockstep;
pub mod record;
pub mod reference;
pub mod statistics;
pub mod text;
pub mod verdict;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::models::describe;
use crate::models::source::Source;
use crate::models::store;
use crate::plugins::Candidate;
use crate::runtime::open::{self, Observer, OpenModel, OpenOptions};
use crate::search::decide::Decision;
use compare::Difference;
use lockstep::Times;
use pajamas_plugin_api::{CancelToken, ProgressUpdate};
use record::Measured as MeasuredModel;
pub use record::Summary;
use reference::Reference;
use serde::Serialize;
use statistics::{Alone, Comparison, Estimate, Paired};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use text::{Text, TextSummary, Windows};
use verdict::{Limits, Verdict};

/// Tokens in a window by default.
pub const WINDOW: u32 = 512;

/// The fewest that leave anything to measure, whether or not the model begins texts with a token of its own.
pub const WINDOW_MIN: u32 = 2;

/// What to measure.
#[derive(Debug, Clone)]
pub struct ValidateOptions {
    /// How to open the candidate.
    pub open: OpenOptions,
    /// How to open the reference.
    pub reference_open: OpenOptions,
    /// The text; none takes the one in the reference's folder, else the bundled one.
    pub text: Option<Text>,
    /// Tokens of it, at the most.
    pub tokens: usize,
    /// Tokens in a window; none takes [`WINDOW`], or what the model was trained with if that is less.
    pub window: Option<u32>,
    /// What the candidate must not exceed.
    pub limits: Limits,
    /// Whether the user named a backend for the reference.
    pub insisted: bool,
    /// Whether this program has just made the candidate, so that the result belongs to it wherever it lies.
    pub made_now: bool,
    /// Reading ends once it is sure on which side of this the mean KL divergence lies; none reads all.
    pub stop_at: Option<f64>,
}

/// A model that took part.
#[derive(Debug, Clone, Serialize)]
pub struct Participant {
    /// Its file or folder.
    pub path: PathBuf,
    /// The backend that it ran on.
    pub backend: String,
    /// How its weights are stored, as the backend says.
    pub quantization: String,
    /// Bytes of its file or folder.
    pub size_bytes: u64,
}

/// What came out.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The model that was measured.
    pub candidate: Participant,
    /// What it was compared with, if there was something.
    pub reference: Option<Participant>,
    /// Why there was nothing to compare with; empty when there was.
    pub no_reference: String,
    /// What both read.
    pub text: TextSummary,
    /// The candidate's perplexity; none if it gave no finite numbers.
    pub perplexity: Option<Estimate>,
    /// Positions at which the candidate gave no finite numbers. They count in no figure.
    pub invalid_positions: u64,
    /// How the two differ.
    pub comparison: Option<Comparison>,
    /// Whether the candidate is good enough; none without a reference.
    pub verdict: Option<Verdict>,
    /// What a reader of the figures should know.
    pub notes: Vec<String>,
    /// Whether the result was written into the artifact, or into its record in the store.
    pub recorded: bool,
    /// Who computed for how long, loading not included.
    pub elapsed: Elapsed,
}

/// Who computed for how long, in milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Elapsed {
    /// The reference.
    pub reference_ms: f64,
    /// The candidate.
    pub candidate_ms: f64,
    /// The comparison of their answers.
    pub comparison_ms: f64,
    /// All of it.
    pub total_ms: f64,
}

/// Measures `source` against `reference`; without one, against what it was made from, as far as that is known and can be
/// run here, else alone.
///
/// # Errors
/// When the candidate or a `reference` that was named cannot be run or measured, the text cannot be read, or the two do
/// not speak the same tokens.
pub fn validate(
    source: &Source,
    reference: Option<(&str, &Source)>,
    options: &ValidateOptions,
    host: &Host<'_>,
    cancel: &CancelToken,
) -> Result<Report> {
    if let Some(text) = &options.text {
        text.check()?;
    }
    options.limits.check()?;
    // What was trained on less is not to be opened with more, only to be warned of that.
    let trained = || u32::try_from(describe::describe(source, host.config).ok()?.context_length_trained?).ok();
    let usual = || trained().filter(|trained| *trained > 0).map_or(WINDOW, |trained| WINDOW.min(trained));
    let context = options.window.unwrap_or_else(usual);
    let open_options = OpenOptions { context_length: Some(context), ..options.open.clone() };
    let candidate = open::open(source, &open_options, host.candidates, host.config, host.observer, cancel)?;
    // What was made of a source on the hub is not in the hub's cache.
    let hub = source.hub.clone().filter(|_| candidate.path == source.path);
    let finished = Source { path: candidate.path.clone(), hub, ..source.clone() };
    let measured_model = MeasuredModel::new(finished, options.made_now)?;
    let window = checked_window(options.window, context, &candidate)?;
    let reference_options = OpenOptions { context_length: Some(context), ..options.reference_open.clone() };
    let (reference, no_reference) = match reference {
        Some((name, source)) => {
            let reference = reference::open(source, name, &reference_options, &candidate, host, cancel)?;
            (Some(reference), String::new())
        }
        None => match implied_reference(&candidate, &reference_options, host, cancel) {
            Ok(reference) => (Some(reference), String::new()),
            // What was asked for the reference is not to be dropped in silence.
            Err(error) if is_wrong(&error) || options.insisted => return Err(error),
            Err(error) => (None, error.to_string()),
        },
    };
    // The one beside the source, whatever the model is compared with.
    let folder = reference.as_ref().map(|reference| reference.source.clone()).filter(|path| path.is_dir());
    let folder = folder.or_else(|| Some(reference::origin(&candidate.path, host.config).ok()?.path));
    let text = options.text.clone().unwrap_or_else(|| Text::of_model(folder.as_deref()));
    let tokens = text.tokens(&candidate.engine, options.tokens)?;
    if let Some(reference) = &reference {
        check_same_tokens(&tokens, &reference.model, &candidate)?;
    }
    let windows = Windows::new(tokens, window as usize, bos(&candidate)?);
    let measured =
        measure(&candidate, reference.as_ref().map(|r| &r.model), &windows, options.stop_at, host.observer, cancel)?;
    // A limit that is named now is a question; what is kept with the model is judged by those it was made under.
    let own_limits = if options.made_now { options.limits } else { measured_model.limits(host.config) };
    let limits = options.limits.or(own_limits);
    let judged = reference.is_some() || measured.invalid_positions > 0;
    let verdict = judged.then(|| verdict::judge(measured.comparison.as_ref(), measured.invalid_positions, limits));
    let notes = notes(&candidate, &measured);
    let mut report = Report {
        candidate: participant(&candidate, &candidate.path),
        reference: reference.as_ref().map(|reference| participant(&reference.model, &reference.source)),
        no_reference,
        text: TextSummary { scored: measured.scored, ..windows.summary(&text) },
        perplexity: measured.perplexity,
        invalid_positions: measured.invalid_positions,
        comparison: measured.comparison,
        verdict,
        notes,
        recorded: false,
        elapsed: measured.elapsed,
    };
    let tells_little = !report.notes.is_empty();
    if let (Some(summary), Some(reference), false) = (Summary::of(&report, own_limits), &reference, tells_little) {
        // The figures are what was asked for; the model's folder may be read only.
        match measured_model.keep(&summary, &reference.fingerprint, host.config) {
            Ok(recorded) => {
                report.recorded = recorded;
                report.notes.extend(recorded.then(|| differs(&summary, report.verdict.as_ref())).flatten());
            }
            Err(error) => report.notes.push(format!("the result is not kept with the model: {error}")),
        }
    }
    Ok(report)
}

/// That what is kept is another verdict than the one that was asked for.
fn differs(kept: &Summary, asked: Option<&Verdict>) -> Option<String> {
    let (word, limit) = (if kept.passed { "passed" } else { "failed" }, verdict::percent(kept.max_degradation));
    let kld = kept.max_kld.map_or_else(String::new, |max| format!(" and a divergence of {max}"));
    asked.filter(|asked| asked.passed != kept.passed).map(|_| {
        format!("by the limits that the model was made under ({limit}{kld}) it {word}; that is what is kept with it")
    })
}

/// What every step needs of the program around it.
pub struct Host<'a> {
    /// The plugins, sorted by rank.
    pub candidates: &'a [Candidate],
    /// The settings.
    pub config: &'a Config,
    /// Who wants to know what happens.
    pub observer: &'a dyn Observer,
}

fn checked_window(asked: Option<u32>, context: u32, candidate: &OpenModel) -> Result<u32> {
    let trained = candidate.engine.info().context_length_trained;
    match asked {
        // The first token of a window is only read.
        Some(window) if window < WINDOW_MIN => Err(Error::Usage {
            message: format!("a window of {window} tokens has none to measure"),
            hint: format!("it has {WINDOW} tokens where none is named, and at least {WINDOW_MIN}"),
        }),
        Some(window) if trained > 0 && window > trained => Err(Error::Usage {
            message: format!("a window of {window} tokens is longer than the {trained} the model was trained with"),
            hint: format!("--window {trained}"),
        }),
        Some(window) => Ok(window),
        None if trained > 0 => Ok(context.min(trained)),
        None => Ok(context),
    }
}

/// Whether it is no matter of what is here.
fn is_wrong(error: &Error) -> bool {
    matches!(error, Error::Interrupted | Error::UnknownBackend { .. } | Error::Usage { .. })
}

fn implied_reference(
    candidate: &OpenModel,
    options: &OpenOptions,
    host: &Host<'_>,
    cancel: &CancelToken,
) -> Result<Reference> {
    let source = reference::origin(&candidate.path, host.config)?;
    reference::open(&source, &source.display(), options, candidate, host, cancel)
}

/// Where guessing would do as well, figures say little: of a text that the reference does not know, or of a model alone.
fn notes(candidate: &OpenModel, measured: &Measured) -> Vec<String> {
    let guessing = f64::from(candidate.engine.info().vocabulary_size);
    let worst = |perplexity: Option<&Estimate>| perplexity.map(|p| p.value).filter(|value| *value > 0.999 * guessing);
    let note = match &measured.comparison {
        Some(comparison) => worst(Some(&comparison.reference_perplexity)).map(|value| {
            format!(
                "the reference does not know this kind of text (perplexity {value:.0}, and guessing would be \
                 {guessing}): its change says little; measure on a text of the model's own kind with `--text`"
            )
        }),
        None => worst(measured.perplexity.as_ref()).map(|value| {
            format!(
                "perplexity is {value:.0}, and guessing would be {guessing}: the model is damaged, or does not know this \
                 kind of text; try another with `--text`"
            )
        }),
    };
    note.into_iter().collect()
}

/// What the model wants before every text, if anything.
fn bos(model: &OpenModel) -> Result<Option<u32>> {
    let (plain, special) = (model.engine.tokenize("a", false, false)?, model.engine.tokenize("a", true, false)?);
    // Some models add a token at the end as well.
    Ok(special.split_first().filter(|(_, rest)| rest.starts_with(&plain)).map(|(bos, _)| *bos))
}

/// The same ids must mean the same text to both, or comparing their probabilities means nothing.
fn check_same_tokens(tokens: &[u32], reference: &OpenModel, candidate: &OpenModel) -> Result<()> {
    let known = |model: &OpenModel| model.engine.info().vocabulary_size as usize;
    let inside = tokens.iter().all(|id| (*id as usize) < known(reference).min(known(candidate)));
    if inside && reference.engine.detokenize(tokens)? == candidate.engine.detokenize(tokens)? {
        return Ok(());
    }
    Err(Error::Refused {
        message: format!(
            "`{}` and `{}` have different vocabularies: their probabilities cannot be compared",
            candidate.path.display(),
            reference.path.display()
        ),
        hint: "the reference must be what the model was made from".into(),
    })
}

struct Measured {
    /// Positions that were read.
    scored: u64,
    perplexity: Option<Estimate>,
    invalid_positions: u64,
    comparison: Option<Comparison>,
    elapsed: Elapsed,
}

fn measure(
    candidate: &OpenModel,
    reference: Option<&OpenModel>,
    windows: &Windows,
    stop_at: Option<f64>,
    observer: &dyn Observer,
    cancel: &CancelToken,
) -> Result<Measured> {
    let started = Instant::now();
    let positions = (windows.count() * (windows.length() - 1)) as f32;
    let progress = |done: u64, perplexity: f64| {
        // A bar is not looked at more often than that.
        if done.is_multiple_of(32) {
            let (stage, detail) = ("validating".into(), format!("perplexity {perplexity:.4}"));
            observer.progress(&ProgressUpdate { stage, fraction: done as f32 / positions, detail });
        }
    };
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let Some(reference) = reference else {
        let mut alone = Alone::default();
        let mut each = |prediction| {
            alone.add(prediction);
            progress(alone.count() + alone.invalid(), alone.perplexity().value);
        };
        lockstep::alone(&candidate.engine, windows, &mut each, cancel)?;
        let total_ms = milliseconds(started.elapsed());
        let elapsed = Elapsed { candidate_ms: total_ms, total_ms, ..Elapsed::default() };
        let perplexity = (alone.count() > 0).then(|| alone.perplexity());
        return Ok(Measured {
            scored: alone.count() + alone.invalid(),
            perplexity,
            invalid_positions: alone.invalid(),
            comparison: None,
            elapsed,
        });
    };
    let mut paired = Paired::default();
    let mut broken = None;
    let decided = Arc::new(AtomicBool::new(false));
    let mut decision = stop_at.map(|limit| Decision::new(limit, windows.length() - 1));
    let mut each = |difference: &Difference| {
        if decided.load(Ordering::Relaxed) {
            return;
        }
        if decision.as_mut().is_some_and(|decision| decision.add(difference.kl_divergence)) {
            decided.store(true, Ordering::Relaxed);
        }
        if !difference.reference.loss.is_finite() {
            broken = Some(());
        }
        paired.add(difference);
        progress(paired.count() + paired.invalid(), paired.perplexity().value);
    };
    let enough = {
        let (decided, cancel) = (Arc::clone(&decided), cancel.clone());
        CancelToken::new(move || decided.load(Ordering::Relaxed) || cancel.is_cancelled())
    };
    let times = match lockstep::both(&reference.engine, &candidate.engine, windows, &mut each, &enough) {
        Err(Error::Interrupted) if decided.load(Ordering::Relaxed) && !cancel.is_cancelled() => Times::default(),
        times => times?,
    };
    if broken.is_some() {
        return Err(Error::Refused {
            message: format!("the reference `{}` gives no finite numbers", reference.path.display()),
            hint: "it is damaged, or its backend is; try another with `--reference-backend`".into(),
        });
    }
    Ok(Measured {
        scored: paired.count() + paired.invalid(),
        perplexity: (paired.count() > 0).then(|| paired.perplexity()),
        invalid_positions: paired.invalid(),
        comparison: paired.finish(),
        elapsed: Elapsed {
            reference_ms: milliseconds(times.reference),
            candidate_ms: milliseconds(times.candidate),
            comparison_ms: milliseconds(times.comparison),
            total_ms: milliseconds(started.elapsed()),
        },
    })
}

fn participant(model: &OpenModel, path: &Path) -> Participant {
    Participant {
        path: path.into(),
        backend: model.backend.clone(),
        quantization: model.engine.info().quantization.clone(),
        size_bytes: store::size_with_links(path),
    }
}
