//! Compares the speed of a plugin file with that of a bare llama.cpp loop, on one model in one process.
//!
//! ```text
//! speed PLUGIN.so MODEL.gguf [--prompt 512] [--generate 64] [--repetitions 5] [--threads N]
//! ```
//!
//! Both sides get the same token ids and settings and count tokens the same way: `pp` is prompt tokens per second until
//! the first token, `tg` is tokens after the first per second since the first. They take turns, one at a time, and swap
//! the order every repetition, so that a change of the machine's speed meets both.
//!
//! Then eight callers ask the plugin at the same time, and the same eight one after the other: tokens per second of all of
//! them, from the first prompt to the last token.

use llama_cpp_sys_2 as sys;
use pajamas_plugin_api::abi::client::{LoadedModel, Plugin};
use pajamas_plugin_api::{CancelToken, Event, GenerateRequest, HostServices, LoadRequest, Prompt, Sampling};
use std::ffi::{CString, c_char, c_void};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "speed PLUGIN.so MODEL.gguf [--prompt 512] [--generate 64] [--repetitions 5] [--threads N]";

/// Prompt tokens per call of llama.cpp: the plugin's default.
const BATCH: u32 = 512;

/// Compares, and prints a table.
pub fn main() -> Result<()> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    // llama.cpp makes contexts in steps of 256 tokens; asking for a whole step gives both sides the same one.
    let context_length = (arguments.prompt + arguments.generate).next_multiple_of(256);
    let plugin = PluginSide::new(&arguments, context_length)?;
    let bare = BareSide::new(&arguments, context_length)?;
    let vocabulary = plugin.model.info().vocabulary_size.max(1);
    let prompt: Vec<u32> = (0..arguments.prompt).map(|i| (i * 7 + 11) % vocabulary).collect();

    let first = (plugin.run(&prompt, arguments.generate)?, bare.run(&prompt, arguments.generate)?);
    if first.0.tokens != first.1.tokens {
        eprintln!("the two sides generate different tokens: they do not do the same work");
    }
    let (mut plugin_runs, mut bare_runs) = (Vec::new(), Vec::new());
    for repetition in 0..arguments.repetitions {
        for turn in 0..2 {
            if (repetition + turn) % 2 == 0 {
                plugin_runs.push(plugin.run(&prompt, arguments.generate)?);
            } else {
                bare_runs.push(bare.run(&prompt, arguments.generate)?);
            }
        }
    }

    let Arguments { model, generate, repetitions, threads, .. } = &arguments;
    let name = model.file_name().unwrap_or_default().to_string_lossy();
    println!("{name}: {threads} threads, context of {context_length} tokens, {repetitions} repetitions\n");
    println!("| measure | plugin tok/s | bare tok/s | ratio of medians | median ratio of pairs |");
    println!("|---|---|---|---|---|");
    let rates = |runs: &[Run], rate: fn(&Run) -> f64| runs.iter().map(rate).collect::<Vec<f64>>();
    type Rate = fn(&Run) -> f64;
    let measures: [(String, Rate); 2] =
        [(format!("pp{}", prompt.len()), |run| run.prompt_rate), (format!("tg{generate}"), |run| run.generate_rate)];
    for (measure, rate) in measures {
        let (plugin, bare) = (rates(&plugin_runs, rate), rates(&bare_runs, rate));
        let pairs: Vec<f64> = plugin.iter().zip(&bare).map(|(plugin, bare)| plugin / bare).collect();
        let ratio = median(&plugin) / median(&bare);
        println!("| {measure} | {} | {} | {ratio:.4} | {:.4} |", summary(&plugin), summary(&bare), median(&pairs));
    }
    println!();
    drop((plugin, bare));
    streams(&arguments)
}

/// Callers at the same time.
const STREAMS: u32 = 8;
/// Prompt tokens of each.
const STREAM_PROMPT: u32 = 32;

/// Compares callers at the same time with callers one after the other.
fn streams(arguments: &Arguments) -> Result<()> {
    let context_length = (STREAM_PROMPT + arguments.generate).next_multiple_of(256);
    let side = PluginSide::with_slots(arguments, context_length, STREAMS)?;
    let vocabulary = side.model.info().vocabulary_size.max(1);
    let prompt =
        |stream: u32| (0..STREAM_PROMPT).map(|i| (i * 7 + 11 + stream * 101) % vocabulary).collect::<Vec<u32>>();
    let prompts: Vec<Vec<u32>> = (0..STREAMS).map(prompt).collect();
    let run = |prompt: &Vec<u32>| side.run(prompt, arguments.generate).map_err(|error| error.to_string());
    let rate = |started: Instant| f64::from(STREAMS * arguments.generate) / started.elapsed().as_secs_f64();
    let together = || -> Result<f64> {
        let started = Instant::now();
        let all = std::thread::scope(|scope| {
            let threads: Vec<_> = prompts.iter().map(|prompt| scope.spawn(|| run(prompt))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect::<std::result::Result<Vec<_>, _>>()
        });
        all?;
        Ok(rate(started))
    };
    let in_turn = || -> Result<f64> {
        let started = Instant::now();
        prompts.iter().map(run).collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(rate(started))
    };
    together()?;
    let (mut at_once, mut one_by_one) = (Vec::new(), Vec::new());
    for repetition in 0..arguments.repetitions {
        for turn in 0..2 {
            if (repetition + turn) % 2 == 0 {
                at_once.push(together()?);
            } else {
                one_by_one.push(in_turn()?);
            }
        }
    }
    let pairs: Vec<f64> = at_once.iter().zip(&one_by_one).map(|(together, alone)| together / alone).collect();
    println!(
        "| {STREAMS} callers, {} tokens each | at once tok/s | in turn tok/s | median ratio of pairs |",
        arguments.generate
    );
    println!("|---|---|---|---|");
    println!("| all together | {} | {} | {:.2} |\n", summary(&at_once), summary(&one_by_one), median(&pairs));
    Ok(())
}

struct Arguments {
    plugin: PathBuf,
    model: PathBuf,
    prompt: u32,
    generate: u32,
    repetitions: u32,
    threads: u32,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
        let (mut prompt, mut generate, mut repetitions, mut threads) = (512, 64, 5, threads);
        let mut files = Vec::new();
        while let Some(word) = words.next() {
            let number = match word.as_str() {
                "--prompt" => &mut prompt,
                "--generate" => &mut generate,
                "--repetitions" => &mut repetitions,
                "--threads" => &mut threads,
                _ if word.starts_with("--") => return Err(format!("unknown option {word}; usage: {USAGE}").into()),
                _ => {
                    files.push(PathBuf::from(word));
                    continue;
                }
            };
            let value = words.next().and_then(|value| value.parse().ok()).filter(|value| (1..=65_536).contains(value));
            *number = value.ok_or_else(|| format!("{word} takes a number from 1 to 65536; usage: {USAGE}"))?;
        }
        let [plugin, model] = <[PathBuf; 2]>::try_from(files).map_err(|_| format!("usage: {USAGE}"))?;
        if generate < 2 {
            return Err("--generate must be at least 2: the speed is counted from the first token on".into());
        }
        Ok(Self { plugin, model, prompt, generate, repetitions, threads })
    }
}

/// What one run came to, in tokens per second, and the tokens that it generated.
struct Run {
    prompt_rate: f64,
    generate_rate: f64,
    tokens: Vec<u32>,
}

/// The model behind the plugin's binary interface.
struct PluginSide {
    model: LoadedModel,
}

impl PluginSide {
    fn new(arguments: &Arguments, context_length: u32) -> Result<Self> {
        Self::with_slots(arguments, context_length, 1)
    }

    fn with_slots(arguments: &Arguments, context_length: u32, parallel_slots: u32) -> Result<Self> {
        let services = HostServices::new(|_, _, _| (), std::env::temp_dir(), arguments.threads);
        // SAFETY: whoever names the file on the command line trusts it.
        let plugin = unsafe { Plugin::open(&arguments.plugin, services)? };
        let request = LoadRequest {
            context_length: Some(context_length),
            threads: Some(arguments.threads),
            parallel_slots,
            ..LoadRequest::new(std::path::absolute(&arguments.model)?)
        };
        Ok(Self { model: plugin.load_model(&request, &|_| (), &CancelToken::never())? })
    }

    fn run(&self, prompt: &[u32], generate: u32) -> Result<Run> {
        let request = GenerateRequest {
            sampling: Sampling::greedy(),
            max_tokens: generate,
            ignore_eos: true,
            ..GenerateRequest::new(Prompt::Tokens(prompt.to_vec()))
        };
        let mut tokens = Vec::new();
        let stats = self.model.generate_stream(&request, &CancelToken::never(), &mut |event| {
            if let Event::Token { id, .. } = event {
                tokens.push(id);
            }
            ControlFlow::Continue(())
        })?;
        if stats.generated_tokens != generate || stats.cached_tokens != 0 {
            return Err(format!("the plugin did not do the work that was asked for: {stats:?}").into());
        }
        Ok(Run { prompt_rate: stats.prompt_tokens_per_second, generate_rate: stats.tokens_per_second, tokens })
    }
}

/// The model in the llama.cpp that this program is linked with.
struct BareSide {
    // Dropped in this order: the context reads the model.
    context: Context,
    _model: Model,
    vocabulary_size: usize,
}

impl BareSide {
    fn new(arguments: &Arguments, context_length: u32) -> Result<Self> {
        // SAFETY: called before any other function of llama.cpp; the callback needs no user data.
        unsafe {
            sys::llama_log_set(Some(no_log), std::ptr::null_mut());
            sys::llama_backend_init();
        }
        let model = Model::load(&arguments.model)?;
        // SAFETY: the model is loaded; these only read.
        let vocabulary_size = unsafe { sys::llama_vocab_n_tokens(sys::llama_model_get_vocab(model.0.as_ptr())) };
        // SAFETY: gives a plain value.
        let mut parameters = unsafe { sys::llama_context_default_params() };
        parameters.n_ctx = context_length;
        parameters.n_batch = BATCH;
        parameters.n_ubatch = BATCH;
        parameters.n_seq_max = 1;
        parameters.n_threads = arguments.threads.cast_signed();
        parameters.n_threads_batch = arguments.threads.cast_signed();
        parameters.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_AUTO;
        parameters.type_k = sys::GGML_TYPE_F16;
        parameters.type_v = sys::GGML_TYPE_F16;
        // SAFETY: the model is loaded and outlives the context.
        let context = NonNull::new(unsafe { sys::llama_init_from_model(model.0.as_ptr(), parameters) });
        let context = Context(context.ok_or("llama.cpp could not make a context")?);
        Ok(Self { context, _model: model, vocabulary_size: usize::try_from(vocabulary_size)? })
    }

    fn run(&self, prompt: &[u32], generate: u32) -> Result<Run> {
        let mut prompt: Vec<sys::llama_token> = prompt.iter().map(|id| id.cast_signed()).collect();
        let started = Instant::now();
        // SAFETY: the context is valid and only this thread uses it.
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(self.context.0.as_ptr()), false) };
        for batch in prompt.chunks_mut(BATCH as usize) {
            self.decode(batch)?;
        }
        let mut token = self.likeliest()?;
        let first = Instant::now();
        let mut tokens = vec![token];
        let mut last = first;
        for _ in 1..generate {
            self.decode(&mut [token.cast_signed()])?;
            token = self.likeliest()?;
            last = Instant::now();
            tokens.push(token);
        }
        Ok(Run {
            prompt_rate: prompt.len() as f64 / (first - started).as_secs_f64(),
            generate_rate: f64::from(generate - 1) / (last - first).as_secs_f64(),
            tokens,
        })
    }

    /// Decodes `tokens` after what the context holds; only the last one gets logits.
    fn decode(&self, tokens: &mut [sys::llama_token]) -> Result<()> {
        let count = i32::try_from(tokens.len())?;
        // SAFETY: the batch points to `tokens`, which live during the call, and their ids are inside the vocabulary;
        // only this thread uses the context.
        let status = unsafe {
            let batch = sys::llama_batch_get_one(tokens.as_mut_ptr(), count);
            sys::llama_decode(self.context.0.as_ptr(), batch)
        };
        if status == 0 { Ok(()) } else { Err(format!("llama.cpp failed to decode a batch (status {status})").into()) }
    }

    /// The token with the greatest logit after the last batch.
    fn likeliest(&self) -> Result<u32> {
        // SAFETY: the context is valid and only this thread uses it.
        let row = unsafe { sys::llama_get_logits_ith(self.context.0.as_ptr(), -1) };
        if row.is_null() {
            return Err("llama.cpp computed no logits".into());
        }
        // SAFETY: a row has one value per token of the vocabulary and stays until the next decoding.
        let row = unsafe { std::slice::from_raw_parts(row, self.vocabulary_size) };
        let mut best = (0, f32::NEG_INFINITY);
        for (id, logit) in (0_u32..).zip(row) {
            if *logit > best.1 {
                best = (id, *logit);
            }
        }
        Ok(best.0)
    }
}

struct Model(NonNull<sys::llama_model>);

impl Model {
    fn load(path: &Path) -> Result<Self> {
        let name = CString::new(path.to_str().ok_or("llama.cpp cannot open such a path")?)?;
        // SAFETY: the path is NUL-terminated, and the parameters are llama.cpp's own.
        let model = unsafe { sys::llama_model_load_from_file(name.as_ptr(), sys::llama_model_default_params()) };
        let model = NonNull::new(model).ok_or_else(|| format!("llama.cpp could not load `{}`", path.display()))?;
        Ok(Self(model))
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: it is owned here, and the context made from it is dropped before.
        unsafe { sys::llama_model_free(self.0.as_ptr()) }
    }
}

struct Context(NonNull<sys::llama_context>);

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it is owned here and nothing else keeps it.
        unsafe { sys::llama_free(self.0.as_ptr()) }
    }
}

unsafe extern "C" fn no_log(_level: sys::ggml_log_level, _text: *const c_char, _data: *mut c_void) {}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// Mean ± sample standard deviation.
fn summary(values: &[f64]) -> String {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    format!("{mean:.2} ± {:.2}", (squares / (count - 1.0).max(1.0)).sqrt())
}
