//! Whether a backend computes rightly on this machine. A driver, a compiler or a device can be wrong without any error, so
//! before a backend is first used, a small model's logits are compared with those that an independent implementation
//! computed. What comes of it is remembered for this plugin with these drivers.

use super::cache::{Cache, Failure, Verdict};
use super::{Candidate, environment};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::models::format::GGUF;
use crate::worker::remote_model::RemoteModel;
use pajamas_plugin_api::conformance::Reference;
use pajamas_plugin_api::conformance::reference::nmse;
use pajamas_plugin_api::{CancelToken, ErrorKind, LoadRequest};
use serde::Deserialize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The model: pajama-tiny in Q4_K_M. tests/oracle/backend_check_golden.py makes it and the logits.
const MODEL: &[u8] = include_bytes!("../../assets/backend-check/model.gguf");
/// Rows of logits, as little-endian f32.
const LOGITS: &[u8] = include_bytes!("../../assets/backend-check/logits.f32");
const GOLDEN: &str = include_str!("../../assets/backend-check/golden.json");
/// The normalized mean square error that is taken for rounding. Right kernels stay below a hundredth of a percent, because
/// of activations in 8 bits; a wrong detail comes to several percent, and noise to 1.
const NMSE_MAX: f64 = 0.005;
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

/// The bundled model, as a file in the cache folder.
///
/// # Errors
/// When it cannot be written there.
pub fn model(config: &Config) -> Result<PathBuf> {
    let folder = config.cache_dir().join("backend-check");
    let path = folder.join("pajama-tiny-q4_k_m.gguf");
    if std::fs::read(&path).is_ok_and(|there| there == MODEL) {
        return Ok(path);
    }
    std::fs::create_dir_all(&folder).map_err(Error::io("creating", &folder))?;
    crate::files::replace(&path, MODEL, 0o644)?;
    Ok(path)
}

/// Makes sure that `candidate` computes rightly: by what is remembered, or by letting it compute, in a worker process.
/// A backend that cannot be checked, because it loads no GGUF files or gives no logits, is taken at its word.
///
/// # Errors
/// Why it must not be used.
pub fn ensure(candidate: &Candidate, config: &Config) -> std::result::Result<(), Failure> {
    let can = candidate.report.as_ref().map(|report| &report.capabilities);
    let checkable = can.is_some_and(|can| can.logits && can.formats.iter().any(|format| format == GGUF));
    let Some(file) = candidate.file.as_ref().filter(|_| checkable && config.check_backends) else { return Ok(()) };
    let (environment, mut cache) = (environment::fingerprint(), Cache::read(config));
    let known = cache.entry(file).and_then(|entry| entry.verdict.clone());
    if let Some(verdict) = known.filter(|verdict| verdict.environment == environment && verdict.reference == name()) {
        return verdict.wrong.as_deref().map_or(Ok(()), |wrong| Err(failure(wrong)));
    }
    let started = Instant::now();
    let wrong = match compute(candidate, config) {
        Ok(error) if error <= NMSE_MAX => {
            let took = started.elapsed().as_secs_f32();
            tracing::info!("`{}` computes rightly: error {error:.1e}, found in {took:.1} s", candidate.name());
            None
        }
        Ok(error) => {
            Some(format!("the logits of a small model are off by {:.1} % of their spread", error.sqrt() * 100.0))
        }
        // The engine took its process along, and would take this one.
        Err(Error::Worker { what, .. }) => Some(format!("it {what} on a small model")),
        // It can load GGUF files, it says, and has no word of its own for not being able to compute with this one.
        Err(Error::Plugin(error)) if !says_that_it_cannot(error.kind) => {
            Some(format!("it fails on a small model: {error}"))
        }
        Err(error) => {
            tracing::info!("the arithmetic of `{}` could not be checked: {error}", candidate.name());
            return Ok(());
        }
    };
    let verdict = Verdict { environment, reference: name(), wrong };
    cache.remember(file, &candidate.sha256);
    cache.set_verdict(file, Some(verdict.clone()));
    cache.write(config);
    verdict.wrong.as_deref().map_or(Ok(()), |wrong| Err(failure(wrong)))
}

/// What `verdict` says against its plugin, if it counts in this `environment`.
pub(super) fn wrong<'a>(verdict: &'a Verdict, environment: &str) -> Option<&'a str> {
    verdict.wrong.as_deref().filter(|_| verdict.environment == environment && verdict.reference == name())
}

/// Why a backend that computes wrongly is not used.
pub(super) fn failure(wrong: &str) -> Failure {
    Failure {
        reason: format!("it computes wrongly on this machine: {wrong}"),
        remedy: "update the driver or the plugin; `pajamas plugins list --rescan` has it checked again".into(),
    }
}

/// What it is checked against, by name and size: another one asks for another check.
fn name() -> String {
    format!("pajama-tiny Q4_K_M, {} bytes, limit {NMSE_MAX}", MODEL.len())
}

/// Whether an error of that kind is a backend's word for what it does not support or has no room for.
fn says_that_it_cannot(kind: ErrorKind) -> bool {
    use ErrorKind::{DeviceLost, Io, Other, OutOfMemory, Unsupported};
    matches!(kind, Unsupported | OutOfMemory | DeviceLost | Io | Other)
}

/// The error of the candidate's logits.
fn compute(candidate: &Candidate, config: &Config) -> Result<f64> {
    let reference = reference();
    let mut request = LoadRequest::new(model(config)?);
    request.context_length = Some(u32::try_from(reference.tokens.len()).unwrap_or(u32::MAX));
    request.threads = config.threads;
    let deadline = Instant::now() + TIMEOUT;
    let late = CancelToken::new(move || Instant::now() >= deadline);
    let computed = RemoteModel::load(candidate.file()?, &request, config, &|_| (), &late).and_then(|model| {
        let mut rows = Vec::with_capacity(reference.logits.len());
        let mut on_row = |_: usize, row: &[f32]| {
            rows.extend_from_slice(row);
            ControlFlow::Continue(())
        };
        model.logits(&reference.tokens, reference.first_row, &mut on_row, &late)?;
        Ok(rows)
    });
    match computed {
        Ok(rows) => Ok(nmse(&rows, &reference.logits, reference.vocabulary())),
        // Slow is not wrong.
        Err(Error::Interrupted) => Err(Error::Plugin(pajamas_plugin_api::Error::new(
            ErrorKind::Other,
            format!("it took longer than {} s", TIMEOUT.as_secs()),
        ))),
        Err(error) => Err(error),
    }
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
