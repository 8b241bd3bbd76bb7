//! Running a model: streaming, sampling, stop sequences, sessions, and two engines in one process.

use pajamas_plugin_api::{CancelToken, FinishReason, GenerateRequest, Prompt, Sampling};
use pajamas_tests::{Home, Run, built_library, library_name, load_exact, plugin};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

#[test]
fn the_answer_as_json_has_the_text_the_tokens_and_the_times() {
    let home = Home::with_gguf_cpu();
    let file = home.quantized("Q8_0");
    let question = "What is the capital of Japan?";
    let value = home.run(["run", file.to_str().unwrap(), "-p", question, "-t", "0", "--json"]).json();
    assert_eq!(value["text"], "The capital of Japan is Tokyo.");
    assert_eq!(value["finish_reason"], "stop");
    assert_eq!(value["backend"], "gguf-cpu");
    assert_eq!(value["tokens"].as_array().unwrap().len() as u64, value["generated_tokens"].as_u64().unwrap());
    for key in ["prompt_tokens", "time_to_first_token_ms", "tokens_per_second", "total_ms", "load_ms"] {
        assert!(value[key].as_f64().unwrap() > 0.0, "{key}: {value}");
    }
}

#[test]
fn the_prompt_may_come_from_stdin_and_nothing_at_all_is_an_error() {
    let home = Home::with_gguf_cpu();
    let file = home.quantized("Q8_0");
    let mut command = home.command(["run", file.to_str().unwrap(), "-t", "0"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"What does a cow say?\n").unwrap();
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!(run.succeeded().stdout, "A cow says moo.\n");
    home.run(["run", file.to_str().unwrap()]).misused("there is no prompt", "-p");
}

#[test]
fn what_is_piped_to_a_prompt_comes_before_it() {
    let home = Home::with_gguf_cpu();
    let file = home.quantized("Q8_0");
    let text = home.path().join("text");
    let ask = |stdin: &[u8], prompt: &str, more: &[&str]| {
        std::fs::write(&text, stdin).unwrap();
        let mut command = home.command(["run", file.to_str().unwrap(), "-p", prompt, "-t", "0"]);
        Run::from(command.args(more).stdin(File::open(&text).unwrap()).output().unwrap())
    };
    let json = |stdin: &[u8], prompt: &str| {
        let run = ask(stdin, prompt, &["--json", "--max-tokens", "8"]);
        let told = run.succeeded().stderr.contains("note: the prompt comes after 15 bytes from stdin");
        (run.json()["prompt_tokens"].clone(), run.json()["text"].clone(), told)
    };
    let (tokens, answer, told) = json(b"A cow says moo.\n", "What does a cow say?");
    assert!(told);
    assert_eq!((tokens.clone(), answer, false), json(b"", "A cow says moo.\n\nWhat does a cow say?"));
    assert_ne!(tokens, json(b"\n", "What does a cow say?").0);
    ask(b"\xff\xfe", "What is this?", &[]).misused("the text on stdin is not UTF-8", "/dev/null");
    // In a chat it is what is typed.
    let chat = ask(b"What does a cow say?\n", "What is the capital of France?", &["-i"]);
    let turns: Vec<&str> = chat.succeeded().stdout.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(turns, ["The capital of France is Paris.", "A cow says moo."], "{chat:?}");
}

#[test]
fn a_pipe_that_nobody_closes_is_waited_for_aloud_until_somebody_ends_that() {
    let home = Home::with_gguf_cpu();
    let file = home.quantized("Q8_0");
    let begin = || {
        let mut command = home.command(["run", file.to_str().unwrap(), "What does a cow say?", "-t", "0"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
        assert!(said.contains("waiting for the end of stdin"), "{said}");
        child
    };
    let mut child = begin();
    drop(child.stdin.take());
    assert_eq!(Run::from(child.wait_with_output().unwrap()).succeeded().stdout, "A cow says moo.\n");
    let mut child = begin();
    // SAFETY: it asks the process to end.
    unsafe { libc::kill(i32::try_from(child.id()).unwrap(), libc::SIGTERM) };
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_seed_repeats_an_answer_and_another_seed_gives_another() {
    let home = Home::with_gguf_cpu();
    let file = home.quantized("Q8_0");
    let story = |seed: &str| {
        let args = ["run", file.to_str().unwrap(), "-p", "Tell me a story about a fox.", "-t", "1.5", "--top-p", "1"];
        home.run(args.iter().chain(&["--seed", seed, "--max-tokens", "40"])).succeeded().stdout.clone()
    };
    assert_eq!(story("1"), story("1"));
    assert_ne!(story("1"), story("2"));
}

#[test]
fn limits_and_stop_sequences_end_the_answer() {
    let home = Home::with_gguf_cpu();
    let file = home.quantized("Q8_0");
    let count = |extra: &[&str]| {
        let args = ["run", file.to_str().unwrap(), "-p", "Count from 3 to 8.", "-t", "0", "--json"];
        let value = home.run(args.iter().chain(extra)).json();
        (value["text"].as_str().unwrap().to_owned(), value["finish_reason"].as_str().unwrap().to_owned())
    };
    assert_eq!(count(&[]), ("3, 4, 5, 6, 7, 8.".into(), "stop".into()));
    assert_eq!(count(&["--stop", ", 6"]), ("3, 4, 5".into(), "stop".into()));
    assert_eq!(count(&["--max-tokens", "2"]).1, "length");
}

#[test]
fn a_backend_that_cannot_run_gives_way_with_a_warning_or_with_strict_an_error() {
    let home = Home::with_gguf_cpu();
    home.install("misbehaving");
    let file = home.quantized("Q8_0");
    let run = |strict: &[&str]| {
        let args = ["run", file.to_str().unwrap(), "-p", "What does a cow say?", "-t", "0", "-b", "misbehaving"];
        let output = home.command(args.iter().chain(strict)).env("MISBEHAVE", "unavailable").output().unwrap();
        Run::from(output)
    };
    let fallen_back = run(&[]);
    assert_eq!(fallen_back.succeeded().stdout, "A cow says moo.\n");
    let warning = "warning: `misbehaving` cannot run: no sheep (to fix it: buy a sheep); running on `gguf-cpu`";
    assert!(fallen_back.stderr.contains(warning), "{fallen_back:?}");
    run(&["--strict"]).failed_with("`misbehaving` cannot run: no sheep", "buy a sheep");
}

#[test]
fn a_session_keeps_its_common_prefix_and_answers_as_without() {
    let home = Home::with_gguf_cpu();
    let model = load_exact(&plugin(&built_library("gguf_cpu")), &home.quantized("F16"));
    let ask = |text: &str, session| {
        let prompt = Prompt::Tokens(model.tokenize(text, true, true).unwrap());
        let sampling = Sampling::greedy();
        let request = GenerateRequest { sampling, session, max_tokens: 12, ..GenerateRequest::new(prompt) };
        model.generate(&request, &CancelToken::never()).unwrap()
    };
    let (first, second) = ("Once upon a time, a brave fox", "Once upon a time, a brave cat");
    let fresh = ask(second, None);
    ask(first, Some(7));
    let reused = ask(second, Some(7));
    assert_eq!((reused.text, fresh.stats.cached_tokens), (fresh.text, 0));
    assert!(reused.stats.cached_tokens > 3, "{:?}", reused.stats);
}

#[test]
fn cancelling_in_the_middle_keeps_the_text_so_far_and_the_next_answer_is_right() {
    let home = Home::with_gguf_cpu();
    let model = load_exact(&plugin(&built_library("gguf_cpu")), &home.quantized("F16"));
    let tokens = model.tokenize("Once upon a time", true, false).unwrap();
    let request = GenerateRequest {
        sampling: Sampling::greedy(),
        session: Some(1),
        max_tokens: 30,
        ignore_eos: true,
        ..GenerateRequest::new(Prompt::Tokens(tokens))
    };
    let whole = model.generate(&request, &CancelToken::never()).unwrap();
    let mut seen = 0;
    let stats = model.generate_stream(&request, &CancelToken::never(), &mut |event| {
        seen += u32::from(matches!(event, pajamas_plugin_api::Event::Token { .. }));
        if seen == 5 { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
    });
    assert_eq!(stats.unwrap().finish_reason, FinishReason::Cancelled);
    assert_eq!(seen, 5, "not one token more");
    assert_eq!(model.generate(&request, &CancelToken::never()).unwrap().tokens, whole.tokens);
    let refused = model.generate(&request, &CancelToken::new(|| true)).unwrap();
    assert_eq!((refused.stats.finish_reason, refused.tokens.len()), (FinishReason::Cancelled, 0));
}

#[test]
fn two_plugins_with_an_engine_each_live_in_one_process() {
    let home = Home::with_gguf_cpu();
    let file = home.quantized("Q8_0");
    let twin = home.path().join(library_name("twin"));
    std::fs::copy(built_library("gguf_cpu"), &twin).unwrap();
    let models = [built_library("gguf_cpu"), twin].map(|library| load_exact(&plugin(&library), &file));
    let tokens = models[0].tokenize("The capital of France is", true, false).unwrap();
    let request =
        GenerateRequest { sampling: Sampling::greedy(), max_tokens: 1, ..GenerateRequest::new(Prompt::Tokens(tokens)) };
    std::thread::scope(|scope| {
        let answers =
            models.each_ref().map(|m| scope.spawn(|| m.generate(&request, &CancelToken::never()).unwrap().text));
        assert_eq!(answers.map(|answer| answer.join().unwrap()), [" Paris", " Paris"]);
    });
}
