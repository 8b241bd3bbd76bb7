//! Reads turns: on a terminal with editing, history and completion, elsewhere line by line.

use super::commands;
use super::turns::{Joiner, Turn};
use crate::cli::interrupt::Interrupt;
use crate::cli::output;
use crate::config::Config;
use crate::env_vars::{self, user_home};
use crate::error::Error;
use crate::text::below_home;
use anyhow::Context as _;
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{
    Behavior, Cmd, CompletionType, ConditionalEventHandler, Editor, Event, EventContext, EventHandler, KeyCode,
    KeyEvent, Modifiers, Movement,
};
use std::io::{BufRead, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};

/// What is kept of what was typed.
const HISTORY_ENTRIES_MAX: usize = 1000;
/// Longer entries, pasted files mostly, are not kept.
const HISTORY_ENTRY_BYTES_MAX: usize = 64 << 10;

const PROMPT: &str = ">>> ";
const CONTINUED: &str = "... ";

/// Where turns come from.
pub struct Turns<'a> {
    source: Source,
    joiner: Joiner,
    interrupt: &'a Interrupt,
}

enum Source {
    /// A terminal whose lines can be edited.
    Editor(Box<Terminal>),
    /// Anything else; with prompts, if it is a terminal.
    Lines { prompts: bool },
}

/// An entry, or why there is none.
enum Entry {
    Text(String),
    /// Ctrl-C on an empty line, or within a turn of several lines.
    Interrupted,
    End,
}

impl<'a> Turns<'a> {
    /// Reads from stdin, with what the terminal allows.
    pub fn new(config: &Config, interrupt: &'a Interrupt) -> Self {
        let terminal = std::io::stdin().is_terminal();
        let editor = terminal.then(|| Terminal::new(&config.home)).flatten();
        let source = editor.map_or(Source::Lines { prompts: terminal }, |editor| Source::Editor(Box::new(editor)));
        Self { source, joiner: Joiner::default(), interrupt }
    }

    /// Whether somebody sits there.
    pub fn is_terminal(&self) -> bool {
        !matches!(self.source, Source::Lines { prompts: false })
    }

    /// The work is done. Where lines are edited, Ctrl-C does not end the program any more from here on.
    pub fn rest(&self) {
        match self.source {
            Source::Editor(_) => self.interrupt.rest(),
            Source::Lines { .. } => self.interrupt.end(),
        }
    }

    /// The next turn that is not empty; none at the end of the input.
    ///
    /// # Errors
    /// When reading fails, or the input ends inside a block.
    pub fn next(&mut self) -> anyhow::Result<Option<Turn>> {
        loop {
            let prompt = if self.joiner.is_open() { CONTINUED } else { PROMPT };
            let entry = match &mut self.source {
                Source::Editor(terminal) => {
                    let continued = self.joiner.is_open();
                    self.interrupt.while_editing(|| terminal.read(prompt, continued))?
                }
                Source::Lines { prompts } => read_line(prompts.then_some(prompt))?,
            };
            let turn = match entry {
                Entry::Text(text) => self.joiner.push(&text),
                Entry::Interrupted => {
                    // Within a turn it gives that turn up; else nothing is there that it could mean but to leave.
                    if !self.joiner.is_open() {
                        output::say("To leave, type `/exit` or press Ctrl-D.\n");
                    }
                    self.joiner.clear();
                    continue;
                }
                Entry::End if self.is_terminal() => return Ok(None),
                Entry::End => match self.joiner.finish() {
                    Ok(None) => return Ok(None),
                    Ok(turn) => turn,
                    Err(message) => {
                        let hint = "close it with `\"\"\"` at the end of a line".into();
                        return Err(Error::Usage { message: message.into(), hint }.into());
                    }
                },
            };
            let Some(turn) = turn.filter(|turn| !turn.text.trim().is_empty()) else { continue };
            if let Source::Editor(terminal) = &mut self.source {
                terminal.remember(&turn.typed);
            }
            return Ok(Some(turn));
        }
    }
}

/// The next line of stdin, behind a prompt on stderr if there is one to show.
fn read_line(prompt: Option<&str>) -> anyhow::Result<Entry> {
    if let Some(prompt) = prompt {
        eprint!("{prompt}");
        std::io::stderr().flush()?;
    }
    let mut line = String::new();
    if std::io::stdin().lock().read_line(&mut line).context("reading from stdin failed")? == 0 {
        if prompt.is_some() {
            output::say("");
        }
        return Ok(Entry::End);
    }
    Ok(Entry::Text(line.trim_end_matches(['\n', '\r']).to_owned()))
}

/// A terminal with a line editor.
struct Terminal {
    editor: Editor<Completions, FileHistory>,
    history: PathBuf,
    /// It was said that the history is not kept.
    warned: bool,
}

impl Terminal {
    /// None where lines cannot be edited, or only by writing to a stdout that is no terminal.
    fn new(home: &Path) -> Option<Self> {
        let dumb = env_vars::value(env_vars::TERM)
            .is_some_and(|term| ["dumb", "cons25", "emacs"].iter().any(|kind| term.eq_ignore_ascii_case(kind)));
        // What belongs to the terminal goes there, even when the answers go elsewhere.
        let behavior = if std::io::stdout().is_terminal() { Behavior::Stdio } else { Behavior::PreferTerm };
        let reachable =
            behavior == Behavior::Stdio || std::fs::OpenOptions::new().read(true).write(true).open("/dev/tty").is_ok();
        if dumb || !reachable {
            return None;
        }
        let config = rustyline::Config::builder()
            .behavior(behavior)
            .completion_type(CompletionType::List)
            .completion_show_all_if_ambiguous(true)
            .bell_style(rustyline::config::BellStyle::None)
            .max_history_size(HISTORY_ENTRIES_MAX)
            .and_then(|config| config.history_ignore_dups(true))
            .ok()?
            .build();
        let mut editor = Editor::with_config(config).ok()?;
        editor.set_helper(Some(Completions));
        editor.bind_sequence(KeyEvent(KeyCode::Enter, Modifiers::ALT), EventHandler::Simple(Cmd::Newline));
        let mut terminal = Self { editor, history: home.join("history"), warned: false };
        match terminal.editor.load_history(&terminal.history) {
            Ok(()) => (),
            Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::NotFound => (),
            Err(error) => terminal.warn(&error),
        }
        Some(terminal)
    }

    /// Reads an entry; `continued` says that it continues a turn.
    fn read(&mut self, prompt: &str, continued: bool) -> anyhow::Result<Entry> {
        let clear = EventHandler::Conditional(Box::new(ClearLine { continued }));
        self.editor.bind_sequence(KeyEvent::ctrl('C'), clear);
        match self.editor.readline(prompt) {
            Ok(line) => Ok(Entry::Text(line)),
            Err(ReadlineError::Interrupted) => Ok(Entry::Interrupted),
            Err(ReadlineError::Eof) => Ok(Entry::End),
            Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                output::say("note: the terminal sent what is not UTF-8; the line was dropped");
                Ok(Entry::Text(String::new()))
            }
            Err(error) => Err(error).context("reading from the terminal failed"),
        }
    }

    /// Keeps `typed` for the next time, too. That this fails is no reason not to chat.
    fn remember(&mut self, typed: &str) {
        let leaves = matches!(commands::parse(typed), Ok(Some(commands::Command::Exit)));
        if leaves || typed.len() > HISTORY_ENTRY_BYTES_MAX {
            return;
        }
        let folder = self.history.parent().map_or(Ok(()), std::fs::create_dir_all);
        let kept = folder
            .map_err(ReadlineError::from)
            .and_then(|()| self.editor.add_history_entry(typed))
            .and_then(|_| self.editor.append_history(&self.history));
        if let Err(error) = kept {
            self.warn(&error);
        }
    }

    fn warn(&mut self, error: &ReadlineError) {
        if !std::mem::replace(&mut self.warned, true) {
            output::say(&format!("note: what you type is not kept in `{}`: {error}", self.history.display()));
        }
    }
}

/// Ctrl-C on a line that has something in it clears it; elsewhere it is left to the editor, which gives up.
struct ClearLine {
    continued: bool,
}

impl ConditionalEventHandler for ClearLine {
    fn handle(&self, _: &Event, _: rustyline::RepeatCount, _: bool, context: &EventContext<'_>) -> Option<Cmd> {
        (!self.continued && !context.line().is_empty()).then_some(Cmd::Kill(Movement::WholeBuffer))
    }
}

/// Completes commands, and the files that they take.
struct Completions;

impl rustyline::Helper for Completions {}
impl rustyline::highlight::Highlighter for Completions {}
impl rustyline::validate::Validator for Completions {}
impl rustyline::hint::Hinter for Completions {
    type Hint = String;
}

impl Completer for Completions {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &rustyline::Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..at];
        let file = ["/save ", "/load "].iter().find_map(|command| typed.strip_prefix(command));
        if let Some(file) = file {
            let (folder, begun) =
                file.rsplit_once('/').map_or(("", file), |(folder, begun)| (&file[..=folder.len()], begun));
            return Ok((at - begun.len(), files(folder, begun)));
        }
        let pair = |name: String| Pair { display: name.trim_end().to_owned(), replacement: name };
        Ok((0, commands::completions(typed).into_iter().map(pair).collect()))
    }
}

/// The files in `folder`, which ends in a slash or is empty, whose names begin with `begun`.
fn files(folder: &str, begun: &str) -> Vec<Pair> {
    let path = below_home(if folder.is_empty() { "." } else { folder }, user_home);
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        // Hidden ones only for who asks for them, and none that would command the terminal.
        let offered = name.starts_with(begun) && (begun.starts_with('.') || !name.starts_with('.'));
        let slash = if entry.path().is_dir() { "/" } else { "" };
        (offered && !name.contains(char::is_control)).then(|| format!("{name}{slash}"))
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.into_iter().map(|name| Pair { display: name.clone(), replacement: name }).collect()
}
