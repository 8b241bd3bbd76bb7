//! Chat: a turn is read, answered as it comes or obeyed, and the next one is read.

use super::Args;
use super::answer::statistics;
use super::commands::{self, Command};
use super::dialogue::{self, Dialogue};
use super::editor::Turns;
use super::turns::Turn;
use crate::api::fail_if_broken_off;
use crate::cli::interrupt::Interrupt;
use crate::cli::output::shown;
use crate::cli::{Common, output, report};
use crate::config::Config;
use crate::conversation::Conversation;
use crate::error::Error;
use crate::runtime::open::OpenModel;
use crate::text::counted;
use pajamas_plugin_api::{FinishReason, GenerateStats};
use std::ops::ControlFlow;

/// Chats until the input ends or the user leaves; `first` is the first turn, if it is known already.
pub fn chat(
    model: &OpenModel,
    args: &Args,
    common: &Common,
    config: &Config,
    conversation: Conversation,
    first: Option<String>,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let chat = Chat {
        args,
        common,
        dialogue: Dialogue::new(model, args, conversation),
        turns: Turns::new(config, interrupt),
        interrupt,
    };
    if chat.turns.is_terminal() {
        chat.greet(model);
    }
    chat.run(first)
}

struct Chat<'a> {
    args: &'a Args,
    common: &'a Common,
    dialogue: Dialogue<'a>,
    turns: Turns<'a>,
    interrupt: &'a Interrupt,
}

impl Chat<'_> {
    fn greet(&self, model: &OpenModel) {
        let (name, context) = (dialogue::name(model), model.engine.info().context_length);
        output::say(&output::clean(&format!("{name} on {}, {context} tokens of context", model.backend)));
        let turns = self.dialogue.conversation().turns.len();
        if let Some(path) = self.args.session.as_ref().filter(|_| turns > 0) {
            let path = output::clean(&path.display().to_string());
            output::say(&format!("Going on after {} of `{path}`.", counted(turns, "turn")));
        }
        output::say("Type a message, or `/help`. Ctrl-C stops an answer; `/exit` or Ctrl-D leaves.\n");
    }

    fn run(mut self, first: Option<String>) -> anyhow::Result<()> {
        if let (Some(first), true) = (&first, self.turns.is_terminal()) {
            // As if it had been typed.
            output::say(&output::clean(&format!(">>> {}", first.replace('\n', "\n... "))));
        }
        // What is given as a message is one, whatever it begins with.
        let mut first = first.map(|text| Turn { typed: text.clone(), text, quoted: true });
        loop {
            let turn = match first.take() {
                Some(turn) => turn,
                None => match self.turns.next()? {
                    Some(turn) => turn,
                    None => return Ok(()),
                },
            };
            match self.take(&turn) {
                Ok(ControlFlow::Continue(())) => (),
                Ok(ControlFlow::Break(())) => return Ok(()),
                // With somebody there to try again, it goes on.
                Err(error) if self.turns.is_terminal() && !is_interrupted(&error) => {
                    report(&error, false);
                    output::say("");
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Obeys a command, or answers a message. Breaks when the user leaves.
    fn take(&mut self, turn: &Turn) -> anyhow::Result<ControlFlow<()>> {
        let command = if turn.quoted { None } else { commands::parse(&turn.text)? };
        let Some(command) = command else {
            self.answer(message(turn))?;
            return Ok(ControlFlow::Continue(()));
        };
        if command == Command::Exit {
            return Ok(ControlFlow::Break(()));
        }
        let said = self.obey(command)?;
        output::say(&said);
        self.space();
        Ok(ControlFlow::Continue(()))
    }

    /// Does what `command` says and tells what it did.
    fn obey(&mut self, command: Command) -> anyhow::Result<String> {
        if self.args.raw && matches!(command, Command::SetSystem(_) | Command::Save(_) | Command::Load(_)) {
            let message = "with `--raw`, each prompt stands for itself: there is no conversation".into();
            return Err(Error::Refused { message, hint: "start again without `--raw`".into() }.into());
        }
        let turns = self.dialogue.conversation().turns.len();
        let kept = match turns {
            0 => String::new(),
            1 => " It holds from the next turn on; the turn so far is kept (`/reset` forgets it).".into(),
            _ => format!(" It holds from the next turn on; the {turns} turns so far are kept (`/reset` forgets them)."),
        };
        Ok(match command {
            Command::Help => commands::help(),
            Command::Stats => self.dialogue.statistics(),
            Command::Reset => {
                let forgotten = self.dialogue.reset();
                format!("Forgot {}.", counted(forgotten, "turn"))
            }
            Command::ShowSystem => match &self.dialogue.conversation().system {
                Some(text) => output::clean(text),
                None => "There is no system text; `/system TEXT` sets one.".into(),
            },
            Command::SetSystem(text) => {
                let done = if text.is_some() { "The system text is set." } else { "The system text is removed." };
                self.dialogue.set_system(text);
                format!("{done}{kept}")
            }
            Command::Save(path) => {
                self.dialogue.save(&path)?;
                format!("Saved {} to `{}`.", counted(turns, "turn"), output::clean(&path.display().to_string()))
            }
            Command::Load(path) => {
                self.dialogue.load(&path)?;
                let turns = self.dialogue.conversation().turns.len();
                let path = output::clean(&path.display().to_string());
                format!("Going on after {} of `{path}`.", counted(turns, "turn"))
            }
            // Whoever asked for this left before.
            Command::Exit => String::new(),
        })
    }

    /// Answers `question`. Where lines are edited, Ctrl-C stops the answer; elsewhere it ends the program.
    fn answer(&mut self, question: &str) -> anyhow::Result<()> {
        let cancel = self.interrupt.begin();
        let asked = self.dialogue.ask(question, !self.args.no_stream, &cancel);
        self.turns.rest();
        let result = match asked {
            Ok(result) => result,
            Err(error) if is_interrupted(&error) && self.goes_on() => {
                self.stopped_early();
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let stopped = result.stats.finish_reason == FinishReason::Cancelled;
        if self.args.no_stream {
            if stopped {
                // The terminal shows `^C` in this line.
                self.space();
            }
            output::print(&shown(result.text.trim_end_matches('\n')));
        } else if stopped || !result.text.ends_with('\n') {
            output::print("");
        }
        if stopped && result.text.is_empty() {
            self.stopped_early();
        }
        fail_if_broken_off(&result.stats)?;
        self.note_length(&result.stats);
        self.dialogue.note_left_out();
        if self.common.verbose > 0 {
            output::say(&statistics(&result.stats));
        }
        self.dialogue.keep()?;
        if stopped && !self.goes_on() {
            return Err(Error::Interrupted.into());
        }
        self.space();
        Ok(())
    }

    /// An answer that is cut looks like one that is finished.
    fn note_length(&self, stats: &GenerateStats) {
        if stats.finish_reason != FinishReason::Length {
            return;
        }
        if stats.generated_tokens >= self.args.max_tokens {
            let tokens = self.args.max_tokens;
            output::say(&format!("note: the answer was cut after {tokens} tokens; `--max-tokens` allows more"));
        } else {
            output::say("note: the answer was cut because the context is full; `-c` makes it larger");
        }
    }

    fn stopped_early(&self) {
        output::say("note: stopped before the answer began; the question is not part of the conversation\n");
    }

    /// Whether the chat goes on after an answer was stopped: if somebody sits there, and the program was not killed.
    fn goes_on(&self) -> bool {
        self.turns.is_terminal() && !self.interrupt.killed()
    }

    /// A line between what was said and what is typed next.
    fn space(&self) {
        if self.turns.is_terminal() {
            output::say("");
        }
    }
}

/// What the model is told: without the space that keeps a message from being a command, but with the indentation of
/// text in several lines.
fn message(turn: &Turn) -> &str {
    let text = &turn.text;
    if turn.quoted {
        text
    } else if text.contains('\n') {
        text.trim_end()
    } else {
        text.trim()
    }
}

fn is_interrupted(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::Interrupted))
}
