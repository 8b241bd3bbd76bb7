//! Loads a model through a plugin file and answers prompts, one after the other, with the speed of each: for comparisons
//! with other software, which a script drives. `tests/bench/mlx_speed.py` is one.
//!
//! ```text
//! answer PLUGIN.so MODEL [OPTION=VALUE ...]
//! ```
//!
//! Each line on stdin is a JSON object, `{"prompt": [ID, ...], "tokens": COUNT}`, and gives one on stdout: `prompt_rate`
//! in prompt tokens per second until the first token, `generate_rate` in tokens after the first per second since then,
//! and the `tokens`: the likeliest ones, past any end of generation.

use pajamas_plugin_api::abi::client::{LoadedModel, Plugin};
use pajamas_plugin_api::{CancelToken, Event, GenerateRequest, HostServices, LoadRequest, Prompt, Sampling, options};
use serde_json::{Value, json};
use std::io::BufRead;
use std::ops::ControlFlow;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [plugin, model, given @ ..] = arguments.as_slice() else {
        return Err("usage: answer PLUGIN.so MODEL [OPTION=VALUE ...]".into());
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    let services = HostServices::new(|_, _, _| (), std::env::temp_dir(), threads);
    // SAFETY: whoever names the file on the command line trusts it.
    let plugin = unsafe { Plugin::open(&std::path::absolute(plugin)?, services)? };
    let mut request = LoadRequest::new(std::path::absolute(model)?);
    let known = plugin.capabilities()?.options;
    for option in given {
        let (name, value) = option.split_once('=').ok_or_else(|| format!("`{option}` is not OPTION=VALUE"))?;
        request.options.set(name, options::parse(&known, name, value)?);
    }
    let model = plugin.load_model(&request, &|_| (), &CancelToken::never())?;
    for line in std::io::stdin().lock().lines() {
        let answer = answer(&model, &serde_json::from_str(&line?)?)?;
        println!("{answer}");
    }
    Ok(())
}

fn answer(model: &LoadedModel, asked: &Value) -> Result<Value> {
    let count = u32::try_from(asked["tokens"].as_u64().ok_or("`tokens` is missing")?)?;
    let request = GenerateRequest {
        sampling: Sampling::greedy(),
        max_tokens: count,
        ignore_eos: true,
        ..GenerateRequest::new(Prompt::Tokens(serde_json::from_value(asked["prompt"].clone())?))
    };
    let mut tokens = Vec::new();
    let stats = model.generate_stream(&request, &CancelToken::never(), &mut |event| {
        if let Event::Token { id, .. } = event {
            tokens.push(id);
        }
        ControlFlow::Continue(())
    })?;
    if stats.generated_tokens != count || stats.cached_tokens != 0 {
        return Err(format!("the plugin did not do the work that was asked for: {stats:?}").into());
    }
    let (prompt_rate, generate_rate) = (stats.prompt_tokens_per_second, stats.tokens_per_second);
    Ok(json!({"prompt_rate": prompt_rate, "generate_rate": generate_rate, "tokens": tokens}))
}
