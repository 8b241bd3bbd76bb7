//! Two rows of logits at the same position → what they say about the next token, and how far apart they are.

/// What one model says at one position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// Negative natural logarithm of the probability of the token that follows.
    pub loss: f64,
    /// The likeliest token; the first one among equals.
    pub top: u32,
}

/// How two models differ at one position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// What the reference says.
    pub reference: Prediction,
    /// What the candidate says.
    pub candidate: Prediction,
    /// KL divergence of the candidate's distribution from the reference's, in nats: the sum of `p * ln(p / q)`.
    pub kl_divergence: f64,
}

/// What the row `logits` says, where token `next` follows.
pub fn predict(logits: &[f32], next: u32) -> Prediction {
    let (highest, top) = highest(logits);
    let sum = sum_exp(logits, highest);
    Prediction { loss: sum.ln() + f64::from(highest) - f64::from(logits[next as usize]), top }
}

/// How the rows differ, where token `next` follows. Rows of different lengths are compared as far as both go: engines pad
/// vocabularies differently.
pub fn compare(reference: &[f32], candidate: &[f32], next: u32) -> Difference {
    let length = reference.len().min(candidate.len());
    let (reference, candidate) = (&reference[..length], &candidate[..length]);
    let ((p_highest, p_top), (q_highest, q_top)) = (highest(reference), highest(candidate));
    let q_sum = sum_exp(candidate, q_highest);
    let (p_sum, weighted) = sum_exp_weighted(reference, candidate, p_highest, q_highest);
    // Logarithms of the sums with the maxima put back.
    let (p_log, q_log) = (p_sum.ln() + f64::from(p_highest), q_sum.ln() + f64::from(q_highest));
    let loss = |log_sum: f64, row: &[f32]| log_sum - f64::from(row[next as usize]);
    // Sum of p * ((x - p_highest) - (y - q_highest)), then minus the difference of the logarithms of the sums. Rounding
    // may leave a divergence of nothing a little below zero.
    let kl_divergence = weighted / p_sum - (p_sum.ln() - q_sum.ln());
    let kl_divergence = if kl_divergence < 0.0 { 0.0 } else { kl_divergence };
    Difference {
        reference: Prediction { loss: loss(p_log, reference), top: p_top },
        candidate: Prediction { loss: loss(q_log, candidate), top: q_top },
        kl_divergence,
    }
}

/// The greatest value and its first index.
fn highest(row: &[f32]) -> (f32, u32) {
    let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let index = row.iter().position(|&value| value >= highest).unwrap_or(0);
    (highest, u32::try_from(index).unwrap_or(u32::MAX))
}

/// Accumulators side by side, so that the compiler can keep them in one vector register.
const LANES: usize = 8;

fn sum_exp(row: &[f32], highest: f32) -> f64 {
    let mut sums = [0.0; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, &value) in sums.iter_mut().zip(chunk) {
            *sum += exp(f64::from(value) - f64::from(highest));
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&value| exp(f64::from(value) - f64::from(highest))).sum::<f64>()
}

/// The sum of the exponentials of `p`, and the same weighted by the difference of the two rows, each below its maximum.
fn sum_exp_weighted(p: &[f32], q: &[f32], p_highest: f32, q_highest: f32) -> (f64, f64) {
    let (mut sums, mut weighted) = ([0.0; LANES], [0.0; LANES]);
    let terms = |x: f32, y: f32| {
        let (x, y) = (f64::from(x) - f64::from(p_highest), f64::from(y) - f64::from(q_highest));
        let e = exp(x);
        // A token that the reference rules out weighs nothing, however far apart the two are.
        (e, if e > 0.0 { e * (x - y) } else { 0.0 })
    };
    let ((p_chunks, p_rest), (q_chunks, q_rest)) = (p.as_chunks::<LANES>(), q.as_chunks::<LANES>());
    for (xs, ys) in p_chunks.iter().zip(q_chunks) {
        for lane in 0..LANES {
            let (e, w) = terms(xs[lane], ys[lane]);
            sums[lane] += e;
            weighted[lane] += w;
        }
    }
    let (mut sum, mut total) = (sums.iter().sum::<f64>(), weighted.iter().sum::<f64>());
    for (&x, &y) in p_rest.iter().zip(q_rest) {
        let (e, w) = terms(x, y);
        sum += e;
        total += w;
    }
    (sum, total)
}

/// `e` to the power of `x` for `x <= 0`, to about 1e-15 of its value. Written out because the system's function is called
/// once per value, while a compiler turns this into vector instructions: a vocabulary has 150,000 tokens.
#[inline]
fn exp(x: f64) -> f64 {
    /// Below this the result is as good as nothing, and the exponent's bits would run out.
    const LOWEST: f64 = -700.0;
    /// Adding it leaves a number's nearest integer in the lowest bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    const LN_2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let clamped = x.max(LOWEST);
    let shifted = clamped * std::f64::consts::LOG2_E + ROUND;
    let power = shifted - ROUND;
    let r = clamped - power * LN_2_HIGH - power * LN_2_LOW;
    // Taylor's polynomial: |r| is at most ln(2) / 2, so the next term is below 1e-16.
    let mut e = 1.0 / 6_227_020_800.0;
    for coefficient in [
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        e = e * r + coefficient;
    }
    let scale = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    if x > LOWEST { e * scale } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_the_systems() {
        for step in 0..70_000 {
            let x = -0.01 * f64::from(step) + 0.003;
            let x = x.min(0.0);
            let expected = x.exp();
            let error = (exp(x) - expected).abs();
            assert!(error <= expected * 4e-15, "{x}: {} not {expected}", exp(x));
        }
        assert_eq!((exp(0.0), exp(-1e9), exp(f64::NEG_INFINITY)), (1.0, 0.0, 0.0));
    }

    #[test]
    fn equal_rows_do_not_differ_and_shifted_ones_do_not_either() {
        let row: Vec<f32> = (0..1001).map(|i| ((i * 37) % 101) as f32 * 0.1).collect();
        let shifted: Vec<f32> = row.iter().map(|value| value + 8.0).collect();
        for other in [&row, &shifted] {
            let difference = compare(&row, other, 3);
            // The sums of single-precision values are rounded.
            assert!(difference.kl_divergence < 1e-9, "{difference:?}");
            assert_eq!(difference.reference.top, difference.candidate.top);
            assert!((difference.reference.loss - difference.candidate.loss).abs() < 1e-5);
        }
        assert_eq!(predict(&row, 3), compare(&row, &row, 3).candidate);
    }

    #[test]
    fn two_tokens_by_hand() {
        // p = (3/4, 1/4), q = (1/4, 3/4).
        let (p, q) = ([3.0_f32.ln(), 0.0], [0.0, 3.0_f32.ln()]);
        let difference = compare(&p, &q, 0);
        assert!((difference.kl_divergence - 0.5 * 3.0_f64.ln()).abs() < 1e-7, "{difference:?}");
        assert!((difference.reference.loss - (4.0_f64 / 3.0).ln()).abs() < 1e-7);
        assert!((difference.candidate.loss - 4.0_f64.ln()).abs() < 1e-7);
        assert_eq!((difference.reference.top, difference.candidate.top), (0, 1));
    }

    #[test]
    fn numbers_that_are_none_stay_none() {
        let difference = compare(&[0.0, 1.0], &[f32::NAN, f32::NAN], 0);
        assert!(difference.kl_divergence.is_nan() && difference.candidate.loss.is_nan(), "{difference:?}");
    }

    #[test]
    fn tokens_that_are_ruled_out_weigh_nothing() {
        let (p, q) = ([0.0, f32::NEG_INFINITY, 1.0], [0.0, -5.0, 1.0]);
        let difference = compare(&p, &q, 0);
        assert!(difference.kl_divergence.is_finite() && difference.kl_divergence < 0.01, "{difference:?}");
    }
}
