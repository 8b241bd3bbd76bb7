//! What is kept of a measurement, with the model that was measured: a few figures, and what they were judged by.
//!
//! They are kept only where they can be trusted: the reference was what the model was made from, and the file is still
//! the one that was measured.

use super::Report;
use super::verdict::{self, Limits};
use crate::config::Config;
use crate::error::Result;
use crate::models::source::{self, Source};
use crate::models::{provenance, store};
use crate::pipeline;
use crate::search::Evidence;
use serde::{Deserialize, Serialize};

/// The part of a [`Report`] that is kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Whether it was good enough.
    pub passed: bool,
    /// How much perplexity was allowed to grow: 0.05 is five percent.
    pub max_degradation: f64,
    /// The mean KL divergence that was allowed, in nats, if there was a limit.
    pub max_kld: Option<f64>,
    /// Growth of perplexity: 0.05 is five percent.
    pub perplexity_change: f64,
    /// Mean KL divergence, in nats.
    pub kld_mean: f64,
    /// Its 99th percentile.
    pub kld_p99: f64,
    /// Part of the positions with the same likeliest token.
    pub top1: f64,
    /// Positions that were looked at.
    pub tokens: u64,
    /// The text: `bundled`, or a file's path. Not kept in the artifact itself, which may travel.
    pub text: String,
}

/// [`Summary`] as it stands in an artifact, where there is room for little.
#[derive(Serialize, Deserialize)]
struct Compact {
    passed: bool,
    max: f64,
    ppl: f64,
    kld: f64,
    kld99: f64,
    top1: f64,
    n: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_kld: Option<f64>,
}

impl Summary {
    /// What is kept of `report`, judged by `limits`; none where nothing was compared.
    pub fn of(report: &Report, limits: Limits) -> Option<Self> {
        let comparison = report.comparison.as_ref()?;
        let verdict = verdict::judge(Some(comparison), report.invalid_positions, limits);
        Some(Self {
            passed: verdict.passed,
            max_degradation: verdict.max_degradation,
            max_kld: verdict.max_kld,
            perplexity_change: rounded(comparison.perplexity_change.value),
            kld_mean: rounded(comparison.kl_divergence.mean),
            kld_p99: rounded(comparison.kl_divergence.p99),
            top1: rounded(comparison.top1_agreement.value),
            tokens: report.text.scored,
            text: report.text.name.clone(),
        })
    }

    /// What it was judged by.
    pub fn limits(&self) -> Limits {
        Limits { max_degradation: Some(self.max_degradation), max_kld: self.max_kld }
    }

    /// As it is written into an artifact.
    fn compact(&self) -> String {
        let Self { passed, tokens: n, top1, .. } = self;
        let max = rounded(self.max_degradation);
        let (ppl, kld, kld99) = (self.perplexity_change, self.kld_mean, self.kld_p99);
        let max_kld = self.max_kld.map_or_else(String::new, |max| format!(r#","max_kld":{}"#, rounded(max)));
        format!(
            r#"{{"passed":{passed},"max":{max},"ppl":{ppl:.2e},"kld":{kld:.2e},"kld99":{kld99:.2e},"top1":{top1:.4},"n":{n}{max_kld}}}"#
        )
    }

    /// What `text` in an artifact says; none for what is no such text.
    pub fn from_compact(text: &str) -> Option<Self> {
        let Compact { passed, max, ppl, kld, kld99, top1, n, max_kld } = serde_json::from_str(text).ok()?;
        Some(Self {
            passed,
            max_degradation: max,
            max_kld,
            perplexity_change: ppl,
            kld_mean: kld,
            kld_p99: kld99,
            top1,
            tokens: n,
            ..Self::default()
        })
    }
}

/// To four digits: more would say more than was measured.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// The model that is measured, as it was before.
pub struct Measured {
    source: Source,
    fingerprint: String,
    made_now: bool,
}

impl Measured {
    /// `source`, a finished model, before it is loaded. `made_now` says that this program has just made it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn new(source: Source, made_now: bool) -> Result<Self> {
        let fingerprint = source::fingerprint(&source)?;
        Ok(Self { source, fingerprint, made_now })
    }

    /// The limits that the model was judged by when it was made, if it was.
    pub fn limits(&self, config: &Config) -> Limits {
        let told = provenance::read(&self.source.path).unwrap_or_default();
        let inside = || Summary::from_compact(told.get(provenance::VALIDATION)?);
        let kept = store::record_of(config, &self.source.path).and_then(|record| record.validation).or_else(inside);
        if let Some(kept) = kept {
            return kept.limits();
        }
        // Of what a search found and nobody could judge.
        let searched = told.get(provenance::CHOICE).and_then(|text| serde_json::from_str::<Evidence>(text).ok());
        searched.map_or_else(Limits::default, |Evidence { max_degradation, max_kld, .. }| Limits {
            max_degradation,
            max_kld,
        })
    }

    /// Keeps `summary` with the model. `reference` is the fingerprint of what it was compared with. False where it is not
    /// kept: a model that pajamas did not make, or a reference that is not known to be what it was made from.
    ///
    /// # Errors
    /// When it is another model by now, or writing fails.
    pub fn keep(&self, summary: &Summary, reference: &str, config: &Config) -> Result<bool> {
        let path = &self.source.path;
        let record = store::record_of(config, path).filter(|record| record.fingerprint == reference);
        // The cache's files are named for what they hold.
        if self.source.hub.is_some() || (record.is_none() && !self.made_now) {
            return Ok(false);
        }
        let kept = record.as_ref().and_then(|record| record.validation.as_ref());
        let is_more = |kept: &&Summary| {
            kept.tokens > summary.tokens || (kept.tokens == summary.tokens && kept.text != summary.text)
        };
        if let Some(kept) = kept.filter(is_more) {
            return Err(crate::error::Error::Refused {
                message: format!("one on as many tokens or more ({}) is kept already", kept.tokens),
                hint: String::new(),
            });
        }
        let _lock = pipeline::lock(path, config)?;
        if source::fingerprint(&self.source)? != self.fingerprint {
            return Err(crate::error::Error::Refused {
                message: format!("`{}` was replaced while it was measured", path.display()),
                hint: "measure it again".into(),
            });
        }
        let inside = provenance::write_validation(path, &summary.compact())?;
        if let Some(record) = &record {
            store::remember_validation(config, record, summary)?;
        }
        Ok(inside || record.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_fits_into_an_artifact_and_comes_back() {
        let summary = Summary {
            passed: false,
            max_degradation: 0.006_999_999_999_999_999,
            max_kld: Some(0.001_234),
            perplexity_change: -1.23e-12,
            kld_mean: 1.19e-2,
            kld_p99: 1.96e-1,
            top1: 0.9359,
            tokens: 1 << 20,
            text: String::new(),
        };
        let text = summary.compact();
        assert!(text.len() <= provenance::VALIDATION_BYTES, "{} bytes: {text}", text.len());
        assert_eq!(Summary::from_compact(&text), Some(Summary { max_degradation: 0.007, ..summary }));
        assert_eq!(Summary::from_compact("{}"), None);
    }
}
