//! The backend without pajamas: every method called as the host would call it.

use ngram::Ngram;
use pajamas_plugin_api::*;
use std::collections::BTreeMap;
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
    let mut job = QuantizeJob::new(folder.join(source), recipe, &output, folder);
    job.source_format = source.rsplit('.').next().unwrap().into();
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
fn the_likeliest_text_is_the_same_every_time_and_ends_where_the_texts_do() {
    let model = load(&made(&folder("likeliest"), "q8")).unwrap();
    let request = GenerateRequest { max_tokens: 8, ..greedy("The moon,") };
    let (text, stats) = generate(&*model, &request).unwrap();
    assert_eq!((text.as_str(), stats.finish_reason), (" the the", FinishReason::Length));
    assert_eq!((stats.prompt_tokens, stats.generated_tokens), (10, 8));
    assert_eq!(generate(&*model, &request).unwrap().0, text);
    let (text, stats) = generate(&*model, &greedy("Good night!")).unwrap();
    assert_eq!((text.as_str(), stats.generated_tokens, stats.finish_reason), ("", 0, FinishReason::Stop));
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
    let stop = GenerateRequest { stop_sequences: vec!["he".into()], ..greedy("The moon,") };
    let (text, stats) = generate(&*load(&path).unwrap(), &stop).unwrap();
    assert_eq!((text.as_str(), stats.finish_reason), (" t", FinishReason::Stop));
    let short = LoadRequest { context_length: Some(6), ..LoadRequest::new(&path) };
    let model = Ngram.load_model(&short, &Progress::default(), &CancelToken::never()).unwrap();
    let (text, stats) = generate(&*model, &greedy("The")).unwrap();
    assert_eq!((text.len(), stats.finish_reason), (2, FinishReason::Length));
    assert_eq!(generate(&*model, &greedy("The cat")).unwrap_err().kind, ErrorKind::ContextOverflow);
    let logits = model.logits(&[0; 7], 0, &mut |_, _| ControlFlow::Continue(()), &CancelToken::never());
    assert_eq!(logits.unwrap_err().kind, ErrorKind::ContextOverflow);
}

#[test]
fn every_token_comes_with_the_log_probabilities_that_the_logits_give() {
    let model = load(&made(&folder("log-probabilities"), "f32")).unwrap();
    let request = GenerateRequest { max_tokens: 1, top_logprobs: 2, ..greedy("The moon,") };
    let mut seen = None;
    let mut on_event = |event| {
        if let Event::Token { id, logprob, top, .. } = event {
            seen = Some((id, logprob, top));
        }
        ControlFlow::Continue(())
    };
    let mut sink = TokenSink::new(&request, &model.info(), CancelToken::never(), &mut on_event);
    model.generate(&request, &mut sink).unwrap();
    let tokens = model.tokenize("The moon,", true, false).unwrap();
    let mut rows = Vec::new();
    let mut on_row = |position: usize, row: &[f32]| {
        rows.push((position, row.to_vec()));
        ControlFlow::Continue(())
    };
    model.logits(&tokens, tokens.len() - 1, &mut on_row, &CancelToken::never()).unwrap();
    assert_eq!((rows.len(), rows[0].0, rows[0].1.len()), (1, 9, model.info().vocabulary_size as usize));
    let (logprob, top) = log_probabilities(&rows[0].1, b' '.into(), 2);
    assert_eq!(seen, Some((b' '.into(), Some(logprob), top)));
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
fn what_is_known_is_expected_and_sharpness_makes_it_more_so() {
    let path = made(&folder("sharpness"), "f32");
    let perplexities = [0.5, 1.0, 1.5].map(|sharpness| {
        let mut request = LoadRequest::new(&path);
        request.options.set("sharpness", OptionValue::Float(sharpness));
        options::check(&Ngram.capabilities().options, &request.options).unwrap();
        let model = Ngram.load_model(&request, &Progress::default(), &CancelToken::never()).unwrap();
        perplexity(&*model, "The dog sat on the mat.")
    });
    assert!(perplexities.is_sorted_by(|softer, sharper| softer > sharper), "{perplexities:?}");
    let model = load(&path).unwrap();
    assert!(perplexity(&*model, "The dog sat on the mat.") < 10.0);
    assert!(perplexity(&*model, "God ehT tas no eht tam.") > 100.0);
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
    let check = |bytes: &[u8], expected: &str| {
        std::fs::write(&path, bytes).unwrap();
        let error = load(&path).err().unwrap();
        assert_eq!(error.kind, ErrorKind::InvalidModel, "{error}");
        assert!(error.message.contains(expected) && error.message.contains(&*path.to_string_lossy()), "{error}");
    };
    check(b"", "expected a file that begins with `n-gram 1`");
    check(&[b"N", &whole[1..]].concat(), "expected a file that begins with `n-gram 1`");
    check(&whole[..9], "expected a whole model");
    check(&whole[..whole.len() - 1], "expected a whole model");
    check(&[&whole, &[0][..]].concat(), "and nothing else");
    check(&vec![0; (1 << 20) + 1], "expected 1 MiB at the most");
    let with_rows = |rows: &[Vec<f32>]| {
        let contents = ("f32", BTreeMap::<String, String>::new(), rows);
        [b"n-gram 1\n", &rmp_serde::to_vec(&contents).unwrap()[..]].concat()
    };
    let row = vec![0.0; 257];
    check(&with_rows(&[]), "expected 257 rows of 257 numbers");
    check(&with_rows(&vec![row.clone(); 258]), "expected 257 rows of 257 numbers");
    check(&with_rows(&vec![row[1..].to_vec(); 257]), "expected 257 rows of 257 numbers");
    for wrong in [f32::NAN, f32::INFINITY, -1.0, 256.0] {
        let mut rows = vec![row.clone(); 257];
        rows[256][256] = wrong;
        check(&with_rows(&rows), "numbers from 0 to 255");
    }
    std::fs::write(&path, with_rows(&vec![row; 257])).unwrap();
    assert_eq!(load(&path).unwrap().info().quantization, "f32");
}

#[test]
fn a_source_that_is_no_text_makes_no_model() {
    let folder = folder("no-text");
    std::fs::write(folder.join("corpus.txt"), b"\xff\xfe").unwrap();
    let error = quantize(&folder, "corpus.txt", "q8", &CancelToken::never()).unwrap_err();
    assert!(error.to_string().contains("corpus.txt") && error.to_string().contains("valid UTF-8"), "{error}");
}
