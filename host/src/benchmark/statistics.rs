//! What repetitions come to: mean, sample standard deviation, median.

use serde::Serialize;

/// Repeated measurements of one rate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rate {
    /// Their arithmetic mean.
    pub mean: f64,
    /// Their sample standard deviation; none of a single one.
    pub standard_deviation: Option<f64>,
    /// Each, in order.
    pub samples: Vec<f64>,
}

impl Rate {
    /// Of `samples`, at least one.
    pub fn of(samples: Vec<f64>) -> Self {
        let count = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / count;
        let squares: f64 = samples.iter().map(|sample| (sample - mean).powi(2)).sum();
        let standard_deviation = (samples.len() > 1).then(|| (squares / (count - 1.0)).sqrt());
        Self { mean, standard_deviation, samples }
    }
}

/// Repeated measurements of one time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Latency {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// Each, in order.
    pub samples: Vec<f64>,
}

impl Latency {
    /// Of `samples`, at least one.
    pub fn of(samples: Vec<f64>) -> Self {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let median = match (sorted.len() / 2, sorted.len() % 2) {
            (0, 0) => f64::NAN,
            (middle, 0) => f64::midpoint(sorted[middle - 1], sorted[middle]),
            (middle, _) => sorted[middle],
        };
        Self { median, samples }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_sample_standard_deviation() {
        let rate = Rate::of(vec![2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!(rate.mean, 5.0);
        assert!((rate.standard_deviation.unwrap() - (32.0_f64 / 7.0).sqrt()).abs() < 1e-12);
        assert_eq!(Rate::of(vec![3.0]).standard_deviation, None, "one measurement says nothing of the spread");
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(Latency::of(vec![9.0, 1.0, 2.0]).median, 2.0);
        assert_eq!(Latency::of(vec![9.0, 1.0, 2.0, 4.0]).median, 3.0);
        assert_eq!(Latency::of(vec![7.0]).median, 7.0);
    }
}
