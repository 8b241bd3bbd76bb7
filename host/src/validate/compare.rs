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
    let sum = sum_exp::<false>(logits, highest);
    Prediction { loss: sum.ln() + f64::from(highest) - f64::from(logits[next as usize]), top }
}

/// How the rows differ, where token `next` follows. Rows of different lengths are compared as far as both go: engines pad
/// vocabularies differently.
pub fn compare(reference: &[f32], candidate: &[f32], next: u32) -> Difference {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the CPU has the features that it is compiled for.
        return unsafe { compare_avx2(reference, candidate, next) };
    }
    compare_with::<{ cfg!(target_arch = "aarch64") }>(reference, candidate, next)
}

/// The same code for twice as wide registers: it is what limits validating on a GPU.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn compare_avx2(reference: &[f32], candidate: &[f32], next: u32) -> Difference {
    compare_with::<true>(reference, candidate, next)
}

#[inline(always)]
fn compare_with<const FMA: bool>(reference: &[f32], candidate: &[f32], next: u32) -> Difference {
    let length = reference.len().min(candidate.len());
    let (reference, candidate) = (&reference[..length], &candidate[..length]);
    let ((p_highest, p_top), (q_highest, q_top)) = (highest(reference), highest(candidate));
    let q_sum = sum_exp::<FMA>(candidate, q_highest);
    let (p_sum, weighted) = sum_exp_weighted::<FMA>(reference, candidate, p_highest, q_highest);
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
#[inline(always)]
fn highest(row: &[f32]) -> (f32, u32) {
    let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let index = row.iter().position(|&value| value >= highest).unwrap_or(0);
    (highest, u32::try_from(index).unwrap_or(u32::MAX))
}

/// Values that are worked on at a time: loops over as many, with nothing else in them, become vector instructions.
const BLOCK: usize = 64;

/// Sums side by side, for the same reason.
const LANES: usize = 8;

#[inline(always)]
fn add_up(values: &[f64; BLOCK], sums: &mut [f64; LANES]) {
    for chunk in values.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            sums[lane] += chunk[lane];
        }
    }
}

/// `row` less `highest`, from value `start` on; a token that does not exist is infinitely unlikely.
#[inline(always)]
fn block(row: &[f32], start: usize, highest: f32) -> [f64; BLOCK] {
    let mut values = [f64::NEG_INFINITY; BLOCK];
    let rest = &row[start..];
    if let Some(whole) = rest.first_chunk::<BLOCK>() {
        for index in 0..BLOCK {
            values[index] = f64::from(whole[index]) - f64::from(highest);
        }
    } else {
        values.iter_mut().zip(rest).for_each(|(value, logit)| *value = f64::from(*logit) - f64::from(highest));
    }
    values
}

#[inline(always)]
fn sum_exp<const FMA: bool>(row: &[f32], highest: f32) -> f64 {
    let mut sums = [0.0; LANES];
    for start in (0..row.len()).step_by(BLOCK) {
        let mut values = block(row, start, highest);
        for value in &mut values {
            *value = exp::<FMA>(*value);
        }
        add_up(&values, &mut sums);
    }
    sums.iter().sum()
}

/// The sum of the exponentials of `p`, and the same weighted by the difference of the two rows, each below its maximum.
#[inline(always)]
fn sum_exp_weighted<const FMA: bool>(p: &[f32], q: &[f32], p_highest: f32, q_highest: f32) -> (f64, f64) {
    let (mut sums, mut weighted) = ([0.0; LANES], [0.0; LANES]);
    for start in (0..p.len()).step_by(BLOCK) {
        let (xs, ys) = (block(p, start, p_highest), block(q, start, q_highest));
        let (mut values, mut products) = ([0.0; BLOCK], [0.0; BLOCK]);
        for index in 0..BLOCK {
            values[index] = exp::<FMA>(xs[index]);
        }
        for index in 0..BLOCK {
            // A token that the reference rules out weighs nothing, however far apart the two are.
            let product = values[index] * (xs[index] - ys[index]);
            products[index] = if values[index] > 0.0 { product } else { 0.0 };
        }
        add_up(&values, &mut sums);
        add_up(&products, &mut weighted);
    }
    (sums.iter().sum(), weighted.iter().sum())
}

/// `e` to the power of `x` for `x <= 0`, to about 1e-15 of its value. Written out because the system's function is called
/// once per value, while a compiler turns this into vector instructions: a vocabulary has 150,000 tokens.
/// `FMA` is for where the CPU multiplies and adds in one step; elsewhere that would be a call.
#[inline(always)]
fn exp<const FMA: bool>(x: f64) -> f64 {
    /// Below this the result is as good as nothing, and the exponent's bits would run out.
    const LOWEST: f64 = -700.0;
    /// Adding it leaves a number's nearest integer in the lowest bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    const LN_2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    #[inline(always)]
    fn multiply_add<const FMA: bool>(a: f64, b: f64, c: f64) -> f64 {
        if FMA { a.mul_add(b, c) } else { a * b + c }
    }
    // A number that is none stays none.
    let clamped = if x < LOWEST { LOWEST } else { x };
    let shifted = multiply_add::<FMA>(clamped, std::f64::consts::LOG2_E, ROUND);
    let power = shifted - ROUND;
    let r = multiply_add::<FMA>(power, -LN_2_LOW, multiply_add::<FMA>(power, -LN_2_HIGH, clamped));
    // Taylor's polynomial, innermost term first: |r| is at most ln(2) / 2, so the next term is below 1e-16.
    let mut e = multiply_add::<FMA>(1.0 / 6_227_020_800.0, r, 1.0 / 479_001_600.0);
    e = multiply_add::<FMA>(e, r, 1.0 / 39_916_800.0);
    e = multiply_add::<FMA>(e, r, 1.0 / 3_628_800.0);
    e = multiply_add::<FMA>(e, r, 1.0 / 362_880.0);
    e = multiply_add::<FMA>(e, r, 1.0 / 40_320.0);
    e = multiply_add::<FMA>(e, r, 1.0 / 5_040.0);
    e = multiply_add::<FMA>(e, r, 1.0 / 720.0);
    e = multiply_add::<FMA>(e, r, 1.0 / 120.0);
    e = multiply_add::<FMA>(e, r, 1.0 / 24.0);
    e = multiply_add::<FMA>(e, r, 1.0 / 6.0);
    e = multiply_add::<FMA>(e, r, 0.5);
    e = multiply_add::<FMA>(e, r, 1.0);
    e = multiply_add::<FMA>(e, r, 1.0);
    let scale = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    if x <= LOWEST { 0.0 } else { e * scale }
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
            for e in [exp::<false>(x), exp::<true>(x)] {
                assert!((e - expected).abs() <= expected * 4e-15, "{x}: {e} not {expected}");
            }
        }
        assert_eq!([0.0, -1e9, f64::NEG_INFINITY].map(exp::<false>), [1.0, 0.0, 0.0]);
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
    fn rows_of_any_length_are_summed_whole() {
        for length in [1, 2, 63, 64, 65, 128, 1000] {
            let row = |factor: f32| (0..length).map(|i| (i * 7 % 13) as f32 * factor).collect::<Vec<f32>>();
            let (p, q) = (row(0.5), row(0.4));
            let softmax = |row: &[f32]| {
                let sum: f64 = row.iter().map(|&value| f64::from(value).exp()).sum();
                row.iter().map(|&value| f64::from(value).exp() / sum).collect::<Vec<f64>>()
            };
            let (a, b) = (softmax(&p), softmax(&q));
            let expected: f64 = a.iter().zip(&b).map(|(a, b)| a * (a / b).ln()).sum();
            for difference in [compare(&p, &q, 0), compare_with::<false>(&p, &q, 0)] {
                assert!(
                    (difference.kl_divergence - expected).abs() < 1e-12,
                    "{length}: {difference:?}, not {expected}"
                );
                assert!((difference.candidate.loss + b[0].ln()).abs() < 1e-12, "{length}: {difference:?}");
            }
        }
    }

    #[test]
    fn tokens_that_are_ruled_out_weigh_nothing() {
        let (p, q) = ([0.0, f32::NEG_INFINITY, 1.0], [0.0, -5.0, 1.0]);
        let difference = compare(&p, &q, 0);
        assert!(difference.kl_divergence.is_finite() && difference.kl_divergence < 0.01, "{difference:?}");
    }
}
