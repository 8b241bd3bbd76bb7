//! The loops over tokens: processing a prompt, generating an answer, giving rows of logits. All on the engine's thread.

use super::cache::Cache;
use super::error;
use super::network::{Network, Rows};
use super::sampling::GraphSampler;
use super::thread::{Caller, Step};
use mlx_rs::{Array, transforms};
use pajamas_plugin_api::{Result, Sampling, Slots, log_probabilities};

/// Values of logits that are brought over from MLX at a time.
const ROW_VALUES_MAX: usize = 1 << 22;

/// What generation needs of a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) prompt: Vec<u32>,
    pub(crate) session: Option<u64>,
    pub(crate) sampling: Sampling,
    pub(crate) max_tokens: u32,
    pub(crate) top_logprobs: usize,
}

/// The network with its caches.
pub(crate) struct Generator {
    pub(crate) network: Network,
    pub(crate) vocabulary_size: usize,
    pub(crate) context_length: usize,
    /// Prompt tokens that are processed between two looks at whether the caller is still there.
    pub(crate) prefill_step: usize,
    pub(crate) slots: Slots,
    pub(crate) caches: Vec<Cache>,
}

impl Generator {
    /// Generates until the caller has enough, `max_tokens` are there or the context is full.
    pub(crate) fn answer(&mut self, answer: &Answer, caller: &Caller) -> Result<()> {
        let (slot, cached) = self.take_slot(answer.session, &answer.prompt);
        if !caller.tell(Step::Started { cached }) {
            return Ok(());
        }
        let outcome = self.answer_in(slot, cached, answer, caller);
        if outcome.is_err() {
            self.forget(slot);
        }
        outcome
    }

    fn answer_in(&mut self, slot: usize, cached: usize, answer: &Answer, caller: &Caller) -> Result<()> {
        let Some(mut logits) = self.prompt(slot, cached, &answer.prompt, caller)? else { return Ok(()) };
        let mut sampler = GraphSampler::new(&answer.sampling, &answer.prompt).map_err(error)?;
        let mut token = begin(&mut sampler, &logits)?;
        for generated in 1.. {
            // The next step begins before this one's token is known here: MLX works while the caller looks at it.
            let room = self.slots.tokens(slot).len() < self.context_length;
            let next = if generated < answer.max_tokens && room {
                let input = token.reshape(&[1, 1]).map_err(error)?;
                let next_logits = self.forward(slot, &input, Rows::Last)?;
                Some((begin(&mut sampler, &next_logits)?, next_logits))
            } else {
                None
            };
            let id = token.try_item_exact::<u32>().map_err(|e| error(e.to_string().as_str().into()))?;
            if next.is_some() {
                self.slots.extend(slot, &[id]);
            }
            let (logprob, top) = if answer.top_logprobs > 0 {
                let row = logits.try_as_slice::<f32>().map_err(|e| error(e.to_string().as_str().into()))?;
                let (logprob, top) = log_probabilities(row, id, answer.top_logprobs);
                (Some(logprob), top)
            } else {
                (None, Vec::new())
            };
            if !caller.tell_and_wait(Step::Token { id, logprob, top }) {
                return Ok(());
            }
            match next {
                Some(next) => (token, logits) = next,
                None => {
                    if generated < answer.max_tokens {
                        caller.tell(Step::ContextFull);
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Processes what the cache lacks of `prompt` and gives the logits after its last token; none if the caller left.
    fn prompt(&mut self, slot: usize, cached: usize, prompt: &[u32], caller: &Caller) -> Result<Option<Array>> {
        let mut done = cached;
        loop {
            let end = prompt.len().min(done + self.prefill_step);
            let last = end == prompt.len();
            let logits = self.process(slot, &prompt[done..end], if last { Rows::Last } else { Rows::None })?;
            if let Some(logits) = logits {
                // The cache is evaluated with the first token.
                caller.tell(Step::Prompt { done: end });
                return Ok(Some(logits));
            }
            transforms::eval(self.caches[slot].arrays()).map_err(error)?;
            // What one step of a long prompt leaves behind is of no use to the next, whose shapes are others.
            mlx_rs::memory::clear_cache().map_err(error)?;
            done = end;
            if !caller.tell(Step::Prompt { done }) {
                return Ok(None);
            }
        }
    }

    /// Gives the logits after each of `tokens` from `first_row` on, in pieces of whole rows.
    pub(crate) fn rows(&mut self, tokens: &[u32], first_row: usize, caller: &Caller) -> Result<()> {
        let (slot, _) = self.take_slot(None, tokens);
        let outcome = self.rows_in(slot, tokens, first_row, caller);
        self.forget(slot);
        outcome
    }

    fn rows_in(&mut self, slot: usize, tokens: &[u32], first_row: usize, caller: &Caller) -> Result<()> {
        let rows_max = (ROW_VALUES_MAX / self.vocabulary_size.max(1)).clamp(1, self.prefill_step);
        let mut done = 0;
        while done < tokens.len() {
            let wanted = done >= first_row;
            let end = if wanted { tokens.len().min(done + rows_max) } else { first_row.min(done + self.prefill_step) };
            let logits = self.process(slot, &tokens[done..end], if wanted { Rows::All } else { Rows::None })?;
            transforms::eval(self.caches[slot].arrays().chain(&logits)).map_err(error)?;
            let told = match &logits {
                Some(logits) => {
                    let values = logits.try_as_slice::<f32>().map_err(|e| error(e.to_string().as_str().into()))?;
                    caller.tell_and_wait(Step::Rows { first: done, values: values.to_vec() })
                }
                None => caller.tell(Step::Prompt { done: end }),
            };
            if !told {
                return Ok(());
            }
            done = end;
        }
        Ok(())
    }

    fn process(&mut self, slot: usize, tokens: &[u32], rows: Rows) -> Result<Option<Array>> {
        let count = i32::try_from(tokens.len()).unwrap_or(i32::MAX);
        let input = Array::from_slice(tokens, &[1, count]);
        let logits = self.network.forward(&input, &mut self.caches[slot], rows).map_err(error)?;
        self.slots.extend(slot, tokens);
        Ok(logits)
    }

    fn forward(&mut self, slot: usize, input: &Array, rows: Rows) -> Result<Array> {
        let logits = self.network.forward(input, &mut self.caches[slot], rows).map_err(error)?;
        logits.ok_or_else(|| error("no logits came of a step that was to give them".into()))
    }

    /// The slot for `session`, cut back to what it shares with `prompt`, and how many tokens that is.
    fn take_slot(&mut self, session: Option<u64>, prompt: &[u32]) -> (usize, usize) {
        let (slot, kept) = self.slots.assign(session);
        let cached = if kept { self.slots.common_prefix(slot, prompt) } else { 0 };
        self.slots.truncate(slot, cached);
        self.caches[slot].truncate(i32::try_from(cached).unwrap_or(i32::MAX));
        (slot, cached)
    }

    fn forget(&mut self, slot: usize) {
        self.slots.truncate(slot, 0);
        self.caches[slot].truncate(0);
    }

    /// After a panic nobody knows what the caches hold.
    pub(crate) fn forget_all(&mut self) {
        self.slots.clear();
        self.caches.iter_mut().for_each(|cache| cache.truncate(0));
    }

    /// Bytes of all caches.
    pub(crate) fn kv_cache_bytes(&self) -> u64 {
        self.caches.iter().map(Cache::size_bytes).sum()
    }
}

/// Chooses the token and sets MLX to work on it.
fn begin(sampler: &mut GraphSampler, logits: &Array) -> Result<Array> {
    let token = sampler.choose(logits).map_err(error)?;
    transforms::async_eval([&token]).map_err(error)?;
    Ok(token)
}
