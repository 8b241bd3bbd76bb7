//! `pajamas config` says what every setting is and where it came from, and changes the file without spoiling it.

use pajamas_tests::{Home, Run, assert_schema, pajama_tiny};

fn file(home: &Home) -> String {
    std::fs::read_to_string(home.path().join("config.toml")).unwrap()
}

#[test]
fn every_value_says_where_it_came_from() {
    let home = Home::new();
    let mut command = home.command(["config", "list", "--json", "--plugin-dir"]);
    command.arg(home.plugins()).env("PAJAMAS_BACKEND", "mine").env("PAJAMAS_PLUGIN_PATH", "/from/env");
    let list = Run::from(command.output().unwrap()).json();
    assert_schema("config", &list);
    let setting = |key: &str| {
        let settings = list["settings"].as_array().unwrap();
        settings.iter().find(|setting| setting["key"] == key).cloned().unwrap()
    };
    assert_eq!(setting("threads")["value"], 1);
    assert_eq!(setting("threads")["origin"]["kind"], "file");
    assert!(setting("threads")["origin"]["name"].as_str().unwrap().ends_with("config.toml"));
    assert_eq!(setting("backend")["value"], "mine");
    assert_eq!(setting("backend")["origin"]["name"], "PAJAMAS_BACKEND");
    assert_eq!(setting("fallback")["origin"]["kind"], "default");
    assert_eq!(setting("context_length")["value"], serde_json::Value::Null);
    let dirs = list["plugin_dirs"].as_array().unwrap();
    assert_eq!(dirs[0]["origin"]["name"], "--plugin-dir");
    assert_eq!((&dirs[1]["path"], &dirs[1]["origin"]["name"]), (&"/from/env".into(), &"PAJAMAS_PLUGIN_PATH".into()));
    let home_is = list["environment"].as_array().unwrap().iter().find(|v| v["name"] == "PAJAMAS_HOME").unwrap();
    assert_eq!(home_is["value"], home.path().to_str().unwrap());
    assert_schema("config", &home.run(["config", "--json"]).json());
}

#[test]
fn the_text_names_every_key_and_says_what_for_when_asked() {
    let home = Home::new();
    let list = home.run(["config"]);
    for key in ["backend", "fallback", "threads", "context_length", "method", "plugin_dirs", "probe_timeout_s"] {
        assert!(list.succeeded().stdout.lines().any(|line| line.starts_with(key)), "{key}: {list:#?}");
    }
    assert!(list.stdout.contains("Plugin folders, in order of search") && list.stdout.contains("HF_HUB_CACHE"));
    assert!(!list.stdout.contains("Threads to compute with"), "{list:#?}");
    assert!(home.run(["config", "list", "-v"]).succeeded().stdout.contains("Threads to compute with"));
}

#[test]
fn a_value_is_set_read_and_taken_out_and_comments_stay() {
    let home = Home::new();
    let path = home.path().join("config.toml");
    std::fs::write(&path, "# of this machine\nthreads = 1 # slow\n").unwrap();
    home.run(["config", "set", "context_length", "8192"]).succeeded();
    home.run(["config", "set", "fallback", "off"]).succeeded();
    home.run(["config", "set", "plugin_dirs", "mine", "/b"]).succeeded();
    home.run(["config", "set", "threads", "2"]).succeeded();
    assert_eq!(
        file(&home),
        "# of this machine\nthreads = 2 # slow\ncontext_length = 8192\nfallback = false\nplugin_dirs = [\"mine\", \"/b\"]\n"
    );
    let get = |key: &str| home.run(["config", "get", key]).succeeded().stdout.clone();
    assert_eq!((get("context_length").as_str(), get("fallback").as_str()), ("8192\n", "false\n"));
    assert_eq!(get("plugin_dirs"), format!("{}\n/b\n", home.path().join("mine").display()));
    assert_schema("config-get", &home.run(["config", "get", "plugin_dirs", "--json"]).json());
    home.run(["config", "unset", "context_length"]).succeeded();
    assert_eq!(get("context_length"), "");
    assert!(!file(&home).contains("context_length"));
    assert_eq!(home.run(["config", "path"]).stdout.trim(), path.display().to_string());
    assert_schema("config-path", &home.run(["config", "path", "--json"]).json());
    assert_eq!(home.listing(""), ["config.toml", "plugins"], "nothing is left beside the file");
}

#[test]
fn wrong_keys_and_values_are_refused_with_a_suggestion_and_change_nothing() {
    let home = Home::new();
    let before = file(&home);
    home.run(["config", "get", "bakend"]).misused("unknown setting `bakend`", "did you mean `backend`?");
    home.run(["config", "set", "thread", "2"]).misused("unknown setting `thread`", "did you mean `threads`?");
    home.run(["config", "unset", "methd"]).misused("unknown setting `methd`", "did you mean `method`?");
    home.run(["config", "set", "threads", "0"]).misused("`threads` cannot be `0`", "a whole number from 1");
    home.run(["config", "set", "threads", "-1"]).misused("`threads` cannot be `-1`", "a whole number from 1");
    home.run(["config", "set", "fallback", "maybe"]).misused("`fallback` cannot be `maybe`", "true or false");
    assert_eq!(file(&home), before);
}

#[test]
fn a_backend_that_is_not_here_is_set_and_noted() {
    let home = Home::with_gguf_cpu();
    let run = home.run(["config", "set", "backend", "gguf-cpo"]);
    let note = "note: unknown backend `gguf-cpo`; did you mean `gguf-cpu`?";
    assert!(run.succeeded().stderr.contains(note), "{run:?}");
    let run = home.run(["config", "set", "backend", "gguf-cuda"]);
    assert!(run.succeeded().stderr.contains("`make plugin-cuda install`"), "{run:?}");
    assert!(!home.run(["config", "set", "backend", "gguf-cpu"]).succeeded().stderr.contains("note:"));
}

#[test]
fn a_method_that_nothing_makes_is_noted_and_then_refused() {
    let home = Home::with_gguf_cpu();
    let run = home.run(["config", "set", "method", "Q8_1", "--json"]);
    assert!(
        run.succeeded().stderr.contains("note: unknown quantization method `Q8_1`; did you mean `Q8_0`?"),
        "{run:?}"
    );
    let tiny = pajama_tiny().display().to_string();
    home.run(["quantize", &tiny]).misused("the settings ask for the method `Q8_1`", "did you mean `Q8_0`?");
    home.run(["quantize", &tiny, "-m", "Q8_0", "--no-validate"]).succeeded();
    home.run(["config", "set", "method", "q6_k"]).succeeded();
    let made = home.run(["quantize", &tiny, "--no-validate", "--json"]).json();
    assert_eq!(made["method"], "Q6_K");
}

#[test]
fn a_broken_file_can_be_mended_by_the_command_that_doctor_names() {
    let home = Home::new();
    std::fs::write(home.path().join("config.toml"), "bakend = 'x'\nthreads = 1\n").unwrap();
    home.run(["config"]).failed_with("unknown key `bakend`", "did you mean `backend`?");
    home.run(["config", "unset", "bakend"]).succeeded();
    assert_eq!(file(&home), "threads = 1\n");
    home.run(["config"]).succeeded();
}
