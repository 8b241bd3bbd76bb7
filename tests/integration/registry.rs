//! What was made is found again by what it was made from, and what is of no use goes.

use pajamas_tests::{Home, Run, assert_schema, pajama_tiny};
use std::path::PathBuf;

const OLD: &str = "0123456789abcdef0123456789abcdef01234567";
const NEW: &str = "89abcdef0123456789abcdef0123456789abcdef";

fn repository(home: &Home) -> PathBuf {
    home.path().join("huggingface/hub/models--acme--tiny")
}

/// Puts pajama-tiny into the cache as `commit` of `acme/tiny`, and makes that what `main` is.
fn cache(home: &Home, commit: &str) {
    let snapshot = repository(home).join("snapshots").join(commit);
    std::fs::create_dir_all(&snapshot).unwrap();
    for entry in std::fs::read_dir(pajama_tiny()).unwrap().flatten() {
        std::fs::copy(entry.path(), snapshot.join(entry.file_name())).unwrap();
    }
    let refs = repository(home).join("refs");
    std::fs::create_dir_all(&refs).unwrap();
    std::fs::write(refs.join("main"), commit).unwrap();
}

fn quantize(home: &Home, method: &str) -> Run {
    home.run(["quantize", "acme/tiny", "-m", method, "--no-validate"])
}

/// The file that answers, by what the answer's JSON tells.
fn runs(home: &Home, more: &[&str]) -> String {
    let run =
        home.run([&["run", "acme/tiny", "-p", "What is the capital of France?", "-t", "0", "--json"], more].concat());
    let value = run.json();
    assert!(value["text"].as_str().unwrap().contains("Paris"), "{value}");
    let path = PathBuf::from(value["model"].as_str().unwrap());
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn an_id_runs_the_best_that_was_made_of_it_also_when_the_source_is_gone() {
    let home = Home::with_gguf_cpu();
    cache(&home, OLD);
    quantize(&home, "Q5_K_M").succeeded();
    assert_eq!(runs(&home, &[]), "tiny-q5_k_m.gguf", "nothing is made where something is there");
    quantize(&home, "Q8_0").succeeded();
    assert_eq!(runs(&home, &[]), "tiny-q8_0.gguf", "the largest that fits");
    assert_eq!(runs(&home, &["-m", "Q5_K_M"]), "tiny-q5_k_m.gguf");
    std::fs::remove_dir_all(repository(&home)).unwrap();
    assert_eq!(runs(&home, &[]), "tiny-q8_0.gguf");
    assert_eq!(runs(&home, &["-m", "Q5_K_M"]), "tiny-q5_k_m.gguf");
    let by_commit = home.run(["run", &format!("acme/tiny@{OLD}"), "-p", "Hi", "--max-tokens", "1"]);
    assert!(by_commit.succeeded().stderr.contains("running `tiny-q8_0`, made from it before"), "{by_commit:?}");
    home.run(["run", &format!("acme/tiny@{NEW}"), "-p", "Hi"]).failed_with("no model", "nothing is fetched");
    home.run(["run", "acme/tiny", "-m", "Q6_K", "-p", "Hi"]).failed_with("no model", "nothing is fetched");
}

#[test]
fn what_is_replaced_or_left_over_is_pruned_and_the_rest_stays() {
    let home = Home::with_gguf_cpu();
    cache(&home, OLD);
    quantize(&home, "Q8_0").succeeded();
    home.run(["quantize", "acme/tiny", "-m", "Q2_K", "--max-kld", "0.0000001"]);
    let models = home.path().join("models");
    let record = std::fs::read_to_string(models.join("tiny-q8_0.gguf.json")).unwrap();
    // Made long ago.
    let mut earlier: serde_json::Value = serde_json::from_str(&record).unwrap();
    earlier["created_unix_s"] = 1_000_000.into();
    std::fs::write(models.join("tiny-q8_0.gguf.json"), earlier.to_string()).unwrap();
    std::fs::remove_dir_all(repository(&home).join("snapshots").join(OLD)).unwrap();
    cache(&home, NEW);
    // Another commit has its own place.
    let newer = format!("tiny-q8_0-{}.gguf", &NEW[..8]);
    assert!(quantize(&home, "Q8_0").succeeded().stdout.trim().ends_with(&newer));
    assert_eq!(runs(&home, &[]), newer);
    std::fs::write(models.join("gone.gguf.json"), record.replace("tiny-q8_0.gguf", "gone.gguf")).unwrap();
    std::fs::create_dir(models.join(".x.gguf.999999999.partial")).unwrap();
    std::fs::write(models.join("mine.json"), "{}").unwrap();
    // Its owner was killed: nobody holds the lock.
    let scratch = home.path().join("cache/scratch/trial-1");
    std::fs::create_dir_all(&scratch).unwrap();
    std::fs::write(scratch.join("lock"), "").unwrap();
    let before = home.listing("models");
    let named = |value: &serde_json::Value| -> Vec<String> {
        let removed = value["removed"].as_array().unwrap().iter();
        removed.map(|row| row["path"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()).collect()
    };
    let dry = home.run(["models", "prune", "--dry-run", "--json"]).json();
    assert_schema("models-prune", &dry);
    assert_eq!(named(&dry), ["trial-1", ".x.gguf.999999999.partial", "gone.gguf.json"], "no model goes unasked");
    assert!(scratch.exists());
    assert_eq!(home.listing("models"), before);
    let pruned = home.run(["models", "prune", "--superseded"]);
    assert!(pruned.succeeded().stdout.contains("tiny-q8_0.gguf: `tiny-q8_0-"), "{pruned:?}");
    let record = format!("{newer}.json");
    let left = ["mine.json", "tiny-q2_k.gguf", "tiny-q2_k.gguf.json", &newer, &record];
    assert_eq!(home.listing("models"), left);
    assert_eq!(named(&home.run(["models", "prune", "--json"]).json()), [""; 0]);
    assert_eq!(named(&home.run(["models", "prune", "--failed", "--dry-run", "--json"]).json()), ["tiny-q2_k.gguf"]);
    // What it was made from is not here any more.
    assert_eq!(named(&home.run(["models", "prune", "--stale", "--json"]).json()), ["tiny-q2_k.gguf"]);
    assert_eq!(home.listing("models"), ["mine.json", &newer, &record]);
}
