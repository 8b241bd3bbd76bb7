//! `pajamas models` lists, shows and removes what was made, and touches nothing else.

use pajamas_tests::{Home, assert_schema, pajama_tiny};

fn home_with_models() -> Home {
    let home = Home::with_gguf_cpu();
    home.install("mlx_quantize");
    for method in ["Q8_0", "4bit"] {
        home.run(["quantize".as_ref(), pajama_tiny().as_os_str(), "-m".as_ref(), method.as_ref()]).succeeded();
    }
    home
}

#[test]
fn what_was_made_is_listed_with_where_from_and_when() {
    let home = home_with_models();
    let models = home.run(["models", "--json"]).json();
    assert_schema("models", &models);
    assert_eq!(home.run(["models", "list", "--json"]).json(), models);
    let names: Vec<_> = models.as_array().unwrap().iter().map(|m| (&m["name"], &m["format"], &m["method"])).collect();
    let expected = [["pajama-tiny-mlx-4bit", "mlx", "4bit"], ["pajama-tiny-q8_0", "gguf", "Q8_0"]]
        .map(|row| row.map(serde_json::Value::from));
    assert_eq!(names, expected.iter().map(|[name, format, method]| (name, format, method)).collect::<Vec<_>>());
    let source = pajama_tiny().canonicalize().unwrap();
    assert_eq!(models[0]["source"], source.to_str().unwrap());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(models[0]["created_unix_s"].as_u64().unwrap()) < 600);
    let text = home.run(["models"]);
    assert!(text.succeeded().stdout.contains("MADE FROM") && text.stdout.contains("pajama-tiny-q8_0"), "{text:#?}");
    let empty = Home::new();
    assert_eq!(empty.run(["models", "--json"]).json(), serde_json::json!([]));
    assert!(empty.run(["models"]).succeeded().stderr.contains("hint: `pajamas quantize MODEL` makes one"));
}

#[test]
fn show_is_info_of_that_model() {
    let home = home_with_models();
    let shown = home.run(["models", "show", "pajama-tiny-q8_0", "--json"]).json();
    assert_schema("info-model", &shown);
    assert_eq!(shown["quantization"], "Q8_0");
    home.run(["models", "show", "pajama-tiny-q8_1"]).failed_with("no model", "did you mean `pajama-tiny-q8_0`?");
}

#[test]
fn a_removed_model_is_gone_with_its_record() {
    let home = home_with_models();
    let before = home.listing("models");
    let dry = home.run(["models", "remove", "pajama-tiny-q8_0", "pajama-tiny-mlx-4bit", "--dry-run", "--json"]).json();
    assert_schema("models-remove", &dry);
    assert_eq!((dry["removed"].as_array().unwrap().len(), &dry["dry_run"]), (2, &true.into()));
    assert_eq!(home.listing("models"), before);
    let run = home.run(["models", "remove", "pajama-tiny-mlx-4bit"]);
    assert!(run.succeeded().stdout.trim().ends_with("pajama-tiny-mlx-4bit"), "{run:#?}");
    assert_eq!(home.listing("models"), ["pajama-tiny-q8_0.gguf", "pajama-tiny-q8_0.gguf.json"]);
    let removed = home.run(["models", "remove", "pajama-tiny-q8_0.gguf", "--json"]).json();
    assert_schema("models-remove", &removed);
    assert_eq!(home.listing("models"), [""; 0]);
}

#[test]
fn of_several_names_all_are_removed_or_none() {
    let home = home_with_models();
    let before = home.listing("models");
    home.run(["models", "remove", "pajama-tiny-q8_0", "pajama-tiny-q4_0"])
        .misused("no model `pajama-tiny-q4_0`", "did you mean `pajama-tiny-q8_0`?");
    let outside = home.path().join("config.toml");
    home.run(["models".as_ref(), "remove".as_ref(), outside.as_os_str()]).misused("no model", "models list");
    home.run(["models", "remove", "../config.toml"]).misused("no model", "models list");
    assert_eq!(home.listing("models"), before);
    assert!(outside.is_file());
}

#[test]
fn what_pajamas_did_not_make_needs_force() {
    let home = home_with_models();
    let theirs = home.path().join("models/theirs.gguf");
    std::fs::copy(home.path().join("models/pajama-tiny-q8_0.gguf"), &theirs).unwrap();
    home.run(["models", "remove", "theirs"]).failed_with("was not made by pajamas", "--force theirs.gguf");
    assert!(theirs.is_file());
    home.run(["models", "remove", "--force", "theirs"]).succeeded();
    assert!(!theirs.exists());
}

#[cfg(unix)]
#[test]
fn a_link_goes_and_what_it_leads_to_stays() {
    let home = home_with_models();
    let (real, link) = (home.path().join("real.gguf"), home.path().join("models/link.gguf"));
    std::fs::copy(home.path().join("models/pajama-tiny-q8_0.gguf"), &real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    home.run(["models", "remove", "--force", "link"]).succeeded();
    assert!(link.symlink_metadata().is_err() && real.is_file());
}
