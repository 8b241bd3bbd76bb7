//! Differences, one after another → means, standard errors, percentiles.

use super::compare::{Difference, Prediction};
use serde::{Deserialize, Serialize};

/// A mean and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// It.
    pub value: f64,
    /// Its standard error.
    pub standard_error: f64,
}

/// A quantity over all positions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// Its mean.
    pub mean: f64,
    /// The mean's standard error.
    pub standard_error: f64,
    /// The smallest value.
    pub minimum: f64,
    /// 1st percentile. Percentiles between two values are interpolated linearly.
    pub p01: f64,
    /// 5th percentile.
    pub p05: f64,
    /// 50th percentile.
    pub median: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// The greatest value.
    pub maximum: f64,
}

/// Mean and variance as values come (Welford's algorithm).
#[derive(Debug, Clone, Copy, Default)]
struct Running {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Running {
    fn add(&mut self, value: f64) {
        self.count += 1;
        let delta = value - self.mean;
        self.mean += delta / self.count as f64;
        self.squares += delta * (value - self.mean);
    }

    fn estimate(&self) -> Estimate {
        let standard_error = match self.count {
            0 | 1 => 0.0,
            count => (self.squares / (count - 1) as f64 / count as f64).sqrt(),
        };
        Estimate { value: self.mean, standard_error }
    }
}

/// Perplexity: the exponential of the mean loss; its error by the first derivative.
fn perplexity(loss: &Running) -> Estimate {
    let Estimate { value, standard_error } = loss.estimate();
    Estimate { value: value.exp(), standard_error: value.exp() * standard_error }
}

/// What is known of one model alone.
#[derive(Debug, Default)]
pub struct Alone {
    loss: Running,
    invalid: u64,
}

impl Alone {
    /// Takes one position. One at which the model's numbers are none (NaN) is counted and no more.
    pub fn add(&mut self, prediction: Prediction) {
        if prediction.loss.is_finite() {
            self.loss.add(prediction.loss);
        } else {
            self.invalid += 1;
        }
    }

    /// Positions so far that do not count.
    pub fn invalid(&self) -> u64 {
        self.invalid
    }

    /// Positions so far.
    pub fn count(&self) -> u64 {
        self.loss.count
    }

    /// The perplexity so far.
    pub fn perplexity(&self) -> Estimate {
        perplexity(&self.loss)
    }
}

/// What is known of two models side by side. It keeps 8 bytes for each position, for the percentiles.
#[derive(Debug, Default)]
pub struct Paired {
    reference: Running,
    candidate: Running,
    /// The candidate's loss less the reference's: paired, so that what both find hard cancels out.
    excess: Running,
    kl_divergence: Running,
    kl_divergences: Vec<f32>,
    change: Running,
    change_squared: Running,
    changes: Vec<f32>,
    same_top: Running,
    invalid: u64,
}

/// What two models side by side came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The reference's perplexity.
    pub reference_perplexity: Estimate,
    /// The candidate's perplexity divided by the reference's, less 1: 0.05 is five percent worse. Its error is that of
    /// paired losses.
    pub perplexity_change: Estimate,
    /// KL divergence of the candidate from the reference at each position, in nats.
    pub kl_divergence: Distribution,
    /// Part of the positions at which both find the same token likeliest.
    pub top1_agreement: Estimate,
    /// The candidate's probability of the token that follows, less the reference's, at each position.
    pub probability_change: Distribution,
    /// Root of the mean square of that change.
    pub probability_change_rms: f64,
}

impl Paired {
    /// Takes one position. One at which a model's numbers are none (NaN) is counted and no more.
    pub fn add(&mut self, difference: &Difference) {
        if !(difference.candidate.loss.is_finite() && difference.kl_divergence.is_finite()) {
            self.invalid += 1;
            return;
        }
        self.reference.add(difference.reference.loss);
        self.candidate.add(difference.candidate.loss);
        self.excess.add(difference.candidate.loss - difference.reference.loss);
        self.kl_divergence.add(difference.kl_divergence);
        self.kl_divergences.push(difference.kl_divergence as f32);
        let change = (-difference.candidate.loss).exp() - (-difference.reference.loss).exp();
        self.change.add(change);
        self.change_squared.add(change * change);
        self.changes.push(change as f32);
        self.same_top.add(f64::from(u8::from(difference.reference.top == difference.candidate.top)));
    }

    /// Positions so far that count.
    pub fn count(&self) -> u64 {
        self.excess.count
    }

    /// Positions so far that do not.
    pub fn invalid(&self) -> u64 {
        self.invalid
    }

    /// The candidate's perplexity so far.
    pub fn perplexity(&self) -> Estimate {
        perplexity(&self.candidate)
    }

    /// What it all comes to; none without a position.
    pub fn finish(mut self) -> Option<Comparison> {
        let excess = self.excess.estimate();
        let ratio = excess.value.exp();
        Some(Comparison {
            reference_perplexity: perplexity(&self.reference),
            perplexity_change: Estimate { value: ratio - 1.0, standard_error: ratio * excess.standard_error },
            kl_divergence: distribution(&self.kl_divergence, &mut self.kl_divergences)?,
            top1_agreement: self.same_top.estimate(),
            probability_change: distribution(&self.change, &mut self.changes)?,
            probability_change_rms: self.change_squared.mean.sqrt(),
        })
    }
}

fn distribution(running: &Running, values: &mut [f32]) -> Option<Distribution> {
    values.sort_by(f32::total_cmp);
    let Estimate { value: mean, standard_error } = running.estimate();
    let (minimum, maximum) = (f64::from(*values.first()?), f64::from(*values.last()?));
    let percentile = |part: f64| {
        let place = part * (values.len() - 1) as f64;
        let (below, rest) = (place.floor() as usize, place.fract());
        let low = f64::from(values[below]);
        let high = f64::from(values[(below + 1).min(values.len() - 1)]);
        low + (high - low) * rest
    };
    Some(Distribution {
        mean,
        standard_error,
        minimum,
        p01: percentile(0.01),
        p05: percentile(0.05),
        median: percentile(0.5),
        p90: percentile(0.9),
        p95: percentile(0.95),
        p99: percentile(0.99),
        p999: percentile(0.999),
        maximum,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(value: f64, expected: f64) {
        assert!((value - expected).abs() <= 1e-6 * expected.abs().max(1e-3), "{value} not {expected}");
    }

    fn difference(reference: f64, candidate: f64, kl_divergence: f64, same: bool) -> Difference {
        let prediction = |loss, top| Prediction { loss, top };
        Difference {
            reference: prediction(reference, 0),
            candidate: prediction(candidate, u32::from(!same)),
            kl_divergence,
        }
    }

    /// The expected values are numpy's: `mean`, `std(ddof=1) / sqrt(n)`, `percentile` with its default method.
    #[test]
    fn four_positions_as_numpy_has_them() {
        let mut paired = Paired::default();
        for (reference, candidate, divergence, same) in
            [(0.1, 0.2, 0.001, true), (1.0, 0.9, 0.01, true), (2.0, 2.3, 0.1, false), (0.5, 0.5, 0.0, true)]
        {
            paired.add(&difference(reference, candidate, divergence, same));
        }
        assert_eq!(paired.count(), 4);
        close(paired.perplexity().value, 2.651_167_21);
        let result = paired.finish().unwrap();
        close(result.reference_perplexity.value, 2.459_603_11);
        close(result.reference_perplexity.standard_error, 1.009_136_92);
        close(result.perplexity_change.value, 0.077_884_15);
        close(result.perplexity_change.standard_error, 0.092_041_88);
        close(result.kl_divergence.mean, 0.027_75);
        close(result.kl_divergence.median, 0.005_5);
        close(result.kl_divergence.p99, 0.097_3);
        close(result.top1_agreement.value, 0.75);
        close(result.top1_agreement.standard_error, 0.25);
        close(result.probability_change.mean, -0.020_623_22);
        close(result.probability_change_rms, 0.050_352_87);
    }

    #[test]
    fn nothing_comes_to_nothing() {
        assert!(Paired::default().finish().is_none());
        assert_eq!(Running::default().estimate().standard_error, 0.0);
    }
}
