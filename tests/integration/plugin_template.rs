//! What a plugin's author starts from: the template as it is, and as `pajamas plugins new` writes it.

use pajamas_tests::{Home, Run, assert_schema, build_dir, fixture, library_name};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A text that nobody has quantized yet: pajama-tiny's, under a short name.
fn corpus(home: &Home) -> PathBuf {
    let path = home.path().join("corpus.txt");
    std::fs::copy(fixture("pajama-tiny/validation.txt"), &path).unwrap();
    path
}

fn home() -> Home {
    let home = Home::new();
    home.install("ngram");
    home
}

/// Quantizes the corpus by `method` and returns the file.
fn made(home: &Home, method: &str) -> PathBuf {
    let run = home.run(["quantize", corpus(home).to_str().unwrap(), "--format", "ngram", "-m", method]);
    PathBuf::from(run.succeeded().stdout.trim())
}

fn tell(home: &Home, model: &str, extra: &[&str]) -> Run {
    let args = ["run", model, "--backend", "ngram", "--raw", "-p", "Once upon a"];
    home.run(args.iter().chain(extra))
}

#[test]
fn a_text_becomes_a_model_that_tells_stories() {
    let home = home();
    let run = home.run(["quantize", corpus(&home).to_str().unwrap(), "--format", "ngram"]);
    let path = PathBuf::from(run.succeeded().stdout.trim());
    assert_eq!(path, home.path().canonicalize().unwrap().join("models/corpus-q8.ngram"));
    assert!(run.stderr.contains("3.95 times smaller than f32"), "{run:?}");
    let story = tell(&home, "corpus-q8.ngram", &["--seed", "1"]).succeeded().stdout.clone();
    assert!(story.split_whitespace().count() > 5, "{story}");
    assert_eq!(tell(&home, "corpus-q8", &["--seed", "1"]).succeeded().stdout, story);
    assert_ne!(tell(&home, path.to_str().unwrap(), &["--seed", "2"]).succeeded().stdout, story);
    let value = tell(&home, "corpus-q8", &["--json", "--max-tokens", "5", "-t", "0"]).json();
    assert_eq!((value["text"].as_str(), value["finish_reason"].as_str()), (Some(" t t "), Some("length")));
    assert_eq!(value["backend"], "ngram");
}

#[test]
fn without_a_backend_or_a_format_named_the_text_says_it_all() {
    let home = home();
    let run = home.run(["run", corpus(&home).to_str().unwrap(), "-p", "Once upon a", "-t", "0", "--stop", "t t"]);
    assert_eq!(run.succeeded().stdout, " \n");
    assert_eq!(home.listing("models"), ["corpus-q8.ngram", "corpus-q8.ngram.json"]);
}

#[test]
fn full_precision_is_a_source_too_and_eight_bits_are_not_quantized_again() {
    let home = home();
    made(&home, "f32");
    let run = home.run(["quantize", "corpus-f32", "--json"]);
    let value = run.json();
    assert_eq!((value["method"].as_str(), value["backend"].as_str()), (Some("q8"), Some("ngram")));
    home.run(["quantize", "corpus-f32-q8"]).failed_with("is quantized already", "start from the text");
    let small = std::fs::read(value["path"].as_str().unwrap()).unwrap();
    // A key and a string of two bytes, in MessagePack.
    let marker: &[u8] = b"pajamas.method\xa2q8";
    assert!(small.windows(marker.len()).any(|window| window == marker), "the provenance is in the file");
}

#[test]
fn its_option_changes_the_text_and_a_wrong_one_is_explained() {
    let home = home();
    made(&home, "q8");
    let seeded = |extra: &[&str]| tell(&home, "corpus-q8", &[&["--seed", "1"], extra].concat());
    let story = |extra: &[&str]| seeded(extra).succeeded().stdout.clone();
    assert_eq!(story(&[]), story(&["--set", "sharpness=1"]));
    assert_ne!(story(&[]), story(&["--set", "sharpness=0.5"]));
    seeded(&["--set", "sharpnes=1"]).misused("unknown option `sharpnes`", "did you mean `sharpness`?");
    let refused = seeded(&["--set", "sharpness=99"]);
    assert!(refused.stderr.contains("option `sharpness` is `99`, expected a number from 0.1 to 10"), "{refused:?}");
    seeded(&["--context-length", "8"]).failed_with("do not fit the context of 8", "--context-length");
}

#[test]
fn a_damaged_file_is_refused_by_name() {
    let home = home();
    let path = made(&home, "q8");
    let length = std::fs::metadata(&path).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 1).unwrap();
    let refused = tell(&home, path.to_str().unwrap(), &[]);
    assert!(refused.stderr.contains("corpus-q8.ngram`: expected a whole model"), "{refused:?}");
    std::fs::write(&path, "Once upon a time").unwrap();
    let refused = tell(&home, path.to_str().unwrap(), &[]);
    assert!(refused.stderr.contains("corpus-q8.ngram`: expected a file that begins with `n-gram 1`"), "{refused:?}");
}

/// A stranger reads it in one go; docs/plugins/README.md promises the number.
#[test]
fn a_whole_backend_takes_less_than_200_lines() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-template/src");
    let files: Vec<_> = std::fs::read_dir(sources).unwrap().map(|file| file.unwrap().path()).collect();
    let lines: usize = files.iter().map(|path| std::fs::read_to_string(path).unwrap().lines().count()).sum();
    assert!(!files.is_empty() && lines < 200, "{lines} lines in {files:?}");
}

/// The new plugin is built in a fixed folder, so that only what changed is built again from run to run.
#[test]
fn a_new_plugin_builds_outside_the_repository_and_runs_when_dropped_in() {
    let home = Home::new();
    let workshop = build_dir().join("plugins-new");
    let folder = workshop.join("acme-npu");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    std::fs::create_dir_all(&workshop).unwrap();
    let made = home.run(["plugins", "new", "acme-npu", "--path", folder.to_str().unwrap(), "--json"]).json();
    assert_schema("plugins-new", &made);
    assert_eq!(made["library"], library_name("acme_npu"));
    cargo(&["build"], &folder, &workshop.join("target"));
    // It keeps every rule, under its new name too.
    let rules = cargo(&["test", "--test", "conformance"], &folder, &workshop.join("target"));
    assert!(rules.contains("test result: ok. 19 passed; 0 failed; 1 ignored"), "{rules}");
    let library = library_name("acme_npu");
    std::fs::copy(workshop.join("target/release").join(&library), home.plugins().join(&library)).unwrap();
    let list = home.run(["plugins", "list", "--json"]).json();
    assert_eq!((list[0]["name"].as_str(), list[0]["status"].as_str()), (Some("acme-npu"), Some("available")));
    assert_eq!(list[0]["formats"][0], "acme-npu");
    let text = folder.join("tests/corpus.txt");
    home.run(["quantize", text.to_str().unwrap(), "--format", "acme-npu"]).succeeded();
    let run = home.run(["run", "corpus-q8.acme-npu", "--backend", "acme-npu", "-p", "The llama", "--stop", "."]);
    assert!(!run.succeeded().stdout.trim().is_empty(), "{run:?}");
}

/// Runs cargo on the plugin in `folder`, with what is on this machine; its dependencies are there since the template was
/// built. Returns what it printed.
fn cargo(arguments: &[&str], folder: &Path, target_dir: &Path) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .args(["--release", "--offline"])
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", target_dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_name_that_cannot_be_one_and_a_folder_that_is_taken_are_refused() {
    let home = Home::new();
    let new = |name: &str| {
        let output = home.command(["plugins", "new", name]).current_dir(home.path()).output().unwrap();
        Run::from(output)
    };
    new("Acme NPU").misused("`Acme NPU` cannot be a plugin's name", "`pajamas plugins new acme-npu`");
    new("gguf").misused("means something else already", "gguf-backend");
    let run = new("acme-npu");
    assert_eq!(run.succeeded().stdout.trim(), home.path().canonicalize().unwrap().join("acme-npu").to_str().unwrap());
    assert!(
        run.stderr.contains("cargo build --release\n") && run.stderr.contains(&library_name("acme_npu")),
        "{run:?}"
    );
    new("acme-npu").failed_with("there is something here already", "--path");
}
