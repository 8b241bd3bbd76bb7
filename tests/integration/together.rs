//! Features that are used together, one command after the other, and what each then says of the same model.

use pajamas_tests::{Home, Run, pajama_tiny};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn tiny() -> String {
    pajama_tiny().display().to_string()
}

/// `quantize` without measuring.
fn made(home: &Home, source: &str, more: &[&str]) -> Run {
    home.run([&["quantize", source, "--no-validate"], more].concat())
}

fn path_of(run: &Run) -> PathBuf {
    run.succeeded().stdout.trim().into()
}

/// A text to calibrate with.
fn calibration(dir: &Path) -> String {
    std::fs::create_dir_all(dir).unwrap();
    let path = dir.join("calibration.txt");
    std::fs::write(&path, &std::fs::read(pajama_tiny().join("validation.txt")).unwrap()[..4000]).unwrap();
    path.display().to_string()
}

fn copy_of_tiny(home: &Home) -> PathBuf {
    let copy = home.path().join("copy");
    pajamas_tests::copy_tree(&pajama_tiny(), &copy);
    copy
}

#[test]
fn a_name_that_was_chosen_is_kept_or_refused() {
    let home = Home::with_gguf_cpu();
    home.install("mlx_quantize");
    let copy = copy_of_tiny(&home).display().to_string();
    let text = calibration(home.path());
    let first = std::fs::read(path_of(&made(&home, &tiny(), &["-n", "mine", "-m", "Q8_0"]))).unwrap();
    let search = ["quantize", &tiny(), "--fit", "2MiB", "--tokens", "512", "-n", "mine"];
    let others: [&[&str]; 4] =
        [&["-m", "Q8_0", "--pure"], &["-m", "Q8_0", "--dry-run"], &["-m", "Q4_0"], &["--format", "mlx"]];
    for (source, more) in others.iter().map(|more| (tiny(), *more)).chain([(copy.clone(), ["-m", "Q8_0"].as_slice())]) {
        let run = home.run([&["quantize", &source, "-n", "mine"], more].concat());
        if more.contains(&"--dry-run") {
            run.succeeded();
        } else {
            run.failed_with("`mine` is there already: Q8_0 of", "`--force` replaces it");
        }
    }
    home.run(search).failed_with("`mine` is there already", "`--force` replaces it");
    assert!(std::fs::read(home.path().join("models/mine.gguf")).unwrap() == first, "nothing has touched it");
    // Asked to, a name passes on to a model of another source.
    assert!(path_of(&made(&home, &copy, &["-n", "mine", "-m", "Q4_0", "--force"])).ends_with("mine.gguf"));
    assert_eq!(home.listing("models"), ["mine.gguf", "mine.gguf.json"]);
    // The store's own folder is the store, also where it is named.
    let store = home.path().join("models").display().to_string();
    made(&home, &tiny(), &["-n", "mine", "-o", &store]).failed_with("`mine` is there already", "--force");
    // Two texts of one name are not one text.
    let other = calibration(&home.path().join("other"));
    made(&home, &tiny(), &["-m", "Q4_0", "--calibration", &text]).succeeded();
    made(&home, &tiny(), &["-m", "Q4_0", "--calibration", &other]).failed_with("is there already", "--name");
    home.run(["quantize", &tiny(), "-m", "Q4_0", "--calibration", &other, "--dry-run"]).succeeded();
    let search = |text: &str| home.run([&search[..6], &["--calibration", text]].concat());
    let (found, again) = (path_of(&search(&text)), path_of(&search(&text)));
    assert_eq!(found, again, "the same search replaces what it found");
    search(&other).failed_with("is there already", "--name");
    // What was put there by hand is somebody's, too.
    std::fs::copy(&found, home.path().join("models/by-hand.gguf")).unwrap();
    for name in ["by-hand", "By-Hand"] {
        made(&home, &tiny(), &["-n", name, "-m", "Q4_0"]).failed_with("pajamas did not make it", "--name");
    }
    made(&home, &tiny(), &["-n", "x.imatrix", "-m", "Q4_0"]).failed_with("so are importance matrices called", "leave");
}

#[test]
fn an_importance_matrix_outlives_the_model_that_it_came_with() {
    let home = Home::with_gguf_cpu();
    let text = calibration(home.path());
    made(&home, &tiny(), &["-m", "Q4_0", "-n", "m", "--calibration", &text]).succeeded();
    let matrix = home.path().join("models/m.imatrix.gguf");
    let bytes = std::fs::read(&matrix).unwrap();
    let again = ["-m", "Q4_0", "-n", "m", "--force", "--imatrix", matrix.to_str().unwrap()];
    made(&home, &tiny(), &again).succeeded();
    assert!(std::fs::read(&matrix).unwrap() == bytes);
    home.run(["verify", "m"]).succeeded();
    // Nor is it a model where that is gone.
    std::fs::remove_file(home.path().join("models/m.gguf")).unwrap();
    assert_eq!(home.run(["models", "--json"]).json(), serde_json::json!([]));
    home.run(["models", "prune"]).succeeded();
    assert_eq!(home.listing("models"), [""; 0]);
}

#[test]
fn measuring_a_model_changes_nothing_for_what_was_made_of_it() {
    let home = Home::with_gguf_cpu();
    let whole = path_of(&home.run(["quantize", &tiny(), "-m", "F16", "--tokens", "512"]));
    let child = path_of(&made(&home, "pajama-tiny-f16", &["-m", "Q4_0"]));
    home.run(["validate", whole.to_str().unwrap(), "--tokens", "2048"]).succeeded();
    let report = home.run(["verify", child.to_str().unwrap(), "--json"]);
    assert!(report.succeeded().json()["checks"].as_array().unwrap().iter().all(|check| check["outcome"] == "passed"));
    let stale = home.run(["models", "prune", "--stale", "--json"]).json();
    assert_eq!(stale["removed"], serde_json::json!([]));
    std::fs::write(&whole, [&std::fs::read(&whole).unwrap()[..], b"x"].concat()).unwrap();
    assert_eq!(home.run(["verify", child.to_str().unwrap()]).code, Some(1), "that is another file");
}

#[test]
fn what_lies_beside_a_source_is_no_part_of_it() {
    let home = Home::with_gguf_cpu();
    let source = copy_of_tiny(&home);
    let folder = source.display().to_string();
    let path = path_of(&made(&home, &folder, &["-m", "Q4_0"]));
    std::fs::write(source.join("README.md"), "read me").unwrap();
    made(&home, &folder, &["-m", "Q8_0", "-o", &folder]).succeeded();
    let useless = |flag: &str| home.run(["models", "prune", flag, "--dry-run", "--json"]).json()["removed"].clone();
    assert_eq!((useless("--stale"), useless("--superseded")), (serde_json::json!([]), serde_json::json!([])));
    let report = home.run(["validate", path.to_str().unwrap(), "--tokens", "512", "--json"]).json();
    assert_eq!(report["verdict"]["passed"], true, "its source is still its source: {report:#}");
    std::fs::write(source.join("config.json"), std::fs::read_to_string(source.join("config.json")).unwrap() + "\n")
        .unwrap();
    assert_eq!(useless("--stale")[0]["path"], path.to_str().unwrap());
}

#[test]
fn a_model_is_judged_by_what_it_was_made_under_wherever_it_lies() {
    let home = Home::with_gguf_cpu();
    let folder = tiny();
    let judged = |home: &Home, model: &str| -> (Value, Value) {
        let run = home.run(["validate", model, "-r", &folder, "--tokens", "512", "--json"]);
        let verdict = serde_json::from_str::<Value>(&run.stdout).unwrap()["verdict"].clone();
        (verdict["max_kld"].clone(), verdict["max_degradation"].clone())
    };
    let out = home.path().join("elsewhere").display().to_string();
    let strict = home.run(["quantize", &folder, "-m", "Q2_K", "-o", &out, "--max-kld", "0.00001", "--tokens", "512"]);
    assert_eq!(strict.code, Some(3), "{strict:?}");
    assert_eq!(judged(&home, strict.stdout.trim()), (0.00001.into(), 0.05.into()));
    // Asked for a size, it may be twice as bad; that is measured also where nothing else is.
    std::fs::write(home.path().join("config.toml"), "validate = false\n").unwrap();
    let fitted = home.run(["quantize", &folder, "--fit", "2MiB", "-o", &out, "--tokens", "512"]);
    assert!(fitted.succeeded().stderr.contains("passed (at most 100.00 % worse)"), "{fitted:?}");
    assert_eq!(judged(&home, fitted.stdout.trim()), (Value::Null, 1.0.into()));
}

#[test]
fn what_is_asked_for_the_reference_is_not_dropped_in_silence() {
    let home = Home::with_gguf_cpu();
    home.install("mlx_quantize");
    made(&home, &tiny(), &["-n", "m", "-m", "Q8_0"]).succeeded();
    let validate = |more: &[&str]| home.run([&["validate", "m", "--tokens", "512"], more].concat());
    validate(&["--reference-backend", "nosuch"]).misused("unknown backend `nosuch`", "installed: gguf-cpu");
    validate(&["--reference-set", "nosuch=1"]).misused("nosuch", "");
    let run = validate(&["--reference-backend", "mlx-quantize"]);
    assert!(run.code == Some(1) && run.stderr.contains("`mlx-quantize` cannot run"), "{run:?}");
    validate(&["--backend", "gguf-cpu"]).succeeded();
}

#[test]
fn two_words_for_one_option_are_refused() {
    let home = Home::with_gguf_cpu();
    made(&home, &tiny(), &["--pure", "--set", "pure=false"])
        .misused("`--set pure=…` and the flag", "leave one of them out");
}
