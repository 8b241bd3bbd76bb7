//! A loaded model at work.

use super::{Answer, Finding, Obstacle, TEXT, answer, counting, ensure, greedy, likeliest, loaded, with_model};
use crate::abi::client::LoadedModel;
use crate::conformance::Subject;
use crate::text::sink::LATE_TOKENS;
use crate::{CancelToken, ErrorKind, Event, FinishReason, GenerateRequest, Prompt, Sampling, Utf8Joiner};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long what is cancelled may take.
const PROMPTLY: Duration = Duration::from_secs(2);
/// Tokens that answers are compared by.
const TOKENS: u32 = 16;

pub(crate) fn behaves_as_it_claims(subject: &Subject) -> Finding {
    let (plugin, model) = loaded(subject)?;
    let can = plugin.capabilities()?;
    let info = model.info();
    ensure!(info.context_length > 0, "the model has a context of no tokens");
    ensure!(info.vocabulary_size > 0, "the model has a vocabulary of no tokens");
    let usage = model.memory_usage()?;
    logits_are_as_claimed(&model, can.logits)?;
    let asked = GenerateRequest { top_logprobs: 2, ..greedy(TEXT, 4) };
    match answer(&model, &asked) {
        Ok(answer) => {
            ensure!(can.logprobs, "it gives log-probabilities without claiming them");
            ensure!(answer.logprobs.len() == 4, "{} tokens arrived of 4", answer.logprobs.len());
            for (logprob, top) in &answer.logprobs {
                let sound = logprob.is_some_and(|value| value <= 1e-3) && top.len() == 2 && top[0].1 >= top[1].1;
                ensure!(sound, "a token has the log-probability {logprob:?} and the best candidates {top:?}");
            }
        }
        Err(error) => {
            ensure!(!can.logprobs, "it claims log-probabilities: {error}");
            ensure!(error.kind == ErrorKind::Unsupported, "it refuses log-probabilities as {:?}: {error}", error.kind);
        }
    }
    sampling_is_as_claimed(&model, &can.sampling)?;
    let again = GenerateRequest { session: Some(7), ..greedy(TEXT, 2) };
    answer(&model, &again)?;
    let cached = answer(&model, &again)?.stats.cached_tokens;
    ensure!(
        can.sessions == (cached > 0),
        "sessions are {}claimed, and the second time {cached} tokens of the same prompt were in its cache",
        if can.sessions { "" } else { "not " }
    );
    let several = answer(&model, &greedy(TEXT, 4))?;
    ensure!(several.tokens.len() == 4, "{} tokens arrived of 4", several.tokens.len());
    round_trip(&model)?;
    let claims = [("logits", can.logits), ("logprobs", can.logprobs), ("sessions", can.sessions)];
    let claims: Vec<&str> = claims.into_iter().filter_map(|(name, has)| has.then_some(name)).collect();
    let held = usage.weights_bytes + usage.kv_cache_bytes + usage.compute_bytes;
    Ok(format!(
        "{}; {:.1} MiB held",
        if claims.is_empty() { "text only".into() } else { claims.join(", ") },
        held as f64 / 1_048_576.0
    ))
}

/// Whether the fields that are claimed change what is said, and the others are refused.
fn sampling_is_as_claimed(model: &LoadedModel, claimed: &[String]) -> Result<(), Obstacle> {
    const TOKENS: u32 = 8;
    let has = |name: &str| claimed.iter().any(|known| known == name);
    let neutral = Sampling::greedy();
    let told = |sampling: Sampling| answer(model, &GenerateRequest { sampling, ..greedy(TEXT, TOKENS) });
    let likeliest = told(neutral.clone())?;
    for (field, sampling) in [
        ("temperature", Sampling { temperature: 0.5, ..neutral.clone() }),
        ("top_k", Sampling { top_k: 3, ..neutral.clone() }),
        ("top_p", Sampling { top_p: 0.5, ..neutral.clone() }),
        ("min_p", Sampling { min_p: 0.5, ..neutral.clone() }),
        ("repeat_penalty", Sampling { repeat_penalty: 1.5, ..neutral.clone() }),
        ("seed", Sampling { seed: Some(1), ..neutral.clone() }),
    ] {
        match told(sampling) {
            Ok(_) => ensure!(has(field), "`{field}` is not claimed, and not refused"),
            Err(error) => ensure!(
                !has(field) && error.kind == ErrorKind::Unsupported,
                "`{field}` is {}, and is {:?}: {error}",
                if has(field) { "claimed" } else { "not claimed" },
                error.kind
            ),
        }
    }
    if !has("temperature") {
        return Ok(());
    }
    let hot = Sampling { temperature: 5.0, ..neutral };
    let mut changed = false;
    for seed in 0..4 {
        let seed = has("seed").then_some(seed);
        changed |= told(Sampling { seed, ..hot.clone() })?.tokens != likeliest.tokens;
    }
    ensure!(changed, "`temperature` is claimed, and 5 changes nothing");
    for (field, sampling) in [
        ("top_k", Sampling { top_k: 1, ..hot.clone() }),
        ("top_p", Sampling { top_p: 1e-6, ..hot.clone() }),
        ("min_p", Sampling { min_p: 1.0, ..hot }),
    ] {
        if has(field) {
            let told = told(sampling)?;
            ensure!(
                told.tokens == likeliest.tokens,
                "`{field}` is claimed, and does not keep the likeliest token alone"
            );
        }
    }
    Ok(())
}

/// A few tokens of the vocabulary.
fn some_tokens(model: &LoadedModel, count: u32) -> Vec<u32> {
    let vocabulary = model.info().vocabulary_size.max(1);
    (0..count).map(|index| (index * 7 + 11) % vocabulary).collect()
}

fn logits_are_as_claimed(model: &LoadedModel, claimed: bool) -> Result<(), Obstacle> {
    let (tokens, first, vocabulary) = (some_tokens(model, 6), 2, model.info().vocabulary_size as usize);
    let mut rows: Vec<(usize, bool)> = Vec::new();
    let mut on_row = |position: usize, row: &[f32]| {
        rows.push((position, row.len() == vocabulary && row.iter().all(|value| value.is_finite())));
        ControlFlow::Continue(())
    };
    match model.logits(&tokens, first, &mut on_row, &CancelToken::never()) {
        Ok(()) => {
            ensure!(claimed, "it gives logits without claiming them");
            let positions: Vec<usize> = rows.iter().map(|row| row.0).collect();
            ensure!(positions == [2, 3, 4, 5], "rows came for the positions {positions:?} instead of 2 to 5");
            ensure!(rows.iter().all(|row| row.1), "a row has not {vocabulary} finite values");
        }
        Err(error) => {
            ensure!(!claimed, "it claims logits: {error}");
            ensure!(error.kind == ErrorKind::Unsupported, "it refuses logits as {:?}: {error}", error.kind);
        }
    }
    Ok(())
}

fn round_trip(model: &LoadedModel) -> Result<(), Obstacle> {
    for text in ["The cat sat.", "naïve 睡衣 😀", " two  spaces\n"] {
        let tokens = match model.tokenize(text, false, false) {
            Ok(tokens) => tokens,
            Err(error) if error.kind == ErrorKind::Unsupported => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let vocabulary = model.info().vocabulary_size;
        ensure!(tokens.iter().all(|id| *id < vocabulary), "{text:?} has tokens outside the vocabulary");
        match model.detokenize(&tokens) {
            // Some vocabularies begin a text with a space, or write what they lack as a mark.
            Ok(bytes) => ensure!(
                String::from_utf8_lossy(&bytes).trim_start() == text.trim_start() || !text.is_ascii(),
                "{text:?} comes back as {:?}",
                String::from_utf8_lossy(&bytes)
            ),
            Err(error) => ensure!(error.kind == ErrorKind::Unsupported, "{text:?} does not come back: {error}"),
        }
    }
    Ok(())
}

pub(crate) fn stops_at_the_first_token(subject: &Subject) -> Finding {
    let (_plugin, model) = loaded(subject)?;
    // The longest answer that there is room for: one that does not stop takes noticeably longer.
    let long = greedy(TEXT, super::CONTEXT / 2);
    let mut heard = 0;
    let started = Instant::now();
    let mut returned_after = Duration::ZERO;
    let mut broke_at = started;
    let stats = model.generate_stream(&long, &CancelToken::never(), &mut |event| {
        if let Event::Token { .. } = event {
            heard += 1;
            broke_at = Instant::now();
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    if heard > 0 {
        returned_after = broke_at.elapsed();
    }
    ensure!(heard == 1, "{heard} tokens were handed over");
    ensure!(stats.generated_tokens == 1, "{} tokens were generated", stats.generated_tokens);
    ensure!(stats.finish_reason == FinishReason::Cancelled, "it ended as {:?}", stats.finish_reason);
    let late = stats.metadata.get(LATE_TOKENS);
    ensure!(late.is_none(), "it handed over {} more tokens after the sink said Break", late.map_or("", String::as_str));
    ensure!(returned_after < PROMPTLY, "it returned {:.1} s later", returned_after.as_secs_f64());
    Ok(format!("returned after {:.1} ms", returned_after.as_secs_f64() * 1e3))
}

pub(crate) fn limits_are_kept(subject: &Subject) -> Finding {
    let (_plugin, model) = loaded(subject)?;
    for max_tokens in [0, 1, 7] {
        let answer = answer(&model, &greedy(TEXT, max_tokens))?;
        let (heard, counted) = (answer.tokens.len(), answer.stats.generated_tokens);
        ensure!(
            heard == max_tokens as usize && counted == max_tokens,
            "{heard} tokens of {max_tokens}, counted as {counted}"
        );
        ensure!(
            answer.stats.finish_reason == FinishReason::Length,
            "{max_tokens} tokens end as {:?}",
            answer.stats.finish_reason
        );
    }
    let context = model.info().context_length;
    let full = answer(&model, &greedy(TEXT, context * 2))?;
    let total = full.stats.prompt_tokens + full.stats.generated_tokens;
    ensure!(total <= context + 1, "{total} tokens in a context of {context}");
    ensure!(full.stats.finish_reason == FinishReason::Length, "a full context ends as {:?}", full.stats.finish_reason);
    let long = GenerateRequest { prompt: Prompt::Tokens(some_tokens(&model, context + 8)), ..greedy("", 1) };
    match answer(&model, &long) {
        Ok(_) => {
            return Err(Obstacle::Failed(format!("a prompt of {} tokens fits a context of {context}", context + 8)));
        }
        Err(error) => ensure!(error.kind == ErrorKind::ContextOverflow, "a long prompt is {:?}: {error}", error.kind),
    }
    for (what, prompt) in
        [("an empty prompt", vec![]), ("an id outside the vocabulary", vec![model.info().vocabulary_size])]
    {
        let bad = GenerateRequest { prompt: Prompt::Tokens(prompt.clone()), ..greedy("", 1) };
        match answer(&model, &bad) {
            // A model may well begin with nothing.
            Ok(_) => ensure!(prompt.is_empty(), "{what} is taken"),
            Err(error) => ensure!(
                !matches!(error.kind, ErrorKind::Panic | ErrorKind::Cancelled),
                "{what} is {:?}: {error}",
                error.kind
            ),
        }
    }
    answer(&model, &greedy(TEXT, 1))?;
    Ok(String::new())
}

pub(crate) fn prompt_can_be_cancelled(subject: &Subject) -> Finding {
    let (plugin, model) = loaded(subject)?;
    let can = plugin.capabilities()?;
    let before = likeliest(&model, &can, TEXT, TOKENS)?;
    // As long as fits.
    let prompt = Prompt::Tokens(some_tokens(&model, model.info().context_length - 8));
    let long = GenerateRequest { prompt, ..greedy("", 4) };
    let (never, asked) = counting(usize::MAX);
    let mut polls = None;
    model.generate_stream(&long, &never, &mut |event| {
        if let Event::Token { .. } = event {
            // The sink asks once itself for each token that it is given.
            polls.get_or_insert(asked.load(Ordering::Relaxed).saturating_sub(1));
        }
        ControlFlow::Continue(())
    })?;
    let polls = polls.unwrap_or(0);
    ensure!(polls > 0, "it never asks whether it is cancelled before the first token");
    // Before it begins, and half-way through the prompt.
    for allowed in [0, polls / 2] {
        let started = Instant::now();
        let outcome = model.generate_stream(&long, &counting(allowed).0, &mut |_| ControlFlow::Continue(()));
        let took = started.elapsed();
        ensure!(took < PROMPTLY, "it took {:.1} s", took.as_secs_f64());
        if let Ok(stats) = &outcome {
            ensure!(stats.generated_tokens == 0, "{} tokens came after it was cancelled", stats.generated_tokens);
        }
        ended_cancelled(outcome.map(|stats| stats.finish_reason))?;
    }
    let after = likeliest(&model, &can, TEXT, TOKENS)?;
    ensure!(before.agrees_with(&after), "afterwards the same question has another answer");
    Ok(format!("asks {polls} times"))
}

fn ended_cancelled(outcome: crate::Result<FinishReason>) -> Result<(), Obstacle> {
    match outcome {
        Ok(reason) => ensure!(reason == FinishReason::Cancelled, "it ended as {reason:?}"),
        Err(error) => ensure!(error.kind == ErrorKind::Cancelled, "it ended as {:?}: {error}", error.kind),
    }
    Ok(())
}

pub(crate) fn text_is_utf8_at_every_step(subject: &Subject) -> Finding {
    let (plugin, model) = loaded(subject)?;
    let can = plugin.capabilities()?;
    let mut split = 0;
    for seed in 0..12 {
        let sampling = hot(&can.sampling, seed);
        let request = GenerateRequest { sampling, ..greedy(TEXT, 12 + u32::try_from(seed).unwrap_or(0)) };
        let (mut joiner, mut expected, mut text) = (Utf8Joiner::default(), String::new(), String::new());
        let mut late = false;
        model.generate_stream(&request, &CancelToken::never(), &mut |event| {
            match event {
                Event::Token { bytes, .. } => {
                    late |= text != expected;
                    split += usize::from(std::str::from_utf8(&bytes).is_err());
                    expected += &joiner.push(&bytes);
                }
                Event::Text(piece) => text += &piece,
                Event::PromptProgress { .. } => (),
            }
            ControlFlow::Continue(())
        })?;
        expected += &joiner.finish();
        ensure!(!late, "a token came before the text of the one before it");
        ensure!(text == expected, "the text is {text:?}, and that of its tokens {expected:?}");
    }
    // The bytes must be the tokens' own: a plugin that makes text of them first has lost what it could not read.
    let told = answer(&model, &GenerateRequest { sampling: hot(&can.sampling, 99), ..greedy(TEXT, 48) })?;
    match model.detokenize(&told.tokens) {
        // Some vocabularies begin a text with a space.
        Ok(bytes) => ensure!(
            bytes.trim_ascii_start() == told.bytes.trim_ascii_start(),
            "the tokens' bytes are {:?}, and their detokenization {:?}",
            String::from_utf8_lossy(&told.bytes),
            String::from_utf8_lossy(&bytes)
        ),
        Err(error) => ensure!(error.kind == ErrorKind::Unsupported, "the tokens cannot be detokenized: {error}"),
    }
    Ok(format!("{split} tokens with a part of a character"))
}

/// Takes unlikely tokens, too: those are the ones that hold half a character.
fn hot(claimed: &[String], seed: u64) -> Sampling {
    let has = |name: &str| claimed.iter().any(|known| known == name);
    Sampling {
        temperature: if has("temperature") { 3.0 } else { 0.0 },
        seed: has("seed").then_some(seed),
        ..Sampling::greedy()
    }
}

pub(crate) fn contains_panics(subject: &Subject) -> Finding {
    let (plugin, path) = with_model(subject)?;
    // As every callback of a host that fails: it must come back as that panic, and do no harm.
    std::panic::set_hook(Box::new(|_| ()));
    let panics = |work: &mut dyn FnMut()| match catch_unwind(AssertUnwindSafe(work)) {
        Ok(()) => false,
        Err(payload) => crate::abi::guard::message(payload.as_ref()) == "the host's own",
    };
    let request = super::request(path, subject);
    let mut reported = false;
    let passed_on = panics(&mut || {
        let _ = plugin.load_model(
            &request,
            &|_| {
                REPORTED.store(true, Ordering::Relaxed);
                panic!("the host's own")
            },
            &CancelToken::never(),
        );
    });
    reported |= REPORTED.load(Ordering::Relaxed);
    ensure!(passed_on || !reported, "a panic while loading did not come back");
    let (model, can) = (super::load(&plugin, path, subject)?, plugin.capabilities()?);
    let before = likeliest(&model, &can, TEXT, TOKENS)?;
    let passed_on = panics(&mut || {
        let mut on_event = |event: Event| match event {
            Event::Token { .. } => panic!("the host's own"),
            _ => ControlFlow::Continue(()),
        };
        let _ = model.generate_stream(&greedy(TEXT, 4), &CancelToken::never(), &mut on_event);
    });
    ensure!(passed_on, "a panic while generating did not come back");
    if can.logits {
        let passed_on = panics(&mut || {
            let mut on_row = |_: usize, _: &[f32]| panic!("the host's own");
            let _ = model.logits(&some_tokens(&model, 4), 0, &mut on_row, &CancelToken::never());
        });
        ensure!(passed_on, "a panic while logits come did not come back");
    }
    let after = likeliest(&model, &can, TEXT, TOKENS)?;
    ensure!(before.agrees_with(&after), "afterwards the same question has another answer");
    Ok(String::new())
}

/// Whether progress of loading was reported.
static REPORTED: AtomicBool = AtomicBool::new(false);

pub(crate) fn answers_are_repeatable(subject: &Subject) -> Finding {
    let (plugin, model) = loaded(subject)?;
    let can = plugin.capabilities()?;
    let twice = |request: &GenerateRequest| -> crate::Result<(Answer, Answer)> {
        Ok((answer(&model, request)?, answer(&model, request)?))
    };
    let (first, second) = (likeliest(&model, &can, TEXT, TOKENS)?, likeliest(&model, &can, TEXT, TOKENS)?);
    ensure!(first.agrees_with(&second), "the likeliest answer was {:?}, then {:?}", first.text, second.text);
    if ["temperature", "seed"].iter().all(|name| can.sampling.iter().any(|known| known == name)) {
        let sampling = Sampling { temperature: 1.5, seed: Some(7), ..Sampling::greedy() };
        let (first, second) = twice(&GenerateRequest { sampling, ..greedy(TEXT, TOKENS) })?;
        ensure!(first.tokens == second.tokens, "one seed gave {:?}, then {:?}", first.text, second.text);
    }
    Ok(String::new())
}

pub(crate) fn sessions_do_not_mix(subject: &Subject) -> Finding {
    const PROMPTS: [&str; 4] =
        [TEXT, "The capital of France is", "2 plus 2 is", "A llama and a robot went to the river to"];
    let (plugin, path) = with_model(subject)?;
    let mut request = super::request(path, subject);
    request.parallel_slots = 2;
    super::load(&plugin, path, subject)?;
    let (model, can) = (plugin.load_model(&request, &|_| (), &CancelToken::never())?, plugin.capabilities()?);
    let alone = PROMPTS.map(|prompt| likeliest(&model, &can, prompt, TOKENS));
    let alone = alone.into_iter().collect::<crate::Result<Vec<_>>>()?;
    for sessions in [false, true] {
        let answers = std::thread::scope(|scope| {
            let ask = |(index, prompt): (usize, &&'static str)| {
                let (model, can, prompt) = (&model, &can, *prompt);
                scope.spawn(move || {
                    let session = sessions.then_some(index as u64);
                    let mut answers = Vec::new();
                    for _ in 0..2 {
                        let top_logprobs = if can.logprobs { 2 } else { 0 };
                        answers
                            .push(answer(model, &GenerateRequest { session, top_logprobs, ..greedy(prompt, TOKENS) })?);
                    }
                    Ok::<_, crate::Error>(answers)
                })
            };
            let threads: Vec<_> = PROMPTS.iter().enumerate().map(ask).collect();
            // One that is cancelled beside them must not stop them.
            let cancelled = scope.spawn(|| {
                let mut on_event = |event: Event| match event {
                    Event::Token { .. } => ControlFlow::Break(()),
                    _ => ControlFlow::Continue(()),
                };
                model.generate_stream(&greedy("Hello", TOKENS), &CancelToken::never(), &mut on_event).map(|_| vec![])
            });
            threads.into_iter().chain([cancelled]).map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>()
        });
        for (index, answer) in answers.into_iter().enumerate() {
            let answer = answer.map_err(|_| Obstacle::Failed("a thread panicked".into()))??;
            for answer in answer {
                let how = if sessions { "in sessions of their own" } else { "without sessions" };
                ensure!(
                    alone[index].agrees_with(&answer),
                    "{:?} has another answer beside others, {how}",
                    PROMPTS[index]
                );
            }
        }
    }
    Ok(format!("{} at once", PROMPTS.len()))
}

pub(crate) fn computes_rightly(subject: &Subject) -> Finding {
    let (plugin, path) = with_model(subject)?;
    let Some(reference) = &subject.reference else {
        return Err(Obstacle::Skipped("there are no logits to compare this model's with".into()));
    };
    if !plugin.capabilities()?.logits {
        return Err(Obstacle::Skipped("it gives no logits".into()));
    }
    let model = super::load(&plugin, path, subject)?;
    let error = reference.error_of(&model)?;
    ensure!(
        error <= reference.nmse_max,
        "the normalized mean square error of its logits is {error:.1e}, more than {:.1e}",
        reference.nmse_max
    );
    Ok(format!("error {error:.1e}, limit {:.1e}", reference.nmse_max))
}
