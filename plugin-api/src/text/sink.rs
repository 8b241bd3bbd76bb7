//! Where a plugin hands its tokens: counting, timing, text, stop sequences and finish reasons happen here, once.

use super::stop::{StopMatch, StopMatcher};
use super::utf8::Utf8Joiner;
use crate::{CancelToken, Event, FinishReason, GenerateRequest, GenerateStats, ModelInfo, Token};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Instant;

/// Takes a plugin's tokens and says after each whether to go on. Belongs to one request and one thread at a time.
pub struct TokenSink<'a> {
    on_event: &'a mut dyn FnMut(Event) -> ControlFlow<()>,
    cancel: CancelToken,
    end_of_generation_tokens: Vec<u32>,
    max_tokens: u32,
    joiner: Utf8Joiner,
    stops: StopMatcher,
    started: Instant,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    prompt_tokens: u32,
    cached_tokens: u32,
    generated_tokens: u32,
    /// Tokens that came when it had said Break.
    late_tokens: u32,
    said_break: bool,
    finish: Option<FinishReason>,
    /// The caller said Break: it hears nothing more.
    caller_left: bool,
    metadata: BTreeMap<String, String>,
}

impl<'a> TokenSink<'a> {
    /// A sink for `request` to a model with `info`; `on_event` sees what happens, in order, and may stop it.
    pub fn new(
        request: &GenerateRequest,
        info: &ModelInfo,
        cancel: CancelToken,
        on_event: &'a mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Self {
        let end_of_generation_tokens =
            if request.ignore_eos { Vec::new() } else { info.end_of_generation_tokens.clone() };
        Self {
            on_event,
            cancel,
            end_of_generation_tokens,
            max_tokens: request.max_tokens,
            joiner: Utf8Joiner::default(),
            stops: StopMatcher::new(&request.stop_sequences),
            started: Instant::now(),
            first_token: None,
            last_token: None,
            prompt_tokens: 0,
            cached_tokens: 0,
            generated_tokens: 0,
            late_tokens: 0,
            said_break: false,
            finish: (request.max_tokens == 0).then_some(FinishReason::Length),
            caller_left: false,
            metadata: BTreeMap::new(),
        }
    }

    /// Says how long the prompt is and how much of it the session's KV cache held. Call it once, first.
    pub fn prompt_started(&mut self, total_tokens: u32, cached_tokens: u32) {
        self.prompt_tokens = total_tokens;
        self.cached_tokens = cached_tokens;
        self.prompt_progress(cached_tokens);
    }

    /// Says how many of the prompt's tokens are done.
    pub fn prompt_progress(&mut self, done_tokens: u32) {
        let event = Event::PromptProgress { done: done_tokens, total: self.prompt_tokens };
        self.emit(event);
    }

    /// Takes the next token. `Break` means: return from `generate` now, the answer is complete.
    pub fn token(&mut self, token: Token) -> ControlFlow<()> {
        if self.is_finished() {
            self.late_tokens += u32::from(self.said_break);
            self.said_break = true;
            return ControlFlow::Break(());
        }
        let now = Instant::now();
        self.first_token.get_or_insert(now);
        if self.end_of_generation_tokens.contains(&token.id) {
            self.finish = Some(FinishReason::Stop);
            self.said_break = true;
            return ControlFlow::Break(());
        }
        self.last_token = Some(now);
        self.generated_tokens += 1;
        let text = self.joiner.push(&token.bytes);
        self.emit(Event::Token { id: token.id, bytes: token.bytes, logprob: token.logprob, top: token.top });
        self.text(&text);
        if self.finish.is_none() && self.generated_tokens >= self.max_tokens {
            self.finish = Some(FinishReason::Length);
        }
        self.said_break = self.is_finished();
        if self.said_break { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Says that the context is full. Return from `generate` afterwards.
    pub fn context_full(&mut self) {
        self.finish.get_or_insert(FinishReason::Length);
        self.note("context", "full");
    }

    /// Adds something worth showing to the result's metadata.
    pub fn note(&mut self, key: &str, value: &str) {
        self.metadata.insert(key.into(), value.into());
    }

    /// Whether the caller wants this request to stop.
    pub fn is_cancelled(&self) -> bool {
        self.finish == Some(FinishReason::Cancelled) || self.cancel.is_cancelled()
    }

    /// The request's cancellation token, to be cloned into an engine's abort callback.
    pub fn cancel_token(&self) -> &CancelToken {
        &self.cancel
    }

    /// Sends what was held back and sums up. `outcome` is what the plugin's `generate` returned.
    ///
    /// # Errors
    /// The plugin's error, unless it failed after its first token: then the text so far counts, with finish reason
    /// [`FinishReason::Error`] and the message in the metadata.
    pub fn finish(mut self, outcome: crate::Result<()>) -> crate::Result<GenerateStats> {
        match outcome {
            Ok(()) => (),
            Err(error) if error.kind == crate::ErrorKind::Cancelled => self.finish = Some(FinishReason::Cancelled),
            Err(error) if self.generated_tokens > 0 => {
                self.finish = Some(FinishReason::Error);
                self.note("error", &error.to_string());
            }
            Err(error) => return Err(error),
        }
        if self.finish.is_none() && self.cancel.is_cancelled() {
            self.finish = Some(FinishReason::Cancelled);
        }
        if self.late_tokens > 0 {
            self.note(LATE_TOKENS, &self.late_tokens.to_string());
        }
        if !self.stopped_by_sequence() {
            let tail = self.joiner.finish();
            self.text(&tail);
            let held = self.stops.finish();
            self.emit_text(held);
        }
        let since = |from: Instant, to: Option<Instant>| to.map_or(0.0, |to| (to - from).as_secs_f64());
        let first_s = since(self.started, self.first_token);
        let decode_s = self.first_token.map_or(0.0, |first| since(first, self.last_token));
        let rate = |tokens: u32, seconds: f64| if seconds > 0.0 { f64::from(tokens) / seconds } else { 0.0 };
        Ok(GenerateStats {
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            generated_tokens: self.generated_tokens,
            time_to_first_token_ms: first_s * 1e3,
            tokens_per_second: rate(self.generated_tokens.saturating_sub(1), decode_s),
            prompt_tokens_per_second: rate(self.prompt_tokens.saturating_sub(self.cached_tokens), first_s),
            total_ms: self.started.elapsed().as_secs_f64() * 1e3,
            finish_reason: self.finish.unwrap_or(FinishReason::Stop),
            metadata: self.metadata,
        })
    }

    fn is_finished(&mut self) -> bool {
        if self.finish.is_none() && self.cancel.is_cancelled() {
            self.finish = Some(FinishReason::Cancelled);
        }
        self.finish.is_some()
    }

    fn stopped_by_sequence(&self) -> bool {
        self.metadata.contains_key(STOPPED_BY_SEQUENCE)
    }

    fn text(&mut self, text: &str) {
        match self.stops.push(text) {
            StopMatch::Text(text) => self.emit_text(text),
            StopMatch::Stopped(text) => {
                self.emit_text(text);
                // A caller who stopped in that very moment is told so; the text is the same.
                self.finish.get_or_insert(FinishReason::Stop);
                self.note(STOPPED_BY_SEQUENCE, "true");
            }
        }
    }

    fn emit_text(&mut self, text: String) {
        if !text.is_empty() {
            self.emit(Event::Text(text));
        }
    }

    fn emit(&mut self, event: Event) {
        if !self.caller_left && (self.on_event)(event).is_break() {
            self.caller_left = true;
            self.finish.get_or_insert(FinishReason::Cancelled);
        }
    }
}

/// The metadata key with how many tokens a plugin handed over after it was told to stop.
pub(crate) const LATE_TOKENS: &str = "late_tokens";

/// The metadata key that says a stop sequence ended the answer.
const STOPPED_BY_SEQUENCE: &str = "stop_sequence";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, Prompt};

    /// Runs `tokens` (id, bytes) through a sink and returns the text, the stats and how many tokens were taken.
    fn check(request: &GenerateRequest, tokens: &[(u32, &str)]) -> (String, GenerateStats, usize) {
        let info = ModelInfo { end_of_generation_tokens: vec![99], ..ModelInfo::default() };
        let mut text = String::new();
        let mut on_event = |event| {
            if let Event::Text(piece) = event {
                text += &piece;
            }
            ControlFlow::Continue(())
        };
        let mut sink = TokenSink::new(request, &info, CancelToken::never(), &mut on_event);
        sink.prompt_started(3, 0);
        let mut taken = 0;
        for (id, bytes) in tokens {
            taken += 1;
            if sink.token(Token { id: *id, bytes: bytes.as_bytes().into(), ..Token::default() }).is_break() {
                break;
            }
        }
        let stats = sink.finish(Ok(())).expect("no error was given");
        (text, stats, taken)
    }

    fn request() -> GenerateRequest {
        GenerateRequest::new(Prompt::text("x"))
    }

    #[test]
    fn ends_at_an_end_of_generation_token_without_its_text() {
        let (text, stats, taken) = check(&request(), &[(1, "a"), (2, "b"), (99, "<end>"), (3, "c")]);
        assert_eq!((text.as_str(), taken), ("ab", 3));
        assert_eq!((stats.finish_reason, stats.generated_tokens), (FinishReason::Stop, 2));
    }

    #[test]
    fn ignore_eos_goes_on() {
        let request = GenerateRequest { ignore_eos: true, ..request() };
        assert_eq!(check(&request, &[(99, "x"), (1, "y")]).0, "xy");
    }

    #[test]
    fn ends_at_max_tokens_after_the_last_ones_text() {
        let request = GenerateRequest { max_tokens: 2, ..request() };
        let (text, stats, taken) = check(&request, &[(1, "a"), (2, "b"), (3, "c")]);
        assert_eq!((text.as_str(), taken, stats.finish_reason), ("ab", 2, FinishReason::Length));
        let none = GenerateRequest { max_tokens: 0, ..request };
        assert_eq!(check(&none, &[(1, "a")]).0, "");
    }

    #[test]
    fn a_stop_sequence_across_tokens_ends_it_and_is_not_in_the_text() {
        let request = GenerateRequest { stop_sequences: vec!["STOP".into()], ..request() };
        let (text, stats, taken) = check(&request, &[(1, "go S"), (2, "TO"), (3, "P on"), (4, "!")]);
        assert_eq!((text.as_str(), taken, stats.finish_reason), ("go ", 3, FinishReason::Stop));
        assert_eq!(check(&request, &[(1, "go ST")]).0, "go ST", "held back text comes at the end");
    }

    #[test]
    fn an_error_before_the_first_token_is_an_error_and_later_one_keeps_the_text() {
        let mut ignore = |_| ControlFlow::Continue(());
        let sink = TokenSink::new(&request(), &ModelInfo::default(), CancelToken::never(), &mut ignore);
        assert_eq!(sink.finish(Err(Error::other("x"))).unwrap_err().message, "x");
        let mut sink = TokenSink::new(&request(), &ModelInfo::default(), CancelToken::never(), &mut ignore);
        let _ = sink.token(Token { id: 1, bytes: b"a".to_vec(), ..Token::default() });
        let stats = sink.finish(Err(Error::other("gone"))).expect("the text so far counts");
        assert_eq!((stats.finish_reason, stats.metadata["error"].as_str()), (FinishReason::Error, "gone"));
    }

    #[test]
    fn cancelling_and_a_caller_who_stops_both_end_as_cancelled() {
        let mut stop = |_| ControlFlow::Break(());
        let mut sink = TokenSink::new(&request(), &ModelInfo::default(), CancelToken::never(), &mut stop);
        assert!(sink.token(Token { id: 1, ..Token::default() }).is_break());
        assert_eq!(sink.finish(Ok(())).unwrap().finish_reason, FinishReason::Cancelled);
        let mut go = |_| ControlFlow::Continue(());
        let mut sink = TokenSink::new(&request(), &ModelInfo::default(), CancelToken::new(|| true), &mut go);
        assert!(sink.is_cancelled() && sink.token(Token { id: 1, ..Token::default() }).is_break());
        assert_eq!(sink.finish(Err(Error::cancelled())).unwrap().finish_reason, FinishReason::Cancelled);
    }
}
