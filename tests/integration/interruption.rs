//! Ctrl-C and kill -9 in the middle of quantizing leave nothing that looks finished, and nothing after a while.

#![cfg(unix)]

use pajamas_tests::{Home, make_deep_model};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Starts to quantize a model that takes seconds, and returns once files are being written.
fn start(home: &Home) -> Child {
    let model = home.path().join("deep");
    make_deep_model(&model, 120);
    let child = home
        .command(["quantize", model.to_str().unwrap(), "-o", home.path().join("out").to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let scratch = home.path().join(format!("out/.deep-q4_k_m.gguf.{}.partial/scratch", child.id()));
    wait("the work to begin", || std::fs::read_dir(&scratch).is_ok_and(|mut files| files.next().is_some()));
    child
}

#[track_caller]
fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn signal(child: &Child, signal: libc::c_int) {
    let process = libc::pid_t::try_from(child.id()).unwrap();
    // SAFETY: the child is not reaped yet, so the id is its own.
    assert_eq!(unsafe { libc::kill(process, signal) }, 0);
}

#[test]
fn ctrl_c_ends_with_130_and_leaves_nothing() {
    let home = Home::with_gguf_cpu();
    let child = start(&home);
    signal(&child, libc::SIGINT);
    let run = pajamas_tests::Run::from(child.wait_with_output().unwrap());
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(130), "", "interrupted\n"));
    assert!(!home.path().join("out").exists(), "the folder that was made for it is gone too");
}

#[test]
fn kill_9_of_the_host_lets_its_worker_clean_up() {
    let home = Home::with_gguf_cpu();
    let mut child = start(&home);
    signal(&child, libc::SIGKILL);
    child.wait().unwrap();
    assert!(!home.listing("out").contains(&"deep-q4_k_m.gguf".to_owned()));
    wait("the worker to clean up", || home.listing("out").is_empty());
}

#[test]
fn what_a_killed_pair_left_behind_is_removed_by_the_next_run() {
    let home = Home::with_gguf_cpu();
    let left = home.path().join("out/.pajama-tiny-q8_0.gguf.1.partial");
    std::fs::create_dir_all(left.join("scratch")).unwrap();
    std::fs::write(left.join("pajama-tiny-q8_0.gguf"), "half").unwrap();
    home.quantized("Q8_0");
    assert_eq!(home.listing("out"), ["pajama-tiny-q8_0.gguf"]);
}

#[test]
fn two_writers_of_one_file_are_kept_apart() {
    let home = Home::with_gguf_cpu();
    let mut child = start(&home);
    let model = home.path().join("deep");
    let out = home.path().join("out");
    home.run(["quantize", model.to_str().unwrap(), "-o", out.to_str().unwrap()])
        .failed_with("another pajamas is writing", "wait for it");
    signal(&child, libc::SIGINT);
    child.wait().unwrap();
}
