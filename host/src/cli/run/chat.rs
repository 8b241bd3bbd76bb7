//! Chat: turns read line by line, answers printed as they come.

use super::Args;
use super::answer::{fail_if_broken_off, generate, raw, shown, statistics};
use crate::chat::{self, Message};
use crate::cli::interrupt::Interrupt;
use crate::cli::{Common, output, report};
use crate::error::Error;
use crate::runtime::open::OpenModel;
use pajamas_plugin_api::{CancelToken, ErrorKind, GenerateResult};
use std::io::{BufRead, IsTerminal, Write};

/// Chats until the input ends or the user leaves.
pub fn chat(model: &OpenModel, args: &Args, common: &Common, interrupt: &Interrupt) -> anyhow::Result<()> {
    let stdin = std::io::stdin();
    let terminal = stdin.is_terminal();
    if terminal {
        let path = model.path.display();
        output::say(&format!("{path} on {}. Ctrl-C stops an answer; `/exit` or Ctrl-D ends.", model.backend));
    }
    let mut messages: Vec<Message> = args.system.iter().map(|text| Message::new("system", text)).collect();
    loop {
        if terminal {
            eprint!(">>> ");
            std::io::stderr().flush()?;
        }
        let mut line = String::new();
        if stdin.lock().read_line(&mut line)? == 0 {
            if terminal {
                output::say("");
            }
            return Ok(());
        }
        let line = line.trim();
        match line {
            "" => continue,
            "/exit" | "/quit" => return Ok(()),
            _ => (),
        }
        messages.push(Message::new("user", line));
        let cancel = interrupt.begin();
        let answer =
            reply(model, args, &mut messages, &cancel).and_then(|result| fail_if_broken_off(&result).map(|()| result));
        interrupt.end();
        match answer {
            Ok(result) => {
                output::print(&if args.no_stream { shown(&result.text) } else { String::new() });
                if common.verbose > 0 {
                    output::say(&statistics(&result.stats));
                }
                messages.push(Message::new("assistant", result.text));
            }
            // With somebody there to try again, the conversation goes on without this turn.
            Err(error) if terminal => {
                messages.pop();
                report(&error, false);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Answers the last message. When the conversation outgrows the context, its oldest turns are left out, aloud.
fn reply(
    model: &OpenModel,
    args: &Args,
    messages: &mut Vec<Message>,
    cancel: &CancelToken,
) -> anyhow::Result<GenerateResult> {
    loop {
        let last = messages.last().map_or("", |message| message.content.as_str());
        let prompt = if args.raw { raw(last) } else { chat::prompt(model.engine.info(), messages)? };
        let answer = generate(model, args, prompt, Some(1), !args.no_stream, cancel);
        let overflow = answer
            .as_ref()
            .err()
            .and_then(|error| error.downcast_ref::<Error>())
            .is_some_and(|error| matches!(error, Error::Plugin(error) if error.kind == ErrorKind::ContextOverflow));
        let oldest = messages.iter().position(|message| message.role == "user");
        match oldest {
            Some(oldest) if overflow && !args.raw && oldest + 1 < messages.len() => {
                messages.drain(oldest..oldest + 2);
                output::say("note: the conversation outgrew the context; its oldest turn was left out");
            }
            _ => return answer,
        }
    }
}
