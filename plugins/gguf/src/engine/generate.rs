//! Generation and logits: the loops that turn tokens into batches and batches into tokens or rows.

use super::context::{Engine, Rows};
use super::vocab::Vocab;
use pajamas_plugin_api::{CancelToken, Error, GenerateRequest, Result, Sampler, Token, TokenSink, log_probabilities};
use std::ops::ControlFlow;

impl Engine {
    /// Processes `prompt` (not empty, shorter than `context_length`, ids inside the vocabulary) and generates.
    ///
    /// # Errors
    /// `Cancelled` and those of `decode`.
    pub(super) fn generate(
        &mut self,
        vocab: &Vocab,
        prompt: &[u32],
        context_length: usize,
        request: &GenerateRequest,
        sink: &mut TokenSink<'_>,
    ) -> Result<()> {
        let (slot, cached) = self.take_slot(request.session, prompt);
        sink.prompt_started(count(prompt.len()), count(cached));
        let _watch = self.watch(sink.cancel_token().clone());
        let mut last_row = self.process_prompt(slot, prompt, cached, sink)?;
        let mut sampler = Sampler::new(&request.sampling);
        for id in prompt {
            sampler.accept(*id);
        }
        loop {
            let token = {
                let logits = self.logits(last_row)?;
                let id = sampler.sample(logits);
                let (logprob, top) = if request.top_logprobs > 0 {
                    let (logprob, top) = log_probabilities(logits, id, request.top_logprobs as usize);
                    (Some(logprob), top)
                } else {
                    (None, Vec::new())
                };
                Token { id, bytes: vocab.piece(id), logprob, top }
            };
            let id = token.id;
            sampler.accept(id);
            if sink.token(token).is_break() {
                return Ok(());
            }
            if self.slots.tokens(slot).len() >= context_length {
                sink.context_full();
                return Ok(());
            }
            self.decode(slot, &[id], Rows::Last)?;
            last_row = 0;
        }
    }

    /// Decodes what of `prompt` is not cached; gives the index of the last token in the last batch.
    fn process_prompt(
        &mut self,
        slot: usize,
        prompt: &[u32],
        cached: usize,
        sink: &mut TokenSink<'_>,
    ) -> Result<usize> {
        let mut done = cached;
        let mut last_row = 0;
        while done < prompt.len() {
            if sink.is_cancelled() {
                return Err(Error::cancelled());
            }
            let end = prompt.len().min(done + self.batch_tokens_max);
            let rows = if end == prompt.len() { Rows::Last } else { Rows::None };
            self.decode(slot, &prompt[done..end], rows)?;
            last_row = end - done - 1;
            done = end;
            sink.prompt_progress(count(done));
        }
        Ok(last_row)
    }

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
        let (slot, _) = self.take_slot(None, tokens);
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
