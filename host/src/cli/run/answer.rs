//! One prompt, one answer: generation as a user sees it, on stdout as it comes, with its statistics on stderr.

use super::Args;
use super::dialogue::Dialogue;
use crate::api::fail_if_broken_off;
use crate::cli::interrupt::Interrupt;
use crate::cli::output::shown;
use crate::cli::{Common, output};
use crate::conversation::Conversation;
use crate::error::Error;
use crate::runtime::open::OpenModel;
use pajamas_plugin_api::{
    CancelToken, Event, FinishReason, GenerateRequest, GenerateResult, GenerateStats, Prompt, TextSegment,
};
use std::io::Write;
use std::ops::ControlFlow;

/// Answers `prompt` as the next turn of `conversation` and prints the answer.
pub fn answer(
    model: &OpenModel,
    args: &Args,
    common: &Common,
    prompt: &str,
    conversation: Conversation,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let show = !common.json && !args.no_stream;
    let mut dialogue = Dialogue::new(model, args, conversation);
    let result = dialogue.ask(prompt, show, &interrupt.begin());
    interrupt.end();
    let result = result?;
    if common.json {
        let mut value = serde_json::to_value(&result)?;
        if let Some(object) = value.as_object_mut() {
            object.insert("backend".into(), model.backend.clone().into());
            object.insert("model".into(), model.path.display().to_string().into());
            object.insert("load_ms".into(), model.load_ms.into());
        }
        output::json(&value)?;
    } else if show {
        output::print("");
    } else {
        output::print(&shown(&result.text));
    }
    if common.verbose > 0 {
        output::say(&format!("{}: loaded in {:.0} ms; {}", model.backend, model.load_ms, statistics(&result.stats)));
    }
    fail_if_broken_off(&result.stats)?;
    dialogue.note_left_out();
    // A session gets whole answers only where nobody is there to see that one was cut.
    if result.stats.finish_reason == FinishReason::Cancelled {
        return Err(Error::Interrupted.into());
    }
    dialogue.keep()
}

/// Generates, printing the text as it comes if `show`.
pub fn generate(
    model: &OpenModel,
    args: &Args,
    prompt: Prompt,
    session: Option<u64>,
    show: bool,
    cancel: &CancelToken,
) -> anyhow::Result<GenerateResult> {
    let request = GenerateRequest {
        sampling: args.sampling(&model.capabilities.sampling),
        max_tokens: args.max_tokens,
        stop_sequences: args.stop.clone(),
        session,
        ..GenerateRequest::new(prompt)
    };
    let (mut text, mut tokens) = (String::new(), Vec::new());
    let mut stdout = std::io::stdout();
    let mut broken = None;
    let mut on_event = |event| {
        match event {
            Event::Text(piece) => {
                let mut write = || stdout.write_all(shown(&piece).as_bytes()).and_then(|()| stdout.flush());
                if show && let Err(error) = write() {
                    broken = Some(error);
                    return ControlFlow::Break(());
                }
                text += &piece;
            }
            Event::Token { id, .. } => tokens.push(id),
            _ => (),
        }
        ControlFlow::Continue(())
    };
    let stats = model.engine.generate_stream(&request, cancel, &mut on_event)?;
    if let Some(error) = broken {
        output::gone(&error);
    }
    Ok(GenerateResult { text, tokens, stats })
}

/// How an answer went, in a line.
pub fn statistics(stats: &GenerateStats) -> String {
    statistics_of_parts(stats).join("; ")
}

/// How the prompt went, and how the answer itself.
pub fn statistics_of_parts(stats: &GenerateStats) -> [String; 2] {
    let prompt = format!(
        "prompt {} tokens ({} cached), first token after {:.0} ms ({:.1} tok/s)",
        stats.prompt_tokens, stats.cached_tokens, stats.time_to_first_token_ms, stats.prompt_tokens_per_second,
    );
    let answer = format!(
        "generated {} tokens at {:.1} tok/s; ended by {}",
        stats.generated_tokens,
        stats.tokens_per_second,
        format!("{:?}", stats.finish_reason).to_lowercase(),
    );
    [prompt, answer]
}

/// Text for the model as it is, control tokens included: who asks for raw gets raw.
pub fn raw(text: &str) -> Prompt {
    let segments = vec![TextSegment { text: text.into(), parse_special: true }];
    Prompt::Text { add_special: true, segments }
}
