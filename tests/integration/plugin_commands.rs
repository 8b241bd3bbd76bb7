//! `pajamas plugins install`, `remove`, `trust`, `info` and `verify`.

use pajamas_tests::hostile::Hostile;
use pajamas_tests::{Home, assert_schema, library_name};
use std::fs;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_plugin_is_installed_checked_and_removed() {
    let home = Home::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join(library_name("loom"));
    Hostile::new("well").name("loom").write(&file);
    // As a browser or an archive may leave it.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let refused = home.run(["plugins".as_ref(), "install".as_ref(), file.as_os_str()]);
    // What can be written by everybody may be another file by the time that it is copied; what is copied is the user's.
    refused.succeeded();
    let target = home.plugins().canonicalize().unwrap().join(library_name("loom"));
    assert_eq!(refused.stdout, format!("{}\n", target.display()));
    assert_eq!(refused.stderr, "installed `loom`: available, rank 1\n");
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o755);
    let again = home.run(["plugins".as_ref(), "install".as_ref(), "--json".as_ref(), file.as_os_str()]);
    assert_schema("plugins-install", &again.json());
    assert_eq!(home.listing("plugins"), [library_name("loom")], "nothing is left beside it");
    // Accepted by the command: pinned trust takes it.
    fs::write(home.path().join("config.toml"), "trust = 'pinned'\n").unwrap();
    assert_eq!(home.run(["plugins", "list", "--json"]).json()[0]["status"], "available");
    let trusted = home.run(["plugins", "trust", "loom", "--json"]).json();
    assert_schema("plugins-trust", &trusted);
    let info = home.run(["plugins", "info", "loom", "--json"]).json();
    assert_schema("plugins-info", &info);
    assert_eq!((&info["sha256"], &info["owner"]), (&trusted["sha256"], &pajamas_owner().into()));
    assert!(
        info["needs"].as_array().unwrap().iter().any(|name| name.as_str().unwrap().starts_with("libc")),
        "{info:#}"
    );
    let removed = home.run(["plugins", "remove", "loom", "--json"]).json();
    assert_schema("plugins-remove", &removed);
    assert!(!target.exists());
    assert!(!fs::read_to_string(home.path().join("plugins.lock")).unwrap().contains("libloom"));
    home.run(["plugins", "remove", "loom"]).misused("unknown backend `loom`", "");
}

/// The name of the user that the tests run as.
fn pajamas_owner() -> String {
    let output = std::process::Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn what_is_no_plugin_is_not_installed_and_what_fails_only_by_force() {
    let home = Home::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join(library_name("bad"));
    let install = |arguments: &[&str]| home.run([&["plugins", "install", file.to_str().unwrap()], arguments].concat());
    let fails = |reason: &str| {
        let run = install(&[]);
        assert!(run.code == Some(1) && run.stderr.contains(&format!("is not installed: {reason}")), "{run:#?}");
        assert!(home.listing("plugins").is_empty());
        run
    };
    fs::write(&file, "I am not a library").unwrap();
    fails("it is not a shared library");
    Hostile::new("well").api("2.0.0").minimum("2.0.0").write(&file);
    fails("built for plugin API 2.0.0");
    Hostile::new("segv-at-load").name("bad").write(&file);
    let run = fails("the worker process crashed (segmentation fault");
    assert!(run.stderr.contains("hint: `--force` installs it all the same"), "{run:#?}");
    install(&["--force"]).succeeded();
    assert_eq!(home.run(["plugins", "list", "--json"]).json()[0]["status"], "failed");
    // One that hangs can be removed: it is not asked.
    Hostile::new("hang-at-load").name("bad").write(&home.plugins().join(library_name("bad")));
    let started = std::time::Instant::now();
    home.run(["plugins", "remove", "bad"]).succeeded();
    assert!(started.elapsed().as_secs() < 5);
    let folder = home.run(["plugins".as_ref(), "install".as_ref(), elsewhere.path().as_os_str()]);
    assert!(folder.code == Some(1) && folder.stderr.contains("is a folder without a `plugin.toml`"), "{folder:#?}");
    let none = home.run(["plugins", "install", "/none/such.so"]);
    assert!(none.code == Some(1) && none.stderr.contains("opening `/none/such.so` failed"), "{none:#?}");
}

#[test]
fn a_bundle_is_installed_and_replaced_as_a_whole() {
    let home = Home::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let bundle = elsewhere.path().join("loom");
    fs::create_dir_all(bundle.join("data")).unwrap();
    let library = library_name("loom");
    fs::write(bundle.join("plugin.toml"), format!("library = '{library}'")).unwrap();
    Hostile::new("well").name("loom").write(&bundle.join(&library));
    fs::write(bundle.join("data/one"), "1").unwrap();
    let install = || home.run(["plugins".as_ref(), "install".as_ref(), bundle.as_os_str()]);
    install().succeeded();
    fs::remove_file(bundle.join("data/one")).unwrap();
    fs::write(bundle.join("data/two"), "2").unwrap();
    install().succeeded();
    assert_eq!(home.listing("plugins/loom/data"), ["two"]);
    let before = home.run(["plugins", "info", "loom", "--json"]).json();
    assert_eq!(before["files"].as_array().unwrap().len(), 3);
    // A change in any of its files is one of the plugin's.
    fs::write(home.plugins().join("loom/data/two"), "3").unwrap();
    let changed = home.run(["plugins", "list"]);
    assert!(changed.stderr.contains("has changed since it was last used"), "{changed:#?}");
    assert_ne!(home.run(["plugins", "info", "loom", "--json"]).json()["sha256"], before["sha256"]);
    home.run(["plugins", "remove", "loom"]).succeeded();
    assert!(home.listing("plugins").is_empty());
}

#[test]
fn every_plugin_of_ours_keeps_every_rule() {
    let home = Home::with_gguf_cpu();
    home.install("mlx_quantize");
    for name in ["gguf-cpu", "mlx-quantize"] {
        let report = home.run(["plugins", "verify", name, "--json"]).json();
        assert_schema("plugins-verify", &report);
        assert_eq!(report["failed"], 0, "{report:#}");
        let skipped = report["rules"].as_array().unwrap().iter().filter(|rule| rule["outcome"] == "skipped");
        if name == "gguf-cpu" {
            assert_eq!(skipped.count(), 0, "{report:#}");
        }
    }
}

/// What keeps a rule from being broken unseen: for each, a plugin that breaks it. The others cannot be broken by what is
/// written with the plugin API: it refuses wrong options (R08), passes panics on (R15) and joins characters (R13) by itself.
#[test]
fn what_breaks_a_rule_fails_it() {
    let home = Home::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(library_name("bad"));
    let verify = |bad: Hostile, rule: &str| {
        bad.write(&file);
        let run = home.run(["plugins", "verify", file.to_str().unwrap(), "--rule", rule, "--json"]);
        let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run:#?}"));
        assert_schema("plugins-verify", &report);
        let row = &report["rules"][0];
        assert_eq!(run.code, Some(i32::from(row["outcome"] == "failed")), "{run:#?}");
        (row["outcome"].as_str().unwrap().to_owned(), row["found"].as_str().unwrap().to_owned())
    };
    let mode = |mode: &str| Hostile::new(mode).name("bad");
    for (bad, rule, found) in [
        (mode("segv-at-load"), "R01", "segmentation fault"),
        (mode("well").patch(b"pajamas_plugin_root\0", b"pajamas_plugin_toor\0"), "2", "does not export"),
        (mode("well").manifest("formats", "ggml"), "manifest-agrees", "the manifest's formats"),
        (mode("slow-at-probe"), "probe-is-quick", "it took 3"),
        (mode("hang-at-probe"), "capabilities-are-constant", "did not answer within 15 s"),
        (mode("segv-at-probe"), "honest-without-devices", "segmentation fault"),
        (mode("fickle"), "capabilities-are-constant", "another answer"),
        (mode("well"), "behaves-as-it-claims", "`temperature` is claimed, and 5 changes nothing"),
        (mode("well"), "stops-at-the-first-token", "handed over 1 more tokens"),
        (mode("well"), "limits-are-kept", "2 tokens of 7"),
        (mode("well"), "prompt-can-be-cancelled", "never asks"),
        (mode("well"), "loading-can-be-cancelled", "never asks"),
        (mode("well"), "survives-bad-models", "was loaded"),
        (mode("print"), "silent-on-stdout", "a plugin's chatter"),
        (mode("fickle"), "answers-are-repeatable", "the likeliest answer was"),
        (mode("fickle"), "sessions-do-not-mix", "has another answer"),
        (mode("hoarder"), "unloads-without-growth", "20 loads left"),
        (mode("wrong-logits"), "computes-rightly", "mean square error"),
    ] {
        let (outcome, reason) = verify(bad, rule);
        assert!(outcome == "failed" && reason.contains(found), "{rule}: {outcome}: {reason}");
    }
    assert_eq!(verify(mode("well"), "1").0, "passed");
    assert_eq!(verify(mode("unavailable"), "R07"), ("skipped".into(), "it cannot run here: no sheep".into()));
    assert_eq!(verify(mode("unsupported-at-model"), "R07").0, "skipped");
    home.run(["plugins", "verify", file.to_str().unwrap(), "--rule", "probe-is-quik"])
        .misused("there is no rule `probe-is-quik`", "did you mean `probe-is-quick`?");
    fs::write(&file, "I am not a library").unwrap();
    let none = home.run(["plugins", "verify", file.to_str().unwrap()]);
    assert!(none.code == Some(1) && none.stderr.contains("it is not a shared library"), "{none:#?}");
}

#[test]
fn a_bundles_file_in_the_plugin_folder_itself_is_none_of_the_plugins() {
    let home = Home::new();
    Hostile::new("well").name("loom").install(&home);
    fs::write(home.plugins().join("plugin.toml"), "library = 'libother.so'").unwrap();
    fs::write(home.path().join("config.toml"), "trust = 'pinned'\n").unwrap();
    home.run(["plugins", "trust", "loom"]).succeeded();
    assert_eq!(home.run(["plugins", "list", "--json"]).json()[0]["status"], "available");
}

#[test]
fn what_a_killed_installation_left_is_cleared_by_the_next() {
    let home = Home::new();
    let gone = home.plugins().join(".partial-4194303-libx.so");
    fs::write(&gone, "half").unwrap();
    let file = home.path().join(library_name("loom"));
    Hostile::new("well").name("loom").write(&file);
    home.run(["plugins".as_ref(), "install".as_ref(), file.as_os_str()]).succeeded();
    assert_eq!(home.listing("plugins"), [library_name("loom")]);
}
