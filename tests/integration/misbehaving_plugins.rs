//! A plugin that crashes, hangs or panics is named with the reason; the host and the other plugins go on.

use pajamas_plugin_api::{
    CancelToken, ErrorKind, FinishReason, GenerateRequest, HostServices, LoadRequest, Prompt, abi::client::Plugin,
};
use pajamas_tests::{Home, built_library};

/// The status and reason of the misbehaving plugin's row, beside a gguf-cpu that must be available.
fn row(mode: &str) -> (String, String) {
    let home = Home::with_gguf_cpu();
    home.install("misbehaving");
    std::fs::write(home.path().join("config.toml"), "threads = 1\nprobe_timeout_s = 1\n").unwrap();
    let output = home.command(["plugins", "list", "--json"]).env("MISBEHAVE", mode).output().unwrap();
    let value = pajamas_tests::Run::from(output).json();
    let find = |name: &str| value.as_array().unwrap().iter().find(|r| r["name"] == name).unwrap().clone();
    assert_eq!(find("gguf-cpu")["status"], "available");
    let row = find("misbehaving");
    (row["status"].as_str().unwrap().into(), row["reason"].as_str().unwrap().into())
}

#[test]
fn each_failure_in_a_probe_is_a_row_with_its_reason() {
    assert_eq!(row("abort"), ("failed".into(), "the worker process crashed (abort, signal 6): about to abort".into()));
    assert_eq!(row("panic"), ("failed".into(), "the plugin panicked: no wool".into()));
    assert_eq!(row("unavailable"), ("unavailable".into(), "no sheep".into()));
    let (status, reason) = row("exit");
    assert!(status == "failed" && reason.contains("ended without an answer"), "{reason}");
    let (status, reason) = row("chatter");
    assert!(status == "failed" && reason.contains("did not answer within 1 s"), "{reason}");
    let (status, reason) = row("hang");
    assert!(status == "failed" && reason.contains("did not answer within 1 s"), "{reason}");
}

#[test]
fn what_a_plugin_prints_does_not_disturb_its_answer() {
    assert_eq!(row("print").0, "available");
}

/// The panics that must come back as errors happen in a process of their own, where the environment can be set.
#[test]
fn panics_in_a_models_calls_come_back_as_errors() {
    let Ok(mode) = std::env::var("MISBEHAVE") else {
        for mode in ["panic-load", "panic-generate", "panic-midway", "panic-drop", "well"] {
            let status = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "misbehaving_plugins::panics_in_a_models_calls_come_back_as_errors"])
                .env("MISBEHAVE", mode)
                .output()
                .unwrap();
            let printed = String::from_utf8_lossy(&status.stdout);
            assert!(status.status.success() && printed.contains("1 passed"), "{mode}: {printed}");
        }
        return;
    };
    let services = HostServices::new(|_, _, _| (), std::env::temp_dir(), 1);
    // SAFETY: the library was built with this test.
    let plugin = unsafe { Plugin::open(&built_library("misbehaving"), services) }.unwrap();
    let loaded = plugin.load_model(&LoadRequest::new("/none"), &|_| (), &CancelToken::never());
    if mode == "panic-load" {
        let error = loaded.err().unwrap();
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Panic, "the plugin panicked: no loom"));
        return;
    }
    let model = loaded.unwrap();
    let result = model.generate(&GenerateRequest::new(Prompt::text("x")), &CancelToken::never());
    match mode.as_str() {
        "panic-generate" => assert_eq!(result.unwrap_err().kind, ErrorKind::Panic),
        "panic-midway" => {
            let result = result.unwrap();
            assert_eq!(result.stats.finish_reason, FinishReason::Error);
            assert!(result.text.starts_with("baa "), "{}", result.text);
            assert!(result.stats.metadata["error"].contains("the thread broke"));
        }
        // Unloading panics when `model` is dropped; reaching the end is the test.
        _ => assert_eq!(result.unwrap().text, "baa 😀"),
    }
    drop(model);
}
