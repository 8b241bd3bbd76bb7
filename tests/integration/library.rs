//! The library as a program uses it: builders, answers, streams, threads, failures.

use pajamas::{CancelToken, Error, FinishReason, Measure, Message, Observer, Pajamas, ProgressUpdate};
use pajamas_tests::{Home, built, pajama_tiny};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const QUESTION: &str = "What is the capital of France?";
const ANSWER: &str = "The capital of France is Paris.";

fn installation(home: &Home) -> Pajamas {
    let worker = built(&format!("pajamas-worker{}", std::env::consts::EXE_SUFFIX));
    Pajamas::builder().home(home.path()).worker(worker).offline(true).build().unwrap()
}

fn tiny() -> String {
    pajama_tiny().display().to_string()
}

#[derive(Default)]
struct Heard {
    warnings: Mutex<Vec<String>>,
    made: AtomicUsize,
    updates: AtomicUsize,
}

impl Observer for Heard {
    fn warn(&self, message: &str) {
        self.warnings.lock().unwrap().push(message.into());
    }

    fn progress(&self, update: &ProgressUpdate) {
        assert!((0.0..=1.0).contains(&update.fraction), "{update:?}");
        self.updates.fetch_add(1, Ordering::Relaxed);
    }

    fn made(&self, artifact: &pajamas::Artifact) {
        assert!(artifact.path.is_file());
        self.made.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_model_is_made_measured_and_asked_in_a_few_lines() {
    let home = Home::with_gguf_cpu();
    let pajamas = installation(&home);
    let heard = Heard::default();
    let work = pajamas.quantize(tiny()).method("Q8_0").measure(Measure::Always).tokens(512).observer(&heard);
    let made = work.run().unwrap();
    assert!(made.failure.is_none() && made.search.is_none());
    assert!(made.validation.unwrap().comparison.unwrap().kl_divergence.mean < 0.01);
    assert!(heard.made.into_inner() == 1 && heard.updates.into_inner() > 1);
    assert_eq!(pajamas.models().iter().map(pajamas::Record::name).collect::<Vec<_>>(), ["pajama-tiny-q8_0"]);
    assert_eq!(pajamas.path_of("pajama-tiny-q8_0").unwrap(), made.artifact.path);

    for isolated in [false, true] {
        let model = pajamas.load("pajama-tiny-q8_0").isolated(isolated).run().unwrap();
        let answer = model.chat(QUESTION).temperature(0.0).run().unwrap();
        assert_eq!((answer.text.as_str(), answer.stats.finish_reason), (ANSWER, FinishReason::Stop));
        let mut stream = model.chat([Message::new("user", QUESTION)]).temperature(0.0).stream();
        assert!(stream.result().is_none());
        let pieces: Vec<String> = stream.by_ref().collect::<Result<_, _>>().unwrap();
        assert!(pieces.len() > 1 && pieces.concat() == ANSWER, "{pieces:?}");
        assert_eq!(stream.result().unwrap().tokens, answer.tokens);
        // By hand it is the same text.
        let prompt = format!("<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n");
        assert!(model.generate(prompt).temperature(0.0).run().unwrap().text.contains("Paris"));
        let tokens = model.tokenize("The capital of France is", false, false).unwrap();
        let logits = model.logits(&tokens).unwrap();
        assert_eq!(logits.rows().count(), tokens.len());
        let row = logits.rows().last().unwrap();
        let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
        let next = model.generate_tokens(tokens).temperature(0.0).max_tokens(1).run().unwrap();
        assert_eq!(next.tokens, [u32::try_from(best).unwrap()]);
        assert!(model.memory_usage().unwrap().0.weights_bytes > 0);
    }
}

#[test]
fn isolated_requests_run_at_once_and_one_that_is_stopped_leaves_the_others() {
    let home = Home::with_gguf_cpu();
    let pajamas = installation(&home);
    let path = home.quantized("Q8_0").display().to_string();
    for isolated in [true, false] {
        let model = pajamas.load(&path).isolated(isolated).parallel(3).run().unwrap();
        let endless = || model.generate("Once upon a time").ignore_eos(true).max_tokens(1_000_000);
        let (mut first, mut second) = (endless().stream(), endless().stream());
        // Each gives pieces while the other is unfinished, and a third is answered meanwhile.
        for _ in 0..5 {
            assert!(first.next().unwrap().is_ok() && second.next().unwrap().is_ok());
        }
        assert_eq!(model.chat(QUESTION).temperature(0.0).run().unwrap().text, ANSWER);
        first.stop();
        while first.next().is_some() {}
        assert_eq!(first.result().unwrap().stats.finish_reason, FinishReason::Cancelled);
        for _ in 0..5 {
            assert!(second.next().unwrap().is_ok());
        }
        // One that nobody takes from any more holds nobody up.
        drop(first);
        assert_eq!(model.chat(QUESTION).temperature(0.0).run().unwrap().text, ANSWER);
        drop(second);
        assert_eq!(model.chat(QUESTION).temperature(0.0).run().unwrap().text, ANSWER);
    }
}

#[test]
fn who_takes_no_pieces_does_not_hold_up_the_other_calls_of_a_worker() {
    let home = Home::with_gguf_cpu();
    let pajamas = installation(&home);
    let path = home.quantized("Q8_0").display().to_string();
    let model = pajamas.load(path).isolated(true).parallel(2).context_length(4096).run().unwrap();
    let started = Arc::new(AtomicBool::new(false));
    let (asleep, cancel) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let sleeper = {
        let (model, started) = (model.clone(), Arc::clone(&started));
        let (asleep, cancel) = (Arc::clone(&asleep), CancelToken::from_flag(Arc::clone(&cancel)));
        std::thread::spawn(move || {
            let generate = model.generate("Once").ignore_eos(true).max_tokens(4000).cancel(cancel);
            generate.run_with(&mut |_| {
                started.store(true, Ordering::Relaxed);
                while asleep.load(Ordering::Relaxed) {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                ControlFlow::Continue(())
            })
        })
    };
    while !started.load(Ordering::Relaxed) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    for _ in 0..3 {
        assert_eq!(model.chat(QUESTION).temperature(0.0).run().unwrap().text, ANSWER);
    }
    asleep.store(false, Ordering::Relaxed);
    cancel.store(true, Ordering::Relaxed);
    assert_eq!(sleeper.join().unwrap().unwrap().stats.finish_reason, FinishReason::Cancelled);
}

#[test]
fn a_worker_that_is_killed_is_an_error_of_every_call_and_of_no_other_model() {
    let home = Home::with_gguf_cpu();
    let pajamas = installation(&home);
    let path = home.quantized("Q8_0").display().to_string();
    let load = || pajamas.load(&path).isolated(true).parallel(2).run().unwrap();
    let other = load();
    let before = workers();
    let model = load();
    let worker = workers().into_iter().find(|id| !before.contains(id)).expect("a process of the model's own");
    let streams: Vec<_> =
        (0..2).map(|_| model.generate("Once").ignore_eos(true).max_tokens(1_000_000).stream()).collect();
    // SAFETY: the id is that of a child which is not reaped before its model is dropped.
    unsafe { libc::kill(worker, libc::SIGABRT) };
    for stream in streams {
        let last = stream.last().expect("an end");
        let error = last.expect_err("a failure");
        assert!(matches!(&error, Error::Worker { what, .. } if what.contains("abort")), "{error}");
    }
    let error = model.chat(QUESTION).run().expect_err("it is gone");
    assert!(matches!(error, Error::Worker { .. }), "{error}");
    assert_eq!(other.chat(QUESTION).temperature(0.0).run().unwrap().text, ANSWER);
}

/// The ids of this process's workers.
fn workers() -> Vec<libc::pid_t> {
    let asked = std::process::Command::new("ps").args(["-axo", "pid=,ppid=,comm="]).output().expect("ps");
    let listing = String::from_utf8_lossy(&asked.stdout).into_owned();
    let of_ours = |line: &str| {
        let mut words = line.split_whitespace();
        let (id, parent) = (words.next()?.parse().ok()?, words.next()?.parse::<u32>().ok()?);
        (parent == std::process::id() && line.contains("pajamas-worker")).then_some(id)
    };
    listing.lines().filter_map(of_ours).collect()
}

#[test]
fn what_cannot_be_is_said_with_a_hint() {
    let home = Home::with_gguf_cpu();
    let pajamas = installation(&home);
    let path = home.quantized("Q8_0").display().to_string();
    let hinted = |error: Error| {
        assert!(error.hint().is_some(), "{error}");
        error.kind()
    };
    assert_eq!(hinted(pajamas.load("no-such-model").run().err().unwrap()), "model_not_found");
    assert_eq!(hinted(pajamas.load(&path).backend("no-such").run().err().unwrap()), "unknown_backend");
    assert_eq!(hinted(pajamas.quantize(tiny()).method("Q4_K_N").run().err().unwrap()), "unknown_method");
    let model = pajamas.load(&path).run().unwrap();
    assert_eq!(hinted(model.chat(QUESTION).temperature(f32::NAN).run().unwrap_err()), "usage");
    assert_eq!(hinted(model.chat(QUESTION).top_p(2.0).stream().next().unwrap().unwrap_err()), "usage");
    assert_eq!(hinted(model.generate("word ".repeat(5000)).run().unwrap_err()), "context_overflow");
    let no_folder = Pajamas::builder().plugin_dir(Path::new("/no/such/folder")).build().err().unwrap();
    assert!(no_folder.to_string().contains("/no/such/folder"), "{no_folder}");
    // Cancelled before it began: nothing is made.
    let cancel = CancelToken::from_flag(Arc::new(AtomicBool::new(true)));
    let error = pajamas.quantize(tiny()).method("Q4_0").cancel(cancel).run().err().unwrap();
    assert!(matches!(error, Error::Interrupted), "{error}");
    assert!(pajamas.models().is_empty());
}

#[test]
fn another_backend_than_the_one_named_is_a_warning_to_the_observer() {
    let home = Home::with_gguf_cpu();
    home.install("mlx_quantize");
    let pajamas = installation(&home);
    let path = home.quantized("Q8_0").display().to_string();
    let heard = Heard::default();
    let model = pajamas.load(&path).backend("mlx-quantize").observer(&heard).run().unwrap();
    assert_eq!(model.backend(), "gguf-cpu");
    assert!(heard.warnings.lock().unwrap()[0].contains("mlx-quantize"));
    assert!(pajamas.load(&path).backend("mlx-quantize").strict().run().is_err());
}

#[test]
fn a_sweep_that_is_stopped_keeps_what_was_measured() {
    /// Stops the work once it hears of the second method.
    #[derive(Default)]
    struct Stop(Arc<AtomicBool>, AtomicUsize);

    impl Observer for Stop {
        fn note(&self, message: &str) {
            if message.starts_with("gguf ") && self.1.fetch_add(1, Ordering::Relaxed) == 1 {
                self.0.store(true, Ordering::Relaxed);
            }
        }
    }

    let home = Home::with_gguf_cpu();
    let pajamas = installation(&home);
    let stop = Stop::default();
    let cancel = CancelToken::from_flag(Arc::clone(&stop.0));
    let work = pajamas.sweep(tiny()).methods(["Q4_0", "Q8_0"]).tokens(512).speed(8, 4).repetitions(1);
    let found = work.observer(&stop).cancel(cancel).run().unwrap();
    assert!(found.interrupted && found.rows.len() == 1 && found.failures.is_empty(), "{found:?}");
    // Of one that was stopped in its first method there is nothing to say.
    let cancel = CancelToken::from_flag(Arc::new(AtomicBool::new(true)));
    let error = pajamas.sweep(tiny()).methods(["Q4_0"]).cancel(cancel).run().err().unwrap();
    assert!(matches!(error, Error::Interrupted), "{error}");
}
