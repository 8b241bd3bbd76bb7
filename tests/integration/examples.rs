//! The library's examples, as their users run them.

use pajamas_tests::{Home, Run, build_dir, built, fixture, pajama_tiny};
use std::process::Command;

fn run(home: &Home, example: &str, arguments: &[&str]) -> Run {
    let program = build_dir().join("examples").join(format!("{example}{}", std::env::consts::EXE_SUFFIX));
    let mut command = Command::new(program);
    let worker = built(&format!("pajamas-worker{}", std::env::consts::EXE_SUFFIX));
    command.env("PAJAMAS_HOME", home.path()).env("PAJAMAS_WORKER", worker).env("HF_HUB_OFFLINE", "1");
    Run::from(command.args(arguments).output().expect("starting the example"))
}

fn tiny() -> String {
    pajama_tiny().display().to_string()
}

#[test]
fn quick_start_answers() {
    let home = Home::with_gguf_cpu();
    let run = run(&home, "quick_start", &[&tiny()]);
    assert_eq!(run.succeeded().stdout, "The capital of France is Paris.\n");
    assert!(run.stderr.contains("tokens per second on gguf-cpu"), "{run:?}");
}

#[test]
fn batch_quantize_goes_on_after_one_that_fails() {
    let home = Home::with_gguf_cpu();
    let run = run(&home, "batch_quantize", &[&tiny(), "Q8_0", "Q9_9", "Q4_K_M"]);
    let lines: Vec<&str> = run.succeeded().stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{run:?}");
    assert!(lines[1].starts_with("Q8_0") && lines[1].ends_with('%'), "{run:?}");
    assert!(lines[2].contains("unknown quantization method"), "{run:?}");
    assert!(lines[3].starts_with("Q4_K_M") && lines[3].ends_with('%'), "{run:?}");
}

#[test]
fn benchmark_measures_on_every_backend() {
    let home = Home::with_gguf_cpu();
    let model = home.quantized("Q8_0").display().to_string();
    let run = run(&home, "benchmark", &[&model]);
    assert!(run.succeeded().stdout.contains("on gguf-cpu: pp128 "), "{run:?}");
    assert!(run.stdout.contains("on gguf-cpu: tg32 "), "{run:?}");
}

#[test]
fn custom_backend_tells_a_story() {
    let home = Home::new();
    let text = home.path().join("corpus.txt");
    std::fs::copy(fixture("pajama-tiny/validation.txt"), &text).unwrap();
    let folder = home.path().join("built");
    std::fs::create_dir(&folder).unwrap();
    let library = pajamas_tests::library_name("ngram");
    std::fs::copy(built(&library), folder.join(&library)).unwrap();
    let run = run(&home, "custom_backend", &[folder.to_str().unwrap(), "ngram", text.to_str().unwrap()]);
    let lines: Vec<&str> = run.succeeded().stdout.lines().collect();
    assert!(lines[0].starts_with("ngram 0.1.0: ") && lines[1..].concat().split_whitespace().count() > 2, "{run:?}");
}
