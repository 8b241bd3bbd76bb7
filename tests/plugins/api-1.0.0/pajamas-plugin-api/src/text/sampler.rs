//! Choosing the next token from logits, the same way for every backend.

use crate::Sampling;
use std::collections::VecDeque;

/// Chooses tokens by [`Sampling`]: repeat penalty, then top-k, top-p, min-p, temperature, then one random number.
///
/// With the same seed, the same logits give the same tokens on every backend and machine.
#[derive(Debug)]
pub struct Sampler {
    settings: Sampling,
    random: SplitMix64,
    recent: VecDeque<u32>,
    candidates: Vec<(u32, f32)>,
}

impl Sampler {
    /// A sampler at the beginning of a request.
    pub fn new(settings: &Sampling) -> Self {
        let seed = settings.seed.unwrap_or_else(seed_from_system);
        Self { settings: settings.clone(), random: SplitMix64(seed), recent: VecDeque::new(), candidates: Vec::new() }
    }

    /// Takes note of a token of the prompt or of the answer, for the repeat penalty.
    pub fn accept(&mut self, token: u32) {
        if self.settings.repeat_last_n == 0 {
            return;
        }
        if self.recent.len() == self.settings.repeat_last_n as usize {
            self.recent.pop_front();
        }
        self.recent.push_back(token);
    }

    /// The next token for `logits` (one value for each token of the vocabulary). NaN counts as impossible.
    ///
    /// # Panics
    /// When `logits` is empty.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        assert!(!logits.is_empty(), "a vocabulary has at least one token");
        let penalized = self.penalized(logits);
        if self.settings.temperature <= 0.0 {
            if penalized.is_empty() {
                return argmax(logits.iter().copied());
            }
            let mut patched = logits.to_vec();
            penalized.iter().for_each(|&(id, value)| patched[id as usize] = value);
            return argmax(patched.into_iter());
        }
        self.candidates.clear();
        self.candidates.extend(logits.iter().enumerate().map(|(id, &value)| (id as u32, value)));
        for &(id, value) in &penalized {
            self.candidates[id as usize].1 = value;
        }
        self.candidates.retain(|c| !c.1.is_nan());
        if self.candidates.is_empty() {
            return 0;
        }
        self.keep_top_k();
        self.keep_probable();
        self.draw()
    }

    /// The recent tokens with their penalized logits.
    fn penalized(&self, logits: &[f32]) -> Vec<(u32, f32)> {
        let penalty = self.settings.repeat_penalty;
        if penalty == 1.0 || penalty <= 0.0 {
            return Vec::new();
        }
        let mut tokens: Vec<u32> = self.recent.iter().copied().filter(|&id| (id as usize) < logits.len()).collect();
        tokens.sort_unstable();
        tokens.dedup();
        let apply = |logit: f32| if logit > 0.0 { logit / penalty } else { logit * penalty };
        tokens.into_iter().map(|id| (id, apply(logits[id as usize]))).collect()
    }

    /// Keeps the `top_k` likeliest, sorted from the likeliest; equal ones by id, so that the order is one.
    fn keep_top_k(&mut self) {
        let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let keep = self.settings.top_k as usize;
        if keep > 0 && keep < self.candidates.len() {
            self.candidates.select_nth_unstable_by(keep - 1, order);
            self.candidates.truncate(keep);
        }
        self.candidates.sort_unstable_by(order);
    }

    /// Applies top-p and min-p to the sorted candidates; at least one stays.
    fn keep_probable(&mut self) {
        let (top_p, min_p) = (self.settings.top_p, self.settings.min_p);
        let best = self.candidates[0].1;
        let total: f64 = self.candidates.iter().map(|c| f64::from(c.1 - best).exp()).sum();
        let mut sum = 0.0;
        let mut keep = 0;
        for &(_, logit) in &self.candidates {
            let relative = f64::from(logit - best).exp();
            if keep > 0 && (relative < f64::from(min_p) || (top_p < 1.0 && sum >= f64::from(top_p))) {
                break;
            }
            sum += relative / total;
            keep += 1;
        }
        self.candidates.truncate(keep);
    }

    /// Draws one of the candidates by its probability at the temperature.
    fn draw(&mut self) -> u32 {
        let temperature = f64::from(self.settings.temperature);
        let best = f64::from(self.candidates[0].1);
        let weight = |logit: f32| ((f64::from(logit) - best) / temperature).exp();
        let total: f64 = self.candidates.iter().map(|c| weight(c.1)).sum();
        let mut left = self.random.unit() * total;
        for &(id, logit) in &self.candidates {
            left -= weight(logit);
            if left < 0.0 {
                return id;
            }
        }
        self.candidates[self.candidates.len() - 1].0
    }
}

/// The log-probability of `chosen` under `logits`, and those of the `top` likeliest tokens, best first.
pub fn log_probabilities(logits: &[f32], chosen: u32, top: usize) -> (f32, Vec<(u32, f32)>) {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - best).exp()).sum();
    let log_sum = f64::from(best) + sum.ln();
    let log_probability = |id: u32| (f64::from(logits[id as usize]) - log_sum) as f32;
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if top > 0 && top < ids.len() {
        ids.select_nth_unstable_by(top - 1, order);
    }
    ids.truncate(top);
    ids.sort_unstable_by(order);
    (log_probability(chosen), ids.into_iter().map(|id| (id, log_probability(id))).collect())
}

/// The index of the greatest value, the first of equals; NaN never wins.
fn argmax(values: impl Iterator<Item = f32>) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (index, value) in values.enumerate() {
        if value > best.1 {
            best = (index as u32, value);
        }
    }
    best.0
}

/// SplitMix64 (Steele, Lea, Flood 2014): 64 bits of state, good enough to draw tokens and the same everywhere.
#[derive(Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    /// The next number in `0.0..1.0`.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A seed that differs from run to run: the standard library's hasher keys come from the system's randomness.
fn seed_from_system() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each token comes out of 20,000 draws.
    fn frequencies(settings: Sampling, logits: &[f32]) -> Vec<f64> {
        let mut sampler = Sampler::new(&Sampling { seed: Some(7), ..settings });
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..20_000 {
            counts[sampler.sample(logits) as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    fn all() -> Sampling {
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..Sampling::default() }
    }

    #[track_caller]
    fn assert_close(got: &[f64], expected: &[f64]) {
        for (g, e) in got.iter().zip(expected) {
            assert!((g - e).abs() < 0.015, "{got:?} is not {expected:?}");
        }
    }

    /// Logits whose softmax is 0.5, 0.3, 0.15, 0.05.
    fn logits() -> Vec<f32> {
        [0.15_f32, 0.5, 0.05, 0.3].iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn temperature_one_follows_the_softmax() {
        assert_close(&frequencies(all(), &logits()), &[0.15, 0.5, 0.05, 0.3]);
    }

    #[test]
    fn temperature_sharpens_and_zero_is_greedy() {
        let squares = [0.0225, 0.25, 0.0025, 0.09].map(|p| p / 0.365);
        assert_close(&frequencies(Sampling { temperature: 0.5, ..all() }, &logits()), &squares);
        assert_close(&frequencies(Sampling { temperature: 0.0, ..all() }, &logits()), &[0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn top_k_top_p_and_min_p_keep_what_they_say() {
        assert_close(&frequencies(Sampling { top_k: 2, ..all() }, &logits()), &[0.0, 0.625, 0.0, 0.375]);
        assert_close(&frequencies(Sampling { top_p: 0.75, ..all() }, &logits()), &[0.0, 0.625, 0.0, 0.375]);
        assert_close(&frequencies(Sampling { top_p: 0.01, ..all() }, &logits()), &[0.0, 1.0, 0.0, 0.0]);
        let three = [0.15, 0.5, 0.0, 0.3].map(|p| p / 0.95);
        assert_close(&frequencies(Sampling { min_p: 0.2, ..all() }, &logits()), &three);
    }

    #[test]
    fn a_seed_repeats_and_another_differs() {
        let draw = |seed| {
            let mut sampler = Sampler::new(&Sampling { seed: Some(seed), ..all() });
            (0..50).map(|_| sampler.sample(&logits())).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn the_repeat_penalty_weakens_recent_tokens_of_either_sign_and_forgets_old_ones() {
        let settings = Sampling { repeat_penalty: 2.0, repeat_last_n: 2, ..Sampling::greedy() };
        let mut sampler = Sampler::new(&settings);
        assert_eq!(sampler.sample(&[1.0, 1.5, -1.0]), 1);
        sampler.accept(1);
        assert_eq!(sampler.sample(&[1.0, 1.5, -1.0]), 0);
        assert_eq!(sampler.sample(&[-9.0, -1.0, -1.5]), 2, "a negative logit falls further");
        sampler.accept(2);
        sampler.accept(2);
        assert_eq!(sampler.sample(&[1.0, 1.5, -1.0]), 1, "out of the window");
    }

    #[test]
    fn broken_logits_do_not_panic() {
        let mut sampler = Sampler::new(&all());
        assert_eq!(sampler.sample(&[f32::NAN, 1.0, f32::NAN]), 1);
        assert_eq!(sampler.sample(&[f32::NAN]), 0);
        assert_eq!(Sampler::new(&Sampling::greedy()).sample(&[f32::NAN, -5.0]), 1);
    }

    #[test]
    fn log_probabilities_are_those_of_the_softmax() {
        let (chosen, top) = log_probabilities(&logits(), 0, 2);
        assert!((chosen - 0.15_f32.ln()).abs() < 1e-5);
        assert_eq!(top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3]);
        assert!((top[0].1 - 0.5_f32.ln()).abs() < 1e-5);
    }
}
