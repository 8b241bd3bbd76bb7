//! `quantize --fit` and `--max-kld`: the method is found by measuring, and what was found is true.

use pajamas_tests::{Home, assert_schema, pajama_tiny};
use serde_json::Value;

fn quantize(home: &Home, more: &[&str]) -> pajamas_tests::Run {
    quantize_on(home, "8192", more)
}

fn quantize_on(home: &Home, tokens: &str, more: &[&str]) -> pajamas_tests::Run {
    let folder = pajama_tiny().display().to_string();
    home.run([&["quantize", folder.as_str(), "--tokens", tokens], more].concat())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn the_smallest_that_is_good_enough_is_found_and_its_figures_are_reproduced() {
    let home = Home::with_gguf_cpu();
    let run = quantize(&home, &["--max-kld", "0.0009", "--json"]);
    let value = run.json();
    assert_schema("quantize", &value);
    let trials = value["search"]["trials"].as_array().unwrap();
    assert!((3..=10).contains(&trials.len()), "{trials:?}");
    let chosen: Vec<&Value> = trials.iter().filter(|trial| trial["good"] == true).collect();
    let chosen = *chosen.first().expect("something was good enough");
    assert_eq!(chosen["method"], value["method"]);
    assert!(value["validation"]["verdict"]["passed"] == true, "what was found good enough is");
    let evidence = number(&value["output_bytes"]) - number(&chosen["size_bytes"]);
    assert!((0.0..4096.0).contains(&evidence), "the forecast holds, but for the evidence: {evidence}");
    // What is just below was measured, and is not good enough.
    let below = trials.iter().rfind(|trial| number(&trial["size_bytes"]) < number(&chosen["size_bytes"])).unwrap();
    assert!(number(&below["kld"]) > 0.0009 && below["good"] == false, "{below}");
    assert!(chosen["whole"] == true, "what was chosen read all of the text: {chosen}");
    let measured = number(&value["validation"]["comparison"]["kl_divergence"]["mean"]);
    assert!(measured <= 0.0009 && value["validation"]["recorded"] == true);
    let path = value["path"].as_str().unwrap();
    assert!(path.contains("-kld-"), "named for what was asked: {path}");
    let again = home.run(["validate", path, "--tokens", "8192", "--json"]).json();
    assert_eq!(number(&again["comparison"]["kl_divergence"]["mean"]), measured);
    // The artifact itself tells why it is what it is, and is still what llama.cpp makes.
    let told = home.run(["info", path, "--json"]).json();
    let evidence: Value = serde_json::from_str(told["provenance"]["pajamas.choice"].as_str().unwrap()).unwrap();
    assert_eq!((&evidence["trials"], &evidence["max_kld"]), (&value["search"]["trials"], &0.0009.into()));
    let shown = home.run(["info", path]).stdout;
    let reason = evidence["reason"].as_str().unwrap();
    let row = shown.lines().find(|line| line.starts_with("pajamas.choice")).unwrap_or_else(|| panic!("{shown}"));
    assert!(row.ends_with(reason), "{row}");
    assert_eq!(shown.matches(" positions: ").count(), trials.len(), "{shown}");
    home.run(["verify", path]).succeeded();
    // Far from the limit a part of the text is enough, but for what is chosen.
    let loose = quantize(&home, &["--max-kld", "0.5", "--json"]).json();
    let trials = loose["search"]["trials"].as_array().unwrap();
    assert_eq!((&loose["method"], &trials[0]["whole"]), (&"Q2_K".into(), &true.into()));
    assert!(trials[1..].iter().all(|trial| number(&trial["tokens"]) < 8000.0), "{trials:?}");
    assert!(home.listing("cache/scratch").is_empty(), "no trial is left");
}

#[test]
fn the_best_that_fits_is_found() {
    let home = Home::with_gguf_cpu();
    let value = quantize(&home, &["--fit", "2.2MiB", "--json"]).json();
    let trials = value["search"]["trials"].as_array().unwrap();
    let size = std::fs::metadata(value["path"].as_str().unwrap()).unwrap().len();
    assert!(size as f64 <= 2.2 * 1024.0 * 1024.0, "{size}");
    let least = trials.iter().map(|trial| number(&trial["kld"])).fold(f64::INFINITY, f64::min);
    let chosen: Vec<&Value> = trials.iter().filter(|trial| trial["good"] == true).collect();
    assert_eq!(chosen.len(), 1);
    assert_eq!((number(&chosen[0]["kld"]), &chosen[0]["method"]), (least, &value["method"]));
    assert!(trials.iter().any(|trial| trial["tensor_types"] != ""), "some tensors were raised: {trials:?}");
    // Between the only method that fits, which is not good enough, and the next, which is too large.
    let both = quantize(&home, &["--fit", "1.5MiB", "--max-kld", "0.01", "--json"]).json();
    let chosen = both["search"]["trials"].as_array().unwrap().iter().find(|trial| trial["good"] == true).unwrap();
    assert!(number(&both["output_bytes"]) <= 1.5 * 1024.0 * 1024.0 && number(&chosen["kld"]) <= 0.01, "{both:#}");
    assert!(chosen["method"] == "Q2_K" && chosen["tensor_types"] != "", "{chosen}");
}

#[test]
fn what_says_how_to_quantize_holds_for_what_is_found() {
    let home = Home::with_gguf_cpu();
    let text = home.path().join("calibration.txt");
    std::fs::write(&text, &std::fs::read(pajama_tiny().join("validation.txt")).unwrap()[..8000]).unwrap();
    let calibration = ["--json", "--calibration", text.to_str().unwrap()];
    let made = |more: &[&str]| quantize_on(&home, "512", &[more, &calibration].concat()).json();
    // Methods that need an importance matrix take part where there is one.
    let small = made(&["--fit", "1.65MiB"]);
    let mut tried = small["search"]["trials"].as_array().unwrap().iter().map(|trial| trial["method"].as_str().unwrap());
    assert!(tried.any(|method| method == "IQ3_XS"), "{small:#}");
    let beside = small["companions"][0].as_str().unwrap();
    assert!(
        beside.ends_with("-fit-1730150-calibration-calibration.imatrix.gguf") && std::fs::exists(beside).unwrap(),
        "{beside}"
    );
    // What quantizes nothing needs none, and is as good an answer as without.
    let exact = made(&["--max-kld", "0.0000001"]);
    assert_eq!((&exact["method"], &exact["companions"]), (&"BF16".into(), &serde_json::json!([])));
    for (more, fits) in
        [(["--pure"].as_slice(), true), (&["--tensor-type", "ffn_down=Q6_K"], true), (&["--pure"], false)]
    {
        let limit = if fits { "0.1" } else { "0.0000001" };
        let run = quantize_on(&home, "512", &[&["--max-kld", limit], more].concat());
        assert_eq!(run.code, Some(if fits { 0 } else { 3 }), "{more:?}: {run:?}");
        assert!(!run.stderr.contains("BF16:"), "BF16 has no types that could be changed: {run:?}");
    }
}

#[test]
fn what_cannot_be_had_is_said_and_nothing_is_made() {
    let home = Home::with_gguf_cpu();
    let said = |more: &[&str], words: &str| {
        let run = quantize(&home, more);
        assert_eq!(run.code, Some(3), "{run:?}");
        assert!(run.stderr.contains(words), "{}", run.stderr);
    };
    said(&["--fit", "100KiB"], "nothing fits into 100.0 KiB: the smallest that is worth making takes");
    said(
        &["--fit", "1.9MiB", "--max-kld", "0.0001"],
        "nothing within 1.9 MiB has a mean KL divergence of at most 0.0001",
    );
    assert!(home.listing("models").is_empty());
    for (more, words) in
        [(["--fit", "small"].as_slice(), "expected a size"), (&["--fit", "2MiB", "-m", "F16"], "used with")]
    {
        let run = quantize(&home, more);
        assert!(run.code == Some(2) && run.stderr.contains(words), "{run:?}");
    }
    home.install("mlx_quantize");
    quantize(&home, &["--fit", "2MiB", "--format", "mlx"]).failed_with("does not say how large", "--format gguf");
}
