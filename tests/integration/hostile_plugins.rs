//! Plugins that crash, hang, flood, lie or vanish: each is a row or an error with its reason, and the host and the plugin
//! beside it go on.

use crate::hostile_files::{Farm, sound, status};
use pajamas_tests::hostile::{Hostile, MARKER};
use pajamas_tests::{Home, Run, built_library, library_name};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A GGUF file. What runs it here looks at nothing of it.
fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/assets/backend-check/model.gguf")
}

/// The row of a plugin in `mode`, beside one that must be available; within `seconds`.
#[track_caller]
fn row_within(mode: &str, seconds: u64) -> (String, String) {
    let farm = Farm::new();
    farm.set("probe_timeout_s = 2");
    Hostile::new(mode).name("bad").install(&farm.home);
    let started = Instant::now();
    let row = farm.row("bad");
    assert!(started.elapsed() < Duration::from_secs(seconds), "it took {:?}", started.elapsed());
    assert_eq!(farm.marker.runs_of(mode), 1);
    for id in farm.marker.grandchildren() {
        // SAFETY: it is a process that this test's plugin left behind.
        unsafe { libc::kill(i32::try_from(id).unwrap(), libc::SIGKILL) };
    }
    row
}

#[track_caller]
fn fails(mode: &str, reason: &str) {
    let (status, found) = row_within(mode, 30);
    assert!(status == "failed" && found.starts_with(reason), "{mode}: {status}: {found}");
}

/// What `run` says when it must run on the plugin in `mode`, with the model in a process of its own.
#[track_caller]
fn isolated(mode: &str) -> Run {
    let farm = Farm::new();
    Hostile::new(mode).name("bad").install(&farm.home);
    let model = model();
    let run = farm.run(&["run", model.to_str().unwrap(), "-b", "bad", "--strict", "--isolate", "--raw", "-p", "x"]);
    sound(farm.run(&["plugins", "list", "--json"]));
    run
}

#[track_caller]
fn fails_isolated(mode: &str, reason: &str) {
    let run = isolated(mode);
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert!(run.stderr.contains(&format!("error: {reason}")), "{mode}: {run:#?}");
}

macro_rules! rows {
    ($($test:ident: $check:ident($mode:literal, $reason:literal);)+) => {
        $(#[test]
        fn $test() {
            $check($mode, $reason);
        })+
    };
}

rows! {
    panic_in_the_librarys_constructor: fails("panic-at-load", "the worker process crashed (abort, signal 6): no pasture");
    panic_in_the_backends_constructor: fails("panic-in-constructor", "the plugin panicked: no shepherd");
    panic_in_the_probe: fails("panic-at-probe", "the plugin panicked: no wool");
    panic_while_loading_a_model: fails_isolated("panic-at-model", "the plugin panicked: no loom");
    panic_while_generating: fails_isolated("panic-generate", "the plugin panicked: no thread");

    exit_with_0_at_load: fails("exit-0-at-load", "the worker process ended without an answer (exit status: 0)");
    exit_with_1_at_load: fails("exit-1-at-load", "the worker process ended without an answer (exit status: 1)");
    exit_with_0_at_the_probe: fails("exit-0-at-probe", "the worker process ended without an answer (exit status: 0)");
    exit_while_generating: fails_isolated("exit-0-generate", "the worker process ended without an answer (exit status: 0)");

    segmentation_fault_at_load: fails("segv-at-load", "the worker process crashed (segmentation fault, signal 11)");
    segmentation_fault_at_the_probe: fails("segv-at-probe", "the worker process crashed (segmentation fault, signal 11)");
    segmentation_fault_while_generating:
        fails_isolated("segv-generate", "the worker process crashed (segmentation fault, signal 11)");
    segmentation_fault_while_loading_a_model:
        fails_isolated("segv-at-model", "the worker process crashed (segmentation fault, signal 11)");
    abort_at_load: fails("abort-at-load", "the worker process crashed (abort, signal 6): about to abort");
    abort_at_the_probe: fails("abort-at-probe", "the worker process crashed (abort, signal 6): about to abort");
    abort_while_generating:
        fails_isolated("abort-generate", "the worker process crashed (abort, signal 6): the thread snapped");
    illegal_instruction_at_load: fails("ill-at-load", "the worker process crashed (illegal instruction, signal 4)");
    illegal_instruction_at_the_probe: fails("ill-at-probe", "the worker process crashed (illegal instruction, signal 4)");
    illegal_instruction_while_generating:
        fails_isolated("ill-generate", "the worker process crashed (illegal instruction, signal 4)");
    bus_error_at_load: fails("bus-at-load", "the worker process crashed (bus error, signal 7)");
    bus_error_at_the_probe: fails("bus-at-probe", "the worker process crashed (bus error, signal 7)");
    bus_error_while_generating: fails_isolated("bus-generate", "the worker process crashed (bus error, signal 7)");
    cxx_exception_at_load: fails("cxx-at-load", "the worker process crashed (abort, signal 6)");
    cxx_exception_at_the_probe: fails("cxx-at-probe", "the worker process crashed (abort, signal 6)");
    cxx_exception_while_generating: fails_isolated("cxx-generate", "the worker process crashed (abort, signal 6)");

    endless_loop_at_load: fails("spin-at-load", "the worker process did not answer within 2 s");
    endless_loop_at_the_probe: fails("spin-at-probe", "the worker process did not answer within 2 s");
    waiting_for_ever_at_load: fails("hang-at-load", "the worker process did not answer within 2 s");
    log_lines_without_end: fails("chatter", "the worker process did not answer within 2 s");

    malformed_frame_at_the_probe: fails("nonsense-at-probe", "the worker process spoke nonsense (");
    garbage_on_the_private_pipe: fails("garbage-at-probe", "the worker process spoke nonsense (a message of 4294967295 bytes)");
    end_within_a_frame_at_the_probe: fails("cut-at-probe", "the worker process crashed (abort, signal 6)");
    end_within_a_frame_while_generating: fails_isolated("cut-generate", "the worker process crashed (abort, signal 6)");
    answer_of_20_megabytes: fails("huge-answer", "an answer failed: message too long");
}

#[test]
fn a_panic_while_unloading_is_logged_and_the_answer_stands() {
    let run = isolated("panic-drop");
    assert_eq!(run.succeeded().stdout.trim_end(), "baa 😀");
}

#[test]
fn a_grandchild_that_holds_the_pipes_holds_nobody_up() {
    for mode in ["fork-at-load", "fork-at-probe"] {
        assert_eq!(row_within(mode, 8), ("available".into(), String::new()), "{mode}");
    }
}

#[test]
fn a_child_that_stays_in_the_workers_group_ends_with_it_and_no_core_is_dumped() {
    let farm = Farm::new();
    Hostile::new("child-at-probe").name("bad").install(&farm.home);
    Hostile::new("segv-at-probe").name("worse").install(&farm.home);
    let empty = tempfile::tempdir().unwrap();
    let mut command = farm.command(&["plugins", "list", "--json"]);
    command.current_dir(empty.path());
    // SAFETY: setrlimit is safe between fork and exec, and the limits live during the call.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, || {
            let most = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
            libc::setrlimit(libc::RLIMIT_CORE, &raw const most);
            Ok(())
        });
    }
    let rows = sound(Run::from(command.output().unwrap()));
    assert_eq!(status(&rows, "bad").0, "available");
    let children = farm.marker.grandchildren();
    assert_eq!(children.len(), 1);
    let gone = || fs::read_to_string(format!("/proc/{}/stat", children[0])).map_or(true, |stat| stat.contains(") Z "));
    let deadline = Instant::now() + Duration::from_secs(5);
    while !gone() {
        assert!(Instant::now() < deadline, "it lives");
        std::thread::sleep(Duration::from_millis(10));
    }
    let dumped = fs::read_dir(empty.path()).unwrap().count();
    assert_eq!(dumped, 0, "a core was dumped");
}

#[test]
fn a_worker_whose_host_is_killed_ends_though_a_plugin_holds_the_loaders_lock() {
    let farm = Farm::new();
    let path = Hostile::new("hang-at-load").name("bad").install(&farm.home);
    for _ in 0..5 {
        let before = farm.marker.runs();
        let mut host = farm.command(&["plugins", "verify", path.to_str().unwrap(), "--rule", "1"]).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while farm.marker.runs() == before {
            assert!(Instant::now() < deadline, "it was not loaded");
            std::thread::sleep(Duration::from_millis(2));
        }
        host.kill().unwrap();
        host.wait().unwrap();
        let text = fs::read_to_string(farm.marker.path()).unwrap();
        let worker = text.lines().last().unwrap().rsplit_once(' ').unwrap().1.to_owned();
        let gone = || fs::read_to_string(format!("/proc/{worker}/stat")).map_or(true, |stat| stat.contains(") Z "));
        let deadline = Instant::now() + Duration::from_secs(5);
        while !gone() {
            assert!(Instant::now() < deadline, "the worker lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_hundred_megabytes_on_stdout_and_on_stderr_are_swallowed() {
    for mode in ["flood-at-load", "flood-at-probe"] {
        let farm = Farm::new();
        Hostile::new(mode).name("bad").install(&farm.home);
        assert_eq!(farm.row("bad"), ("available".into(), String::new()), "{mode}");
        let info = farm.run(&["plugins", "info", "bad", "--json"]).json();
        // The end of it is kept.
        let kept = info["stderr"].as_str().unwrap().len();
        assert!((1..=64 * 1024).contains(&kept), "{kept} bytes");
        let size = fs::metadata(farm.home.path().join("cache/plugins.cache")).unwrap().len();
        assert!(size < 1 << 20, "a cache of {size} bytes");
    }
}

#[test]
fn what_is_written_to_stderr_is_shown_with_the_plugin() {
    let farm = Farm::new();
    Hostile::new("abort-at-probe").name("bad").install(&farm.home);
    let info = farm.run(&["plugins", "info", "bad"]);
    assert!(info.succeeded().stdout.contains("The end of what it wrote to stderr\n  about to abort"), "{info:#?}");
}

#[test]
fn ten_that_hang_take_as_long_as_five_on_two_cores() {
    let farm = Farm::new();
    farm.set("probe_timeout_s = 1");
    for index in 0..10 {
        Hostile::new("hang-at-load").name(&format!("bad-{index}")).install(&farm.home);
    }
    let cores = std::thread::available_parallelism().unwrap().get().min(11);
    let started = Instant::now();
    assert_eq!(farm.rows().iter().filter(|row| row["status"] == "failed").count(), 10);
    let side_by_side = 10_usize.div_ceil(cores) as u64;
    assert!(cores == 1 || started.elapsed() < Duration::from_secs(side_by_side + 4), "{:?}", started.elapsed());
    // That is remembered for a while, and not waited for again.
    let started = Instant::now();
    farm.rows();
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[test]
fn a_warm_list_runs_no_plugins_code_and_a_rescan_does() {
    let farm = Farm::new();
    farm.rows();
    assert_eq!(farm.marker.runs(), 1);
    assert_eq!(farm.rows(), farm.rows());
    assert_eq!(farm.marker.runs(), 1);
    sound(farm.run(&["plugins", "list", "--rescan", "--json"]));
    assert_eq!(farm.marker.runs(), 2);
    // What a driver may read is a reason to ask again; what a shell sets for itself is none.
    let with = |name: &str| farm.command(&["plugins", "list", "--json"]).env(name, "9").output().unwrap();
    sound(Run::from(with("SHLVL")));
    assert_eq!(farm.marker.runs(), 2);
    sound(Run::from(with("CUDA_VISIBLE_DEVICES")));
    assert_eq!(farm.marker.runs(), 3);
}

#[test]
fn a_damaged_cache_is_none() {
    let farm = Farm::new();
    farm.rows();
    let path = farm.home.path().join("cache/plugins.cache");
    let whole = fs::read(&path).unwrap();
    for damaged in [&b""[..], b"I am a sheep.", &whole[..whole.len() / 2], &vec![0xc1; 1 << 16]] {
        fs::write(&path, damaged).unwrap();
        let before = farm.marker.runs();
        farm.rows();
        assert_eq!(farm.marker.runs(), before + 1);
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    farm.rows();
}

#[test]
fn a_cache_that_many_write_at_once_stays_whole() {
    let farm = Farm::new();
    for index in 0..4 {
        Hostile::new("well").name(&format!("other-{index}")).install(&farm.home);
    }
    let children: Vec<_> = (0..8)
        .map(|_| {
            let mut command = farm.command(&["plugins", "list", "--rescan", "--json"]);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        let run = Run::from(child.wait_with_output().unwrap());
        assert_eq!(sound(run).len(), 5);
    }
    let before = farm.marker.runs();
    assert_eq!(farm.rows().len(), 5);
    assert_eq!(farm.marker.runs(), before, "what they wrote is whole, and answers");
    assert_eq!(farm.home.listing("cache"), ["plugins.cache"], "nothing is left beside it");
}

#[test]
fn a_plugin_that_changed_is_announced_and_asked_afresh_unless_it_is_pinned() {
    let farm = Farm::new();
    let path = Hostile::new("well").name("bad").install(&farm.home);
    assert_eq!(farm.row("bad").0, "available");
    Hostile::new("unavailable").name("bad").write(&path);
    let looked = farm.run(&["plugins", "verify", "bad", "--rule", "R02"]);
    assert!(!looked.stderr.contains("has changed"), "nobody was asked: {looked:#?}");
    let changed = farm.run(&["plugins", "list", "--json"]);
    assert!(changed.stderr.starts_with("warning: the plugin `"), "{changed:#?}");
    assert!(changed.stderr.contains("has changed since it was last used: it is asked afresh"), "{changed:#?}");
    assert_eq!(status(&sound(changed), "bad"), ("unavailable".into(), "no sheep".into()));
    let again = farm.run(&["plugins", "list", "--json"]);
    assert_eq!(again.succeeded().stderr, "");
    farm.set("trust = 'pinned'");
    assert_eq!(farm.row("bad").0, "unavailable", "it was accepted before");
    let before = farm.marker.runs();
    Hostile::new("well").name("bad").write(&path);
    Hostile::new("well").name("new").install(&farm.home);
    assert_eq!(farm.row("bad"), ("refused".into(), "its contents have changed since they were trusted".into()));
    assert!(farm.row("new").1.starts_with("its contents were never trusted"));
    assert_eq!(farm.marker.runs(), before, "none of their code ran");
    // What is not trusted is not run for an examination either.
    let verified = farm.run(&["plugins", "verify", "bad", "--rule", "1"]);
    assert!(verified.code == Some(1) && verified.stderr.contains("changed since they were trusted"), "{verified:#?}");
    assert_eq!(farm.marker.runs(), before);
    farm.run(&["plugins", "trust", "bad"]).succeeded();
    assert_eq!(farm.row("bad").0, "available");
    assert_eq!(farm.row("new").0, "refused");
    // A name is no proof: another file that claims it is not trusted along with it.
    Hostile::new("well").name("bad").write(&farm.home.plugins().join(library_name("evil")));
    farm.run(&["plugins", "trust", "bad"]).misused("`bad` is the name of 2 plugin files", &library_name("evil"));
    assert_eq!(farm.rows().iter().filter(|row| row["name"] == "bad" && row["status"] == "refused").count(), 1);
    // A list that cannot be read trusts nobody.
    fs::write(farm.home.path().join("plugins.lock"), "baa").unwrap();
    let rows = farm.run(&["plugins", "list", "--json"]).json();
    assert!(rows.as_array().unwrap().iter().all(|row| row["status"] == "refused"), "{rows:#}");
}

#[test]
fn a_plugin_that_is_removed_or_replaced_while_in_use_goes_on() {
    for replaced in [false, true] {
        let farm = Farm::new();
        let path = Hostile::new("slow-generate").name("bad").install(&farm.home);
        let model = model();
        let mut command = farm.command(&[
            "run",
            model.to_str().unwrap(),
            "-b",
            "bad",
            "--strict",
            "--raw",
            "-p",
            "x",
            "--max-tokens",
            "30",
        ]);
        let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while farm.marker.runs_of("slow-generate") < 2 {
            assert!(Instant::now() < deadline, "it was not loaded");
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(200));
        if replaced {
            let newer = farm.home.path().join(library_name("bad"));
            Hostile::new("unavailable").name("bad").write(&newer);
            farm.run(&["plugins", "install", newer.to_str().unwrap()]).succeeded();
            assert_eq!(farm.row("bad").0, "unavailable");
        } else {
            farm.run(&["plugins", "remove", "bad"]).succeeded();
            assert!(!path.exists());
        }
        let run = Run::from(child.wait_with_output().unwrap());
        assert_eq!(run.succeeded().stdout.trim(), "baa ".repeat(30).trim());
    }
}

#[test]
fn a_token_from_another_thread_is_an_error_and_a_late_question_is_answered() {
    let run = isolated("other-thread");
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert!(run.stderr.contains("the plugin handed something over on another thread"), "{run:#?}");
    let farm = Farm::new();
    Hostile::new("late-callback").name("bad").install(&farm.home);
    let model = model();
    // In this very process; two answers, so that it lives when the late callbacks come.
    let mut command = farm.command(&["run", model.to_str().unwrap(), "-b", "bad", "--strict", "--raw", "-v", "-i"]);
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"x\n").unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    drop(stdin);
    let run = Run::from(child.wait_with_output().unwrap());
    assert!(run.succeeded().stderr.contains("a late baa, cancelled: false"), "{run:#?}");
}

#[test]
fn when_a_model_cannot_be_made_the_next_backend_is_taken_aloud() {
    for (mode, why) in [
        ("oom-at-model", "no room for the loom"),
        ("unsupported-at-model", "the loom does not weave this"),
        ("panic-at-model", "the plugin panicked: no loom"),
    ] {
        let farm = Farm::new();
        Hostile::new(mode).name("bad").install(&farm.home);
        assert_eq!(farm.rows()[0]["name"], "bad", "it ranks first, being no CPU");
        let model = model();
        let run = farm.run(&["run", model.to_str().unwrap(), "--raw", "-p", "x"]);
        assert_eq!(run.succeeded().stdout.trim_end(), "baa 😀");
        assert!(run.stderr.contains(&format!("warning: `bad` failed: {why}")), "{run:#?}");
        assert!(run.stderr.contains("running on `sound`"), "{run:#?}");
        let strict = farm.run(&["run", model.to_str().unwrap(), "--raw", "--strict", "-p", "x"]);
        assert!(strict.code == Some(1) && strict.stderr.contains(&format!("error: {why}")), "{strict:#?}");
    }
}

#[test]
fn a_backend_that_computes_wrongly_is_ranked_out_with_the_reason() {
    let home = Home::with_gguf_cpu();
    fs::write(home.path().join("config.toml"), "threads = 1\nvalidate = false\n").unwrap();
    let marker = pajamas_tests::hostile::Marker::new();
    Hostile::new("wrong-logits").name("bad").install(&home);
    let model = model();
    let run = |arguments: &[&str]| {
        let mut command =
            home.command([&["run", model.to_str().unwrap(), "-p", "x", "--max-tokens", "1"], arguments].concat());
        Run::from(command.env(MARKER, marker.path()).output().unwrap())
    };
    let first = run(&[]);
    first.succeeded();
    let reason = "it computes wrongly on this machine: the logits of a small model are off by ";
    assert!(first.stderr.contains(&format!("`bad` failed: {reason}")), "{first:#?}");
    assert!(first.stderr.contains("running on `gguf-cpu`"), "{first:#?}");
    let rows = home.run(["plugins", "list", "--json"]).json();
    let rows = rows.as_array().unwrap();
    let (status, found) = status(rows, "bad");
    assert!(status == "failed" && found.starts_with(reason), "{found}");
    assert_eq!(rows[0]["name"], "gguf-cpu");
    let doctor = home.run(["doctor"]);
    assert!(doctor.stdout.contains(&format!("bad 0.1.0 is broken: {reason}")), "{doctor:#?}");
    // It is remembered, for both: no code of the wrong one runs any more, and nothing is said.
    let before = marker.runs();
    let second = run(&[]);
    assert_eq!(second.succeeded().stderr, "");
    assert_eq!(marker.runs(), before);
    let asked = run(&["-b", "bad", "--strict"]);
    assert!(
        asked.code == Some(1) && asked.stderr.contains(&format!("error: `bad` cannot run: {reason}")),
        "{asked:#?}"
    );
    // Who does not want it checked does not have it checked.
    fs::write(home.path().join("config.toml"), "threads = 1\ncheck_backends = false\n").unwrap();
    home.run(["plugins", "list", "--rescan"]).succeeded();
    let unchecked = run(&["--raw"]);
    assert!(unchecked.succeeded().stdout.contains("baa"), "{unchecked:#?}");
}

/// Of two builds of one backend, the one that computes wrongly does not stand before the other.
#[test]
fn a_backend_that_computes_wrongly_makes_room_for_another_of_its_name() {
    let home = Home::new();
    fs::write(home.path().join("config.toml"), "threads = 1\n").unwrap();
    Hostile::new("wrong-logits").name("bad").install(&home);
    let model = model();
    let run = |home: &Home| home.run(["run", model.to_str().unwrap(), "--raw", "-p", "x"]);
    assert_eq!(run(&home).code, Some(1));
    Hostile::new("well").name("bad").write(&home.plugins().join(library_name("zzz")));
    assert_eq!(run(&home).succeeded().stdout.trim_end(), "baa 😀");
}

#[test]
fn a_backend_that_crashes_on_the_small_model_is_ranked_out_and_the_host_lives() {
    let home = Home::with_gguf_cpu();
    fs::write(home.path().join("config.toml"), "threads = 1\nvalidate = false\n").unwrap();
    Hostile::new("segv-at-model").name("bad").install(&home);
    let model = model();
    let run = home.run(["run", model.to_str().unwrap(), "-p", "x", "--max-tokens", "1"]);
    run.succeeded();
    assert!(
        run.stderr.contains("`bad` failed: it does not survive a small model: it crashed (segmentation"),
        "{run:#?}"
    );
}

/// A copy under another name is another library: it has llama.cpp's globals to itself.
#[test]
fn two_plugins_that_each_embed_llama_cpp_answer_side_by_side_in_one_process() {
    use pajamas_plugin_api::{CancelToken, GenerateRequest, Prompt, Sampling, TextSegment};
    let folder = tempfile::tempdir().unwrap();
    let paths = ["one", "two"].map(|name| folder.path().join(library_name(name)));
    for path in &paths {
        fs::copy(built_library("gguf_cpu"), path).unwrap();
    }
    let model = model();
    let models: Vec<_> =
        paths.iter().map(|path| pajamas_tests::load_exact(&pajamas_tests::plugin(path), &model)).collect();
    let ask = |model: &pajamas_plugin_api::abi::client::LoadedModel, question: &str| {
        let prompt = format!("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n");
        let prompt =
            Prompt::Text { add_special: true, segments: vec![TextSegment { text: prompt, parse_special: true }] };
        let request = GenerateRequest { sampling: Sampling::greedy(), max_tokens: 24, ..GenerateRequest::new(prompt) };
        model.generate(&request, &CancelToken::never()).unwrap().text
    };
    let questions = ["What is the capital of France?", "What is the capital of Italy?"];
    let answers = ["Paris", "Rome"];
    std::thread::scope(|scope| {
        for (index, model) in models.iter().enumerate() {
            scope.spawn(move || {
                for round in 0..6 {
                    let which = (index + round) % 2;
                    let answer = ask(model, questions[which]);
                    assert!(answer.contains(answers[which]), "{}: {answer}", questions[which]);
                }
            });
        }
    });
    // Each stays whole when the other is unloaded.
    let mut models = models;
    models.remove(0);
    assert!(ask(&models[0], questions[0]).contains(answers[0]));
}
