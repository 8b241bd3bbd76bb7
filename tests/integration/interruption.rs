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
    let unfinished = home.path().join(format!("out/.deep-q4_k_m.gguf.{}.partial/deep-q4_k_m.gguf", child.id()));
    wait("the work to begin", || unfinished.exists());
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

/// The worker of the program `host`, if it has one.
#[cfg(target_os = "linux")]
fn worker_of(host: u32) -> Option<libc::pid_t> {
    let children = std::fs::read_to_string(format!("/proc/{host}/task/{host}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

#[cfg(target_os = "linux")]
#[test]
fn kill_9_at_any_moment_leaves_no_half_file_and_the_next_run_succeeds() {
    const MOMENTS: u32 = 50;
    let home = Home::with_gguf_cpu();
    let model = home.path().join("deep");
    make_deep_model(&model, 20);
    let out = home.path().join("out");
    let quantize = || home.command(["quantize", model.to_str().unwrap(), "-o", out.to_str().unwrap()]);
    let began = Instant::now();
    assert!(quantize().output().unwrap().status.success());
    let whole = std::fs::read(out.join("deep-q4_k_m.gguf")).unwrap();
    let takes = began.elapsed();
    std::fs::remove_dir_all(&out).unwrap();
    let (mut state, mut finished) = (0x9e37_79b9_u32, 0);
    for moment in 0..MOMENTS {
        let mut child = quantize().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        // Spread evenly, each a little off, so that no phase is missed.
        let part = (f64::from(moment) + f64::from(state) / f64::from(u32::MAX)) / f64::from(MOMENTS);
        std::thread::sleep(takes.mul_f64(part));
        let worker = worker_of(child.id());
        signal(&child, libc::SIGKILL);
        if let Some(worker) = worker.filter(|_| moment % 2 == 0) {
            // Every other time the worker goes too, and nobody is left to clean up.
            // SAFETY: a worker is a process group of its own; one that is gone by now is no error here.
            unsafe { libc::kill(-worker, libc::SIGKILL) };
        }
        child.wait().unwrap();
        if let Ok(found) = std::fs::read(out.join("deep-q4_k_m.gguf")) {
            assert!(
                found == whole,
                "moment {moment}: under the final name there is something else than the whole file"
            );
            std::fs::remove_dir_all(&out).unwrap();
            finished += 1;
        }
    }
    assert!(finished < MOMENTS / 2, "most were killed in the middle: {finished} were not");
    let last = quantize().output().unwrap();
    assert!(last.status.success(), "{}", String::from_utf8_lossy(&last.stderr));
    assert!(std::fs::read(out.join("deep-q4_k_m.gguf")).unwrap() == whole);
    wait("the last worker to clean up", || home.listing("out") == ["deep-q4_k_m.gguf"]);
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
