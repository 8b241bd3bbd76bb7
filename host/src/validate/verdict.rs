//! Measurements → good enough or not, and why not.

use super::statistics::Comparison;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// How much perplexity may grow where nothing else is said.
pub const MAX_DEGRADATION: f64 = 0.05;

/// What a candidate must not exceed, as far as it was said.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// How much perplexity may grow: 0.05 is five percent; none is [`MAX_DEGRADATION`].
    pub max_degradation: Option<f64>,
    /// The mean KL divergence from the reference, in nats; none does not look at it.
    pub max_kld: Option<f64>,
}

impl Limits {
    /// These, and where they say nothing, `others`.
    pub fn or(self, others: Self) -> Self {
        Self {
            max_degradation: self.max_degradation.or(others.max_degradation),
            max_kld: self.max_kld.or(others.max_kld),
        }
    }

    /// Refuses what nothing could exceed.
    ///
    /// # Errors
    /// `Usage`.
    pub fn check(&self) -> Result<()> {
        let named = [("growth of perplexity", self.max_degradation), ("mean KL divergence", self.max_kld)];
        for (what, limit) in named {
            if let Some(limit) = limit.filter(|limit| !(limit.is_finite() && *limit >= 0.0)) {
                let message = format!("{limit} is no limit to the {what}");
                return Err(Error::Usage { message, hint: "a limit is a number from 0 up".into() });
            }
        }
        Ok(())
    }
}

/// Whether a candidate is good enough.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether it is.
    pub passed: bool,
    /// The limit to the growth of perplexity: 0.05 is five percent.
    pub max_degradation: f64,
    /// The limit to the mean KL divergence, in nats, if there was one.
    pub max_kld: Option<f64>,
    /// What was exceeded, in sentences; empty when it passed.
    pub reasons: Vec<String>,
}

/// Judges `comparison`; at `invalid_positions` the candidate gave no finite numbers, which no limit allows.
pub fn judge(comparison: Option<&Comparison>, invalid_positions: u64, limits: Limits) -> Verdict {
    let mut reasons = Vec::new();
    let max_degradation = limits.max_degradation.unwrap_or(MAX_DEGRADATION);
    if invalid_positions > 0 {
        reasons.push(format!("at {invalid_positions} positions it gives no finite numbers: it is damaged"));
    }
    if let Some(comparison) = comparison {
        let change = comparison.perplexity_change.value;
        if change > max_degradation {
            let (change, max) = (percent(change), percent(max_degradation));
            reasons.push(format!("perplexity grew by {change}, at most {max} are allowed"));
        }
        let divergence = comparison.kl_divergence.mean;
        if let Some(max) = limits.max_kld.filter(|max| divergence > *max) {
            reasons.push(format!("the mean KL divergence is {divergence:.6}, at most {max} is allowed"));
        }
    }
    Verdict { passed: reasons.is_empty(), max_degradation, max_kld: limits.max_kld, reasons }
}

/// `0.0512` as `5.12 %`.
pub fn percent(part: f64) -> String {
    format!("{:.2} %", part * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::statistics::{Distribution, Estimate};

    fn comparison(change: f64, divergence: f64) -> Comparison {
        let estimate = |value| Estimate { value, standard_error: 0.0 };
        let distribution = |mean| Distribution {
            mean,
            standard_error: 0.0,
            minimum: 0.0,
            p01: 0.0,
            p05: 0.0,
            median: 0.0,
            p90: 0.0,
            p95: 0.0,
            p99: 0.0,
            p999: 0.0,
            maximum: 0.0,
        };
        Comparison {
            reference_perplexity: estimate(2.0),
            perplexity_change: estimate(change),
            kl_divergence: distribution(divergence),
            top1_agreement: estimate(1.0),
            probability_change: distribution(0.0),
            probability_change_rms: 0.0,
        }
    }

    #[test]
    fn limits_are_kept_or_named() {
        let limits = Limits { max_degradation: None, max_kld: Some(0.1) };
        let reasons = |comparison: &Comparison| judge(Some(comparison), 0, limits).reasons;
        assert!(judge(Some(&comparison(0.05, 0.1)), 0, limits).passed);
        assert!(judge(Some(&comparison(-0.2, 0.0)), 0, limits).passed, "better is good enough");
        assert_eq!(reasons(&comparison(0.0512, 0.0)), ["perplexity grew by 5.12 %, at most 5.00 % are allowed"]);
        assert_eq!(reasons(&comparison(0.0, 0.2)), ["the mean KL divergence is 0.200000, at most 0.1 is allowed"]);
        assert_eq!(judge(Some(&comparison(0.1, 0.2)), 3, limits).reasons.len(), 3);
        assert_eq!(judge(None, 7, limits).reasons, ["at 7 positions it gives no finite numbers: it is damaged"]);
        assert!(judge(Some(&comparison(0.0, 9.0)), 0, Limits::default()).passed);
    }
}
