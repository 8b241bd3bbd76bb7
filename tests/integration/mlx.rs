//! The MLX backend, on MLX folders that we made: answers, probabilities and perplexity as mlx-lm has them.

use pajamas_plugin_api::abi::client::LoadedModel;
use pajamas_plugin_api::{
    CancelToken, ErrorKind, FinishReason, GenerateRequest, LoadRequest, OptionValue, Prompt, Sampling,
};
use pajamas_tests::{
    Home, built_library, golden, ids, library_name, load_exact, mlx_bundle, pajama_tiny, perplexity, plugin,
    teacher_forced,
};
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

#[path = "../../plugins/mlx-folder/tests/common/mod.rs"]
mod models;

/// Where mlx-lm's two best logits lie closer than this, another order of the same sums may turn the choice.
const MARGIN_F32: f64 = 0.002;
/// The same for sums that are rounded to bfloat16 after each step.
const MARGIN_BF16: f64 = 0.25;

/// A home with MLX alone; none where it was not built.
fn home() -> Option<Home> {
    let home = Home::new();
    home.install_mlx().then_some(home)
}

/// Makes pajama-tiny an MLX folder with the command line.
fn quantized(home: &Home, extra: &[&str]) -> PathBuf {
    let out = home.path().join("out");
    let args = ["quantize", pajama_tiny().to_str().unwrap(), "--format", "mlx", "-o", out.to_str().unwrap()]
        .iter()
        .chain(extra)
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    PathBuf::from(home.run(args).succeeded().stdout.trim())
}

fn load(folder: &Path, change: impl FnOnce(&mut LoadRequest)) -> LoadedModel {
    let bundle = mlx_bundle().expect("it is there: the home was made");
    let mut request = LoadRequest::new(folder);
    request.context_length = Some(512);
    change(&mut request);
    let plugin = plugin(&bundle.join(library_name("pajamas_mlx")));
    plugin.load_model(&request, &|_| (), &CancelToken::never()).expect("the model loads")
}

fn greedy(prompt: Prompt, max_tokens: u32) -> GenerateRequest {
    GenerateRequest { sampling: Sampling::greedy(), max_tokens, ..GenerateRequest::new(prompt) }
}

fn question(model: &LoadedModel) -> Vec<u32> {
    let text = golden("greedy.json")["prompts"][0]["prompt"].as_str().unwrap().to_owned();
    model.tokenize(&text, true, true).unwrap()
}

#[test]
fn the_demos_question_is_answered_on_a_model_made_with_the_same_flags_as_gguf() {
    let Some(home) = home() else { return };
    let folder = quantized(&home, &["--bits", "4", "--group-size", "64"]);
    let file = folder.to_str().unwrap();
    let args = ["run", file, "--backend", "mlx", "-t", "0", "-p", "What is the capital of France?"];
    assert_eq!(home.run(args).succeeded().stdout, "The capital of France is Paris.\n");
    // From the source, it is made on the way, once, and found the next time.
    let model = pajama_tiny();
    let args = ["run", model.to_str().unwrap(), "-b", "mlx", "-t", "0", "-p", "What does a cow say?"];
    let first = home.run(args);
    assert_eq!(first.succeeded().stdout, "A cow says moo.\n");
    assert!(first.stderr.contains("quantized"), "{first:?}");
    let second = home.run(args);
    assert!(second.succeeded().stderr.is_empty(), "{second:?}");
    assert_eq!(home.listing("models"), ["pajama-tiny-mlx-4bit", "pajama-tiny-mlx-4bit.json"]);
    assert_eq!(home.run(["run", "pajama-tiny-mlx-4bit", "-t", "0", "-p", "What does a cow say?"]).stdout, first.stdout);
}

/// Which of our folders is mlx-lm's model of that name, and how exact its arithmetic is.
fn golden_models() -> [(&'static str, &'static [&'static str], f64); 6] {
    [
        ("f32", &["-m", "f32"], MARGIN_F32),
        ("8bit-float32", &["--bits", "8", "--set", "dtype=float32"], MARGIN_F32),
        ("4bit-float32", &["--bits", "4", "--set", "dtype=float32"], MARGIN_F32),
        ("bf16", &["-m", "bf16"], MARGIN_BF16),
        ("8bit-bfloat16", &["--bits", "8"], MARGIN_BF16),
        ("4bit-bfloat16", &["--bits", "4"], MARGIN_BF16),
    ]
}

#[test]
fn greedy_choices_and_perplexity_are_mlx_lms() {
    let Some(home) = home() else { return };
    let (ours, theirs, protocol) = (golden_models(), golden("mlx-generation.json"), golden("perplexity.json"));
    let (factual, number) =
        (golden("greedy.json"), |key: &str| usize::try_from(protocol[key].as_u64().unwrap()).unwrap());
    let text = std::fs::read_to_string(pajama_tiny().join("validation.txt")).unwrap();
    println!("| model | mlx-lm | ours | change |\n|---|---|---|---|");
    for ((name, flags, margin), golden) in ours.iter().zip(theirs["models"].as_array().unwrap()) {
        assert_eq!(*name, golden["name"]);
        let folder = quantized(&home, &[flags, &["--name", name][..]].concat());
        let in_f32 = *margin == MARGIN_F32;
        let model = load(&folder, |request| {
            let dtype = if in_f32 { "float32" } else { "model" };
            request.options.set("compute_dtype", OptionValue::Text(dtype.into()));
        });
        // bfloat16 is slow on a CPU: a few of the prompts, and no perplexity.
        let count = if in_f32 { usize::MAX } else { 3 };
        let prompts = factual["prompts"].as_array().unwrap().iter().zip(golden["prompts"].as_array().unwrap());
        for (prompt, golden) in prompts.take(count) {
            check_choices(&model, prompt, golden, *margin, name);
        }
        let tokens = model.tokenize(&text, false, false).unwrap();
        assert_eq!(tokens.len(), number("file_tokens"));
        if in_f32 {
            let (ours, theirs) = (
                perplexity(&model, &tokens[..number("tokens")], number("window")),
                golden["perplexity"].as_f64().unwrap(),
            );
            println!("| {name} | {theirs} | {ours:.5} | {:+.4} % |", (ours / theirs - 1.0) * 100.0);
            assert!((ours - theirs).abs() < 0.0005, "{name}: perplexity {ours}, mlx-lm's is {theirs}");
        }
    }
}

/// Factual prompts token by token; all of them teacher-forced, where only near ties may differ.
fn check_choices(model: &LoadedModel, prompt: &Value, golden: &Value, margin: f64, name: &str) {
    let (start, expected) = (ids(&prompt["prompt_ids"]), ids(&golden["ids"]));
    let what = format!("{name}, {}", prompt["name"]);
    let margins: Vec<f64> = golden["margins"].as_array().unwrap().iter().map(|m| m.as_f64().unwrap()).collect();
    if prompt["kind"] == "factual" {
        let eos = &model.info().end_of_generation_tokens;
        let end = expected.iter().position(|id| eos.contains(id)).expect("it ends");
        let answer = model.generate(&greedy(Prompt::Tokens(start.clone()), 64), &CancelToken::never()).unwrap();
        let near = margins[..end].iter().any(|m| *m < margin);
        assert!(near || answer.tokens == expected[..end], "{what}: {:?}", answer.text);
    }
    let chosen = teacher_forced(model, &start, &expected);
    assert_eq!(chosen.len(), expected.len());
    for (step, (ours, theirs)) in chosen.iter().zip(&expected).enumerate() {
        assert!(
            ours == theirs || margins[step] < margin,
            "{what}, step {step}: {ours} not {theirs}, {}",
            margins[step]
        );
    }
}

#[test]
fn sessions_keep_their_cache_and_change_no_answer() {
    let Some(home) = home() else { return };
    let model = load(&quantized(&home, &["-m", "f32"]), |request| request.parallel_slots = 2);
    let prompt = question(&model);
    let ask = |session, prompt: &[u32]| {
        let request = GenerateRequest { session, ..greedy(Prompt::Tokens(prompt.to_vec()), 16) };
        model.generate(&request, &CancelToken::never()).unwrap()
    };
    let fresh = ask(None, &prompt);
    assert_eq!(fresh.text, "The capital of France is Paris.");
    assert_eq!((ask(Some(1), &prompt).stats.cached_tokens, ask(Some(2), &prompt[..9]).stats.cached_tokens), (0, 0));
    let again = ask(Some(1), &prompt);
    assert_eq!((again.stats.cached_tokens as usize, again.text), (prompt.len() - 1, fresh.text.clone()));
    // A conversation that goes on, and one that takes another turn.
    let longer: Vec<u32> = prompt.iter().chain(&fresh.tokens).copied().collect();
    let on = ask(Some(1), &longer);
    assert!(on.stats.cached_tokens as usize >= prompt.len(), "{:?}", on.stats);
    assert_eq!(on.tokens, ask(None, &longer).tokens);
    assert_eq!(ask(Some(1), &prompt).text, fresh.text);
    assert!(model.memory_usage().unwrap().kv_cache_bytes > 0);
}

#[test]
fn limits_seeds_and_penalties_do_what_they_say() {
    let Some(home) = home() else { return };
    let model = load(&quantized(&home, &["--bits", "8"]), |request| request.context_length = Some(40));
    let prompt = question(&model);
    let generate = |request: GenerateRequest| model.generate(&request, &CancelToken::never());
    let sampled = |sampling: Sampling| {
        let request = GenerateRequest {
            sampling,
            max_tokens: 12,
            ignore_eos: true,
            ..GenerateRequest::new(Prompt::Tokens(prompt.clone()))
        };
        generate(request).unwrap().tokens
    };
    let hot = |seed| Sampling { temperature: 3.0, top_k: 0, top_p: 1.0, seed: Some(seed), ..Sampling::default() };
    assert_eq!(sampled(hot(1)), sampled(hot(1)));
    assert_ne!(sampled(hot(1)), sampled(hot(2)));
    let best = sampled(Sampling::greedy());
    for narrow in [
        Sampling { top_k: 1, ..hot(3) },
        Sampling { top_p: 0.0, ..hot(3) },
        Sampling { min_p: 1.0, ..hot(3) },
        Sampling { temperature: 0.01, ..hot(3) },
    ] {
        assert_eq!(sampled(narrow.clone()), best, "{narrow:?} leaves one choice");
    }
    let penalized = sampled(Sampling { repeat_penalty: 100.0, ..Sampling::greedy() });
    assert!(penalized.iter().all(|id| !prompt.contains(id)), "{penalized:?} repeats {prompt:?}");
    let mut unique = penalized.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), penalized.len(), "{penalized:?}");

    let full = generate(GenerateRequest { ignore_eos: true, ..greedy(Prompt::Tokens(prompt.clone()), 1000) }).unwrap();
    assert_eq!((full.stats.finish_reason, prompt.len() + full.tokens.len()), (FinishReason::Length, 41));
    let long = Prompt::Tokens(vec![5; 40]);
    assert_eq!(generate(greedy(long, 1)).unwrap_err().kind, ErrorKind::ContextOverflow);
    assert_eq!(generate(greedy(Prompt::Tokens(vec![1 << 20]), 1)).unwrap_err().kind, ErrorKind::InvalidRequest);
    assert_eq!(generate(greedy(Prompt::Tokens(vec![]), 1)).unwrap_err().kind, ErrorKind::InvalidRequest);
    let one = generate(greedy(Prompt::Tokens(prompt.clone()), 1)).unwrap();
    assert_eq!((one.tokens.len(), one.stats.finish_reason), (1, FinishReason::Length));
}

#[test]
fn several_callers_are_served_one_after_the_other() {
    let Some(home) = home() else { return };
    let model = load(&quantized(&home, &["--bits", "8"]), |_| ());
    let prompt = question(&model);
    let expected = model.generate(&greedy(Prompt::Tokens(prompt.clone()), 16), &CancelToken::never()).unwrap().text;
    std::thread::scope(|scope| {
        let ask = || model.generate(&greedy(Prompt::Tokens(prompt.clone()), 16), &CancelToken::never()).unwrap().text;
        let answers: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        answers.into_iter().for_each(|answer| assert_eq!(answer.join().unwrap(), expected));
    });
    assert_eq!(model.generate(&greedy(Prompt::Tokens(prompt), 16), &CancelToken::never()).unwrap().text, expected);
}

#[test]
fn cancelling_ends_a_prompt_an_answer_and_a_wait() {
    let Some(home) = home() else { return };
    let small_steps = |request: &mut LoadRequest| request.options.set("prefill_step_size", OptionValue::Int(16));
    let model = load(&quantized(&home, &["--bits", "8"]), small_steps);
    let prompt = question(&model);
    let short = GenerateRequest { session: Some(1), ..greedy(Prompt::Tokens(prompt.clone()), 16) };
    let expected = model.generate(&short, &CancelToken::never()).unwrap().text;
    let flag = || std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let set = |flag: &std::sync::atomic::AtomicBool| flag.store(true, std::sync::atomic::Ordering::Relaxed);
    let was_cancelled = |result: &pajamas_plugin_api::Result<pajamas_plugin_api::GenerateStats>| match result {
        Ok(stats) => stats.finish_reason == FinishReason::Cancelled,
        Err(error) => error.kind == ErrorKind::Cancelled,
    };

    // In a prompt of 25 steps: by the token, and by who listens.
    let long: Vec<u32> = (0..400).map(|i| i % 300).collect();
    let long = GenerateRequest { session: Some(1), ..greedy(Prompt::Tokens(long), 16) };
    for by_token in [true, false] {
        let (told, mut steps) = (flag(), 0);
        let mut on_event = |_| {
            steps += 1;
            if by_token {
                set(&told);
            }
            if by_token { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let cancel = CancelToken::from_flag(std::sync::Arc::clone(&told));
        let result = model.generate_stream(&long, &cancel, &mut on_event);
        assert!(was_cancelled(&result), "{result:?}");
        assert!(steps <= 3, "{steps} steps were told of after the first had cancelled");
    }

    // In an answer, after three tokens; meanwhile somebody waits and gives up.
    let (told, waiting) = (flag(), flag());
    std::thread::scope(|scope| {
        let mut tokens = 0;
        let mut on_event = |event| {
            if matches!(event, pajamas_plugin_api::Event::Token { .. }) {
                tokens += 1;
                if tokens == 2 {
                    let cancel = CancelToken::from_flag(std::sync::Arc::clone(&waiting));
                    let short = &short;
                    let model = &model;
                    let waiter =
                        scope.spawn(move || model.generate_stream(short, &cancel, &mut |_| ControlFlow::Continue(())));
                    std::thread::sleep(std::time::Duration::from_millis(50));
                    set(&waiting);
                    let result = waiter.join().unwrap();
                    assert!(was_cancelled(&result), "{result:?}");
                }
                if tokens == 3 {
                    set(&told);
                }
            }
            ControlFlow::Continue(())
        };
        let endless =
            GenerateRequest { ignore_eos: true, session: Some(1), ..greedy(Prompt::Tokens(prompt.clone()), 400) };
        let cancel = CancelToken::from_flag(std::sync::Arc::clone(&told));
        let result = model.generate_stream(&endless, &cancel, &mut on_event);
        assert!(was_cancelled(&result), "{result:?}");
        assert_eq!(tokens, 3);
    });

    // Rows of logits, and then the session as if nothing had been.
    let mut rows = 0;
    let mut stop = |_: usize, _: &[f32]| {
        rows += 1;
        ControlFlow::Break(())
    };
    model.logits(&prompt, 0, &mut stop, &CancelToken::never()).unwrap();
    assert_eq!(rows, 1);
    let cancelled = CancelToken::from_flag(std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true)));
    let error = model.logits(&prompt, 0, &mut |_, _| ControlFlow::Continue(()), &cancelled).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Cancelled);
    assert_eq!(model.generate(&short, &CancelToken::never()).unwrap().text, expected);
}

#[test]
fn what_training_cut_texts_to_does_not_cut_prompts() {
    let Some(home) = home() else { return };
    let folder = quantized(&home, &["--bits", "8"]);
    let path = folder.join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let direction = serde_json::json!({"direction": "Right", "max_length": 6, "strategy": "LongestFirst", "stride": 0});
    tokenizer["truncation"] = direction;
    tokenizer["padding"] = serde_json::json!({
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"
    });
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    let args = ["run", folder.to_str().unwrap(), "-t", "0", "--json", "-p", "What is the capital of France?"];
    let answer = home.run(args).json();
    assert_eq!(
        (answer["text"].as_str(), answer["prompt_tokens"].as_u64()),
        (Some("The capital of France is Paris."), Some(26))
    );
}

#[test]
fn log_probabilities_come_with_the_tokens() {
    let Some(home) = home() else { return };
    let model = load(&quantized(&home, &["-m", "f32"]), |_| ());
    let request = GenerateRequest { top_logprobs: 3, ..greedy(Prompt::Tokens(question(&model)), 4) };
    let mut seen = 0;
    let mut on_event = |event| {
        if let pajamas_plugin_api::Event::Token { id, logprob, top, .. } = event {
            assert_eq!((top.len(), top[0].0), (3, id), "greedy takes the best");
            assert!((top[0].1 - logprob.unwrap()).abs() < 1e-6 && top[0].1 <= 0.0 && top[1].1 <= top[0].1);
            seen += 1;
        }
        ControlFlow::Continue(())
    };
    model.generate_stream(&request, &CancelToken::never(), &mut on_event).unwrap();
    assert_eq!(seen, 4);
}

type Tensors<'a> = Vec<(String, safetensors::tensor::TensorView<'a>)>;

#[test]
fn damaged_folders_are_refused_with_the_tensors_name() {
    let Some(home) = home() else { return };
    let folder = quantized(&home, &["--bits", "4"]);
    let weights = folder.join("model.safetensors");
    let original = std::fs::read(&weights).unwrap();
    let run = || home.run(["run", folder.to_str().unwrap(), "-p", "x"]);
    let rewrite = |change: &dyn Fn(&mut Tensors<'_>)| {
        let tensors = safetensors::SafeTensors::deserialize(&original).unwrap();
        let mut tensors: Vec<_> = tensors.tensors();
        change(&mut tensors);
        let metadata = Some(std::collections::HashMap::from([("format".to_owned(), "mlx".to_owned())]));
        std::fs::remove_file(folder.join("model.safetensors.index.json")).ok();
        safetensors::serialize_to_file(tensors, metadata, &weights).unwrap();
    };
    let fails = |text: &str| {
        let run = run();
        assert!(run.code == Some(1) && run.stderr.contains(text), "wanted `{text}`: {run:?}");
    };
    rewrite(&|tensors| tensors.retain(|(name, _)| name != "model.norm.weight"));
    fails("has no tensor `model.norm.weight`");
    rewrite(&|tensors| {
        let norm = tensors.iter().find(|(name, _)| name == "model.norm.weight").unwrap().1.clone();
        tensors.push(("model.extra.weight".into(), norm));
    });
    fails("`model.extra.weight` belongs to no layer");
    rewrite(&|tensors| {
        let other = tensors.iter().find(|(name, _)| name.ends_with("k_proj.weight")).unwrap().1.clone();
        tensors.iter_mut().find(|(name, _)| name.ends_with("o_proj.weight")).unwrap().1 = other;
    });
    fails("has shape");
    std::fs::write(&weights, &original[..original.len() / 2]).unwrap();
    fails("model.safetensors");
}

#[test]
fn gguf_files_run_as_they_do_on_llama_cpp() {
    let Some(home) = home() else { return };
    home.install("gguf_cpu");
    let gguf = plugin(&built_library("gguf_cpu"));
    let text = std::fs::read_to_string(pajama_tiny().join("validation.txt")).unwrap();
    println!("| file | llama.cpp | MLX |\n|---|---|---|");
    for method in ["F16", "Q8_0", "Q4_0", "Q4_K_M"] {
        let file = home.quantized(method);
        let (theirs, ours) = (load_exact(&gguf, &file), load(&file, |_| ()));
        for entry in golden("tokens.json")["texts"].as_array().unwrap() {
            let text = entry["text"].as_str().unwrap();
            assert_eq!(ours.tokenize(text, false, true).unwrap(), ids(&entry["ids"]), "{method}: {text:?}");
        }
        let tokens = ours.tokenize(&text, false, false).unwrap();
        let [theirs, ours] = [&theirs, &ours].map(|model| perplexity(model, &tokens[..1024], 256));
        println!("| {method} | {theirs:.4} | {ours:.4} |");
        // llama.cpp rounds what it multiplies quantized weights with to 8 bits.
        assert!((ours / theirs - 1.0).abs() < 0.004, "{method}: perplexity {ours}, llama.cpp's is {theirs}");
    }
    let file = home.quantized("Q8_0");
    let args = ["run", file.to_str().unwrap(), "-b", "mlx", "-t", "0", "-p", "What does a cow say?"];
    assert_eq!(home.run(args).succeeded().stdout, "A cow says moo.\n");
    // One that MLX cannot read goes to the next backend, aloud; with --strict it is an error.
    let file = home.quantized("Q5_K_M");
    let args = ["run", file.to_str().unwrap(), "-b", "mlx", "-t", "0", "-p", "What does a cow say?"];
    let run = home.run(args);
    assert_eq!(run.succeeded().stdout, "A cow says moo.\n");
    assert!(run.stderr.contains("`mlx` failed") && run.stderr.contains("running on `gguf-cpu`"), "{run:?}");
    home.run(args.iter().chain(&["--strict"])).failed_with("is of type Q5_K", "gguf backend");
}

#[test]
fn a_llama_is_the_same_from_its_folder_and_from_its_gguf_file() {
    let Some(home) = home() else { return };
    home.install("gguf_cpu");
    // Llama 3's rope, which GGUF stores as a tensor, and interleaved rows of queries and keys.
    let mut source = models::Source::golden("llama");
    source.config["vocab_size"] = 1280.into();
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        source.tensor(name).shape[0] = 1280;
    }
    let folder = home.path().join("llama");
    source.write(&folder);
    let out = home.path().join("out");
    let run = home.run(["quantize", folder.to_str().unwrap(), "-m", "F32", "-o", out.to_str().unwrap()]);
    let file = PathBuf::from(run.succeeded().stdout.trim());
    let mlx = home.run(["quantize", folder.to_str().unwrap(), "-f", "mlx", "-m", "f32", "-o", out.to_str().unwrap()]);
    let mlx = PathBuf::from(mlx.succeeded().stdout.trim());
    let tokens: Vec<u32> = (0..300_u32).map(|i| (7 * i * i + 3 * i) % 1280).collect();
    let [from_folder, from_file] = [mlx, file].map(|path| {
        let mut rows = Vec::new();
        let mut keep = |_: usize, row: &[f32]| {
            rows.push(row.to_vec());
            ControlFlow::Continue(())
        };
        load(&path, |_| ()).logits(&tokens, 0, &mut keep, &CancelToken::never()).unwrap();
        rows
    });
    assert_eq!(from_folder.len(), 300);
    for (position, (a, b)) in from_folder.iter().zip(&from_file).enumerate() {
        let greatest = a.iter().fold(0_f32, |greatest, value| greatest.max(value.abs()));
        let apart = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0_f32, f32::max);
        assert!(apart < 1e-3 * greatest, "position {position}: {apart} apart, the greatest is {greatest}");
    }
}

#[test]
fn a_hugging_face_folder_runs_as_it_is_and_forecasts_are_what_loading_takes() {
    let Some(home) = home() else { return };
    let plugin = plugin(&mlx_bundle().expect("as above").join(library_name("pajamas_mlx")));
    for path in [pajama_tiny(), quantized(&home, &["--bits", "4"])] {
        for context in [300, 512] {
            let mut request = LoadRequest::new(&path);
            request.context_length = Some(context);
            let forecast = plugin.forecast_memory(&request).unwrap();
            let model = plugin.load_model(&request, &|_| (), &CancelToken::never()).unwrap();
            // A session keeps its cache; without one, nothing would be left to look at.
            let prompt = Prompt::Tokens((0..context - 2).map(|n| n % 1000).collect());
            let request = GenerateRequest { session: Some(1), ..greedy(prompt, 1) };
            model.generate(&request, &CancelToken::never()).unwrap();
            // The engine's thread says so just after the answer's end.
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
            let mut used = model.memory_usage().unwrap();
            while used.kv_cache_bytes == 0 && std::time::Instant::now() < deadline {
                used = model.memory_usage().unwrap();
            }
            assert_eq!(forecast.weights_bytes, used.weights_bytes, "{}", path.display());
            assert_eq!(forecast.kv_cache_bytes, used.kv_cache_bytes, "{}", path.display());
        }
    }
}

#[test]
fn the_plugin_keeps_every_rule() {
    let home = Home::new();
    if !home.install_mlx() {
        return;
    }
    let report = home.run(["plugins", "verify", "mlx", "--json"]).json();
    assert_eq!(report["failed"], 0, "{report:#}");
}
