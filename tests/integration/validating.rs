//! `pajamas validate`, and the validation that `quantize` does: figures against NumPy's and transformers', verdicts,
//! what is recorded, and what is refused.

use pajamas_tests::{Home, Run, assert_schema, copy_folder, golden, pajama_tiny};
use serde_json::Value;
use std::path::Path;

fn text() -> String {
    pajama_tiny().join("validation.txt").display().to_string()
}

fn validate(home: &Home, model: &Path, more: &[&str]) -> Run {
    let model = model.display().to_string();
    home.run([&["validate", &model, "--json"], more].concat())
}

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number at {path} in {value:#}"))
}

#[test]
fn every_figure_is_numpys_to_four_digits() {
    let home = Home::with_gguf_cpu();
    let golden = golden("validate.json");
    let (reference, candidate) = (home.quantized("F16"), home.quantized("Q4_K_M"));
    let (tokens, window) = (golden["tokens"].to_string(), golden["window"].to_string());
    let reference = reference.display().to_string();
    let more = ["--reference", &reference, "--text", &text(), "--tokens", &tokens, "--window", &window];
    let report = validate(&home, &candidate, &more).json();
    assert_schema("validate", &report);
    assert_eq!(report["text"]["scored"], golden["positions"]);
    let mut compared = 0;
    let mut compare = |name: &str, ours: &Value, theirs: &Value| {
        let (Some(ours), Some(theirs)) = (ours.as_f64(), theirs.as_f64()) else { panic!("no number: {name}") };
        // Far below any figure that is printed, single precision is all there is.
        assert!((ours - theirs).abs() <= 1e-4 * theirs.abs() + 1e-9, "{name}: {ours} not {theirs}");
        compared += 1;
    };
    for (name, value) in golden.as_object().unwrap() {
        let ours = if name == "perplexity" { &report["perplexity"] } else { &report["comparison"][name] };
        match value {
            Value::Object(parts) => {
                parts.iter().for_each(|(part, value)| compare(&format!("{name}.{part}"), &ours[part], value));
            }
            value if name == "probability_change_rms" => compare(name, ours, value),
            _ => (),
        }
    }
    assert_eq!(compared, 31);
}

#[test]
fn perplexity_of_f16_is_transformers_within_two_per_mille() {
    let home = Home::with_gguf_cpu();
    let golden = golden("perplexity.json");
    let (tokens, window) = (golden["tokens"].to_string(), golden["window"].to_string());
    let more = ["--text", &text(), "--tokens", &tokens, "--window", &window];
    let report = validate(&home, &home.quantized("F16"), &more).json();
    let (ours, theirs) = (number(&report, "/perplexity/value"), number(&golden, "/perplexity"));
    assert!((ours / theirs - 1.0).abs() < 0.002, "{ours} not {theirs}");
    assert_eq!(report["verdict"], Value::Null, "nothing tells what a file elsewhere was made from");
    assert!(report["no_reference"].as_str().unwrap().contains("nothing tells what"));
}

#[test]
fn the_99th_percentile_orders_the_methods() {
    let home = Home::with_gguf_cpu();
    let folder = pajama_tiny().display().to_string();
    let divergence = |method: &str| {
        let more = ["--reference", &folder, "--tokens", "6144", "--window", "256"];
        number(&validate(&home, &home.quantized(method), &more).json(), "/comparison/kl_divergence/p99")
    };
    let found: Vec<f64> = ["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"].map(divergence).into();
    assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
}

#[test]
fn a_damaged_model_fails_the_verdict() {
    let home = Home::with_gguf_cpu();
    let (good, folder) = (home.quantized("Q4_K_M"), pajama_tiny().display().to_string());
    let damage = |name: &str, fill: &dyn Fn(usize) -> u8| {
        let mut bytes = std::fs::read(&good).unwrap();
        // Somewhere in the middle: the weights of a layer.
        let (from, to) = (bytes.len() / 2, bytes.len() / 2 + 200_000);
        bytes[from..to].iter_mut().enumerate().for_each(|(index, byte)| *byte = fill(index));
        let path = home.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let noise = damage("noise.gguf", &|index| (index.wrapping_mul(2_654_435_761) >> 7) as u8 & 0x3b);
    let no_numbers = damage("nan.gguf", &|_| 0xff);
    let more = ["--reference", &folder, "--tokens", "1024"];
    assert_eq!(validate(&home, &good, &more).code, Some(0));
    // That something is wrong needs no reference to be seen.
    let alone = validate(&home, &no_numbers, &["--tokens", "256"]).json();
    assert!(alone["notes"][0].as_str().unwrap().contains("guessing would be 1280"), "{alone:#}");
    for path in [noise, no_numbers] {
        let run = validate(&home, &path, &more);
        assert_eq!(run.code, Some(3), "{run:#?}");
        let report: Value = serde_json::from_str(&run.stdout).unwrap();
        assert_schema("validate", &report);
        assert_eq!(report["verdict"]["passed"], false);
        assert!(!report["verdict"]["reasons"][0].as_str().unwrap().is_empty());
        let error: Value = serde_json::from_str(run.stderr.lines().last().unwrap()).unwrap();
        assert_eq!(error["error"]["kind"], "quality_too_low", "{run:#?}");
    }
}

#[test]
fn limits_are_the_users() {
    let home = Home::with_gguf_cpu();
    let (model, folder) = (home.quantized("Q2_K"), pajama_tiny().display().to_string());
    let judged = |limits: &[&str]| {
        let more = [&["--reference", &folder, "--tokens", "1024"], limits].concat();
        validate(&home, &model, &more).code.unwrap()
    };
    assert_eq!(judged(&[]), 0);
    assert_eq!(judged(&["--max-kld", "0.00001"]), 3);
    assert_eq!(judged(&["--max-kld", "10", "--max-degradation", "0.5"]), 0);
    for wrong in ["5", "-1%", "x%", "nan", ""] {
        assert_eq!(judged(&[&format!("--max-degradation={wrong}")]), 2, "{wrong}");
    }
    let run = validate(&home, &model, &["--max-kld", "1", "--tokens", "256"]);
    assert_eq!(run.code, Some(1), "without a reference there is no verdict to rely on: {run:#?}");
}

#[test]
fn quantize_validates_and_the_artifact_keeps_the_result() {
    let home = Home::with_gguf_cpu();
    home.install("mlx_quantize");
    std::fs::write(home.path().join("config.toml"), "threads = 1\n").unwrap();
    let folder = pajama_tiny().display().to_string();
    let run = home.run(["quantize", &folder]);
    assert!(run.succeeded().stderr.contains("quality perplexity") && run.stderr.contains("passed"), "{run:#?}");
    let path = run.stdout.trim().to_owned();
    let record: Value = serde_json::from_slice(&std::fs::read(format!("{path}.json")).unwrap()).unwrap();
    assert_eq!(record["validation"]["passed"], true);
    let inside = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
    assert!(inside.contains(r#"{"passed":true,"max":0.05,"ppl":"#), "in the file itself");
    assert_eq!(home.run(["run", "pajama-tiny-q4_k_m", "-p", "Who are you?", "-t", "0"]).code, Some(0));

    // What it was made from is known, so nothing has to be named. A result on fewer tokens changes nothing, one on more
    // replaces the old one; a limit that is named now is a question, and no verdict to keep.
    let kept = |path: &str| -> Value {
        let record: Value = serde_json::from_slice(&std::fs::read(format!("{path}.json")).unwrap()).unwrap();
        record["validation"].clone()
    };
    for (tokens, positions) in [("512", 2044), ("4096", 4088)] {
        let arguments = ["validate", "pajama-tiny-q4_k_m", "--max-kld", "0.0000001", "--tokens", tokens];
        let report = home.run(arguments);
        assert_eq!(report.code, Some(3), "{report:#?}");
        assert_eq!(report.stdout.contains("(5.00 %) it passed; that is what is kept"), positions > 4000, "{report:#?}");
        let kept = kept(&path);
        assert_eq!((&kept["passed"], &kept["tokens"]), (&true.into(), &positions.into()), "{kept:#}");
    }
    assert_schema("models", &home.run(["models", "--json"]).json());
    assert_schema("info-model", &home.run(["info", "pajama-tiny-q4_k_m", "--json"]).json());

    // Compared with something else it tells nothing that belongs to the model.
    let other = home.quantized("Q8_0").display().to_string();
    let before = std::fs::read(&path).unwrap();
    let report = home.run(["validate", "pajama-tiny-q4_k_m", "--reference", &other, "--json"]).json();
    assert_eq!(report["recorded"], false);
    assert!(std::fs::read(&path).unwrap() == before);

    let run = home.run(["quantize", &folder, "--json", "-m", "Q2_K", "--max-kld", "0.0000001"]);
    assert_eq!(run.code, Some(3), "{run:#?}");
    let outcome: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_schema("quantize", &outcome);
    let bad = outcome["path"].as_str().unwrap();
    assert!(Path::new(bad).is_file(), "a bad model is told of, not taken away");
    for (limits, code) in [([].as_slice(), 3), (&["--max-kld", "1"], 0)] {
        let run = home.run([&["validate", bad, "--tokens", "4096"], limits].concat());
        assert_eq!(run.code, Some(code), "it is judged by what it was made under, where nothing is said: {run:#?}");
        assert_eq!(kept(bad)["passed"], false);
    }

    let run = home.run(["quantize", &folder, "--no-validate", "-m", "Q8_0"]);
    assert!(!run.succeeded().stderr.contains("quality"), "{run:#?}");
    // Nothing here runs MLX models: that is no failure, unless the user insists.
    let run = home.run(["quantize", &folder, "--format", "mlx"]);
    assert!(run.succeeded().stderr.contains("not validated: no backend can run MLX models"), "{run:#?}");
    let run = home.run(["quantize", &folder, "--format", "mlx", "--validate"]);
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert!(run.stderr.contains("the model is finished") && run.stdout.trim().ends_with("4bit"), "{run:#?}");
}

#[test]
fn files_that_pajamas_does_not_own_are_not_written_to() {
    let home = Home::with_gguf_cpu();
    let folder = pajama_tiny().display().to_string();
    let made = home.quantized("Q8_0");
    // As Hugging Face's cache has it: a blob named for its content, and a link.
    let repository = home.path().join("huggingface/hub/models--acme--loom");
    let (blob, snapshot) = (repository.join("blobs/0123"), repository.join("snapshots/abc"));
    std::fs::create_dir_all(blob.parent().unwrap()).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(repository.join("refs")).unwrap();
    std::fs::write(repository.join("refs/main"), "abc").unwrap();
    std::fs::copy(&made, &blob).unwrap();
    std::os::unix::fs::symlink(&blob, snapshot.join("loom.gguf")).unwrap();
    let before = std::fs::read(&blob).unwrap();
    for model in ["acme/loom", made.to_str().unwrap()] {
        let report = validate(&home, Path::new(model), &["--reference", &folder, "--tokens", "256"]).json();
        assert_eq!(report["recorded"], false, "{model}");
    }
    assert!(std::fs::read(&blob).unwrap() == before && std::fs::read(&made).unwrap() == before);
}

#[test]
fn a_file_that_was_put_in_a_models_place_is_not_that_model() {
    let home = Home::with_gguf_cpu();
    let folder = pajama_tiny().display().to_string();
    let path = home.run(["quantize", &folder]).succeeded().stdout.trim().to_owned();
    std::fs::copy(home.quantized("Q2_K"), &path).unwrap();
    let report = home.run(["validate", &path, "--reference", &folder, "--tokens", "256", "--json"]).json();
    assert_eq!(report["recorded"], false);
    assert_eq!(home.run(["models", "--json"]).json()[0]["method"], "", "nothing is known of it");
}

#[test]
fn a_text_that_is_not_there_is_said_before_any_work() {
    let home = Home::with_gguf_cpu();
    let folder = pajama_tiny().display().to_string();
    let run = home.run(["quantize", &folder, "--text", "nowhere.txt"]);
    assert_eq!((run.code, home.listing("models").len()), (Some(1), 0), "{run:#?}");
    assert_eq!(home.run(["quantize", &folder, "--no-validate", "--max-kld", "1"]).code, Some(2));
}

#[test]
fn a_source_that_changed_is_no_reference() {
    let home = Home::with_gguf_cpu();
    let folder = home.path().join("my-model");
    copy_folder(&pajama_tiny(), &folder);
    home.run(["quantize".as_ref(), folder.as_os_str()]).succeeded();
    std::fs::write(folder.join("generation_config.json"), "{}").unwrap();
    let run = home.run(["validate", "my-model-q4_k_m", "--tokens", "256"]);
    assert!(run.succeeded().stdout.contains("has changed since the model was made from it"), "{run:#?}");
}

#[test]
fn gguf_and_mlx_are_compared_on_one_token_stream() {
    let home = Home::with_gguf_cpu();
    home.install("mlx_quantize");
    if !home.install_mlx() {
        return;
    }
    let folder = pajama_tiny().display().to_string();
    let mlx = home.run(["quantize", &folder, "--format", "mlx", "--bits", "8"]).succeeded().stdout.trim().to_owned();
    let gguf = home.quantized("F16").display().to_string();
    let more = ["--reference", &gguf, "--text", &text(), "--tokens", "1024", "--window", "256"];
    let report = validate(&home, Path::new(&mlx), &more).json();
    assert_eq!((&report["candidate"]["backend"], &report["reference"]["backend"]), (&"mlx".into(), &"gguf-cpu".into()));
    let (mean, top) =
        (number(&report, "/comparison/kl_divergence/mean"), number(&report, "/comparison/top1_agreement/value"));
    assert!(mean < 0.001 && top > 0.95, "{report:#}");
    assert_eq!(report["recorded"], false, "that is not what it was made from");
    let run = home.run(["quantize", &folder, "--format", "mlx", "--validate", "--tokens", "512"]);
    assert!(run.succeeded().stderr.contains("passed"), "{run:#?}");
    let kept = std::fs::read_to_string(Path::new(run.stdout.trim()).join("pajamas.json")).unwrap();
    assert!(kept.contains("pajamas.validation") && kept.contains("pajamas.method"), "{kept}");
    assert_eq!(home.run(["models", "--json"]).json()[0]["validation"]["passed"], true);
}

#[test]
fn isolated_models_give_the_same_figures() {
    let home = Home::with_gguf_cpu();
    let (model, reference) = (home.quantized("Q4_K_M"), home.quantized("F16").display().to_string());
    let more = ["--reference", &reference, "--text", &text(), "--tokens", "512"];
    let plain = validate(&home, &model, &more).json();
    let isolated = validate(&home, &model, &[&more[..], &["--isolate"]].concat()).json();
    assert_eq!(plain["comparison"], isolated["comparison"]);
}

#[test]
fn what_cannot_be_measured_is_refused_with_what_to_do() {
    let home = Home::with_gguf_cpu();
    let model = home.quantized("Q8_0").display().to_string();
    let run = |more: &[&str]| home.run([&["validate", &model], more].concat());
    let file = |name: &str, bytes: &[u8]| {
        let path = home.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    run(&["--text", &file("short.txt", b"Once upon a time.")]).failed_with("is too short", "at least 32");
    let short = file("words.txt", b"Once upon a time there was a fox and a cow.");
    run(&["--text", &short]).failed_with("is too short", "at least 32");
    run(&["--text", &file("latin1.txt", b"caf\xe9 is not UTF-8 here, but Latin-1")]).failed_with("byte 3", "UTF-8");
    run(&["--text", &home.path().display().to_string()]).failed_with("this is no file", "UTF-8");
    run(&["--reference", &model]).misused("cannot be its own reference", "--reference MODEL");
    run(&["--window", "100000"]).misused("longer than the", "--window");
    run(&["--set", "n_gpu_layer=1"]).misused("unknown option", "the options are");
    run(&["--backend", "gguf-cpus"]).misused("unknown backend", "did you mean `gguf-cpu`?");
    for wrong in [["--tokens", "31"], ["--tokens", "x"], ["--tokens", "99999999"], ["--window", "1"]] {
        assert_eq!(run(&wrong).code, Some(2), "{wrong:?}");
    }
    let missing = run(&["--text", "nowhere.txt"]);
    assert_eq!(missing.code, Some(1), "{missing:#?}");
    assert!(missing.stderr.contains("`nowhere.txt`"), "{missing:#?}");
}
