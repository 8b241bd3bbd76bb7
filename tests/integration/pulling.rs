//! Models from the hub: fetched into Hugging Face's cache, through all that can go wrong on the way.

use crate::hub_server::{COMMIT, Faults, Hub, ID};
use pajamas_tests::{Home, Run, assert_schema, pajama_tiny};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// pajama-tiny on a hub, with files that nobody needs beside it.
fn hub() -> Hub {
    let mut files: BTreeMap<String, Vec<u8>> = std::fs::read_dir(pajama_tiny())
        .unwrap()
        .flatten()
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    for name in ["pytorch_model.bin", "onnx/model.onnx", "picture.png"] {
        files.insert(name.into(), vec![7; 1000]);
    }
    Hub::new(files)
}

/// What is asked for of the weights to see their header.
const HEADER_BYTES: u64 = 1 << 20;

fn weights_bytes() -> u64 {
    pajama_tiny().join("model.safetensors").metadata().unwrap().len()
}

fn command(home: &Home, hub: &Hub, args: &[&str]) -> Command {
    let mut command = home.command(args);
    command.env("HF_ENDPOINT", &hub.endpoint).env_remove("HF_HUB_OFFLINE");
    command
}

fn pull(home: &Home, hub: &Hub) -> Run {
    Run::from(command(home, hub, &["models", "pull", ID]).output().unwrap())
}

fn repository(home: &Home) -> PathBuf {
    home.path().join("huggingface/hub/models--acme--tiny")
}

/// What is in `blobs` that is not whole.
fn partial(home: &Home) -> Vec<(PathBuf, u64)> {
    let blobs = std::fs::read_dir(repository(home).join("blobs")).into_iter().flatten().flatten();
    blobs
        .map(|entry| (entry.path(), entry.metadata().unwrap().len()))
        .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "incomplete"))
        .collect()
}

/// The pulled weights are those of the source, and nothing else lies about.
#[track_caller]
fn is_whole(home: &Home) {
    let snapshot = repository(home).join("snapshots").join(COMMIT);
    for name in ["model.safetensors", "config.json", "README.md"] {
        let (got, wanted) = (std::fs::read(snapshot.join(name)), std::fs::read(pajama_tiny().join(name)));
        assert!(got.unwrap() == wanted.unwrap(), "{name}");
    }
    assert_eq!(partial(home), []);
}

#[test]
fn only_what_makes_the_model_is_fetched_and_only_once_and_offline_nobody_is_asked() {
    let (home, hub) = (Home::with_gguf_cpu(), hub());
    hub.set(Faults { token: Some("secret"), ..Faults::default() });
    let with_token = |args: &[&str]| Run::from(command(&home, &hub, args).env("HF_TOKEN", "secret").output().unwrap());
    let value = with_token(&["models", "pull", ID, "--json"]).json();
    assert_schema("models-pull", &value);
    assert_eq!((&value["commit"], &value["format"]), (&COMMIT.into(), &"huggingface".into()));
    is_whole(&home);
    let cache = format!("huggingface/hub/models--acme--tiny/snapshots/{COMMIT}");
    let expected = std::fs::read_dir(pajama_tiny()).unwrap().count();
    assert_eq!(home.listing(&cache).len(), expected, "{:?}", home.listing(&cache));
    assert_eq!(hub.take_large_bytes(), weights_bytes() + HEADER_BYTES);
    assert_eq!(hub.leaked(), 0, "the token is for the hub alone");
    assert_eq!(std::fs::read_to_string(repository(&home).join("refs/main")).unwrap(), COMMIT);
    let again = with_token(&["models", "pull", ID]);
    assert_eq!(again.succeeded().stdout.trim(), value["path"].as_str().unwrap());
    assert_eq!(hub.take_large_bytes(), 0);
    let asked = hub.requests();
    let id = format!("{ID}@{COMMIT}");
    for (args, offline) in [(["models", "pull", ID, "--offline"], ""), (["models", "pull", &id, "--json"], "1")] {
        let run = Run::from(command(&home, &hub, &args).env("HF_HUB_OFFLINE", offline).output().unwrap());
        run.succeeded();
    }
    let other = Run::from(command(&home, &hub, &["models", "pull", "acme/other", "--offline"]).output().unwrap());
    other.failed_with("no model `acme/other`", "");
    assert_eq!(hub.requests(), asked, "nobody was asked");
    let made = home.run(["quantize", ID]);
    made.succeeded();
    let answer = home.run(["run", ID, "-p", "What is the capital of France?", "-t", "0"]);
    assert_eq!(answer.succeeded().stdout, "The capital of France is Paris.\n");
}

#[test]
fn connections_that_break_are_gone_on_with_and_no_byte_comes_twice() {
    let (home, hub) = (Home::new(), hub());
    hub.set(Faults { cut_after: Some(1_000_000), ..Faults::default() });
    pull(&home, &hub).succeeded();
    is_whole(&home);
    assert_eq!(hub.take_large_bytes(), weights_bytes());
}

#[test]
fn after_a_kill_the_rest_is_fetched() {
    let (home, hub) = (Home::new(), hub());
    hub.set(Faults { slow: Some(Duration::from_millis(20)), ..Faults::default() });
    let mut child = command(&home, &hub, &["models", "pull", ID]).stderr(Stdio::null()).spawn().unwrap();
    let begun = || partial(&home).iter().any(|(_, bytes)| *bytes > 1_000_000);
    for _ in 0..1000 {
        if begun() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let kept: u64 = partial(&home).iter().map(|(_, bytes)| bytes).sum();
    assert!((1_000_000..weights_bytes()).contains(&kept), "{kept}");
    std::thread::sleep(Duration::from_millis(200));
    hub.take_large_bytes();
    hub.set(Faults::default());
    pull(&home, &hub).succeeded();
    is_whole(&home);
    assert_eq!(hub.take_large_bytes(), weights_bytes() - kept);
}

#[test]
fn two_that_pull_the_same_model_fetch_it_once() {
    let (home, hub) = (Home::new(), hub());
    hub.set(Faults { slow: Some(Duration::from_millis(5)), ..Faults::default() });
    let spawn = || command(&home, &hub, &["models", "pull", ID]).stdout(Stdio::piped()).spawn().unwrap();
    for child in [spawn(), spawn()] {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    is_whole(&home);
    assert_eq!(hub.take_large_bytes(), weights_bytes());
}

#[test]
fn what_is_not_what_the_hub_promised_is_not_kept() {
    let (home, hub) = (Home::new(), hub());
    hub.set(Faults { wrong: true, ..Faults::default() });
    pull(&home, &hub).failed_with("came twice with other contents than the hub promises", "nothing was kept");
    assert_eq!(partial(&home), []);
    assert!(!repository(&home).join("refs/main").exists());
    hub.set(Faults::default());
    pull(&home, &hub).succeeded();
    is_whole(&home);
    // A part that something else has left there is found out, too.
    let home = Home::new();
    hub.set(Faults { cut_after: Some(1_000_000), first: Vec::new(), ..Faults::default() });
    let blobs = repository(&home).join("blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let whole = std::fs::read_dir(repository(&home).join("blobs")).unwrap().count();
    assert_eq!(whole, 0);
    let sum = "model.safetensors";
    let target = std::fs::read(pajama_tiny().join(sum)).unwrap();
    let name: String = sha2::Digest::finalize(<sha2::Sha256 as sha2::Digest>::new_with_prefix(&target))
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    std::fs::write(blobs.join(format!("{name}.incomplete")), vec![0; 500_000]).unwrap();
    pull(&home, &hub).succeeded();
    is_whole(&home);
}

#[test]
fn each_refusal_has_its_reason_and_what_is_busy_is_asked_again() {
    let (home, hub) = (Home::new(), hub());
    let first = |first: &[(u16, &'static str)]| hub.set(Faults { first: first.to_vec(), ..Faults::default() });
    first(&[(401, "x-error-code: GatedRepo\r\n")]);
    pull(&home, &hub).failed_with("is gated", "HF_TOKEN");
    first(&[(403, "")]);
    pull(&home, &hub).failed_with("no such model, or it is private", "HF_TOKEN");
    let run = |id: &str| Run::from(command(&home, &hub, &["models", "pull", id]).output().unwrap());
    run("acme/none").failed_with("the hub has no such model", "look at");
    run("acme/tiny@none").failed_with("it has no revision `none`", "branches and tags");
    run("acme/tiny/x").misused("is no id", "org/name");
    assert!(!repository(&home).exists(), "nothing is left of what was refused");
    first(&[(429, "retry-after: 1\r\n"), (503, ""), (500, "")]);
    pull(&home, &hub).succeeded();
    is_whole(&home);
    for args in [["models", "pull", "acme/new"].as_slice(), &["run", "acme/new", "-p", "x"]] {
        let unreachable = command(&home, &hub, args).env("HF_ENDPOINT", "http://127.0.0.1:9").output();
        Run::from(unreachable.unwrap()).failed_with("the hub cannot be reached", "--offline");
    }
}

#[test]
fn a_server_without_ranges_sends_it_from_the_start() {
    let (home, hub) = (Home::new(), hub());
    hub.set(Faults { cut_after: Some(1_000_000), no_ranges: true, ..Faults::default() });
    pull(&home, &hub).failed_with("could not be fetched", "it goes on from there");
    hub.set(Faults { no_ranges: true, ..Faults::default() });
    pull(&home, &hub).succeeded();
    is_whole(&home);
}

/// A hub's model with its `config.json` changed.
fn hub_with(name: &str, from: &str, to: &str) -> Hub {
    let mut files: BTreeMap<String, Vec<u8>> = std::fs::read_dir(pajama_tiny())
        .unwrap()
        .flatten()
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    let text = String::from_utf8(files[name].clone()).unwrap();
    assert!(text.contains(from));
    files.insert(name.into(), text.replace(from, to).into_bytes());
    Hub::new(files)
}

#[test]
fn what_is_asked_to_run_or_to_be_quantized_is_fetched_and_offline_it_is_not() {
    let (home, hub) = (Home::with_gguf_cpu(), hub());
    let run = |args: &[&str]| Run::from(command(&home, &hub, args).output().unwrap());
    let question = ["-p", "What is the capital of France?", "-t", "0"];
    for args in [["run", ID, "--offline", "-p", "x"].as_slice(), &["quantize", ID, "--offline"]] {
        run(args).failed_with("no model `acme/tiny`", "nothing is fetched now, because of --offline");
    }
    let mut by_environment = command(&home, &hub, &["benchmark", ID]);
    let by_environment = Run::from(by_environment.env("HF_HUB_OFFLINE", "1").output().unwrap());
    by_environment.failed_with("no model `acme/tiny`", "because of HF_HUB_OFFLINE");
    assert_eq!(hub.requests(), 0, "nobody was asked");
    let answer = run(&[&["run", ID], question.as_slice()].concat());
    assert_eq!(answer.succeeded().stdout, "The capital of France is Paris.\n");
    assert!(answer.stderr.contains("fetching acme/tiny: "), "{}", answer.stderr);
    assert_eq!(hub.take_large_bytes(), weights_bytes() + HEADER_BYTES);
    let asked = hub.requests();
    run(&["quantize", ID, "-m", "Q8_0", "--no-validate"]).succeeded();
    assert_eq!(hub.requests(), asked, "all of it is here");
    run(&["run", "acme/none", "-p", "x"]).failed_with("on the hub: the hub has no such model", "look at");
}

#[test]
fn a_gguf_file_of_the_hub_runs_where_it_was_fetched_to() {
    let home = Home::with_gguf_cpu();
    let made = home.run(["quantize", pajama_tiny().to_str().unwrap(), "--no-validate"]);
    let gguf = std::fs::read(made.succeeded().stdout.trim()).unwrap();
    let hub = Hub::new(BTreeMap::from([("tiny-Q4_K_M.gguf".to_owned(), gguf)]));
    let other = Home::with_gguf_cpu();
    let args = ["run", ID, "-p", "What is the capital of France?", "-t", "0"];
    let answer = Run::from(command(&other, &hub, &args).output().unwrap());
    assert_eq!(answer.succeeded().stdout, "The capital of France is Paris.\n");
    assert!(other.listing(".pajamas/models").is_empty(), "nothing is copied");
}

#[test]
fn what_cannot_be_used_here_is_refused_before_its_weights_come() {
    let home = Home::with_gguf_cpu();
    let run = |hub: &Hub, args: &[&str]| Run::from(command(&home, hub, args).output().unwrap());
    let unknown = hub_with("config.json", "Qwen2ForCausalLM", "ZebraForCausalLM");
    for args in [["quantize", ID].as_slice(), &["run", ID, "-p", "x"], &["models", "pull", ID]] {
        let refused = run(&unknown, args);
        refused.failed_with("ZebraForCausalLM", "");
        assert!(refused.stderr.contains("acme/tiny"), "{}", refused.stderr);
        assert!(!refused.stderr.contains("/tmp"), "{}", refused.stderr);
        assert_eq!(unknown.take_large_bytes(), HEADER_BYTES);
    }
    // Others may know it.
    run(&unknown, &["models", "pull", ID, "--force"]).succeeded();
    assert_eq!(unknown.take_large_bytes(), weights_bytes());
    let home = Home::with_gguf_cpu();
    let run = |hub: &Hub, args: &[&str]| Run::from(command(&home, hub, args).output().unwrap());
    let (large, hub) = ("4000000000", hub());
    run(&hub, &["run", ID, "-c", large, "-p", "x"]).failed_with("tokens of context it takes about", "shorter context");
    run(&hub, &["quantize", ID, "-m", "Q5_K_MM"]).misused("unknown quantization method", "did you mean `Q5_K_M`");
    assert_eq!(hub.take_large_bytes(), 2 * HEADER_BYTES);
    let small = run(&hub, &["quantize", ID, "--fit", "100KiB"]);
    assert!(small.code == Some(3) && small.stderr.contains("nothing fits into 100.0 KiB"), "{small:?}");
    run(&hub, &["sweep", ID, "-m", "Q4_K_M,Q5_K_MM"]).misused("unknown quantization method", "did you mean `Q5_K_M`");
    assert_eq!(hub.take_large_bytes(), HEADER_BYTES);
}

#[test]
fn a_small_file_is_checked_too() {
    let (home, hub) = (Home::new(), hub());
    hub.set(Faults { wrong_small: true, ..Faults::default() });
    pull(&home, &hub).failed_with("its SHA-1, as git counts it", "nothing was kept");
    assert_eq!(partial(&home), []);
}
