//! Which tokens a benchmark feeds to a model: random ones, the same in every run, so that runs can be compared.

use pajamas_plugin_api::ModelInfo;
use std::collections::BTreeSet;

/// Of what the KV cache holds before a test.
const SEED_BEGINNING: u64 = 1;

/// Of what a test itself processes.
const SEED_FRESH: u64 = 2;

/// Random token ids of one model.
pub struct Tokens {
    vocabulary: Vocabulary,
    bos: Option<u32>,
    random: SplitMix64,
    /// The token that the last fresh ones began with.
    last_first: Option<u32>,
}

impl Tokens {
    /// For the model that `info` describes.
    pub fn new(info: &ModelInfo) -> Self {
        let bos = info.bos_token.as_ref().map(|token| token.id);
        Self { vocabulary: Vocabulary::new(info), bos, random: SplitMix64(SEED_FRESH), last_first: None }
    }

    /// A prompt of `depth` tokens that are always the same ones and `count` (at least 1) fresh ones. The model's BOS
    /// token comes first, where it has one.
    pub fn prompt(&mut self, depth: u32, count: u32) -> Vec<u32> {
        let mut prompt = self.beginning(depth);
        let fresh = if depth == 0 && self.bos.is_some() {
            prompt.extend(self.bos);
            count.saturating_sub(1)
        } else {
            count
        };
        for place in 0..fresh {
            let token = if place == 0 { self.another_first() } else { self.vocabulary.draw(&mut self.random) };
            prompt.push(token);
        }
        prompt
    }

    /// The first `depth` tokens of every prompt with that depth; a longer beginning begins with a shorter one.
    pub fn beginning(&self, depth: u32) -> Vec<u32> {
        let mut random = SplitMix64(SEED_BEGINNING);
        let bos = self.bos.into_iter();
        bos.chain(std::iter::repeat_with(|| self.vocabulary.draw(&mut random))).take(depth as usize).collect()
    }

    /// A token that the last fresh ones did not begin with: a session's KV cache must not hold one more than `depth`.
    fn another_first(&mut self) -> u32 {
        let mut token = self.vocabulary.draw(&mut self.random);
        while self.vocabulary.has_choice() && self.last_first == Some(token) {
            token = self.vocabulary.draw(&mut self.random);
        }
        self.last_first = Some(token);
        token
    }
}

/// The ids to draw from.
struct Vocabulary {
    size: u32,
    /// Control tokens and those that end a text; empty where there is nothing else.
    forbidden: BTreeSet<u32>,
}

impl Vocabulary {
    fn new(info: &ModelInfo) -> Self {
        let size = info.vocabulary_size.max(1);
        let special = info.control_tokens.iter().chain(&info.bos_token).chain(&info.eos_token).map(|token| token.id);
        let ends = info.end_of_generation_tokens.iter().copied();
        let mut forbidden: BTreeSet<u32> = special.chain(ends).filter(|id| *id < size).collect();
        if forbidden.len() >= size as usize {
            forbidden.clear();
        }
        Self { size, forbidden }
    }

    fn has_choice(&self) -> bool {
        self.size as usize > self.forbidden.len() + 1
    }

    fn draw(&self, random: &mut SplitMix64) -> u32 {
        loop {
            // The upper half of the product of a random number below 2^32 and the size is below the size.
            let id = ((random.next() >> 32) * u64::from(self.size)) >> 32;
            let id = u32::try_from(id).unwrap_or_default();
            if !self.forbidden.contains(&id) {
                return id;
            }
        }
    }
}

/// Sebastiano Vigna's generator, <https://prng.di.unimi.it/splitmix64.c>.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pajamas_plugin_api::SpecialToken;

    fn info(vocabulary_size: u32, bos: Option<u32>, control: &[u32]) -> ModelInfo {
        let special = |id: u32| SpecialToken { id, text: String::new() };
        ModelInfo {
            vocabulary_size,
            bos_token: bos.map(special),
            control_tokens: control.iter().copied().map(special).collect(),
            end_of_generation_tokens: vec![3],
            ..ModelInfo::default()
        }
    }

    #[test]
    fn ids_are_inside_the_vocabulary_no_control_tokens_and_the_same_in_every_run() {
        let model = info(12, Some(0), &[0, 1, 2]);
        let prompt = Tokens::new(&model).prompt(0, 500);
        assert_eq!(prompt.len(), 500);
        assert_eq!(prompt[0], 0, "BOS comes first");
        assert!(prompt[1..].iter().all(|id| (4..12).contains(id)), "{prompt:?}");
        assert!((4..12).all(|id| prompt.contains(&id)), "all of the rest are used");
        assert_eq!(prompt, Tokens::new(&model).prompt(0, 500));
        assert_eq!(Tokens::new(&model).prompt(0, 1), [0]);
        assert!(Tokens::new(&info(12, None, &[])).prompt(0, 1)[0] < 12);
    }

    #[test]
    fn prompts_share_exactly_their_depth() {
        let mut tokens = Tokens::new(&info(8, Some(0), &[0]));
        let beginning = tokens.beginning(20);
        assert_eq!((beginning.len(), beginning[0]), (20, 0));
        assert_eq!(tokens.beginning(5), beginning[..5]);
        let prompts: Vec<Vec<u32>> = (0..50).map(|_| tokens.prompt(20, 4)).collect();
        for pair in prompts.windows(2) {
            assert_eq!((&pair[0][..20], pair[0].len()), (&beginning[..], 24));
            assert_ne!(pair[0][20], pair[1][20], "{pair:?}");
        }
    }

    #[test]
    fn a_vocabulary_without_a_choice_does_not_hang() {
        assert_eq!(Tokens::new(&info(0, None, &[])).prompt(1, 2), [0, 0, 0]);
        assert_eq!(Tokens::new(&info(2, None, &[0, 1])).prompt(0, 9).len(), 9);
        assert_eq!(Tokens::new(&info(2, None, &[0])).prompt(2, 2), [1, 1, 1, 1]);
    }
}
