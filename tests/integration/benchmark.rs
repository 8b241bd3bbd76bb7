//! `pajamas benchmark`: numbers that agree with each other, in every format; failures beside measurements; wrong usage.

use pajamas_tests::{Home, Run, assert_schema};
use serde_json::Value;

/// Tests that take no time.
const SMALL: [&str; 6] = ["-p", "32", "-n", "8", "-r", "2"];

/// The arguments of a benchmark of `models`.
fn arguments<'a>(models: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [&["benchmark"], models, more].concat()
}

/// What it printed as JSON, whether it succeeded or not.
#[track_caller]
fn report(run: &Run) -> Value {
    let value = serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:#?}"));
    assert_schema("benchmark", &value);
    value
}

/// The names of a run's tests.
fn names(run: &Value) -> Vec<&str> {
    run["tests"].as_array().unwrap().iter().map(|test| test["test"].as_str().unwrap()).collect()
}

fn samples(value: &Value) -> Vec<f64> {
    value["samples"].as_array().unwrap().iter().map(|sample| sample.as_f64().unwrap()).collect()
}

/// Asserts that `value` is `expected`, to rounding.
#[track_caller]
fn about(value: &Value, expected: f64) {
    let value = value.as_f64().expect("a number");
    assert!((value - expected).abs() <= expected.abs() * 1e-9, "{value} is not {expected}");
}

#[test]
fn json_is_as_its_schema_says_and_its_numbers_agree() {
    let home = Home::with_gguf_cpu();
    let file = home.quantized("Q8_0");
    let value = home.run([&arguments(&[file.to_str().unwrap()], &SMALL)[..], &["--json"]].concat()).json();
    assert_schema("benchmark", &value);
    assert_eq!(value["settings"]["repetitions"], 2);
    assert_eq!(value["settings"]["threads"], 1, "the config file's");
    let run = &value["runs"][0];
    assert_eq!((&run["backend"], &run["error"]), (&"gguf-cpu".into(), &Value::Null));
    assert_eq!(run["name"], "pajama-tiny-q8_0");
    let loaded = &run["loaded"];
    assert_eq!((&loaded["architecture"], &loaded["quantization"]), (&"qwen2".into(), &"Q8_0".into()));
    assert_eq!(loaded["context_length"], 33, "what the longest test takes");
    assert!(loaded["load_ms"].as_f64().unwrap() > 0.0);
    let memory = &loaded["memory"];
    let bytes = |name: &str| memory[name].as_u64().unwrap();
    assert_eq!(memory["weights_bytes"], loaded["size_bytes"]);
    assert!(bytes("kv_cache_bytes") > 0 && bytes("compute_bytes") > 0, "{memory}");
    assert!(bytes("peak_resident_bytes") > bytes("kv_cache_bytes") + bytes("compute_bytes"), "{memory}");

    assert_eq!(names(run), ["pp32", "tg8"]);
    for (test, tokens) in run["tests"].as_array().unwrap().iter().zip([32, 8]) {
        assert_eq!((&test["status"], &test["tokens"], &test["depth"]), (&"measured".into(), &tokens.into(), &0.into()));
        let rate = &test["tokens_per_second"];
        let [first, second] = samples(rate)[..] else { panic!("{rate}") };
        about(&rate["mean"], f64::midpoint(first, second));
        about(&rate["standard_deviation"], (first - second).abs() / 2.0_f64.sqrt());
        about(&test["ratio"], 1.0);
    }
    let [prompt, generation] = &run["tests"].as_array().unwrap()[..] else { panic!("{run}") };
    let first_token_ms = samples(&prompt["time_to_first_token_ms"]);
    for (rate, ms) in samples(&prompt["tokens_per_second"]).iter().zip(&first_token_ms) {
        assert!((rate * ms / 1e3 - 32.0).abs() < 1e-6, "32 tokens until the first of the answer: {prompt}");
    }
    about(&prompt["time_to_first_token_ms"]["median"], f64::midpoint(first_token_ms[0], first_token_ms[1]));
    assert_eq!(generation["time_to_first_token_ms"], Value::Null);
}

#[test]
fn the_other_formats_can_be_read_by_other_programs() {
    let home = Home::with_gguf_cpu();
    let file = home.quantized("Q8_0");
    let printed = |format: &str| {
        let run = home.run([&arguments(&[file.to_str().unwrap()], &SMALL)[..], &["-o", format]].concat());
        run.succeeded().stdout.clone()
    };
    let text = printed("csv");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let rows: Vec<std::collections::BTreeMap<String, String>> = reader.deserialize().map(Result::unwrap).collect();
    assert_eq!(rows.iter().map(|row| row["test"].as_str()).collect::<Vec<_>>(), ["pp32", "tg8"]);
    for row in &rows {
        let samples: Vec<f64> = row["tokens_per_second_samples"].split(';').map(|v| v.parse().unwrap()).collect();
        assert_eq!((samples.len(), row["status"].as_str()), (2, "measured"));
        let mean: f64 = row["tokens_per_second_mean"].parse().unwrap();
        assert!((mean - f64::midpoint(samples[0], samples[1])).abs() < 1e-6, "{row:?}");
    }

    let text = printed("md");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
    assert!(rows[0].starts_with("| model | size | params | backend | threads | test | t/s |"), "{text}");
    assert_eq!(rows.len(), 4, "{text}");
    assert!(rows[2].contains("| gguf-cpu | 1 | pp32 |") && rows[3].contains("| gguf-cpu | 1 | tg8 |"), "{text}");

    let text = printed("table");
    assert!(text.contains("\nMODEL ") && text.contains(" ± ") && text.contains("\ntgN "), "{text}");
}

#[test]
fn at_a_depth_only_what_comes_behind_it_is_counted() {
    let home = Home::with_gguf_cpu();
    let file = home.quantized("Q8_0");
    let depth = ["-p", "4,1004", "-n", "4", "-r", "3", "-d", "0,1000", "--json"];
    let value = home.run(arguments(&[file.to_str().unwrap()], &depth)).json();
    assert_schema("benchmark", &value);
    let run = &value["runs"][0];
    assert_eq!(names(run), ["pp4", "pp1004", "tg4", "pp4 @ d1000", "pp1004 @ d1000", "tg4 @ d1000"]);
    assert_eq!(run["loaded"]["context_length"], 2005);
    let tests = run["tests"].as_array().unwrap();
    assert!(tests.iter().all(|test| test["status"] == "measured"), "{run}");
    let few_behind_many = &tests[3];
    assert_eq!((&few_behind_many["tokens"], &few_behind_many["depth"]), (&4.into(), &1000.into()));
    let ms = |test: &Value| test["time_to_first_token_ms"]["median"].as_f64().unwrap();
    assert!(ms(few_behind_many) < ms(&tests[1]) / 2.0, "as if all 1004 were processed: {tests:?}");
}

#[test]
fn a_depth_that_the_backend_does_not_keep_is_skipped_with_the_reason() {
    let home = Home::with_gguf_cpu();
    home.install("misbehaving");
    let file = home.quantized("Q8_0");
    let run = home
        .run(arguments(&[file.to_str().unwrap()], &["-b", "misbehaving", "-p", "2", "-n", "0", "-d", "2,9", "--json"]));
    let value = report(&run);
    assert_eq!(run.code, Some(0), "{run:#?}");
    let tests = value["runs"][0]["tests"].as_array().unwrap();
    assert_eq!((&tests[0]["test"], &tests[0]["status"]), (&"pp2 @ d2".into(), &"skipped".into()));
    assert_eq!(tests[0]["reason"], "the backend keeps no sessions: the 2 tokens before would be counted");
    assert_eq!(tests[1]["reason"], "the backend gave a context of 8 tokens, and the test takes 12");
}

#[test]
fn two_models_and_two_backends_stand_side_by_side() {
    let home = Home::with_gguf_cpu();
    let (small, large) = (home.quantized("Q4_0"), home.quantized("F32"));
    let models = [small.to_str().unwrap(), large.to_str().unwrap()];
    let value = home.run([&arguments(&models, &SMALL)[..], &["-b", "all", "--json"]].concat()).json();
    assert_schema("benchmark", &value);
    let runs = value["runs"].as_array().unwrap();
    assert_eq!(runs.iter().map(|run| &run["name"]).collect::<Vec<_>>(), ["pajama-tiny-q4_0", "pajama-tiny-f32"]);
    let mean = |test: &Value| test["tokens_per_second"]["mean"].as_f64().unwrap();
    let tests = |run: usize| runs[run]["tests"].as_array().unwrap();
    for (first, second) in tests(0).iter().zip(tests(1)) {
        about(&first["ratio"], 1.0);
        about(&second["ratio"], mean(second) / mean(first));
    }
    let size = |run: usize| runs[run]["loaded"]["memory"]["weights_bytes"].as_u64().unwrap();
    assert!(size(1) > 3 * size(0), "each has its own memory");

    let table = home.run(arguments(&models, &["-p", "8", "-n", "0", "-r", "1"]));
    assert!(table.succeeded().stdout.contains("RATIO"), "{table:#?}");
}

#[test]
fn a_backend_that_crashes_is_one_failed_row_and_the_others_go_on() {
    let home = Home::with_gguf_cpu();
    home.install("misbehaving");
    let file = home.quantized("Q8_0");
    let benchmark = |mode: &str, more: &[&str]| {
        let small = ["-p", "2", "-n", "2", "-r", "1", "-b", "misbehaving", "-b", "gguf-cpu"];
        let arguments = [&arguments(&[file.to_str().unwrap()], &small)[..], more].concat();
        Run::from(home.command(arguments).env("MISBEHAVE", mode).output().unwrap())
    };
    let run = benchmark("abort-generate", &["-o", "json"]);
    let value = report(&run);
    assert_eq!(run.code, Some(1), "{run:#?}");
    let (bad, good) = (&value["runs"][0], &value["runs"][1]);
    assert_eq!((names(bad), &bad["tests"][0]["status"]), (vec!["pp2"], &"failed".into()), "none after the crash");
    let reason = "the worker process crashed (abort, signal 6): the thread snapped";
    assert_eq!((&bad["tests"][0]["reason"], &bad["error"]["kind"]), (&reason.into(), &"worker".into()));
    assert!(good["tests"].as_array().unwrap().iter().all(|test| test["status"] == "measured"), "{good}");
    assert!(run.stderr.starts_with("error: 1 of 2 failed\n"), "{run:#?}");
    assert!(run.stderr.contains(&format!("on misbehaving, pp2: {reason}\n")), "{run:#?}");

    let run = benchmark("panic-load", &[]);
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert!(run.stdout.contains("misbehaving: failed: the plugin panicked: no loom"), "{run:#?}");

    // An engine that does not do what it was asked for is not measured; the next test is another chance.
    let value = report(&benchmark("well", &["-o", "json"]));
    let tests = value["runs"][0]["tests"].as_array().unwrap();
    assert_eq!(tests[0]["reason"], "the backend processed 1 of 2 tokens and generated 1 of 1");
    assert_eq!((tests.len(), &value["runs"][0]["error"]), (2, &Value::Null));
}

#[test]
fn a_named_backend_is_never_replaced() {
    let home = Home::with_gguf_cpu();
    home.install("misbehaving");
    let file = home.quantized("Q8_0");
    let mut command = home.command(arguments(&[file.to_str().unwrap()], &["-b", "misbehaving", "-p", "8", "-n", "0"]));
    Run::from(command.env("MISBEHAVE", "unavailable").output().unwrap())
        .failed_with("`misbehaving` cannot run: no sheep", "buy a sheep");
}

#[test]
fn a_model_that_must_be_made_first_is_made_once() {
    let home = Home::with_gguf_cpu();
    let folder = pajamas_tests::pajama_tiny();
    let small = [&arguments(&[folder.to_str().unwrap()], &SMALL)[..], &["-m", "Q4_0", "--json"]].concat();
    let first = home.run(&small);
    assert_eq!(first.json()["runs"][0]["loaded"]["quantization"], "Q4_0");
    assert!(first.stderr.contains("made ") && first.stderr.contains("pajama-tiny-q4_0.gguf"), "{first:#?}");
    assert_eq!(home.run(&small).succeeded().stderr, "");
}

#[test]
fn what_cannot_be_measured_is_wrong_usage() {
    let home = Home::with_gguf_cpu();
    let file = home.quantized("Q8_0");
    let run = |more: &[&str]| home.run(arguments(&[file.to_str().unwrap()], more));
    run(&["-p", "0", "-n", "0"]).misused("nothing to measure", "-p 0");
    run(&["-b", "guf-cpu"]).misused("unknown backend `guf-cpu`", "did you mean `gguf-cpu`?");
    run(&["-c", "512"]).misused("pp512 takes a context of 513 tokens, and `--context-length` is 512", "leave");
    run(&["-p", "8", "-d", "0,600", "-c", "512"]).misused("tg128 @ d600 takes a context of 730 tokens", "leave");
    run(&["--set", "bach_size=1"]).misused("bach_size", "batch_size");
    run(&["-b", "all", "--set", "batch_size=x"]).misused("batch_size", "");
    run(&["-m", "Q4_0"]).misused("`-m Q4_0` has no effect", "leave `-m` out");
    for (wrong, said) in [
        (&["-p", "512,x"][..], "expected whole numbers from 0 to 16777216, as in `512` or `512,1024`"),
        (&["-n", "-1"], "expected whole numbers"),
        (&["-d", ""], "expected whole numbers"),
        (&["-r", "0"], "0 is not in 1..=10000"),
        (&["--delay", "-1"], "expected a number from 0"),
        (&["-o", "xml"], "table, md, csv, json"),
        (&["--json", "-o", "csv"], "cannot be used with"),
    ] {
        let run = run(wrong);
        assert!(run.code == Some(2) && run.stderr.contains(said), "{wrong:?}: {run:#?}");
    }
    home.run(["benchmark"]).code.filter(|code| *code == 2).expect("wrong usage");
    let help = home.run(["benchmark", "--help"]);
    assert!(help.succeeded().stdout.contains("are taken beside the engine"), "{help:#?}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_prints_what_was_finished_and_ends_with_130() {
    use std::io::{BufRead, BufReader, Read};
    use std::process::Stdio;
    let home = Home::with_gguf_cpu();
    let file = home.quantized("Q8_0");
    // The second test takes minutes.
    let long = ["-p", "0", "-n", "4,2000", "-r", "100", "--json", "-v"];
    let mut command = home.command(arguments(&[file.to_str().unwrap()], &long));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("on gguf-cpu: tg4 is done") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended before its first test was done");
    }
    let process = libc::pid_t::try_from(child.id()).unwrap();
    // SAFETY: the child is not reaped yet, so the id is its own.
    assert_eq!(unsafe { libc::kill(process, libc::SIGINT) }, 0);
    stderr.read_to_string(&mut line).unwrap();
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!(run.code, Some(130), "{run:#?}");
    let value = report(&run);
    assert_eq!((&value["interrupted"], names(&value["runs"][0])), (&true.into(), vec!["tg4"]));
}
