//! A Hugging Face folder loaded as it is, against the GGUF file that the converter writes of it.

use super::{QUESTION, ask, chat, fixture, kind, load, model_file};
use pajamas_gguf::GgufModel;
use pajamas_plugin_api::{CancelToken, ErrorKind, LoadRequest, Model, ModelInfo, Progress, ProgressUpdate, Result};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

fn request(path: impl AsRef<Path>) -> LoadRequest {
    LoadRequest { threads: Some(1), ..LoadRequest::new(path.as_ref()) }
}

/// A copy of the test model whose files can be changed.
fn copy_of_fixture() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(fixture()).expect("the fixture") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, dir.path().join(path.file_name().expect("a name"))).expect("copied");
    }
    dir
}

fn try_load(path: &Path) -> Result<GgufModel> {
    GgufModel::load(&request(path), &Progress::default(), &CancelToken::never())
}

/// Every logit of a text of some hundred tokens.
fn logits(model: &GgufModel) -> Vec<f32> {
    let text = "The capital of France is Paris. The sky is blue. Two plus three is five. ".repeat(8);
    let tokens = model.tokenize(&text, false, false).expect("tokenized");
    let mut all = Vec::new();
    let mut keep = |_, row: &[f32]| {
        all.extend_from_slice(row);
        ControlFlow::Continue(())
    };
    model.logits(&tokens, 0, &mut keep, &CancelToken::never()).expect("logits");
    all
}

#[test]
fn a_folder_gives_the_logits_of_its_file_bit_for_bit() {
    let (folder, file) = (load(&request(fixture())), load(&request(model_file("BF16"))));
    let (ours, theirs) = (logits(&folder), logits(&file));
    assert!(ours.len() > 100 * folder.info().vocabulary_size as usize && ours.iter().all(|logit| logit.is_finite()));
    assert!(ours.iter().zip(&theirs).all(|(a, b)| a.to_bits() == b.to_bits()));
    let answer = ask(&folder, &chat(QUESTION)).expect("it answers").0;
    assert!(answer.contains("Paris"), "{answer}");
    assert_eq!(answer, ask(&file, &chat(QUESTION)).expect("it answers").0);
}

#[test]
fn a_folder_says_of_itself_what_its_file_says() {
    let (folder, file) = (load(&request(fixture())), load(&request(model_file("BF16"))));
    for text in ["Hello, world!", "Zürich – 東京 🎉\n\ttabs", "<|im_start|>user"] {
        for parse_special in [false, true] {
            let tokens = folder.tokenize(text, true, parse_special).expect("tokenized");
            assert_eq!(tokens, file.tokenize(text, true, parse_special).expect("tokenized"), "{text}");
        }
    }
    // The file's maker left its mark in it.
    let info = |model: &GgufModel| {
        let mut info = model.info();
        info.metadata.retain(|key, _| !key.starts_with("pajamas."));
        info
    };
    let ours: ModelInfo = info(&folder);
    assert_eq!((ours.quantization.as_str(), ours.architecture.as_str()), ("BF16", "qwen2"));
    assert_eq!(ours, info(&file));
    assert_eq!(folder.memory_usage(), file.memory_usage());
}

#[test]
fn loading_a_folder_reports_progress_and_can_be_cancelled() {
    let fractions = Mutex::new(Vec::new());
    let note = |update: &ProgressUpdate| fractions.lock().expect("no panic").push(update.fraction);
    GgufModel::load(&request(fixture()), &Progress::new(&note), &CancelToken::never()).expect("loaded");
    let fractions = fractions.into_inner().expect("no panic");
    assert!(fractions.len() > 10 && fractions.is_sorted() && fractions.iter().any(|f| *f > 0.5), "{fractions:?}");

    let begun = std::sync::Arc::new(AtomicBool::new(false));
    let raise = std::sync::Arc::clone(&begun);
    let note = move |update: &ProgressUpdate| raise.store(update.fraction > 0.1, Ordering::Relaxed);
    let cancelled = GgufModel::load(&request(fixture()), &Progress::new(&note), &CancelToken::from_flag(begun));
    assert_eq!(kind(cancelled), ErrorKind::Cancelled);
    // At whatever poll it comes.
    for polls in 0..12 {
        let left = AtomicU32::new(polls);
        let cancel = CancelToken::new(move || {
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_err()
        });
        let cancelled = GgufModel::load(&request(fixture()), &Progress::default(), &cancel);
        assert_eq!(kind(cancelled), ErrorKind::Cancelled, "after {polls} polls");
    }
    load(&request(fixture()));
}

#[test]
fn a_folder_that_is_not_in_order_is_refused_by_the_converter() {
    let dir = copy_of_fixture();
    let config = dir.path().join("config.json");
    let text = std::fs::read_to_string(&config).expect("readable");
    let with = |from: &str, to: &str| {
        assert!(text.contains(from), "{text}");
        std::fs::write(&config, text.replace(from, to)).expect("written");
        try_load(dir.path()).err().expect("an error was expected")
    };
    let error = with("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5");
    assert_eq!(error.kind, ErrorKind::InvalidModel);
    assert!(error.message.contains("lacks tensor `model.layers.4."), "{error}");
    let error = with("Qwen2ForCausalLM", "MambaForCausalLM");
    assert_eq!(error.kind, ErrorKind::Unsupported);
    std::fs::write(&config, &text).expect("written");
    let weights = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).expect("readable");
    std::fs::write(&weights, &bytes[..bytes.len() - 100]).expect("written");
    let error = try_load(dir.path()).err().expect("an error was expected");
    assert_eq!(error.kind, ErrorKind::InvalidModel);
    assert!(error.message.contains("model.safetensors"), "{error}");
    assert_eq!(kind(try_load(tempfile::tempdir().expect("a folder").path())), ErrorKind::InvalidModel);
}

#[test]
fn weights_that_vanish_while_they_are_read_are_an_error_that_names_the_file() {
    let dir = copy_of_fixture();
    let weights = dir.path().join("model.safetensors");
    let cut = std::sync::atomic::AtomicBool::new(false);
    // The headers were read, and some of the tensors: now the rest of the file goes.
    let note = |update: &ProgressUpdate| {
        if update.fraction > 0.2 && !cut.swap(true, Ordering::Relaxed) {
            std::fs::OpenOptions::new().write(true).open(&weights).and_then(|file| file.set_len(100)).expect("cut");
        }
    };
    let error = GgufModel::load(&request(dir.path()), &Progress::new(&note), &CancelToken::never());
    let error = error.err().expect("an error was expected");
    assert_eq!(error.kind, ErrorKind::Io);
    assert!(error.message.contains("model.safetensors"), "{error}");
}

#[test]
fn a_panic_while_a_folder_is_read_reaches_the_caller_and_not_llama_cpp() {
    let mut panicked = 0;
    for polls in 1..10 {
        let left = AtomicU32::new(polls);
        let cancel = CancelToken::new(move || {
            assert!(left.fetch_sub(1, Ordering::Relaxed) > 0, "the host panics");
            false
        });
        let loading = || GgufModel::load(&request(fixture()), &Progress::default(), &cancel).map(|_| ());
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(loading)) {
            Err(payload) => {
                assert_eq!(payload.downcast_ref::<&str>(), Some(&"the host panics"));
                panicked += 1;
            }
            // llama.cpp's own poll takes a panic for a cancellation.
            Ok(loaded) => assert_eq!(kind(loaded), ErrorKind::Cancelled),
        }
    }
    assert!(panicked > 0, "some of the polls come while a tensor's bytes are made");
    load(&request(fixture()));
}
