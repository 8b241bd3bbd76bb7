//! What scripts and shells rely on: JSON as promised, completions, manual pages.

use pajamas_tests::{Home, assert_schema, library_name, pajama_tiny};

#[test]
fn quantize_and_run_print_the_json_that_is_promised() {
    let home = Home::with_gguf_cpu();
    let made = home.run(["quantize".as_ref(), pajama_tiny().as_os_str(), "--json".as_ref()]).json();
    assert_schema("quantize", &made);
    let path = made["path"].as_str().unwrap();
    let answer = home.run(["run", path, "-p", "The llama", "--max-tokens", "4", "-t", "0", "--json"]).json();
    assert_schema("run", &answer);
}

#[test]
fn errors_are_json_on_stderr_where_the_result_would_be_json() {
    let home = Home::new();
    for args in [&["info", "./none.gguf"][..], &["config", "get", "bakend"], &["plugins", "info", "x"], &["doctor"]] {
        let run = home.run(args.iter().chain(&["--json"]));
        let error = run.stderr.lines().last().expect("an error");
        assert_schema("error", &serde_json::from_str(error).expect("JSON on stderr"));
        assert!(run.code == Some(1) || run.code == Some(2), "{run:#?}");
    }
}

#[test]
fn plugins_are_listed_as_promised() {
    let home = Home::with_gguf_cpu();
    home.install("mlx_quantize");
    std::fs::write(home.plugins().join(library_name("nope")), "I am not a library").unwrap();
    assert_schema("plugins-list", &home.run(["plugins", "list", "--json"]).json());
}

#[test]
fn one_plugin_is_shown_with_its_options_and_recipes() {
    let home = Home::with_gguf_cpu();
    home.install("mlx_quantize");
    std::fs::write(home.plugins().join(library_name("nope")), "I am not a library").unwrap();
    for name in ["gguf-cpu", "mlx-quantize", &library_name("nope"), &library_name("gguf_cpu")] {
        assert_schema("plugins-info", &home.run(["plugins", "info", name, "--json"]).json());
    }
    let shown = home.run(["plugins", "info", "gguf-cpu", "--json"]).json();
    assert_eq!((&shown["rank"], &shown["hardware"]), (&1.into(), &"cpu".into()));
    let features: Vec<_> = shown["features"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
    assert!(features.contains(&"logits") && features.contains(&"sessions"), "{features:?}");
    let options = shown["options"].as_array().unwrap();
    let cache = options.iter().find(|option| option["name"] == "cache_type_k").expect("the option");
    assert_eq!((&cache["type"], &cache["default"]), (&"choice".into(), &"f16".into()));
    assert!(cache["range"].as_str().unwrap().contains("q8_0"));
    let recipe = &shown["recipes"][0];
    assert_eq!((&recipe["name"], &recipe["artifact"]), (&"Q4_K_M".into(), &"file".into()));
    let text = home.run(["plugins", "info", "gguf-cpu"]);
    for expected in ["llama.cpp on the CPU", "cache_type_k", "Q4_K_M", "leave_output_tensor", "sessions"] {
        assert!(text.succeeded().stdout.contains(expected), "{expected}: {text:#?}");
    }
    // What all methods share is said once.
    assert_eq!(text.stdout.matches("leave_output_tensor").count(), 1, "{text:#?}");
    assert!(text.stdout.contains("All of them are made from: huggingface, gguf, mlx\n"), "{text:#?}");
    home.run(["plugins", "info", "gguf-cpi"]).misused("unknown backend `gguf-cpi`", "did you mean `gguf-cpu`?");
}

#[test]
fn shells_get_their_completions() {
    let home = Home::new();
    for (shell, expected) in [
        ("bash", "_pajamas()"),
        ("zsh", "#compdef pajamas"),
        ("fish", "complete -c pajamas"),
        ("elvish", "edit:completion:arg-completer[pajamas]"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let run = home.run(["completions", shell]);
        assert!(run.succeeded().stdout.contains(expected), "{shell}");
        assert!(run.stdout.contains("quantize") && run.stdout.contains("doctor"), "{shell}");
    }
    assert_eq!(home.run(["completions", "tcsh"]).code, Some(2));
}

#[test]
fn every_command_has_a_manual_page() {
    let home = Home::new();
    let main = home.run(["man"]);
    assert!(main.succeeded().stdout.contains(".TH pajamas 1"), "{main:#?}");
    let dir = home.path().join("man");
    let pages = home.run(["man".as_ref(), "--output".as_ref(), dir.as_os_str(), "--json".as_ref()]).json();
    assert_schema("man", &pages);
    for page in ["pajamas.1", "pajamas-quantize.1", "pajamas-plugins-info.1", "pajamas-models-remove.1"] {
        assert!(dir.join(page).is_file(), "{page}: {pages:#}");
    }
    assert_eq!(pages.as_array().unwrap().len(), home.listing("man").len());
}

/// A damaged settings file must not keep these from working.
#[test]
fn what_needs_no_settings_reads_none() {
    let home = Home::new();
    std::fs::write(home.path().join("config.toml"), "bakend = 'x'\n").unwrap();
    home.run(["completions", "bash"]).succeeded();
    home.run(["man"]).succeeded();
    home.run(["config", "path"]).succeeded();
}

#[test]
fn what_other_tools_call_a_command_is_told_by_its_name_here() {
    let home = Home::new();
    for (word, hint) in
        [("list", "`pajamas models`"), ("rm", "models remove"), ("pull", "models pull"), ("serve", "no server")]
    {
        home.run([word]).misused(&format!("there is no command `{word}`"), hint);
    }
    home.run(["-v", "list"]).misused("there is no command `list`", "`pajamas models`");
    // A slip is not one of them.
    let slip = home.run(["quantise"]);
    assert!(slip.code == Some(2) && slip.stderr.contains("quantize"), "{slip:#?}");
}
