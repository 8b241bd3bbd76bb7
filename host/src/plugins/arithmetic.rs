//! Whether a backend computes rightly on this machine. A driver, a compiler or a device can be wrong without any error, so
//! before a backend is first used, a small model's logits are compared with those that an independent implementation
//! computed. What comes of it is remembered for this plugin with these drivers.

use super::cache::{Cache, Failure, Finding, Verdict, now};
use super::{Candidate, environment};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::models::format::GGUF;
use crate::worker::remote_model::RemoteModel;
use pajamas_plugin_api::conformance::Reference;
use pajamas_plugin_api::conformance::reference::nmse;
use pajamas_plugin_api::{CancelToken, ErrorKind, LoadRequest};
use serde::Deserialize;
use sha2::Digest;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The model: pajama-tiny in Q4_K_M. tests/oracle/backend_check_golden.py makes it and the logits.
const MODEL: &[u8] = include_bytes!("../../assets/backend-check/model.gguf");
/// Rows of logits, as little-endian f32.
const LOGITS: &[u8] = include_bytes!("../../assets/backend-check/logits.f32");
const GOLDEN: &str = include_str!("../../assets/backend-check/golden.json");
/// The normalized mean square error that is taken for rounding. llama.cpp's kernels for CPUs, which round activations to 8
/// bits, come to 7e-5, and the worst such rounding that was simulated to 4.5e-4; another activation function comes to 4e-3,
/// a layer left out to 7e-2, and noise to 1. What is smaller than rounding cannot be found: a rope base off by a half, say.
const NMSE_MAX: f64 = 2e-3;
/// How long it may take. Software devices compile for a minute what they then compute in a moment.
const TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Deserialize)]
struct Golden {
    tokens: Vec<u32>,
    first_row: usize,
}

/// The logits that the bundled model must come to.
pub fn reference() -> Reference {
    let golden: Golden = serde_json::from_str(GOLDEN).unwrap_or(Golden { tokens: vec![], first_row: 0 });
    let logits = LOGITS.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Reference::new(golden.tokens, golden.first_row, logits, NMSE_MAX)
}

/// The bundled model, as a file in `folder`.
///
/// # Errors
/// When it cannot be written there.
pub fn model(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("pajama-tiny-q4_k_m.gguf");
    std::fs::write(&path, MODEL).map_err(Error::io("writing", &path))?;
    Ok(path)
}

/// Makes sure that `candidate` computes rightly: by what is remembered, or by letting it compute, in a worker process.
/// A backend that cannot be checked, because it loads no GGUF files or gives no logits, is taken at its word.
///
/// # Errors
/// `Unsupported` with the reason why it must not be used; `Interrupted`.
pub fn ensure(candidate: &Candidate, config: &Config, cancel: &CancelToken) -> Result<()> {
    let can = candidate.report.as_ref().map(|report| &report.capabilities);
    let checkable = can.is_some_and(|can| can.logits && can.formats.iter().any(|format| format == GGUF));
    let Some(file) = candidate.file.as_ref().filter(|_| checkable && config.check_backends) else { return Ok(()) };
    let (drivers, mut cache) = (environment::drivers(), Cache::read(config));
    let known = cache.entry(file).and_then(|entry| entry.verdict.clone());
    let known = known.filter(|verdict| verdict.counts(now(), &drivers, &name()));
    let verdict = match known {
        Some(verdict) => verdict,
        None => {
            let started = Instant::now();
            let finding = find(candidate, config, cancel)?;
            tracing::info!("checked `{}` in {:.1} s: {finding:?}", candidate.name(), started.elapsed().as_secs_f32());
            let verdict = Verdict { reached_at: now(), drivers, reference: name(), finding };
            cache.remember(file, &candidate.sha256);
            cache.set_verdict(file, Some(verdict.clone()));
            cache.write(config);
            verdict
        }
    };
    objection(&verdict).map_or(Ok(()), |Failure { reason, remedy }| {
        Err(pajamas_plugin_api::Error::unsupported(reason).with_hint(remedy).into())
    })
}

/// What `verdict` says against its plugin, if it still counts.
pub(super) fn against(verdict: &Verdict) -> Option<Failure> {
    objection(verdict).filter(|_| verdict.counts(now(), &environment::drivers(), &name()))
}

fn objection(verdict: &Verdict) -> Option<Failure> {
    let reason = match &verdict.finding {
        Finding::Right | Finding::Unchecked(_) => return None,
        Finding::Wrong(how) => format!("it computes wrongly on this machine: {how}"),
        Finding::Crashed(how) => format!("it does not survive a small model: it {how}"),
    };
    let remedy = "update the driver or the plugin; `pajamas plugins list --rescan` has it checked again".into();
    Some(Failure { reason, remedy })
}

/// What it is checked against: another asks for another check.
fn name() -> String {
    let sum = sha2::Sha256::digest(LOGITS);
    format!("{} bytes of model, {:02x?}, limit {NMSE_MAX}", MODEL.len(), &sum[..8])
}

/// Lets the candidate compute, and compares.
fn find(candidate: &Candidate, config: &Config, cancel: &CancelToken) -> Result<Finding> {
    let reference = reference();
    // Not in the home folder: who may not write there may still run what others made.
    let scratch = tempfile::tempdir().map_err(Error::io("creating a folder in", &std::env::temp_dir()))?;
    let mut request = LoadRequest::new(model(scratch.path())?);
    request.context_length = Some(u32::try_from(reference.tokens.len()).unwrap_or(u32::MAX));
    request.threads = config.threads;
    let (deadline, caller) = (Instant::now() + TIMEOUT, cancel.clone());
    let stop = CancelToken::new(move || caller.is_cancelled() || Instant::now() >= deadline);
    let computed = RemoteModel::load(candidate.file()?, &request, config, &|_| (), &stop).and_then(|model| {
        let mut rows = Vec::with_capacity(reference.logits.len());
        let mut on_row = |_: usize, row: &[f32]| {
            rows.extend_from_slice(row);
            // A plugin that hands over rows without end must not fill this process's memory.
            if rows.len() > reference.logits.len() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        model.logits(&reference.tokens, reference.first_row, &mut on_row, &stop)?;
        Ok(nmse(&rows, &reference.logits, reference.vocabulary()))
    });
    Ok(match computed {
        Ok(error) if error <= NMSE_MAX => Finding::Right,
        Ok(error) if error.is_finite() => Finding::Wrong(format!(
            "the logits of a small model are off by {:.1} % of their spread",
            error.sqrt() * 100.0
        )),
        Ok(_) => Finding::Wrong("the logits of a small model are not there, or no numbers".into()),
        Err(Error::Interrupted) if cancel.is_cancelled() => return Err(Error::Interrupted),
        // Slow is not wrong.
        Err(Error::Interrupted) => Finding::Unchecked(format!("it took longer than {} s", TIMEOUT.as_secs())),
        // The engine took its process along, and would take this one.
        Err(Error::Worker { what, .. }) => Finding::Crashed(what),
        Err(Error::Plugin(error)) if error.kind == ErrorKind::Panic => Finding::Crashed(format!("fails: {error}")),
        // A small model need not be one that it supports.
        Err(Error::Plugin(error)) => Finding::Unchecked(error.to_string()),
        // That is no fault of the plugin's, and not remembered.
        Err(error) => return Err(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_logits_are_those_of_the_bundled_tokens() {
        let golden: serde_json::Value = serde_json::from_str(GOLDEN).unwrap();
        let reference = reference();
        let rows = reference.tokens.len() - reference.first_row;
        assert!(rows > 0 && Some(reference.vocabulary() as u64) == golden["vocabulary"].as_u64());
        assert_eq!(reference.logits.len(), rows * reference.vocabulary());
        assert!(reference.logits.iter().all(|value| value.is_finite()));
        assert!(MODEL.starts_with(b"GGUF"));
    }
}
