//! When enough was read to know on which side of a limit a mean lies.

/// Windows that are read in any case: fewer say nothing about how much they differ.
const WINDOWS_MIN: usize = 8;
/// How many standard errors the mean must be away from the limit.
const ERRORS: f64 = 4.0;

/// Positions of one window resemble each other, so it is the means of whole windows that are compared with the limit.
#[derive(Debug)]
pub struct Decision {
    limit: f64,
    window: usize,
    sum: f64,
    count: usize,
    means: Vec<f64>,
}

impl Decision {
    /// For a `limit`, and windows with so many scored positions.
    pub fn new(limit: f64, window: usize) -> Self {
        Self { limit, window: window.max(1), sum: 0.0, count: 0, means: Vec::new() }
    }

    /// Takes the value at the next position, and tells whether the side is sure.
    pub fn add(&mut self, value: f64) -> bool {
        self.sum += if value.is_finite() { value } else { 0.0 };
        self.count += 1;
        if self.count < self.window {
            return false;
        }
        self.means.push(self.sum / self.count as f64);
        (self.sum, self.count) = (0.0, 0);
        let windows = self.means.len();
        if windows < WINDOWS_MIN {
            return false;
        }
        let mean = self.means.iter().sum::<f64>() / windows as f64;
        let variance = self.means.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (windows - 1) as f64;
        (mean - self.limit).abs() > ERRORS * (variance / windows as f64).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows of ten positions until it is sure, with means that alternate around `mean`.
    fn windows_read(mean: f64, spread: f64, limit: f64) -> usize {
        let mut decision = Decision::new(limit, 10);
        let value = |position: usize| mean + if (position / 10).is_multiple_of(2) { spread } else { -spread };
        (0..10_000).position(|position| decision.add(value(position))).map_or(1000, |position| position / 10 + 1)
    }

    #[test]
    fn what_is_far_from_the_limit_is_soon_decided_and_what_is_near_it_never() {
        assert_eq!(windows_read(0.5, 0.01, 0.03), WINDOWS_MIN);
        assert_eq!(windows_read(0.0, 0.0, 0.03), WINDOWS_MIN);
        let near = windows_read(0.0315, 0.01, 0.03);
        assert!((500..1000).contains(&near), "{near}");
        assert_eq!(windows_read(0.03, 0.01, 0.03), 1000);
    }
}
