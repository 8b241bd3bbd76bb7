//! `pajamas doctor` finds what is wrong, says what to do, and works where hardly anything else does.

use pajamas_tests::{Home, Run, assert_schema, library_name, pajama_tiny};
use serde_json::Value;

/// The report, whatever the exit code.
#[track_caller]
fn report(run: &Run) -> Value {
    let report = serde_json::from_str(&run.stdout).expect("JSON on stdout");
    assert_schema("doctor", &report);
    let code = if report["status"] == "problem" { 1 } else { 0 };
    assert_eq!(run.code, Some(code), "{run:#?}");
    report
}

fn examine(home: &Home) -> Value {
    report(&home.run(["doctor", "--json"]))
}

/// The checks of that name: status, what was found, remedy.
fn checks(report: &Value, name: &str) -> Vec<(String, String, String)> {
    let text = |check: &Value, key: &str| check[key].as_str().unwrap().to_owned();
    let all = report["checks"].as_array().unwrap().iter().filter(|check| check["name"] == name);
    all.map(|check| (text(check, "status"), text(check, "found"), text(check, "remedy"))).collect()
}

#[test]
fn a_sound_installation_has_no_problem() {
    let home = Home::with_gguf_cpu();
    home.run(["quantize".as_ref(), pajama_tiny().as_os_str()]).succeeded();
    let report = examine(&home);
    assert_ne!(report["status"], "problem", "{report:#}");
    for name in ["home folder", "settings file", "worker program", "backends", "quantizers", "models", "disk", "memory"]
    {
        assert!(!checks(&report, name).is_empty(), "{name}");
    }
    assert_eq!(checks(&report, "backends")[0].1, "gguf-cpu");
    let text = home.run(["doctor"]);
    assert!(text.succeeded().stdout.contains("This installation is sound"), "{text:#?}");
}

#[test]
fn no_plugin_is_a_problem_with_a_remedy_and_exit_code_1() {
    let home = Home::new();
    let report = examine(&home);
    let (status, _, remedy) = &checks(&report, "backends")[0];
    assert_eq!(status, "problem");
    assert!(remedy.starts_with("keep `bin` and `lib` of an archive side by side"), "{remedy}");
    let text = home.run(["doctor"]);
    assert_eq!(text.code, Some(1));
    assert!(text.stdout.contains("PROBLEM  backends") && text.stdout.contains("-> keep `bin` and `lib`"), "{text:#?}");
    assert!(text.stderr.contains("error: problems found: 2"), "{text:#?}");
}

#[test]
fn a_broken_settings_file_is_a_finding_and_the_rest_is_looked_at_all_the_same() {
    let home = Home::with_gguf_cpu();
    std::fs::write(home.path().join("config.toml"), "bakend = 'x'\n").unwrap();
    let report = examine(&home);
    let (status, found, remedy) = &checks(&report, "settings file")[0];
    assert!(status == "problem" && found.contains("unknown key `bakend`"), "{found}");
    assert_eq!(remedy, "pajamas config unset bakend");
    assert_eq!(checks(&report, "backends")[0].1, "gguf-cpu");
    home.run(["config", "unset", "bakend"]).succeeded();
    assert_ne!(examine(&home)["status"], "problem");
}

#[test]
fn a_home_that_is_no_folder_or_not_set_is_a_finding() {
    let home = Home::with_gguf_cpu();
    let file = home.path().join("config.toml");
    let mut command = home.command(["doctor", "--json"]);
    let broken = report(&Run::from(command.env("PAJAMAS_HOME", &file).output().unwrap()));
    let (status, found, remedy) = &checks(&broken, "home folder")[0];
    assert!(status == "problem" && found.contains("is not a folder") && remedy.starts_with("mv "), "{found} {remedy}");
    let mut command = home.command(["doctor", "--json"]);
    command.env_remove("PAJAMAS_HOME").env_remove("HF_HOME").env("HOME", home.path().join("new"));
    let new = report(&Run::from(command.output().unwrap()));
    assert!(checks(&new, "home folder")[0].1.contains("will be made"), "{new:#}");
    let mut command = home.command(["doctor", "--json"]);
    // Without HOME the user's folder is the system's to tell, or nobody's; either way this is no crash.
    command.env_remove("PAJAMAS_HOME").env_remove("HF_HOME").env_remove("HOME");
    report(&Run::from(command.output().unwrap()));
    let mut command = home.command(["doctor", "--json"]);
    let relative = command.env_remove("PAJAMAS_HOME").env("HOME", "relative").output().unwrap();
    let relative = report(&Run::from(relative));
    assert!(checks(&relative, "home folder")[0].1.contains("is unknown"), "{relative:#}");
}

#[cfg(unix)]
#[test]
fn a_worker_that_is_missing_or_of_another_protocol_is_a_problem() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::with_gguf_cpu();
    let fake = home.path().join("fake-worker");
    std::fs::write(&fake, "#!/bin/sh\necho nonsense\n").unwrap();
    std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
    for worker in [home.path().join("none"), fake] {
        let mut command = home.command(["doctor", "--json"]);
        let report = report(&Run::from(command.env("PAJAMAS_WORKER", &worker).output().unwrap()));
        let (status, _, remedy) = &checks(&report, "worker program")[0];
        assert_eq!((status.as_str(), remedy.as_str()), ("problem", "unset PAJAMAS_WORKER"));
    }
}

#[test]
fn a_file_that_is_no_plugin_is_a_problem_and_named() {
    let home = Home::with_gguf_cpu();
    std::fs::write(home.plugins().join(library_name("nope")), "I am not a library").unwrap();
    let report = examine(&home);
    let plugins = checks(&report, "plugin");
    let (_, found, remedy) = plugins.iter().find(|(status, ..)| status == "problem").expect("a problem");
    assert!(found.contains("is refused: it is not a shared library") && remedy.starts_with("rm "), "{found} {remedy}");
}

#[test]
fn what_lies_wrong_in_the_models_folder_and_in_the_cache_are_warnings() {
    let home = Home::with_gguf_cpu();
    home.run(["quantize".as_ref(), pajama_tiny().as_os_str()]).succeeded();
    let models = home.path().join("models");
    std::fs::create_dir(models.join(".loom.gguf.4294967294.partial")).unwrap();
    std::fs::copy(models.join("pajama-tiny-q4_k_m.gguf.json"), models.join("gone.gguf.json")).unwrap();
    let blobs = home.path().join("huggingface/hub/models--acme--loom/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join("abc.incomplete"), vec![0; 2048]).unwrap();
    let report = examine(&home);
    assert_eq!(report["status"], "warning", "{report:#}");
    let found = |name: &str, text: &str, remedy: &str| {
        let all = checks(&report, name);
        assert!(all.iter().any(|check| check.1.contains(text) && check.2.starts_with(remedy)), "{text}: {all:#?}");
    };
    found("models", "an interrupted run left", "rm -r ");
    found("models", "a record of `gone.gguf`", "rm ");
    found(
        "Hugging Face cache",
        "1 download of `acme/loom` cut short or under way, 2.0 KiB",
        "pajamas models pull acme/loom",
    );
}
