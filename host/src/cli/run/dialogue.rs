//! A conversation with a loaded model: asks, shows the model the turns that fit, counts, and keeps the session file.

use super::Args;
use super::answer::{generate, raw, statistics_of_parts};
use crate::chat;
use crate::cli::output;
use crate::conversation::{self, Conversation, Session, Turn};
use crate::error::Error;
use crate::runtime::open::OpenModel;
use crate::text::counted;
use pajamas_plugin_api::{CancelToken, ErrorKind, FinishReason, GenerateResult, GenerateStats, Prompt};
use std::path::{Path, PathBuf};

/// The conversation to begin with: that of `--session`, or a new one; with the text of `--system`.
///
/// # Errors
/// When the session's file cannot be read, or none could be written there.
pub fn begin(args: &Args) -> anyhow::Result<Conversation> {
    let mut conversation = Conversation::default();
    if let Some(path) = &args.session {
        if path.exists() {
            conversation = open(path, args)?;
        } else {
            conversation::check_replaceable(path)?;
        }
    }
    if let Some(system) = &args.system {
        if conversation.system.as_ref().is_some_and(|kept| kept != system) {
            output::say("note: the system text is that of `--system` and no longer the session's");
        }
        conversation.system = Some(system.clone());
    }
    Ok(conversation)
}

/// The conversation in the file at `path`, with a note if it was held with another model.
fn open(path: &Path, args: &Args) -> anyhow::Result<Conversation> {
    let session = Session::read(path).map_err(|error| match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Error::Refused {
            message: format!("there is no session file `{}`", path.display()),
            hint: "`/save FILE` writes one".into(),
        },
        error => error,
    })?;
    if session.model != args.model {
        let model = output::clean(&session.model);
        output::say(&format!("note: `{}` was held with `{model}` and goes on with `{}`", path.display(), args.model));
    }
    Ok(session.conversation)
}

/// What a conversation took so far.
#[derive(Debug, Default)]
struct Totals {
    processed_tokens: u64,
    generated_tokens: u64,
    ms: f64,
}

/// A conversation with a loaded model.
pub struct Dialogue<'a> {
    model: &'a OpenModel,
    args: &'a Args,
    conversation: Conversation,
    /// Where it is kept after each turn.
    session: Option<PathBuf>,
    /// The first turn that the model sees. Those before it no longer fit into the context; the conversation keeps them.
    first_turn: usize,
    /// Whether the user was told that turns are left out.
    told: bool,
    last: Option<GenerateStats>,
    totals: Totals,
}

impl<'a> Dialogue<'a> {
    /// Goes on with `conversation`.
    pub fn new(model: &'a OpenModel, args: &'a Args, conversation: Conversation) -> Self {
        Self {
            model,
            args,
            conversation,
            session: args.session.clone(),
            first_turn: 0,
            told: false,
            last: None,
            totals: Totals::default(),
        }
    }

    /// The conversation so far.
    pub fn conversation(&self) -> &Conversation {
        &self.conversation
    }

    /// Answers `question`, printing the answer as it comes if `show`. When the conversation outgrows the context, its
    /// oldest turns are left out of what the model sees. An answer that was stopped becomes part of the conversation,
    /// one that was stopped before it began or that the backend broke off does not.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn ask(&mut self, question: &str, show: bool, cancel: &CancelToken) -> anyhow::Result<GenerateResult> {
        let turns = self.conversation.turns.len();
        let mut first_turn = self.first_turn;
        let result = loop {
            let prompt = self.prompt(first_turn, question)?;
            match generate(self.model, self.args, prompt, Some(1), show, cancel) {
                Err(error) if overflows(&error) && !self.args.raw && first_turn < turns => {
                    first_turn = self.next_that_may_fit(first_turn, question);
                }
                result => break result?,
            }
        };
        self.count(&result.stats);
        let counts = match result.stats.finish_reason {
            FinishReason::Error => false,
            FinishReason::Cancelled => !result.text.is_empty(),
            _ => true,
        };
        // A raw prompt stands for itself: there is nothing that would go on.
        if counts && !self.args.raw {
            // Only now: a question that fits with no turn at all leaves no trace.
            self.first_turn = first_turn;
            self.conversation.turns.push(Turn { question: question.into(), answer: result.text.clone() });
        }
        Ok(result)
    }

    /// The turn after `first_turn` from which on the turns may fit into the context, `question` behind them. A session
    /// of thousands of turns is searched by halves, because each attempt tokenizes all that it holds.
    fn next_that_may_fit(&self, first_turn: usize, question: &str) -> usize {
        let context_length = self.model.engine.info().context_length as usize;
        let may_fit = |first_turn| {
            let tokens = self.prompt(first_turn, question).and_then(|prompt| self.tokens(&prompt));
            // Where that cannot be told, the backend is asked turn by turn.
            tokens.map_or(true, |tokens| tokens <= context_length)
        };
        let (mut low, mut high) = (first_turn + 1, self.conversation.turns.len());
        while low < high {
            let middle = low.midpoint(high);
            if may_fit(middle) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }

    /// Says once that the model no longer sees the oldest turns, where that is so.
    pub fn note_left_out(&mut self) {
        if self.first_turn > 0 && !self.told {
            self.told = true;
            output::say(
                "note: the conversation outgrew the context; its oldest turns are left out of what the model sees",
            );
        }
    }

    fn prompt(&self, first_turn: usize, question: &str) -> anyhow::Result<Prompt> {
        if self.args.raw {
            return Ok(raw(question));
        }
        Ok(chat::prompt(self.model.engine.info(), &self.conversation.asking(first_turn, question))?)
    }

    fn count(&mut self, stats: &GenerateStats) {
        self.totals.processed_tokens += u64::from(stats.prompt_tokens.saturating_sub(stats.cached_tokens));
        self.totals.generated_tokens += u64::from(stats.generated_tokens);
        self.totals.ms += stats.total_ms;
        self.last = Some(stats.clone());
    }

    /// Writes the conversation to the file of `--session`, where there is one.
    ///
    /// # Errors
    /// When writing fails.
    pub fn keep(&self) -> anyhow::Result<()> {
        self.session.as_deref().map_or(Ok(()), |path| self.save(path))
    }

    /// Writes the conversation to `path`.
    ///
    /// # Errors
    /// When there is a file that is no session, or writing fails.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let session = Session {
            model: self.args.model.clone(),
            backend: self.model.backend.clone(),
            conversation: self.conversation.clone(),
        };
        Ok(session.write(path)?)
    }

    /// Goes on with the conversation in the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read. Then nothing changes.
    pub fn load(&mut self, path: &Path) -> anyhow::Result<()> {
        let conversation = open(path, self.args)?;
        // What is in the session's file would be lost to another conversation.
        let holds_another = !self.conversation.turns.is_empty();
        if let Some(kept) = self.session.take_if(|kept| holds_another && !same_file(kept, path)) {
            let kept = output::clean(&kept.display().to_string());
            output::say(&format!("note: `{kept}` keeps what it has; `/save FILE` saves this conversation"));
        }
        self.replace(conversation);
        Ok(())
    }

    /// Forgets the turns and keeps the system text. Gives how many there were.
    pub fn reset(&mut self) -> usize {
        let system = self.conversation.system.take();
        let forgotten = self.conversation.turns.len();
        self.replace(Conversation { system, turns: Vec::new() });
        forgotten
    }

    /// Tells the model this before anything else, from the next turn on.
    pub fn set_system(&mut self, text: Option<String>) {
        self.conversation.system = text;
    }

    fn replace(&mut self, conversation: Conversation) {
        self.conversation = conversation;
        self.first_turn = 0;
        self.told = false;
        self.last = None;
        self.totals = Totals::default();
    }

    /// What `/stats` shows.
    pub fn statistics(&self) -> String {
        let info = self.model.engine.info();
        let totals = &self.totals;
        let turns = self.conversation.turns.len();
        let [prompt, answer] = match &self.last {
            Some(stats) => statistics_of_parts(stats),
            None => ["none yet".into(), String::new()],
        };
        let kind = [info.architecture.as_str(), info.quantization.as_str()];
        let kind: Vec<&str> = kind.into_iter().filter(|word| !word.is_empty()).collect();
        let seconds = totals.ms / 1e3;
        let left_out = match self.first_turn {
            0 => String::new(),
            left_out => format!(", of which the model no longer sees the oldest {left_out}"),
        };
        let (processed, generated) = (totals.processed_tokens, totals.generated_tokens);
        let mut rows = vec![
            ("last answer", prompt),
            ("", answer),
            ("conversation", counted(turns, "turn") + &left_out),
            ("", format!("processed {processed} prompt tokens and generated {generated} in {seconds:.1} s")),
            ("context", format!("about {} of {} tokens", self.context_used(), info.context_length)),
            ("model", format!("{} ({})", name(self.model), kind.join(", "))),
            ("", self.model.path.display().to_string()),
            ("backend", format!("{}, loaded in {:.0} ms", self.model.backend, self.model.load_ms)),
        ];
        rows.extend(self.session.as_ref().map(|path| ("session", path.display().to_string())));
        rows.retain(|(_, value)| !value.is_empty());
        let rows: Vec<String> = rows.into_iter().map(|(name, value)| format!("  {name:<13} {value}")).collect();
        output::clean(&rows.join("\n"))
    }

    /// Tokens of context that the conversation takes up now.
    fn context_used(&self) -> String {
        if self.args.raw || self.conversation.turns.is_empty() {
            return "0".into();
        }
        // Not what the last answer said: the system text may be another since, or the turns those of a file.
        let tokens = chat::prompt(self.model.engine.info(), &self.conversation.messages_from(self.first_turn))
            .map_err(anyhow::Error::from)
            .and_then(|prompt| self.tokens(&prompt));
        tokens.map_or_else(|_| "an unknown number".into(), |tokens| tokens.to_string())
    }

    fn tokens(&self, prompt: &Prompt) -> anyhow::Result<usize> {
        let Prompt::Text { segments, .. } = prompt else { return Ok(0) };
        let count = |text: &str, special| self.model.engine.tokenize(text, false, special).map(|tokens| tokens.len());
        let counts: Result<Vec<usize>, _> = segments.iter().map(|s| count(&s.text, s.parse_special)).collect();
        Ok(counts?.iter().sum())
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    a == b || a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
}

/// What to call a loaded model: its file's name without the extension, or its folder's.
pub fn name(model: &OpenModel) -> String {
    let name = if model.path.is_file() { model.path.file_stem() } else { model.path.file_name() };
    name.map_or_else(|| model.path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn overflows(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::Plugin(error)) if error.kind == ErrorKind::ContextOverflow)
}
