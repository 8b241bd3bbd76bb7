//! Generation and logits: the loops that turn tokens into batches and batches into tokens or rows.

use super::batcher::Batcher;
use super::context::{Engine, Rows};
use super::vocab::Vocab;
use pajamas_plugin_api::{CancelToken, Error, GenerateRequest, Result, Sampler, Token, TokenSink, log_probabilities};
use std::ops::ControlFlow;

/// Processes `prompt` (not empty, shorter than `context_length`, ids inside the vocabulary) and generates.
///
/// # Errors
/// `Cancelled` and those of decoding.
pub(super) fn generate(
    batcher: &Batcher,
    vocab: &Vocab,
    prompt: &[u32],
    context_length: usize,
    request: &GenerateRequest,
    sink: &mut TokenSink<'_>,
) -> Result<()> {
    let cancel = sink.cancel_token().clone();
    let mut seat = batcher.seat(request.session, prompt, &cancel)?;
    sink.prompt_started(count(prompt.len()), count(seat.cached));
    let mut done = seat.cached;
    loop {
        let end = prompt.len().min(done + seat.tokens_max());
        if end == prompt.len() {
            break;
        }
        seat.step(&prompt[done..end], Rows::None, &cancel)?;
        done = end;
        sink.prompt_progress(count(done));
        if sink.is_cancelled() {
            return Err(Error::cancelled());
        }
    }
    let mut logits = seat.step(&prompt[done..], Rows::Last, &cancel)?;
    sink.prompt_progress(count(prompt.len()));
    let mut sampler = Sampler::new(&request.sampling);
    for id in prompt {
        sampler.accept(*id);
    }
    let mut held = prompt.len();
    loop {
        let id = sampler.sample(logits);
        let (logprob, top) = if request.top_logprobs > 0 {
            let (logprob, top) = log_probabilities(logits, id, request.top_logprobs as usize);
            (Some(logprob), top)
        } else {
            (None, Vec::new())
        };
        sampler.accept(id);
        if sink.token(Token { id, bytes: vocab.piece(id), logprob, top }).is_break() {
            return Ok(());
        }
        if held >= context_length {
            sink.context_full();
            return Ok(());
        }
        logits = seat.step(&[id], Rows::Last, &cancel)?;
        held += 1;
    }
}

impl Engine {
    /// Gives `rows` the logits after each of `tokens` (ids inside the vocabulary, not more than fit) from `first_row` on.
    ///
    /// # Errors
    /// `Cancelled` and those of `decode`.
    pub(crate) fn rows(
        &mut self,
        tokens: &[u32],
        first_row: usize,
        rows: &mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>,
        cancel: &CancelToken,
    ) -> Result<()> {
        let (slot, _) = self.take_slot(None, tokens, &|_| true).unwrap_or_default();
        self.rows_of(slot, tokens, first_row, rows, cancel)
    }

    /// As [`Self::rows`], in `slot`, which holds nothing before and after.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub(super) fn rows_of(
        &mut self,
        slot: usize,
        tokens: &[u32],
        first_row: usize,
        rows: &mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>,
        cancel: &CancelToken,
    ) -> Result<()> {
        let _watch = self.watch(cancel.clone());
        let outcome = self.rows_in(slot, tokens, first_row, rows, cancel);
        self.truncate(slot, 0);
        outcome
    }

    fn rows_in(
        &mut self,
        slot: usize,
        tokens: &[u32],
        first_row: usize,
        rows: &mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>,
        cancel: &CancelToken,
    ) -> Result<()> {
        let mut done = 0;
        while done < tokens.len() {
            cancel.check()?;
            let (end, wanted) = if done < first_row {
                (first_row.min(done + self.batch_tokens_max), Rows::None)
            } else {
                (tokens.len().min(done + self.rows_max), Rows::All)
            };
            self.decode(slot, &tokens[done..end], wanted)?;
            for index in (done..end).filter(|_| wanted == Rows::All) {
                if rows(index, self.logits(index - done)?).is_break() {
                    return Ok(());
                }
            }
            done = end;
        }
        Ok(())
    }
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}
