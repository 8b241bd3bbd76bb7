//! Bad input: one clear line and a hint, exit code 1, nothing left behind.

use pajamas_tests::{Home, copy_folder, pajama_tiny};
use std::path::PathBuf;

/// A copy of the fixture model that a test may spoil.
fn spoiled(home: &Home, spoil: impl FnOnce(&std::path::Path)) -> PathBuf {
    let folder = home.path().join("spoiled");
    copy_folder(&pajama_tiny(), &folder);
    spoil(&folder);
    folder
}

#[track_caller]
fn quantize_fails(home: &Home, model: &str, extra: &[&str], error: &str, hint: &str) {
    let run = home.run(["quantize", model].iter().chain(extra));
    run.failed_with(error, hint);
    assert_eq!(home.listing("models"), [""; 0], "something was left behind");
}

#[test]
fn what_can_be_known_before_the_work_is_said_before_it() {
    let home = Home::with_gguf_cpu();
    let folder = pajama_tiny().display().to_string();
    let text = home.path().join("short.txt");
    std::fs::write(&text, "Short.").unwrap();
    quantize_fails(&home, &folder, &["--text", text.to_str().unwrap()], "is too short: 6 bytes", "at least 32 tokens");
    let file = home.path().join("new.gguf");
    let run = home.run(["quantize", &folder, "-o", file.to_str().unwrap()]);
    run.misused("named like a file", "--name NAME");
    assert!(!file.exists());
}

fn edit_config(folder: &std::path::Path, from: &str, to: &str) {
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from));
    std::fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn a_missing_folder() {
    let home = Home::with_gguf_cpu();
    quantize_fails(&home, "./no/such/folder", &[], "no model `./no/such/folder`", "give a GGUF file");
    quantize_fails(&home, "acme/nothing", &[], "no model `acme/nothing`", "pajamas models pull acme/nothing");
    let empty = home.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    quantize_fails(&home, empty.to_str().unwrap(), &[], "no config.json", "give the folder");
    let file = home.quantized("Q8_0");
    home.run(["quantize", file.to_str().unwrap(), "-o", file.to_str().unwrap()])
        .failed_with("this is not a folder", "--name");
    home.run(["run", "--plugin-dir", "/no/such", "x", "-p", "x"]).failed_with("is no folder", "library");
    home.run(["run", file.to_str().unwrap(), "-p", " "]).misused("there is no prompt", "-p");
}

#[test]
fn truncated_safetensors() {
    let home = Home::with_gguf_cpu();
    let folder = spoiled(&home, |folder| {
        let file = std::fs::OpenOptions::new().write(true).open(folder.join("model.safetensors")).unwrap();
        file.set_len(3_000_000).unwrap();
    });
    quantize_fails(&home, folder.to_str().unwrap(), &[], "model.safetensors", "download");
}

#[test]
fn a_truncated_gguf_is_refused_by_run_and_by_quantize() {
    let home = Home::with_gguf_cpu();
    let file = home.quantized("F16");
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(4_000_000).unwrap();
    let path = file.to_str().unwrap();
    home.run(["run", path, "-p", "x"]).failed_with("truncated", "");
    quantize_fails(&home, path, &["-m", "Q8_0"], "truncated", "");
    std::fs::write(&file, "not a model").unwrap();
    home.run(["run", path, "-p", "x"]).failed_with("this is no GGUF file", "give a GGUF file");
}

#[test]
fn an_unknown_architecture() {
    let home = Home::with_gguf_cpu();
    let folder = spoiled(&home, |folder| edit_config(folder, "Qwen2ForCausalLM", "LoomForCausalLM"));
    quantize_fails(&home, folder.to_str().unwrap(), &[], "LoomForCausalLM", "Qwen2ForCausalLM");
}

#[test]
fn a_tokenizer_that_the_converter_does_not_know() {
    let home = Home::with_gguf_cpu();
    let folder = spoiled(&home, |folder| {
        let path = folder.join("tokenizer.json");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(r"\\p{N}"));
        std::fs::write(path, text.replace(r"\\p{N}", r"\\p{N}{1,2}")).unwrap();
    });
    quantize_fails(&home, folder.to_str().unwrap(), &[], "pre-tokenizer", "");
}

#[test]
fn an_unknown_method_or_backend_gets_a_suggestion() {
    let home = Home::with_gguf_cpu();
    let folder = pajama_tiny();
    let folder = folder.to_str().unwrap();
    home.run(["quantize", folder, "-m", "Q4_K_N"])
        .misused("unknown quantization method `Q4_K_N`", "did you mean `Q4_K_");
    home.run(["run", folder, "-p", "x", "-b", "gguf-cpi"])
        .misused("unknown backend `gguf-cpi`", "did you mean `gguf-cpu`?");
    assert_eq!(home.listing("models"), [""; 0], "it was refused before anything was made");
}

#[test]
fn an_option_that_would_change_nothing() {
    let home = Home::with_gguf_cpu();
    let folder = pajama_tiny();
    let option = &["--leave-output-tensor"];
    quantize_fails(&home, folder.to_str().unwrap(), option, "would change nothing", "leave the option out");
    let full = home.quantized("F16");
    quantize_fails(&home, full.to_str().unwrap(), option, "would change nothing", "leave the option out");
}

#[test]
fn no_plugin_at_all() {
    let home = Home::new();
    let folder = pajama_tiny();
    let folder = folder.to_str().unwrap();
    quantize_fails(&home, folder, &[], "no backend can quantize models", "no plugin is installed");
    home.run(["run", folder, "-p", "x"]).failed_with("no backend can quantize models", "no plugin is installed");
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_and_never_cut() {
    let home = Home::with_gguf_cpu();
    let file = home.quantized("Q8_0");
    let long = "one two three four five ".repeat(40);
    home.run(["run", file.to_str().unwrap(), "-c", "64", "-p", &long]).failed_with("64", "--context-length");
}

#[test]
fn options_are_checked_before_the_model_is_loaded() {
    let home = Home::with_gguf_cpu();
    let file = home.quantized("Q8_0");
    let run = |set: &str| home.run(["run", file.to_str().unwrap(), "-p", "x", "--set", set]);
    run("mmapp=on").misused("unknown option `mmapp`", "did you mean `mmap`?");
    let bad = run("cache_type_k=q9");
    assert!(bad.code == Some(2) && bad.stderr.contains("expected one of f32"), "{bad:?}");
    let wrong = run("mmap");
    assert!(wrong.code == Some(2) && wrong.stderr.contains("write NAME=VALUE"), "{wrong:?}");
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let home = Home::new();
    for args in [&["quantise"][..], &["run", "m", "-t", "-1"], &["run", "m", "--top-p", "2"], &["run"]] {
        assert_eq!(home.run(args).code, Some(2), "{args:?}");
    }
}

#[test]
fn a_wrong_key_in_the_config_file_is_named() {
    let home = Home::new();
    std::fs::write(home.path().join("config.toml"), "bakend = 'gguf-cpu'\n").unwrap();
    home.run(["info"]).failed_with("unknown key `bakend`", "did you mean `backend`?");
}

#[test]
fn a_name_that_leaves_the_folder_and_the_source_as_target_are_refused() {
    let home = Home::with_gguf_cpu();
    let folder = pajama_tiny();
    quantize_fails(&home, folder.to_str().unwrap(), &["--name", "../x"], "cannot be a file name", "-o");
    let file = home.quantized("F16");
    let out = file.parent().unwrap().to_str().unwrap();
    let run = home.run(["quantize", file.to_str().unwrap(), "-m", "Q8_0", "-o", out, "--name", "pajama-tiny-f16"]);
    run.failed_with("is the source itself", "--name");
    assert!(file.is_file());
}

#[cfg(unix)]
#[test]
fn a_pipe_in_a_folder_keeps_nobody_waiting() {
    let home = Home::with_gguf_cpu();
    for name in ["tokenizer.json", "model.safetensors"] {
        let folder = home.path().join(format!("with-{name}"));
        copy_folder(&pajama_tiny(), &folder);
        let path = folder.join(name);
        std::fs::remove_file(&path).unwrap();
        let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the path ends with a zero and lives during the call.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
        let run = home.run(["quantize".as_ref(), folder.as_os_str()]);
        assert!(run.code == Some(1) && run.stderr.contains(name), "{run:#?}");
    }
}
