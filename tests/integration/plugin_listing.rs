//! `pajamas plugins list` says of every file in the folder what it is and why.

use pajamas_tests::{Home, built_library, library_name};

/// (rank, name, status, reason) of each row.
fn rows(home: &Home) -> Vec<(Option<u64>, String, String, String)> {
    let value = home.run(["plugins", "list", "--json"]).json();
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let row = |r: &serde_json::Value| (r["rank"].as_u64(), text(r, "name"), text(r, "status"), text(r, "reason"));
    value.as_array().expect("an array").iter().map(row).collect()
}

#[test]
fn no_plugin_says_where_it_looked_and_what_to_do() {
    let home = Home::new();
    let run = home.run(["plugins", "list"]);
    run.succeeded();
    assert!(run.stderr.contains(&home.plugins().display().to_string()), "{run:?}");
    assert!(run.stderr.contains("hint: no plugin is installed"), "{run:?}");
    assert_eq!(rows(&home), []);
}

#[test]
fn a_file_dropped_in_is_there() {
    let home = Home::with_gguf_cpu();
    assert_eq!(rows(&home), [(Some(1), "gguf-cpu".into(), "available".into(), String::new())]);
    let table = home.run(["plugins", "list"]);
    let columns: Vec<&str> = table.succeeded().stdout.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(
        columns[..5],
        ["1", "gguf-cpu", env!("CARGO_PKG_VERSION"), pajamas_plugin_api::API_VERSION, "available"]
    );
}

#[test]
fn a_text_file_with_a_librarys_name_is_refused_and_disturbs_nobody() {
    let home = Home::with_gguf_cpu();
    std::fs::write(home.plugins().join(library_name("nope")), "I am not a library").unwrap();
    let rows = rows(&home);
    assert_eq!(rows[0].1, "gguf-cpu");
    assert_eq!(rows[1], (None, library_name("nope"), "refused".into(), "it is not a shared library".into()));
}

#[test]
fn of_two_copies_the_second_is_shadowed_by_the_first() {
    let home = Home::with_gguf_cpu();
    std::fs::copy(built_library("gguf_cpu"), home.plugins().join(library_name("zzz"))).unwrap();
    let rows = rows(&home);
    assert_eq!((rows[0].0, rows[0].2.as_str()), (Some(1), "available"));
    assert_eq!((rows[1].0, rows[1].2.as_str()), (None, "shadowed"));
    assert!(rows[1].3.contains("another `gguf-cpu` comes first") && rows[1].3.contains(&library_name("gguf_cpu")));
}

#[test]
fn a_folder_named_by_flag_comes_before_the_home() {
    let (home, other) = (Home::with_gguf_cpu(), Home::with_gguf_cpu());
    let flag = other.plugins();
    let run = home.run(["plugins", "list", "--json", "--plugin-dir", flag.to_str().unwrap()]);
    let value = run.json();
    assert!(value[0]["path"].as_str().unwrap().starts_with(flag.canonicalize().unwrap().to_str().unwrap()));
    assert_eq!(value[1]["status"], "shadowed");
}

#[test]
fn the_hosts_programs_hold_no_engine() {
    for program in ["pajamas", "pajamas-worker"] {
        let bytes = std::fs::read(pajamas_tests::build_dir().join(program)).expect("the program is built");
        // Not `ggml_` alone: the reader of GGUF files has a field `ggml_type`, which debug information names.
        for engine in ["libstdc++", "ggml_backend", "llama_model"] {
            let found = bytes.windows(engine.len()).any(|window| window == engine.as_bytes());
            assert!(!found, "{program} mentions {engine}");
        }
    }
}
