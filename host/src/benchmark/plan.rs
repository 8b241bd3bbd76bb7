//! The tests of a benchmark: what is measured, under llama-bench's names and in its order, and how much context it takes.

use serde::Serialize;
use std::fmt;

/// What a test measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `pp`: reading a prompt, until the first token of the answer.
    PromptProcessing,
    /// `tg`: writing tokens one by one.
    TokenGeneration,
}

/// One test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// What it measures.
    pub kind: Kind,
    /// How many tokens are processed or generated, at least 1.
    pub tokens: u32,
    /// How many tokens the KV cache holds before.
    pub depth: u32,
}

impl Test {
    /// Tokens of context that the test takes.
    pub fn context_length(&self) -> u32 {
        let own = match self.kind {
            // The token that ends the measurement takes a place in some engines.
            Kind::PromptProcessing => self.tokens.saturating_add(1),
            // So does the one token of the prompt, and the one that the measurement begins with.
            Kind::TokenGeneration => self.tokens.saturating_add(2),
        };
        own.saturating_add(self.depth)
    }
}

/// llama-bench's name: `pp512`, `tg128 @ d4096`.
impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::PromptProcessing => "pp",
            Kind::TokenGeneration => "tg",
        };
        write!(f, "{kind}{}", self.tokens)?;
        if self.depth > 0 { write!(f, " @ d{}", self.depth) } else { Ok(()) }
    }
}

/// Every test, in llama-bench's order: depth by depth, prompts before generation. A length of 0 asks for no test.
pub fn tests(prompt: &[u32], generate: &[u32], depths: &[u32]) -> Vec<Test> {
    let of = |kind: Kind, lengths: &[u32], depth: u32| {
        let lengths: Vec<u32> = lengths.iter().copied().filter(|tokens| *tokens > 0).collect();
        lengths.into_iter().map(move |tokens| Test { kind, tokens, depth })
    };
    let at =
        |depth: &u32| of(Kind::PromptProcessing, prompt, *depth).chain(of(Kind::TokenGeneration, generate, *depth));
    depths.iter().flat_map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_order_are_llama_benchs() {
        let names = |prompt: &[u32], generate: &[u32], depths: &[u32]| {
            tests(prompt, generate, depths).iter().map(ToString::to_string).collect::<Vec<String>>()
        };
        assert_eq!(names(&[512], &[128], &[0]), ["pp512", "tg128"]);
        assert_eq!(names(&[8, 16], &[4], &[0, 9]), ["pp8", "pp16", "tg4", "pp8 @ d9", "pp16 @ d9", "tg4 @ d9"]);
        assert_eq!(names(&[0], &[4], &[0]), ["tg4"]);
        assert!(names(&[0], &[0], &[0]).is_empty());
    }

    #[test]
    fn a_test_takes_its_depth_its_tokens_and_a_little() {
        let needed = |kind, tokens, depth| Test { kind, tokens, depth }.context_length();
        assert_eq!(needed(Kind::PromptProcessing, 512, 0), 513);
        assert_eq!(needed(Kind::TokenGeneration, 128, 1024), 1154);
        assert_eq!(needed(Kind::TokenGeneration, u32::MAX, 1), u32::MAX, "a lot, and no overflow");
    }
}
