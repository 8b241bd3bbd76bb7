//! A real model through the whole crate: converted, quantized, loaded, asked, cancelled, measured.

mod families;
mod folder;
mod forecast;
mod importance;
mod single_pass;

use pajamas_gguf::{GgufModel, GgufQuantizer};
use pajamas_plugin_api::{
    CancelToken, Error, ErrorKind, Event, FinishReason, GenerateRequest, GenerateStats, LoadRequest, Model,
    OptionValue, Progress, ProgressUpdate, Prompt, QuantizeJob, QuantizeReport, Quantizer, Result, Sampling,
    TextSegment, TokenSink,
};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

const QUESTION: &str = "What is the capital of France?";

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/pajama-tiny")
}

fn quantize(
    source: &Path,
    recipe: &str,
    output: &Path,
    progress: &Progress,
    cancel: &CancelToken,
) -> Result<QuantizeReport> {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let mut job = QuantizeJob::new(source, recipe, output, scratch.path());
    job.threads = Some(2);
    job.provenance = BTreeMap::from([("pajamas.test".to_owned(), "yes".to_owned())]);
    let report = GgufQuantizer.quantize(&job, progress, cancel);
    let left: Vec<_> = std::fs::read_dir(scratch.path()).expect("still there").collect();
    assert!(report.is_err() || left.is_empty(), "the intermediate file is removed: {left:?}");
    report
}

/// The fixture in a GGUF of type `recipe`, made once per test run.
fn model_file(recipe: &str) -> PathBuf {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    static MADE: Mutex<()> = Mutex::new(());
    let dir = DIR.get_or_init(|| tempfile::tempdir().expect("a folder for models"));
    let _one_at_a_time = MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let path = dir.path().join(format!("{recipe}.gguf"));
    if !path.exists() {
        let made = quantize(&fixture(), recipe, &path, &Progress::default(), &CancelToken::never());
        made.unwrap_or_else(|error| panic!("{recipe}: {error}"));
    }
    path
}

fn request(recipe: &str) -> LoadRequest {
    // One thread: ggml's threads wait for each other in spins, which takes seconds where other tests keep the cores busy.
    LoadRequest { threads: Some(1), ..LoadRequest::new(model_file(recipe)) }
}

fn load(request: &LoadRequest) -> GgufModel {
    GgufModel::load(request, &Progress::default(), &CancelToken::never()).unwrap_or_else(|error| panic!("{error}"))
}

fn exact() -> GgufModel {
    let mut request = request("F32");
    for option in ["cache_type_k", "cache_type_v"] {
        request.options.set(option, OptionValue::Text("f32".into()));
    }
    load(&LoadRequest { parallel_slots: 2, ..request })
}

fn chat(question: &str) -> GenerateRequest {
    let segment = |text: &str, parse_special| TextSegment { text: text.into(), parse_special };
    let segments = vec![
        segment("<|im_start|>user\n", true),
        segment(question, false),
        segment("<|im_end|>\n<|im_start|>assistant\n", true),
    ];
    let prompt = Prompt::Text { add_special: true, segments };
    GenerateRequest { sampling: Sampling::greedy(), max_tokens: 32, ..GenerateRequest::new(prompt) }
}

fn ask_with(
    model: &GgufModel,
    request: &GenerateRequest,
    cancel: CancelToken,
    on_event: &mut dyn FnMut(&Event) -> ControlFlow<()>,
) -> Result<(String, GenerateStats)> {
    let mut text = String::new();
    let mut collect = |event: Event| {
        if let Event::Text(piece) = &event {
            text.push_str(piece);
        }
        on_event(&event)
    };
    let mut sink = TokenSink::new(request, &model.info(), cancel, &mut collect);
    let outcome = model.generate(request, &mut sink);
    let stats = sink.finish(outcome)?;
    Ok((text, stats))
}

fn ask(model: &GgufModel, request: &GenerateRequest) -> Result<(String, GenerateStats)> {
    ask_with(model, request, CancelToken::never(), &mut |_| ControlFlow::Continue(()))
}

fn kind<T>(result: Result<T>) -> ErrorKind {
    result.err().map_or_else(|| panic!("an error was expected"), |error: Error| error.kind)
}

#[test]
fn every_kind_of_file_answers_a_question() {
    for recipe in ["F32", "BF16", "Q8_0", "Q4_K_M", "IQ4_XS"] {
        let (text, stats) = ask(&load(&request(recipe)), &chat(QUESTION)).expect("it answers");
        assert!(text.contains("Paris"), "{recipe}: {text}");
        assert_eq!(stats.finish_reason, FinishReason::Stop, "{recipe}: {text}");
        assert!(stats.generated_tokens > 0 && stats.cached_tokens == 0);
    }
}

#[test]
fn it_says_what_it_is() {
    let model = load(&request("Q4_K_M"));
    let info = model.info();
    assert_eq!((info.architecture.as_str(), info.context_length), ("qwen2", info.context_length_trained.min(4096)));
    assert!(info.quantization.starts_with("Q4_K") && info.parameter_count > 3_000_000, "{info:?}");
    assert!(info.chat_templates.contains_key("default"));
    assert!(info.control_tokens.iter().any(|token| token.text == "<|im_start|>"));
    let end = info.control_tokens.iter().find(|token| token.text == "<|im_end|>").expect("a control token");
    assert!(info.end_of_generation_tokens.contains(&end.id));
    assert_eq!(info.metadata.get("pajamas.test").map(String::as_str), Some("yes"));
    let memory = model.memory_usage();
    assert!(memory.weights_bytes > 1 << 20 && memory.kv_cache_bytes > 0, "{memory:?}");
    assert!(memory.compute_bytes > 0 && memory.device_total_bytes > 1 << 28, "{memory:?}");
}

#[test]
fn a_session_finds_its_prefix_and_answers_the_same() {
    let model = exact();
    let (fresh, _) = ask(&model, &chat(QUESTION)).expect("it answers");
    let request = GenerateRequest { session: Some(7), ..chat(QUESTION) };
    let (first, stats) = ask(&model, &request).expect("it answers");
    assert_eq!((first.as_str(), stats.cached_tokens), (fresh.as_str(), 0));
    let (second, stats) = ask(&model, &request).expect("it answers");
    assert_eq!(second, fresh);
    assert_eq!(stats.cached_tokens, stats.prompt_tokens - 1);
    let other = GenerateRequest { session: Some(7), ..chat("What is the capital of Italy?") };
    let (italy, stats) = ask(&model, &other).expect("it answers");
    assert!(stats.cached_tokens > 0 && stats.cached_tokens < stats.prompt_tokens);
    assert_eq!(italy, ask(&model, &GenerateRequest { session: None, ..other }).expect("it answers").0);
}

#[test]
fn a_user_cannot_type_control_tokens() {
    let model = exact();
    let end = model.tokenize("<|im_end|>", false, true).expect("tokenized");
    assert_eq!(end.len(), 1);
    assert!(model.tokenize("<|im_end|>", false, false).expect("tokenized").len() > 1);
    let count = |question: &str| ask(&model, &chat(question)).expect("it answers").1.prompt_tokens;
    assert!(count("a<|im_end|>b") > count("ab") + 1, "typed text is many tokens, none of them a control token");
}

#[test]
fn cancelling_ends_the_prompt_and_the_next_request_is_right() {
    let mut load_request = request("F32");
    load_request.options.set("batch_size", OptionValue::Int(4));
    let model = load(&load_request);
    let request = GenerateRequest { session: Some(1), ..chat(QUESTION) };
    let (expected, _) = ask(&model, &GenerateRequest { session: None, ..request.clone() }).expect("it answers");

    let flag = Arc::new(AtomicBool::new(false));
    let raise = Arc::clone(&flag);
    let mut seen = 0;
    let (text, stats) = ask_with(&model, &request, CancelToken::from_flag(flag), &mut |event| {
        if let Event::PromptProgress { done, .. } = event {
            seen = *done;
            raise.store(*done > 0, Ordering::Relaxed);
        }
        ControlFlow::Continue(())
    })
    .expect("a cancelled answer is an answer");
    assert_eq!((text.as_str(), stats.finish_reason), ("", FinishReason::Cancelled));
    assert!(seen > 0 && seen < stats.prompt_tokens, "{seen} of {}", stats.prompt_tokens);
    assert_eq!(ask(&model, &request).expect("it answers").0, expected);

    // Now inside a batch: the engine polls a few times, then finds itself cancelled.
    for polls in [3, 20, 60] {
        let left = AtomicU32::new(polls);
        let cancel = CancelToken::new(move || {
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_err()
        });
        let other = GenerateRequest { session: Some(1), ..chat("What is two plus three, and what colour is the sky?") };
        let (_, stats) = ask_with(&model, &other, cancel, &mut |_| ControlFlow::Continue(())).expect("cancelled");
        assert_eq!(stats.finish_reason, FinishReason::Cancelled, "after {polls} polls");
        assert_eq!(ask(&model, &request).expect("it answers").0, expected, "after {polls} polls");
    }
}

#[test]
fn a_waiting_request_can_be_cancelled() {
    let model = exact();
    let (running, release) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (model, running, release) = (&model, &running, &release);
        let first = scope.spawn(move || {
            ask_with(model, &chat(QUESTION), CancelToken::never(), &mut |_| {
                running.store(true, Ordering::Release);
                while !release.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
                ControlFlow::Continue(())
            })
        });
        while !running.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        let cancelled = AtomicBool::new(false);
        let cancel = CancelToken::new(move || cancelled.swap(true, Ordering::Relaxed));
        let (_, stats) =
            ask_with(model, &chat(QUESTION), cancel, &mut |_| ControlFlow::Continue(())).expect("cancelled");
        assert_eq!(stats.finish_reason, FinishReason::Cancelled);
        release.store(true, Ordering::Release);
        assert!(first.join().expect("no panic").expect("it answers").0.contains("Paris"));
    });
}

#[test]
fn eight_at_a_time_each_get_their_own_answer_and_one_that_stops_leaves_the_others() {
    let countries = ["France", "Italy", "Spain", "Japan", "Germany", "Egypt", "Peru", "Norway"];
    let question = |country: &str| chat(&format!("What is the capital of {country}?"));
    let model = load(&LoadRequest { parallel_slots: 8, ..request("F32") });
    let alone: Vec<_> = countries.map(|country| ask(&model, &question(country)).expect("it answers").0).into();
    assert!(alone[0].contains("Paris") && alone[1].contains("Rome"), "{alone:?}");
    let start = std::sync::Barrier::new(9);
    std::thread::scope(|scope| {
        // One that would go on for long is cancelled in the middle of it.
        let stopped = Arc::new(AtomicBool::new(false));
        let long = GenerateRequest { max_tokens: 100_000, ignore_eos: true, ..question("Chile") };
        let (flag, model, start) = (Arc::clone(&stopped), &model, &start);
        let cancelled = scope.spawn(move || {
            start.wait();
            let mut tokens = 0;
            ask_with(model, &long, CancelToken::from_flag(Arc::clone(&flag)), &mut |event| {
                tokens += u32::from(matches!(event, Event::Token { .. }));
                flag.store(tokens >= 5, Ordering::Relaxed);
                ControlFlow::Continue(())
            })
        });
        let answers: Vec<_> = countries
            .iter()
            .map(|country| {
                let request = question(country);
                scope.spawn(move || {
                    start.wait();
                    (0..3).map(|_| ask(model, &request).expect("it answers").0).collect::<Vec<_>>()
                })
            })
            .collect();
        for (answers, expected) in answers.into_iter().zip(&alone) {
            assert_eq!(answers.join().expect("no panic"), [expected.as_str(); 3]);
        }
        let (_, stats) = cancelled.join().expect("no panic").expect("what came is kept");
        assert_eq!(stats.finish_reason, FinishReason::Cancelled);
        assert!((5..100).contains(&stats.generated_tokens), "{stats:?}");
    });
}

#[test]
fn who_is_slow_to_take_a_token_does_not_hold_up_the_others() {
    let model = load(&LoadRequest { parallel_slots: 2, ..request("Q8_0") });
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (model, done) = (&model, &done);
        let slow = scope.spawn(move || {
            let request = GenerateRequest { ignore_eos: true, max_tokens: 1000, ..chat(QUESTION) };
            ask_with(model, &request, CancelToken::never(), &mut |event| {
                // Holds its first token until the other has its whole answer.
                while matches!(event, Event::Token { .. }) && !done.load(Ordering::Relaxed) {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                if matches!(event, Event::Token { .. }) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        });
        let (text, _) = ask(model, &chat(QUESTION)).expect("it answers");
        done.store(true, Ordering::Relaxed);
        assert!(text.contains("Paris"), "{text}");
        assert_eq!(slow.join().expect("no panic").expect("stopped").1.generated_tokens, 1);
    });
}

#[test]
fn long_prompts_and_sessions_share_the_context() {
    let model = load(&LoadRequest { parallel_slots: 3, ..request("F32") });
    let mut long = chat(QUESTION);
    let text = "The sky is blue. ".repeat(150);
    long.prompt = Prompt::Tokens(model.tokenize(&text, true, false).expect("a text"));
    long.max_tokens = 8;
    let expected = ask(&model, &long).expect("it goes on").0;
    let first = ask(&model, &GenerateRequest { session: Some(7), ..chat(QUESTION) }).expect("it answers").0;
    // As many others as leave the session its slot, then more than there are slots, two always in the same session.
    for others in [2, 4] {
        std::thread::scope(|scope| {
            let (model, long, expected, first) = (&model, &long, &expected, &first);
            let session = |_| {
                scope.spawn(move || {
                    let request = GenerateRequest { session: Some(7), ..chat(QUESTION) };
                    let (text, stats) = ask(model, &request).expect("it answers");
                    assert_eq!(&text, first);
                    assert!(others > 2 || stats.cached_tokens > 0, "{stats:?}");
                })
            };
            let other = |_| scope.spawn(move || assert_eq!(&ask(model, long).expect("it goes on").0, expected));
            let all: Vec<_> = (0..2).map(session).chain((0..others).map(other)).collect();
            all.into_iter().for_each(|thread| thread.join().expect("no panic"));
        });
    }
}

#[test]
fn a_prompt_that_does_not_fit_is_an_error_and_a_full_context_is_not() {
    let model = load(&LoadRequest { context_length: Some(40), ..request("F32") });
    assert_eq!(model.info().context_length, 40);
    let error = ask(&model, &GenerateRequest::new(Prompt::Tokens(vec![5; 40]))).expect_err("too long");
    assert_eq!(error.kind, ErrorKind::ContextOverflow);
    assert!(error.message.contains("40") && error.hint.expect("a hint").contains("--context-length"));
    let long = GenerateRequest { ignore_eos: true, max_tokens: 1000, ..chat(QUESTION) };
    let (_, stats) = ask(&model, &long).expect("it answers");
    assert_eq!(stats.finish_reason, FinishReason::Length);
    // The last token sampled needs no room: it is not decoded any more.
    assert_eq!(stats.prompt_tokens + stats.generated_tokens, 41);
    assert_eq!(kind(ask(&model, &GenerateRequest::new(Prompt::Tokens(vec![])))), ErrorKind::InvalidRequest);
    assert_eq!(kind(ask(&model, &GenerateRequest::new(Prompt::Tokens(vec![1, u32::MAX])))), ErrorKind::InvalidRequest);
}

#[test]
fn logits_come_row_by_row_and_leave_sessions_right() {
    let model = exact();
    let tokens = model.tokenize("The capital of France is Paris. The sky is blue.", false, false).expect("tokenized");
    let first = 3;
    let mut rows = Vec::new();
    let mut keep = |position: usize, row: &[f32]| {
        rows.push((position, row.to_vec()));
        ControlFlow::Continue(())
    };
    model.logits(&tokens, first, &mut keep, &CancelToken::never()).expect("logits");
    let positions: Vec<_> = rows.iter().map(|(position, _)| *position).collect();
    assert_eq!(positions, (first..tokens.len()).collect::<Vec<_>>());
    assert!(rows.iter().all(|(_, row)| row.len() == model.info().vocabulary_size as usize));
    // A row does not depend on what comes after it.
    let mut alone = Vec::new();
    let mut keep = |_, row: &[f32]| {
        alone = row.to_vec();
        ControlFlow::Continue(())
    };
    model.logits(&tokens[..=first], first, &mut keep, &CancelToken::never()).expect("logits");
    assert!(alone.iter().zip(&rows[0].1).all(|(a, b)| (a - b).abs() < 1e-3));

    let mut seen = 0;
    let mut stop = |_, _: &[f32]| {
        seen += 1;
        ControlFlow::Break(())
    };
    model.logits(&tokens, 0, &mut stop, &CancelToken::never()).expect("stopping is no error");
    assert_eq!(seen, 1);
    let mut ignore = |_, _: &[f32]| ControlFlow::Continue(());
    assert_eq!(kind(model.logits(&tokens, 0, &mut ignore, &CancelToken::new(|| true))), ErrorKind::Cancelled);
    assert_eq!(kind(model.logits(&[5; 5000], 0, &mut ignore, &CancelToken::never())), ErrorKind::ContextOverflow);
    assert!(
        ask(&model, &GenerateRequest { session: Some(1), ..chat(QUESTION) }).expect("it answers").0.contains("Paris")
    );
}

#[test]
fn detokenizing_gives_the_text_back() {
    let model = exact();
    for text in ["Hello, world!", "Zürich – 東京 🎉\n\ttabs", "  spaces  ", "<|im_start|>user", ""] {
        for parse_special in [false, true] {
            let tokens = model.tokenize(text, false, parse_special).expect("tokenized");
            assert_eq!(String::from_utf8_lossy(&model.detokenize(&tokens).expect("in the vocabulary")), text);
        }
    }
    assert_eq!(kind(model.detokenize(&[model.info().vocabulary_size])), ErrorKind::InvalidRequest);
}

#[test]
fn what_is_no_complete_gguf_is_refused_before_llama_cpp_sees_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let whole = std::fs::read(model_file("Q8_0")).expect("readable");
    for (name, bytes) in [
        ("cut.gguf", &whole[..whole.len() - 100]),
        ("header.gguf", &whole[..1000]),
        ("text.gguf", b"hello, world, this is text".as_slice()),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        let error = GgufModel::load(&LoadRequest::new(&path), &Progress::default(), &CancelToken::never());
        assert_eq!(kind(error), ErrorKind::InvalidModel, "{name}");
    }
    let missing =
        GgufModel::load(&LoadRequest::new(dir.path().join("no")), &Progress::default(), &CancelToken::never());
    assert_eq!(kind(missing), ErrorKind::Io);
    let cancelled = GgufModel::load(&request("Q8_0"), &Progress::default(), &CancelToken::new(|| true));
    assert_eq!(kind(cancelled), ErrorKind::Cancelled);
    let huge = LoadRequest { context_length: Some(1 << 30), ..request("Q8_0") };
    assert_eq!(kind(GgufModel::load(&huge, &Progress::default(), &CancelToken::never())), ErrorKind::OutOfMemory);
}

#[test]
fn quantizing_reports_progress_and_can_be_cancelled_between_pieces() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = model_file("BF16");
    let fractions = Mutex::new(Vec::new());
    let note = |update: &ProgressUpdate| fractions.lock().expect("no panic").push(update.fraction);
    let report = quantize(&source, "q4_k_m", &dir.path().join("a.gguf"), &Progress::new(&note), &CancelToken::never());
    let report = report.expect("quantized");
    assert_eq!((report.architecture.as_str(), report.source_precision.as_str()), ("qwen2", "BF16"));
    assert!(report.output_bytes < report.source_bytes && report.tensor_count > 10);
    let fractions = fractions.into_inner().expect("no panic");
    assert!(fractions.len() as u64 > report.tensor_count && fractions.is_sorted(), "{fractions:?}");

    let updates = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&updates);
    let count = |_: &ProgressUpdate| {
        updates.fetch_add(1, Ordering::Relaxed);
    };
    let cancel = CancelToken::new(move || seen.load(Ordering::Relaxed) >= 5);
    let cancelled = quantize(&source, "Q4_K_M", &dir.path().join("b.gguf"), &Progress::new(&count), &cancel);
    assert_eq!(kind(cancelled), ErrorKind::Cancelled);
    // What the other threads had begun may still be reported; the most of it was never begun.
    let told = updates.load(Ordering::Relaxed) as usize;
    assert!((5..fractions.len() / 2).contains(&told), "it stopped soon: {told} of {}", fractions.len());
    // And the library still works on this thread.
    quantize(&source, "Q8_0", &dir.path().join("c.gguf"), &Progress::default(), &CancelToken::never())
        .expect("quantized");
}

#[test]
fn a_quantized_source_and_an_unknown_recipe_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let make = |recipe| {
        quantize(&model_file("Q8_0"), recipe, &dir.path().join("x.gguf"), &Progress::default(), &CancelToken::never())
    };
    let error = make("Q4_K_M").expect_err("quantized already");
    assert!(error.kind == ErrorKind::Unsupported && error.hint.is_some());
    assert_eq!(kind(make("Q9_Z")), ErrorKind::Unsupported);
}

#[test]
fn a_folder_becomes_a_checked_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let output = dir.path().join("m.gguf");
    let report = quantize(&fixture(), "Q4_K_M", &output, &Progress::default(), &CancelToken::never()).expect("made");
    assert!(report.tokenizer_checks > 10, "{report:?}");
    assert_eq!(report.output_bytes, std::fs::metadata(&output).expect("there").len());
}
