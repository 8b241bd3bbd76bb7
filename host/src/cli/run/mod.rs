//! `pajamas run`: answers a prompt or chats, on the best backend or the one named, quantizing first where it must.

mod answer;
mod chat;
mod commands;
mod dialogue;
mod editor;
mod stdin;
mod turns;

use super::interrupt::Interrupt;
use super::open_args::OpenArgs;
use super::output;
use super::progress::Console;
use crate::config::Config;
use crate::error::Error;
use crate::plugins;
use crate::runtime::obtain::{Obtain, Purpose};
use crate::runtime::open::{self, OpenOptions};
use pajamas_plugin_api::Sampling;
use std::io::IsTerminal;
use std::path::PathBuf;

/// What `pajamas run` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A GGUF file, an MLX folder, the name of a model already made, a Hugging Face folder, or an id on the Hub
    /// (`org/name`).
    model: String,
    /// The prompt; without it, it is read from stdin, or a terminal starts a chat. With it, what a pipe or a file on stdin
    /// has comes before it, as the text that it is about. With `-i`, the chat's first turn.
    prompt: Option<String>,
    /// The same, for one that begins with a dash.
    #[arg(short = 'p', long = "prompt", value_name = "PROMPT", conflicts_with = "prompt", allow_hyphen_values = true)]
    prompt_option: Option<String>,
    /// Chat: one line, one turn. `/help` lists what else can be typed, Ctrl-C stops an answer, Ctrl-D leaves.
    #[arg(short, long, conflicts_with = "json")]
    interactive: bool,
    #[command(flatten)]
    open: OpenArgs,
    /// What the model is told before anything else.
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// Go on with the conversation in this file, if it is there, and keep it there after every answer.
    #[arg(long, value_name = "FILE", conflicts_with = "raw")]
    session: Option<PathBuf>,
    /// Send the prompt, and what stdin has for it, as it is, without the model's chat template.
    #[arg(long)]
    raw: bool,
    /// Tokens to generate at the most.
    #[arg(long, default_value_t = 512, value_name = "N", allow_negative_numbers = true)]
    max_tokens: u32,
    /// 0 takes the likeliest token always [default: 0.7].
    #[arg(short, long, value_name = "X", value_parser = non_negative, allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Choose among this many likeliest tokens; 0 for all [default: 40].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
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
    /// How many recent tokens the penalty looks at [default: 64].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    repeat_last_n: Option<u32>,
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

impl Args {
    /// What the user asked for; the rest by default, as far as the backend honours it.
    fn sampling(&self, honoured: &[String]) -> Sampling {
        let default = Sampling::default_for(honoured);
        Sampling {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: self.repeat_last_n.unwrap_or(default.repeat_last_n),
            seed: self.seed,
        }
    }
}

/// Runs the command.
pub fn execute(mut args: Args, common: &super::Common, config: &Config) -> anyhow::Result<()> {
    args.prompt = args.prompt.or(args.prompt_option.take());
    let interactive = args.interactive || (args.prompt.is_none() && !common.json && std::io::stdin().is_terminal());
    // Before stdin, which may be read for long: a session that cannot be used is an error at once, and Ctrl-C is heard.
    let conversation = dialogue::begin(&args)?;
    let interrupt = Interrupt::install()?;
    let prompt = match &args.prompt {
        Some(prompt) if interactive => Some(checked_prompt(prompt.clone())?),
        Some(prompt) => Some(stdin::before(checked_prompt(prompt.clone())?)?),
        None if interactive => None,
        None => Some(checked_prompt(stdin::prompt()?)?),
    };
    let config = args.open.over(config);
    let candidates = plugins::survey(&config);
    let console = Console::new(&args.model);
    let options = OpenOptions { context_length: args.context_length, ..args.open.options(&config) };
    let (purpose, cancel) = (Purpose::Run(&options), interrupt.begin());
    let obtain = Obtain { purpose, candidates: &candidates, config: &config, observer: &console, cancel: &cancel };
    let source = obtain.source(&args.model)?;
    let model = open::open(&source, &options, &candidates, &config, &console, &cancel)?;
    interrupt.end();
    console.clear();
    if !args.raw && !model.engine.info().chat_templates.contains_key("default") {
        output::say("note: this model has no chat template; it continues the text as it is");
    }
    match prompt {
        Some(prompt) if !interactive => answer::answer(&model, &args, common, &prompt, conversation, &interrupt),
        first => chat::chat(&model, &args, common, &config, conversation, first, &interrupt),
    }
}

fn checked_prompt(text: String) -> anyhow::Result<String> {
    if text.trim().is_empty() {
        let hint = "give it with `-p`, on stdin, or chat with `-i`".into();
        return Err(Error::Usage { message: "there is no prompt".into(), hint }.into());
    }
    Ok(text)
}
