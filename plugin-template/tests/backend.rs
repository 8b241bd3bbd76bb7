//! The backend without pajamas: every method called as the host would call it.

use ngram::Ngram;
use pajamas_plugin_api::*;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// A folder of this test's own with `corpus.txt` in it.
fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("corpus.txt"), include_str!("corpus.txt")).unwrap();
    folder
}

fn quantize(folder: &Path, source: &str, recipe: &str, cancel: &CancelToken) -> Result<(PathBuf, QuantizeReport)> {
    let output = folder.join(format!("{recipe}.ngram"));
    let job = QuantizeJob::new(folder.join(source), recipe, &output, folder);
    Ok((output, Ngram.quantizer().unwrap().quantize(&job, &Progress::default(), cancel)?))
}

fn made(folder: &Path, recipe: &str) -> PathBuf {
    quantize(folder, "corpus.txt", recipe, &CancelToken::never()).unwrap().0
}

fn load(path: &Path) -> Result<Box<dyn Model>> {
    Ngram.load_model(&LoadRequest::new(path), &Progress::default(), &CancelToken::never())
}

/// The whole answer, as the host gets it.
fn generate(model: &dyn Model, request: &GenerateRequest) -> Result<(String, GenerateStats)> {
    let mut text = String::new();
    let mut on_event = |event| {
        if let Event::Text(piece) = event {
            text += &piece;
        }
        ControlFlow::Continue(())
    };
    let mut sink = TokenSink::new(request, &model.info(), CancelToken::never(), &mut on_event);
    let outcome = model.generate(request, &mut sink);
    let stats = sink.finish(outcome)?;
    Ok((text, stats))
}

fn greedy(prompt: &str) -> GenerateRequest {
    GenerateRequest { sampling: Sampling::greedy(), ..GenerateRequest::new(Prompt::text(prompt)) }
}

/// e to the mean of the negative log-probabilities: how many tokens the model wavers between.
fn perplexity(model: &dyn Model, text: &str) -> f64 {
    let tokens = model.tokenize(text, true, false).unwrap();
    let mut sum = 0.0;
    let mut rows = |position: usize, row: &[f32]| {
        if let Some(next) = tokens.get(position + 1) {
            sum -= f64::from(log_probabilities(row, *next, 0).0);
        }
        ControlFlow::Continue(())
    };
    model.logits(&tokens, 0, &mut rows, &CancelToken::never()).unwrap();
    (sum / (tokens.len() - 1) as f64).exp()
}

#[test]
fn the_likeliest_text_is_the_same_every_time_and_ends_by_itself() {
    let model = load(&made(&folder("likeliest"), "q8")).unwrap();
    let (text, stats) = generate(&*model, &greedy("Good n")).unwrap();
    assert_eq!((text.as_str(), stats.finish_reason), ("ight!", FinishReason::Stop));
    assert_eq!((stats.prompt_tokens, stats.generated_tokens), (7, 5));
    let longer = generate(&*model, &greedy("The cat sat on")).unwrap().0;
    assert!(longer.starts_with(" the ") && generate(&*model, &greedy("The cat sat on")).unwrap().0 == longer);
}

#[test]
fn a_seed_repeats_the_text_and_another_gives_another() {
    let model = load(&made(&folder("seeds"), "q8")).unwrap();
    let tell = |seed| {
        let sampling = Sampling { temperature: 1.5, seed: Some(seed), ..Sampling::default() };
        generate(&*model, &GenerateRequest { sampling, ..greedy("The ") }).unwrap().0
    };
    assert_eq!(tell(1), tell(1));
    assert_ne!(tell(1), tell(2));
}

#[test]
fn stop_texts_and_the_contexts_end_end_the_answer_and_a_long_prompt_is_an_error() {
    let path = made(&folder("limits"), "q8");
    let stop = GenerateRequest { stop_sequences: vec!["the".into()], ..greedy("The cat sat on") };
    assert_eq!(generate(&*load(&path).unwrap(), &stop).unwrap().0, " ");
    let short = LoadRequest { context_length: Some(6), ..LoadRequest::new(&path) };
    let model = Ngram.load_model(&short, &Progress::default(), &CancelToken::never()).unwrap();
    let (text, stats) = generate(&*model, &greedy("The")).unwrap();
    assert_eq!((text.len(), stats.finish_reason), (2, FinishReason::Length));
    assert_eq!(generate(&*model, &greedy("The cat")).unwrap_err().kind, ErrorKind::ContextOverflow);
}

#[test]
fn every_text_comes_back_from_its_tokens() {
    let model = load(&made(&folder("tokens"), "f32")).unwrap();
    for text in ["", "The cat", "<end>\0", "naïve 睡衣 😀\r\n"] {
        let tokens = model.tokenize(text, true, true).unwrap();
        assert_eq!(tokens.len(), text.len() + 1);
        assert_eq!(model.detokenize(&tokens).unwrap(), text.as_bytes());
    }
    assert_eq!(model.detokenize(&[257]).unwrap_err().kind, ErrorKind::InvalidRequest);
}

#[test]
fn a_longer_context_knows_better() {
    let path = made(&folder("order"), "f32");
    let perplexities = [1, 2, 3, 5].map(|order| {
        let mut request = LoadRequest::new(&path);
        request.options.set("order", OptionValue::Int(order));
        options::check(&Ngram.capabilities().options, &request.options).unwrap();
        let model = Ngram.load_model(&request, &Progress::default(), &CancelToken::never()).unwrap();
        perplexity(&*model, "The dog sat on the mat.")
    });
    assert!(perplexities.is_sorted_by(|shorter, longer| shorter > longer), "{perplexities:?}");
}

#[test]
fn eight_bits_are_nearly_four_times_smaller_and_hardly_worse() {
    let folder = folder("bits");
    let (full, small) = (made(&folder, "f32"), made(&folder, "q8"));
    let size = |path: &Path| std::fs::metadata(path).unwrap().len() as f64;
    assert!(size(&full) / size(&small) > 3.8);
    let held_out = "The bird sat on the mat. The dog saw the bird. Good night!";
    let (full, small) = (perplexity(&*load(&full).unwrap(), held_out), perplexity(&*load(&small).unwrap(), held_out));
    assert!((small / full - 1.0).abs() < 0.01, "{small} instead of {full}");
}

#[test]
fn a_model_in_full_precision_is_quantized_as_the_text_is_and_a_quantized_one_is_not() {
    let folder = folder("again");
    let from_text = std::fs::read(made(&folder, "q8")).unwrap();
    made(&folder, "f32");
    let (path, _) = quantize(&folder, "f32.ngram", "q8", &CancelToken::never()).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), from_text);
    let error = quantize(&folder, "q8.ngram", "q8", &CancelToken::never()).unwrap_err();
    assert!(error.kind == ErrorKind::Unsupported && error.message.contains("quantized already"), "{error}");
}

#[test]
fn whoever_cancels_is_obeyed() {
    let folder = folder("cancel");
    let now = CancelToken::new(|| true);
    assert_eq!(quantize(&folder, "corpus.txt", "q8", &now).unwrap_err().kind, ErrorKind::Cancelled);
    let path = made(&folder, "q8");
    let loaded = Ngram.load_model(&LoadRequest::new(&path), &Progress::default(), &now);
    assert_eq!(loaded.err().unwrap().kind, ErrorKind::Cancelled);
}

#[test]
fn a_damaged_file_is_refused_with_what_was_expected() {
    let path = made(&folder("damaged"), "f32");
    let whole = std::fs::read(&path).unwrap();
    let check = |damage: &dyn Fn(&mut Vec<u8>), expected: &str| {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        let error = load(&path).err().unwrap();
        assert_eq!(error.kind, ErrorKind::InvalidModel, "{error}");
        assert!(error.message.contains(expected) && error.message.contains(&*path.to_string_lossy()), "{error}");
    };
    check(&|bytes| bytes.clear(), "expected a file that begins with `n-gram 1`, found ``");
    check(&|bytes| bytes[0] = b'N', "found `N-gram 1`");
    check(&|bytes| bytes.truncate(12), "expected a header of 20 bytes, found 12 bytes");
    check(&|bytes| bytes[8] = 16, "expected 8 or 32 bits, found 16");
    check(&|bytes| bytes[12..16].fill(0), "expected 1 to 65536 rows, found 0");
    check(&|bytes| bytes[12..16].fill(0xff), "expected 1 to 65536 rows, found 4294967295");
    check(&|bytes| bytes[16..20].fill(0xff), "bytes of provenance at the most, found 4294967295");
    check(&|bytes| bytes.truncate(bytes.len() - 1), &format!("expected {} bytes", whole.len()));
    check(&|bytes| bytes.push(0), &format!("expected {} bytes", whole.len()));
    check(&|bytes| bytes[20] = 1, "expected ascending contexts");
    check(&|bytes| bytes[28..36].fill(0xff), "expected ascending contexts");
    check(&|bytes| bytes.iter_mut().rev().take(4).for_each(|byte| *byte = 0xff), "log-probabilities, found NaN");
}

#[test]
fn what_is_no_text_makes_no_model() {
    let folder = folder("no-text");
    for (bytes, expected) in [(&b" \n\n"[..], "nothing but blanks"), (b"\xff\xfe", "invalid utf-8")] {
        std::fs::write(folder.join("corpus.txt"), bytes).unwrap();
        let error = quantize(&folder, "corpus.txt", "q8", &CancelToken::never()).unwrap_err();
        assert!(error.kind == ErrorKind::InvalidModel && error.to_string().contains(expected), "{error}");
    }
}
