//! Which quantization is good enough and small enough: found by measuring, not by rule of thumb.
//!
//! [`ladder`] lines up what can be made, by the size that a dry run forecasts: methods, and between two of them the smaller
//! with some of its tensors as in the larger. The search goes up and down that, makes one after the other, measures it
//! against the source, and stops reading where [`decide`] is sure. What it tried and found is its evidence.

pub mod decide;
pub mod ladder;

use crate::error::{Error, Result};
use crate::models::provenance;
use crate::models::source::Source;
use crate::pipeline::{self, Asked, QuantizeOptions};
use crate::runtime::open::OpenOptions;
use crate::scratch::Scratch;
use crate::text::size;
use crate::validate::text::Text;
use crate::validate::verdict::Limits;
use crate::validate::{self, Host, ValidateOptions};
use ladder::{CALIBRATION, IMATRIX, Rung};
use pajamas_plugin_api::{CancelToken, ProgressUpdate};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What is wanted. With both, the smallest that is good enough is taken, if it fits.
#[derive(Debug, Clone, Default)]
pub struct Goal {
    /// Bytes of the artifact, at the most.
    pub max_bytes: Option<u64>,
    /// What it must not exceed. Where that names no divergence, the least is wanted.
    pub limits: Limits,
    /// The text to measure on; none takes the one in the source's folder, else the bundled one.
    pub text: Option<Text>,
    /// Tokens of it, at the most.
    pub tokens: usize,
    /// Whether models are measured in processes of their own.
    pub isolated: bool,
}

/// Room for the evidence, which no dry run knows of, and its bytes at the most.
const EVIDENCE_BYTES_MAX: u64 = 4096;

impl Goal {
    /// What is found for `model` is called by what was asked for, `options` included.
    pub fn name(&self, model: &str, options: &QuantizeOptions) -> String {
        let mut name = model.to_owned();
        if let Some(bytes) = self.max_bytes {
            name += &format!("-fit-{}", short_size(bytes));
        }
        if let Some(max) = self.limits.max_kld {
            name += &format!("-kld-{max}");
        }
        if let Some(part) = self.limits.max_degradation.filter(|part| self.max_bytes.is_none() || *part != 1.0) {
            name += &format!("-degradation-{part}");
        }
        for (option, value) in &options.options {
            name += &pipeline::in_name(option, value);
        }
        pipeline::file_name(&name)
    }

    fn fits(&self, rung: &Rung) -> bool {
        self.max_bytes.is_none_or(|max| rung.size_bytes + EVIDENCE_BYTES_MAX <= max)
    }
}

/// As people write it, where that says it to the byte.
fn short_size(bytes: u64) -> String {
    let text = size(bytes);
    let unit = |unit: &str| match unit {
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => 1.0,
    };
    let said = text.split_once(' ').and_then(|(number, word)| Some(number.parse::<f64>().ok()? * unit(word)));
    if said.is_some_and(|said| said as u64 == bytes) {
        text.replace(".0 ", "").replace(' ', "")
    } else {
        bytes.to_string()
    }
}

/// One that was looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The method.
    pub method: String,
    /// Types of tensors that differ from the method's, as the option `tensor_types` takes them; empty for none.
    pub tensor_types: String,
    /// Bytes that it takes.
    pub size_bytes: u64,
    /// Its mean KL divergence from the source, in nats.
    pub kld: f64,
    /// The error of that.
    pub kld_error: f64,
    /// Positions that were read for it.
    pub tokens: u64,
    /// Whether that is all of the text.
    pub whole: bool,
    /// Whether it meets the goal; where that is a size alone, whether it is the best.
    pub good: bool,
}

impl Trial {
    /// What was measured, for people; judged where there was a limit.
    fn describe(&self, max_kld: Option<f64>) -> String {
        format!(
            "{}: {}, mean KL divergence {} ± {} on {}{} positions{}",
            ladder::name(&self.method, &self.tensor_types),
            size(self.size_bytes),
            short(self.kld),
            short(self.kld_error),
            if self.whole { "all " } else { "" },
            self.tokens,
            match max_kld {
                Some(_) if self.good => ": good enough",
                Some(_) => ": not good enough",
                None => "",
            }
        )
    }
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// How to make it.
    pub options: QuantizeOptions,
    /// Everything that was measured, by size.
    pub trials: Vec<Trial>,
    /// Why it is this one, in a sentence.
    pub reason: String,
}

/// What is kept of a search in the artifact, under [`CHOICE`](crate::models::provenance::CHOICE).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Bytes allowed, if there was a limit.
    pub max_bytes: Option<u64>,
    /// Mean KL divergence allowed, if there was a limit.
    pub max_kld: Option<f64>,
    /// How much perplexity was allowed to grow, if that was said.
    #[serde(default)]
    pub max_degradation: Option<f64>,
    /// Options that all of them have, as a user writes them.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Why it is this one.
    pub reason: String,
    /// Everything that was measured, by size.
    pub trials: Vec<Trial>,
}

/// Whether the model at `path` was found by a search with the options that were `asked` for.
pub fn is_found(path: &Path, asked: &Asked) -> bool {
    let told = provenance::read(path).unwrap_or_default();
    let evidence = told.get(provenance::CHOICE).and_then(|text| serde_json::from_str::<Evidence>(text).ok());
    evidence.is_some_and(|evidence| evidence.options == asked.options)
}

/// Finds how to quantize `source` so that it meets `goal`; `options` says what else it must have.
///
/// # Errors
/// `QualityTooLow` when nothing that can be made does; `Refused` where the quantizer forecasts no sizes; those of making
/// and measuring.
pub fn search(
    source: &Source,
    goal: &Goal,
    options: &QuantizeOptions,
    host: &Host<'_>,
    cancel: &CancelToken,
) -> Result<Found> {
    let scratch = Scratch::create("trial", host.config)?;
    let mut search = Search { source, goal, options, host, cancel, scratch, imatrix: None, trials: Vec::new() };
    let rungs = ladder::methods(source, options, host, cancel)?;
    let fits = |rung: &Rung| goal.fits(rung);
    let (fitting, too_large): (Vec<Rung>, Vec<Rung>) = rungs.into_iter().partition(fits);
    let Some(smallest) = fitting.first() else { return Err(nothing_fits(goal, &too_large, options)) };
    let smallest = smallest.method.clone();
    let (chosen, reason) = match goal.limits.max_kld {
        Some(max) => {
            let mut rungs = fitting;
            let mut first = search.halve(&rungs, max)?;
            // Where nothing that fits is good, what does not fit may still lend some of its tensors.
            if let (Some(below), Some(above)) = (first.checked_sub(1), rungs.get(first).or(too_large.first())) {
                let mut between = ladder::between(&rungs[below], above, source, options, host, cancel)?;
                between.retain(|rung| goal.fits(rung));
                let found = search.halve(&between, max)?;
                rungs.splice(first..first, between);
                first += found;
            }
            let best = search.confirm(&rungs, first, max)?;
            let reason = if best.method == smallest && best.tensor_types.is_empty() {
                format!("{smallest}, the smallest worth making, is good enough")
            } else {
                format!("it is the smallest found with a mean KL divergence of at most {max}")
            };
            let near = search
                .trials
                .iter()
                .find(|trial| best.is(trial))
                .filter(|trial| trial.kld + 2.0 * trial.kld_error > max);
            let reason = match near {
                Some(trial) => format!(
                    "{reason} ({} ± {}: so near to it that more text may say otherwise)",
                    trial.kld, trial.kld_error
                ),
                None => reason,
            };
            (best, reason)
        }
        None => search.best(&fitting, too_large.first())?,
    };
    let mut trials = search.trials;
    trials.sort_by_key(|trial| trial.size_bytes);
    let reason = format!("{}: {reason}", chosen.name());
    let evidence = Evidence {
        max_bytes: goal.max_bytes,
        max_kld: goal.limits.max_kld,
        max_degradation: goal.limits.max_degradation,
        options: options.options.clone(),
        reason: reason.clone(),
        trials: trials.clone(),
    };
    let evidence = evidence.text(&chosen);
    Ok(Found { options: QuantizeOptions { evidence: Some(evidence), ..chosen.options(options) }, trials, reason })
}

/// Refuses a `source` of which nothing is small enough; its tensors need not be there.
///
/// # Errors
/// As [`search`], before anything is made.
pub fn check(
    source: &Source,
    goal: &Goal,
    options: &QuantizeOptions,
    host: &Host<'_>,
    cancel: &CancelToken,
) -> Result<()> {
    let rungs = ladder::methods(source, options, host, cancel)?;
    if rungs.iter().any(|rung| goal.fits(rung)) { Ok(()) } else { Err(nothing_fits(goal, &rungs, options)) }
}

fn nothing_fits(goal: &Goal, rungs: &[Rung], options: &QuantizeOptions) -> Error {
    let bytes = goal.max_bytes.unwrap_or(0);
    // No model is that small.
    let unit = if bytes < 1024 { " (a size without a unit is one in bytes: `6GiB` has one)" } else { "" };
    let smallest = rungs.first().map_or(0, |rung| rung.size_bytes);
    let more = if ladder::has_importance(options) {
        ""
    } else {
        "; some that need an importance matrix are smaller (`--calibration TEXT`)"
    };
    Error::QualityTooLow(format!(
        "nothing fits into {}{unit}: the smallest that is worth making takes {} ({smallest} bytes){more}",
        size(bytes),
        size(smallest)
    ))
}

impl Evidence {
    /// In lines for people: why, and what was measured.
    pub fn lines(&self) -> Vec<String> {
        let trials = self.trials.iter().map(|trial| trial.describe(self.max_kld));
        std::iter::once(self.reason.clone()).chain(trials).collect()
    }

    /// As JSON, in the room that is kept for it: of too many trials, those that were not chosen are left out from the
    /// smallest on.
    fn text(mut self, chosen: &Rung) -> String {
        loop {
            let text = serde_json::to_string(&self).unwrap_or_default();
            let other = self.trials.iter().position(|trial| !chosen.is(trial));
            match other {
                Some(index) if text.len() as u64 > EVIDENCE_BYTES_MAX - 64 => drop(self.trials.remove(index)),
                _ => return text,
            }
        }
    }
}

struct Search<'a> {
    source: &'a Source,
    goal: &'a Goal,
    options: &'a QuantizeOptions,
    host: &'a Host<'a>,
    cancel: &'a CancelToken,
    scratch: Scratch,
    /// The importance matrix that the first trial made of a text: the others take it.
    imatrix: Option<PathBuf>,
    trials: Vec<Trial>,
}

impl Search<'_> {
    /// The index of the first good one of `rungs` (rising); their number if none is. Larger ones are taken to be better,
    /// which measuring confirms only where it looks.
    fn halve(&mut self, rungs: &[Rung], max: f64) -> Result<usize> {
        let (mut low, mut high) = (0, rungs.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.measure(&rungs[middle], Some(max))?.good {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(low)
    }

    /// The first of `rungs`, from `first` on, that is good on all of the text: what was sure after a part of it may be wrong
    /// where the rest is of another kind.
    fn confirm(&mut self, rungs: &[Rung], first: usize, max: f64) -> Result<Rung> {
        for rung in &rungs[first..] {
            let whole = |trial: &&Trial| rung.is(trial) && trial.whole;
            let known = self.trials.iter().find(whole).cloned();
            let trial = known.map_or_else(|| self.measure(rung, None), Ok)?;
            if trial.good {
                return Ok(rung.clone());
            }
        }
        let best = self.trials.iter().map(|trial| trial.kld).fold(f64::INFINITY, f64::min);
        let limit = self.goal.max_bytes.map_or_else(String::new, |max| format!(" within {}", size(max)));
        Err(Error::QualityTooLow(format!(
            "nothing{limit} has a mean KL divergence of at most {max}: the least that was measured is {best:.6}"
        )))
    }

    /// The one with the least divergence: the largest method that fits, the one below it, and the largest with some tensors
    /// as in `next`, the first that does not fit.
    fn best(&mut self, fitting: &[Rung], next: Option<&Rung>) -> Result<(Rung, String)> {
        let mut contenders: Vec<Rung> = fitting.iter().rev().take(2).cloned().collect();
        if let (Some(largest), Some(next)) = (fitting.last(), next) {
            let between = ladder::between(largest, next, self.source, self.options, self.host, self.cancel)?;
            contenders.extend(between.iter().rfind(|rung| self.goal.fits(rung)).cloned());
        }
        let mut best: Option<(Rung, f64)> = None;
        for rung in contenders {
            // All of the text: figures of different parts of it cannot be compared.
            let trial = self.measure(&rung, None)?;
            if best.as_ref().is_none_or(|(_, kld)| trial.kld < *kld) {
                best = Some((rung, trial.kld));
            }
        }
        let (best, _) = best.expect("there is at least one contender");
        self.trials.iter_mut().for_each(|trial| trial.good = best.is(trial));
        let limit = self.goal.max_bytes.map_or_else(String::new, |max| format!(" that fits into {}", size(max)));
        Ok((best, format!("it has the least mean KL divergence of what was measured{limit}")))
    }

    /// Makes and measures `rung`; sure of its side of `limit`, it stops early.
    fn measure(&mut self, rung: &Rung, limit: Option<f64>) -> Result<Trial> {
        let observer = self.host.observer;
        observer.progress(&ProgressUpdate { stage: "trying".into(), fraction: 0.0, detail: rung.name() });
        let mut options = QuantizeOptions {
            output_dir: Some(self.scratch.path().to_owned()),
            name: Some("trial".into()),
            ..self.options.clone()
        };
        if let Some(imatrix) = &self.imatrix {
            options.options.retain(|option, _| !option.starts_with(CALIBRATION));
            options.options.insert(IMATRIX.into(), imatrix.display().to_string());
        }
        let options = rung.options(&options);
        let progress = |update: &ProgressUpdate| {
            let detail = format!("{} {}", rung.name(), update.detail);
            observer.progress(&ProgressUpdate { stage: "trying".into(), fraction: update.fraction, detail });
        };
        let host = self.host;
        let artifact = pipeline::quantize(self.source, &options, host.candidates, host.config, &progress, self.cancel)?;
        if let (None, [made, ..]) = (&self.imatrix, artifact.report.companions.as_slice())
            && options.options.contains_key(CALIBRATION)
        {
            let kept = self.scratch.path().join("kept.imatrix.gguf");
            std::fs::rename(made, &kept).map_err(Error::io("renaming", made.as_ref()))?;
            self.imatrix = Some(kept);
        }
        let made =
            Source { path: artifact.path.clone(), format: artifact.format.clone(), hub: None, ..self.source.clone() };
        let open = OpenOptions { fallback: true, isolate: self.goal.isolated, ..OpenOptions::default() };
        let options = ValidateOptions {
            open: open.clone(),
            reference_open: open,
            text: self.goal.text.clone(),
            tokens: self.goal.tokens,
            window: None,
            limits: self.goal.limits,
            insisted: false,
            made_now: false,
            stop_at: limit,
        };
        let name = self.source.display();
        let report = validate::validate(&made, Some((&name, self.source)), &options, host, self.cancel)?;
        crate::models::store::remove_files(&artifact.path).map_err(Error::io("removing", &artifact.path))?;
        let Some(comparison) = report.comparison else {
            return Err(Error::QualityTooLow(format!("{} gives no finite numbers", rung.name())));
        };
        // What gives no finite numbers somewhere is damaged, however well it does elsewhere.
        let damaged = report.invalid_positions > 0;
        let kld = if damaged { f64::MAX } else { comparison.kl_divergence.mean };
        let trial = Trial {
            method: rung.method.clone(),
            tensor_types: rung.tensor_types.clone(),
            size_bytes: rung.size_bytes,
            kld: rounded(kld),
            kld_error: rounded(comparison.kl_divergence.standard_error),
            tokens: report.text.scored,
            whole: report.text.scored >= report.text.windows * (report.text.window - 1),
            good: report.verdict.is_none_or(|verdict| verdict.passed),
        };
        observer.note(&format!("  tried  {}", trial.describe(self.goal.limits.max_kld)));
        self.trials.retain(|trial| !rung.is(trial));
        self.trials.push(trial.clone());
        Ok(trial)
    }
}

/// For people; what is small enough to be all zeroes has an exponent.
fn short(value: f64) -> String {
    if value == 0.0 || value >= 0.0005 { format!("{value:.4}") } else { format!("{value:.1e}") }
}

/// To four digits: more would say more than was measured.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}
