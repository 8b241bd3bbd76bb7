//! `pajamas run`: answers a prompt or chats, on the best backend or the one named, quantizing first where it must.

use super::interrupt::Interrupt;
use super::output;
use super::progress::Bar;
use crate::chat::{self, Message};
use crate::config::Config;
use crate::error::Error;
use crate::models::source::{self, Source};
use crate::models::{format, store};
use crate::pipeline::{self, QuantizeOptions};
use crate::plugins::{self, Candidate, load, rank};
use anyhow::Context;
use pajamas_plugin_api::abi::client::LoadedModel;
use pajamas_plugin_api::{
    CancelToken, Capabilities, ErrorKind, Event, FinishReason, GenerateRequest, GenerateResult, LoadRequest, Prompt,
    Sampling, options,
};
use std::io::{BufRead, IsTerminal, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// What `pajamas run` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A GGUF file, an MLX folder, the name of a model already made, a Hugging Face folder, or an id in its cache.
    model: String,
    /// The prompt; without it, it is read from stdin, or a terminal starts a chat.
    #[arg(short, long, conflicts_with = "interactive")]
    prompt: Option<String>,
    /// Chat: one line, one turn. `/exit` or Ctrl-D ends it, Ctrl-C stops an answer.
    #[arg(short, long, conflicts_with = "json")]
    interactive: bool,
    /// The backend to run on [default: the first of `pajamas plugins list` that can].
    #[arg(short, long)]
    backend: Option<String>,
    /// Fail when the backend cannot run, instead of running on the next one.
    #[arg(long)]
    strict: bool,
    /// The quantization method, where the model must be quantized first [default: Q4_K_M for GGUF, 4bit for MLX].
    #[arg(short, long)]
    method: Option<String>,
    /// What the model is told before anything else.
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// Send the prompt as it is, without the model's chat template.
    #[arg(long)]
    raw: bool,
    /// Tokens to generate at the most.
    #[arg(long, default_value_t = 512, value_name = "N", allow_negative_numbers = true)]
    max_tokens: u32,
    /// 0 takes the likeliest token always [default: 0.7].
    #[arg(short, long, value_name = "X", value_parser = non_negative, allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Choose among this many likeliest tokens; 0 for all [default: 40].
    #[arg(long, value_name = "N")]
    top_k: Option<u32>,
    /// Choose among the likeliest tokens that reach this probability together [default: 0.9].
    #[arg(long, value_name = "P", value_parser = fraction)]
    top_p: Option<f32>,
    /// Choose among tokens at least this fraction as likely as the likeliest.
    #[arg(long, default_value_t = 0.0, value_name = "P", value_parser = fraction)]
    min_p: f32,
    /// Make recent tokens less likely; 1 does not.
    #[arg(long, default_value_t = 1.0, value_name = "X", value_parser = positive, allow_negative_numbers = true)]
    repeat_penalty: f32,
    /// The same seed gives the same answer.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<u64>,
    /// End the answer before this text; may be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Print tokens as they come (the default).
    #[arg(long, overrides_with = "no_stream")]
    stream: bool,
    /// Print the answer when it is complete.
    #[arg(long)]
    no_stream: bool,
    /// Tokens of context [default: the model's, 4096 at the most].
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    context_length: Option<u32>,
    /// Threads to compute with [default: one for each core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,
    /// An option of the backend, as NAME=VALUE; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = output::name_and_value)]
    set: Vec<(String, String)>,
}

fn number(text: &str, fits: impl Fn(f32) -> bool, expected: &str) -> Result<f32, String> {
    text.parse()
        .ok()
        .filter(|value: &f32| value.is_finite() && fits(*value))
        .ok_or_else(|| format!("expected {expected}"))
}

fn non_negative(text: &str) -> Result<f32, String> {
    number(text, |v| v >= 0.0, "a number from 0 up")
}

fn positive(text: &str) -> Result<f32, String> {
    number(text, |v| v > 0.0, "a number above 0")
}

fn fraction(text: &str) -> Result<f32, String> {
    number(text, |v| (0.0..=1.0).contains(&v), "a number from 0 to 1")
}

/// Runs the command.
pub fn execute(args: Args, common: &super::Common, mut config: Config) -> anyhow::Result<()> {
    let interactive = args.interactive || (args.prompt.is_none() && !common.json && std::io::stdin().is_terminal());
    let prompt = match &args.prompt {
        Some(prompt) => Some(checked_prompt(prompt.clone())?),
        None if interactive => None,
        None => Some(read_stdin()?),
    };
    if let Some(threads) = args.threads {
        config.threads = Some(threads);
    }
    let source = source::resolve(&args.model, &config)?;
    let candidates = plugins::survey(&config);
    let interrupt = Interrupt::install()?;
    let session = Session::open(&args, source, &candidates, &config, &interrupt)?;
    if !args.raw && !session.model.info().chat_templates.contains_key("default") {
        output::say("note: this model has no chat template; it continues the text as it is");
    }
    match prompt {
        Some(prompt) => session.answer(&args, common, &prompt, &interrupt),
        None => session.chat(&args, common, &interrupt),
    }
}

fn read_stdin() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("reading the prompt from stdin failed")?;
    checked_prompt(text.trim_end_matches(['\n', '\r']).to_owned())
}

fn checked_prompt(text: String) -> anyhow::Result<String> {
    if text.trim().is_empty() {
        let hint = "give it with `-p`, on stdin, or chat with `-i`".into();
        return Err(Error::Refused { message: "there is no prompt".into(), hint }.into());
    }
    Ok(text)
}

/// A model loaded on a backend.
struct Session {
    model: LoadedModel,
    backend: String,
    path: PathBuf,
    load_ms: f64,
    capabilities: Capabilities,
}

impl Session {
    /// Loads the model on the best backend that can; on the next best where that one fails for its own reasons.
    fn open(
        args: &Args,
        source: Source,
        candidates: &[Candidate],
        config: &Config,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let wanted = Wanted::new(args, source, candidates, config)?;
        let requested = args.backend.as_deref().or(config.backend.as_deref());
        let fallback = config.fallback && !args.strict;
        let mut choice = rank::choose(candidates, &wanted.formats, requested, fallback)?;
        let mut left = candidates.to_vec();
        let cancel = interrupt.begin();
        loop {
            if let Some(warning) = &choice.warning {
                output::say(&format!("warning: {}", output::clean(warning)));
            }
            let path = wanted.path(&choice.format, candidates, config, &cancel)?;
            let error = match Self::load(args, choice.candidate, &path, config, &cancel) {
                Ok(session) => {
                    interrupt.end();
                    // One that came at the very end of loading is meant all the same.
                    cancel.check().map_err(Error::from)?;
                    return Ok(session);
                }
                Err(error) => error,
            };
            let failed = choice.candidate.name();
            left.retain(|candidate| candidate.path != choice.candidate.path);
            match rank::choose(&left, &wanted.formats, None, true) {
                // Another backend has other options.
                Ok(next) if fallback && args.set.is_empty() && another_may_do_better(&error) => {
                    let next = candidates.iter().find(|c| c.path == next.candidate.path).map(|c| (c, next.format));
                    let Some((candidate, format)) = next else { return Err(error) };
                    let warning = format!("`{failed}` failed: {error}; running on `{}`", candidate.name());
                    choice = rank::Choice { candidate, format, warning: Some(warning) };
                }
                _ => return Err(error),
            }
        }
    }

    fn load(
        args: &Args,
        candidate: &Candidate,
        path: &Path,
        config: &Config,
        cancel: &CancelToken,
    ) -> anyhow::Result<Self> {
        let plugin = load::load(&candidate.path, config)?;
        let capabilities = plugin.capabilities().map_err(Error::from)?;
        let mut request = LoadRequest::new(path);
        request.context_length = args.context_length.or(config.context_length);
        request.threads = config.threads;
        for (name, value) in &args.set {
            request.options.set(name, options::parse(&capabilities.options, name, value).map_err(Error::from)?);
        }
        let started = std::time::Instant::now();
        let bar = Bar::new();
        let model = plugin.load_model(&request, &|update| bar.update(update), cancel).map_err(Error::from)?;
        bar.clear();
        let load_ms = started.elapsed().as_secs_f64() * 1e3;
        Ok(Self { model, backend: candidate.name(), path: path.into(), load_ms, capabilities })
    }

    fn answer(&self, args: &Args, common: &super::Common, prompt: &str, interrupt: &Interrupt) -> anyhow::Result<()> {
        let prompt = if args.raw { raw(prompt) } else { chat::prompt(self.model.info(), &opening(args, prompt))? };
        let show = !common.json && !args.no_stream;
        let cancel = interrupt.begin();
        let result = self.generate(args, prompt, None, show, &cancel)?;
        interrupt.end();
        if common.json {
            let mut value = serde_json::to_value(&result)?;
            if let Some(object) = value.as_object_mut() {
                object.insert("backend".into(), self.backend.clone().into());
                object.insert("model".into(), self.path.display().to_string().into());
                object.insert("load_ms".into(), self.load_ms.into());
            }
            output::json(&value)?;
        } else if show {
            output::print("");
        } else {
            output::print(&shown(&result.text));
        }
        self.statistics(common, &result);
        if result.stats.finish_reason == FinishReason::Cancelled {
            return Err(Error::Interrupted.into());
        }
        fail_if_broken_off(&result)
    }

    fn chat(&self, args: &Args, common: &super::Common, interrupt: &Interrupt) -> anyhow::Result<()> {
        let stdin = std::io::stdin();
        let terminal = stdin.is_terminal();
        if terminal {
            let model = self.path.display();
            output::say(&format!("{model} on {}. Ctrl-C stops an answer; `/exit` or Ctrl-D ends.", self.backend));
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
            let answer = self
                .reply(args, &mut messages, &cancel)
                .and_then(|result| fail_if_broken_off(&result).map(|()| result));
            interrupt.end();
            match answer {
                Ok(result) => {
                    output::print(&if args.no_stream { shown(&result.text) } else { String::new() });
                    self.statistics(common, &result);
                    messages.push(Message::new("assistant", result.text));
                }
                // With somebody there to try again, the conversation goes on without this turn.
                Err(error) if terminal => {
                    messages.pop();
                    super::report(&error);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Answers the last message. When the conversation outgrows the context, its oldest turns are left out, aloud.
    fn reply(&self, args: &Args, messages: &mut Vec<Message>, cancel: &CancelToken) -> anyhow::Result<GenerateResult> {
        loop {
            let last = messages.last().map_or("", |message| message.content.as_str());
            let prompt = if args.raw { raw(last) } else { chat::prompt(self.model.info(), messages)? };
            let answer = self.generate(args, prompt, Some(1), !args.no_stream, cancel);
            let overflow =
                answer.as_ref().err().and_then(|error| error.downcast_ref::<Error>()).is_some_and(
                    |error| matches!(error, Error::Plugin(error) if error.kind == ErrorKind::ContextOverflow),
                );
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

    fn generate(
        &self,
        args: &Args,
        prompt: Prompt,
        session: Option<u64>,
        show: bool,
        cancel: &CancelToken,
    ) -> anyhow::Result<GenerateResult> {
        let request = GenerateRequest {
            sampling: self.sampling(args),
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
        let stats = self.model.generate_stream(&request, cancel, &mut on_event).map_err(Error::from)?;
        if let Some(error) = broken {
            output::gone(&error);
        }
        Ok(GenerateResult { text, tokens, stats })
    }

    /// What the user asked for; the rest by default, as far as the backend honours it.
    fn sampling(&self, args: &Args) -> Sampling {
        let default = Sampling::default_for(&self.capabilities.sampling);
        Sampling {
            temperature: args.temperature.unwrap_or(default.temperature),
            top_k: args.top_k.unwrap_or(default.top_k),
            top_p: args.top_p.unwrap_or(default.top_p),
            min_p: args.min_p,
            repeat_penalty: args.repeat_penalty,
            seed: args.seed,
            ..default
        }
    }

    fn statistics(&self, common: &super::Common, result: &GenerateResult) {
        if common.verbose == 0 {
            return;
        }
        let stats = &result.stats;
        output::say(&format!(
            "{}: loaded in {:.0} ms; prompt {} tokens ({} cached), first token after {:.0} ms ({:.1} tok/s); \
             generated {} tokens at {:.1} tok/s; ended by {}",
            self.backend,
            self.load_ms,
            stats.prompt_tokens,
            stats.cached_tokens,
            stats.time_to_first_token_ms,
            stats.prompt_tokens_per_second,
            stats.generated_tokens,
            stats.tokens_per_second,
            format!("{:?}", stats.finish_reason).to_lowercase(),
        ));
    }
}

/// `text` as stdout may have it: a terminal obeys escape sequences, and what a model makes up must not command it.
fn shown(text: &str) -> String {
    if std::io::stdout().is_terminal() { output::clean(text) } else { text.to_owned() }
}

/// A backend that failed in the middle is a failure, whatever text came before.
fn fail_if_broken_off(result: &GenerateResult) -> anyhow::Result<()> {
    match result.stats.finish_reason {
        FinishReason::Error => {
            let reason = result.stats.metadata.get("error").cloned().unwrap_or_default();
            let message = format!("the backend failed after {} tokens: {reason}", result.stats.generated_tokens);
            Err(Error::Refused { message, hint: String::new() }.into())
        }
        _ => Ok(()),
    }
}

/// Text for the model as it is, control tokens included: who asks for raw gets raw.
fn raw(text: &str) -> Prompt {
    let segments = vec![pajamas_plugin_api::TextSegment { text: text.into(), parse_special: true }];
    Prompt::Text { add_special: true, segments }
}

fn opening(args: &Args, prompt: &str) -> Vec<Message> {
    let system = args.system.iter().map(|text| Message::new("system", text));
    system.chain([Message::new("user", prompt)]).collect()
}

/// Whether a backend's failure to load says more about it than about the model or the request.
fn another_may_do_better(error: &anyhow::Error) -> bool {
    use ErrorKind::{DeviceLost, OutOfMemory, Panic, Unsupported};
    match error.downcast_ref::<Error>() {
        Some(Error::Plugin(error)) => matches!(error.kind, OutOfMemory | Unsupported | DeviceLost | Panic),
        _ => false,
    }
}

/// What is to be run: a model as it is, or one to be made first.
struct Wanted<'a> {
    args: &'a Args,
    source: Source,
    /// The formats that it has or can be made in.
    formats: Vec<String>,
    as_it_is: bool,
}

impl<'a> Wanted<'a> {
    fn new(args: &'a Args, source: Source, candidates: &[Candidate], config: &Config) -> crate::error::Result<Self> {
        let makeable = pipeline::makeable(&source.format, args.method.as_deref(), candidates);
        let loadable = candidates.iter().any(|candidate| rank::loads(candidate).contains(&source.format));
        if source.format == format::HUGGING_FACE || (!loadable && !makeable.is_empty()) {
            if makeable.is_empty() {
                // Says which quantizer is missing, or which method there is none of.
                let options = QuantizeOptions { method: args.method.clone(), ..QuantizeOptions::default() };
                pipeline::method(&source, &options, candidates, config)?;
            }
            return Ok(Self { args, source, formats: makeable, as_it_is: false });
        }
        if let Some(method) = &args.method {
            let hint = format!("leave `-m` out, or make another one: `pajamas quantize SOURCE -m {method}`");
            let message = format!("`-m {method}` has no effect: `{}` is a finished model", source.path.display());
            return Err(Error::Refused { message, hint });
        }
        Ok(Self { args, formats: vec![source.format.clone()], source, as_it_is: true })
    }

    /// The model in `format`: the source itself, the artifact made from it before, or one made now.
    fn path(
        &self,
        format: &str,
        candidates: &[Candidate],
        config: &Config,
        cancel: &CancelToken,
    ) -> anyhow::Result<PathBuf> {
        if self.as_it_is {
            return Ok(self.source.path.clone());
        }
        let options = QuantizeOptions {
            format: Some(format.into()),
            method: self.args.method.clone(),
            ..QuantizeOptions::default()
        };
        let (_, method) = pipeline::method(&self.source, &options, candidates, config)?;
        if let Some(path) = store::find(config, &self.source, format, &method)? {
            return Ok(path);
        }
        let bar = Bar::new();
        let update = |update: &_| bar.update(update);
        let artifact = pipeline::quantize(&self.source, &options, candidates, config, &update, cancel)?;
        bar.clear();
        super::quantize::summarize(&artifact, &self.args.model);
        Ok(artifact.path)
    }
}
