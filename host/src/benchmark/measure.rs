//! One test on one loaded model: the requests that it takes, and what may be read from their statistics.
//!
//! Times are the adapter's, taken beside the engine (see `TokenSink`): no pipe and no process of ours is in them. The
//! time to the first token is that of processing the prompt and choosing one token. The speed of generation counts the
//! tokens after the first, since the first: each is one step of decoding, one choice, and one piece of text.

use super::plan::{Kind, Test};
use super::report::{Measurement, Outcome};
use super::statistics::{Latency, Rate};
use super::tokens::Tokens;
use crate::error::{Error, Result};
use crate::runtime::open::OpenModel;
use pajamas_plugin_api::{CancelToken, FinishReason, GenerateRequest, GenerateStats, Prompt, Sampling};

/// The session that keeps a test's depth in the KV cache.
const SESSION: u64 = 1;

/// Tokens that a warm-up generates at the most: enough for what engines do at their first steps.
const WARM_UP_TOKENS_MAX: u32 = 8;

/// A loaded model to be measured.
pub struct Subject<'a> {
    model: &'a OpenModel,
    tokens: Tokens,
    cancel: &'a CancelToken,
}

impl<'a> Subject<'a> {
    /// `model`, until `cancel` says stop.
    pub fn new(model: &'a OpenModel, cancel: &'a CancelToken) -> Self {
        Self { model, tokens: Tokens::new(model.engine.info()), cancel }
    }

    /// Measures `test`, calling `next` before each repetition with its number, from 0.
    ///
    /// # Errors
    /// The backend's; and when it did something else than what it was asked for.
    pub fn measure(
        &mut self,
        test: &Test,
        repetitions: u32,
        warm_up: bool,
        next: &mut dyn FnMut(u32),
    ) -> Result<Outcome> {
        if let Some(reason) = self.obstacle(test) {
            return Ok(Outcome::Skipped { reason });
        }
        if test.depth > 0 && self.model.capabilities.sessions {
            let beginning = self.tokens.beginning(test.depth);
            self.request(beginning, 1, Some(SESSION))?;
        }
        if warm_up {
            let tokens = match test.kind {
                Kind::PromptProcessing => test.tokens,
                Kind::TokenGeneration => test.tokens.min(WARM_UP_TOKENS_MAX),
            };
            self.run(&Test { tokens, ..*test })?;
        }
        let (mut rates, mut first_tokens_ms) = (Vec::new(), Vec::new());
        for repetition in 0..repetitions {
            next(repetition);
            let stats = self.run(test)?;
            if test.kind == Kind::PromptProcessing && stats.cached_tokens != test.depth {
                let (kept, depth) = (stats.cached_tokens, test.depth);
                let reason = format!("the backend kept {kept} of the {depth} tokens before the prompt");
                return Ok(Outcome::Skipped { reason });
            }
            rates.push(rate(test, &stats)?);
            first_tokens_ms.push(stats.time_to_first_token_ms);
        }
        Ok(Outcome::Measured(Measurement {
            tokens_per_second: Rate::of(rates),
            time_to_first_token_ms: (test.kind == Kind::PromptProcessing).then(|| Latency::of(first_tokens_ms)),
            ratio: 1.0,
        }))
    }

    /// Why the backend cannot be measured so.
    fn obstacle(&self, test: &Test) -> Option<String> {
        let (has, needed) = (self.model.engine.info().context_length, test.context_length());
        if has < needed {
            return Some(format!("the backend gave a context of {has} tokens, and the test takes {needed}"));
        }
        let can = &self.model.capabilities;
        match test.kind {
            Kind::PromptProcessing if test.depth > 0 && !can.sessions => {
                Some(format!("the backend keeps no sessions: the {} tokens before would be counted", test.depth))
            }
            Kind::TokenGeneration if !can.streaming => {
                Some("the backend hands out an answer as a whole: its tokens cannot be timed".into())
            }
            _ => None,
        }
    }

    /// Runs `test` once.
    fn run(&mut self, test: &Test) -> Result<GenerateStats> {
        let session = (test.depth > 0).then_some(SESSION);
        let (prompt, answer) = match test.kind {
            Kind::PromptProcessing => (test.tokens, 1),
            // The first one comes of the prompt and only starts the clock.
            Kind::TokenGeneration => (1, test.tokens + 1),
        };
        let prompt = self.tokens.prompt(test.depth, prompt);
        self.request(prompt, answer, session)
    }

    fn request(&self, prompt: Vec<u32>, answer: u32, session: Option<u64>) -> Result<GenerateStats> {
        let count = prompt.len();
        let request = GenerateRequest {
            sampling: Sampling::greedy(),
            max_tokens: answer,
            ignore_eos: true,
            session,
            ..GenerateRequest::new(Prompt::Tokens(prompt))
        };
        let stats = self.model.engine.measure(&request, self.cancel)?;
        match stats.finish_reason {
            FinishReason::Cancelled => return Err(Error::Interrupted),
            FinishReason::Error => {
                let reason = stats.metadata.get("error").cloned().unwrap_or_default();
                return Err(refused(format!("the backend failed after {} tokens: {reason}", stats.generated_tokens)));
            }
            _ => (),
        }
        if stats.prompt_tokens as usize != count || stats.generated_tokens != answer {
            return Err(refused(format!(
                "the backend processed {} of {count} tokens and generated {} of {answer}",
                stats.prompt_tokens, stats.generated_tokens,
            )));
        }
        Ok(stats)
    }
}

/// The tokens per second that `stats` tell of.
fn rate(test: &Test, stats: &GenerateStats) -> Result<f64> {
    let rate = match test.kind {
        Kind::PromptProcessing => f64::from(test.tokens) / (stats.time_to_first_token_ms / 1e3),
        Kind::TokenGeneration => stats.tokens_per_second,
    };
    // The adapter's 0 stands for no time at all, as of an engine that hands out all tokens at once.
    let timed = rate.is_finite() && rate > 0.0;
    timed.then_some(rate).ok_or_else(|| refused(format!("the backend took no time for {test}")))
}

fn refused(message: String) -> Error {
    Error::Refused { message, hint: String::new() }
}
