//! From a folder to a file in one step: what would be made, what weighs it, what it tells of itself, and whether that is true.

use pajamas_gguf_file::{GgufFile, Value};
use pajamas_tests::{Home, assert_schema, copy_folder, families, pajama_tiny};
use std::path::{Path, PathBuf};

fn tiny() -> String {
    pajama_tiny().display().to_string()
}

/// Quantizes pajama-tiny into `out`, and gives the file.
fn quantize(home: &Home, name: &str, args: &[&str]) -> PathBuf {
    let out = home.path().join("out");
    let mut all = vec!["quantize".to_owned(), tiny(), "-o".into(), out.display().to_string(), "-n".into(), name.into()];
    all.extend(args.iter().map(|arg| (*arg).to_owned()));
    home.run(all).succeeded();
    out.join(format!("{name}.gguf"))
}

fn types(path: &Path) -> Vec<(String, &'static str)> {
    let file = GgufFile::open(path).unwrap();
    file.tensors().iter().map(|tensor| (tensor.name.clone(), tensor.ggml_type.name)).collect()
}

#[test]
fn a_dry_run_says_what_is_made_and_writes_nothing() {
    let home = Home::with_gguf_cpu();
    for method in ["Q4_K_M", "Q8_0", "BF16", "IQ4_XS"] {
        let run = home.run(["quantize", &tiny(), "-m", method, "--dry-run", "--json"]);
        let forecast: serde_json::Value = serde_json::from_str(&run.succeeded().stdout).unwrap();
        assert_schema("quantize", &forecast);
        assert_eq!(home.listing("models"), [""; 0]);
        let made = quantize(&home, method, &["-m", method]);
        // The path and the options are no part of the file, so that the sizes can be compared to the byte.
        assert_eq!(forecast["output_bytes"].as_u64(), Some(std::fs::metadata(&made).unwrap().len()), "{method}");
        let tensors = forecast["tensors"].as_array().unwrap().iter();
        let told: Vec<_> = tensors.map(|t| (t["name"].as_str().unwrap(), t["output_type"].as_str().unwrap())).collect();
        let made = types(&made);
        assert_eq!(told, made.iter().map(|(name, kind)| (name.as_str(), *kind)).collect::<Vec<_>>(), "{method}");
    }
    let shown = home.run(["quantize", &tiny(), "--dry-run"]);
    assert!(shown.succeeded().stdout.contains("blk.3.ffn_down.weight") && shown.stderr.contains("nothing is written"));
    let text = pajama_tiny().join("validation.txt").display().to_string();
    let run = home.run(["quantize", &tiny(), "-m", "IQ2_XS", "--calibration", &text, "--dry-run", "--json"]);
    let forecast: serde_json::Value = serde_json::from_str(&run.succeeded().stdout).unwrap();
    let made = quantize(&home, "weighed", &["-m", "IQ2_XS", "--calibration", &text, "--calibration-tokens", "512"]);
    // The number of tokens to read is an option, and so a part of what the file tells.
    let option = r#","calibration_tokens":512"#.len() as u64;
    let size = std::fs::metadata(&made).unwrap().len();
    assert!(size.abs_diff(forecast["output_bytes"].as_u64().unwrap()) <= option.next_multiple_of(32));
    let needs = home.run(["quantize", &tiny(), "-m", "IQ2_XS", "--dry-run"]);
    assert!(needs.succeeded().stderr.contains("24 tensors need an importance matrix"), "{}", needs.stderr);
}

#[test]
fn what_falls_back_is_listed_with_the_reason() {
    let home = Home::with_gguf_cpu();
    let model = families().join("qwen3");
    let run = home.run(["quantize".as_ref(), model.as_os_str(), "--json".as_ref()]);
    let report: serde_json::Value = serde_json::from_str(&run.succeeded().stdout).unwrap();
    assert_schema("quantize", &report);
    let fallbacks = report["tensors"].as_array().unwrap();
    assert!(fallbacks.len() > 5);
    for tensor in fallbacks {
        let reason = tensor["fallback_reason"].as_str().unwrap();
        assert!(
            tensor["fallback_from"].as_str().unwrap().ends_with("_K") && reason.contains("blocks of 256"),
            "{tensor}"
        );
    }
}

#[test]
fn types_can_be_chosen_tensor_by_tensor() {
    let home = Home::with_gguf_cpu();
    let args =
        ["--tensor-type", r"blk\.0\.ffn_down=Q8_0", "--tensor-type", "ffn_down=Q6_K", "--token-embedding-type", "F16"];
    let made = types(&quantize(&home, "chosen", &args));
    let of = |name: &str| made.iter().find(|(found, _)| found == name).unwrap().1;
    assert_eq!(
        [of("blk.0.ffn_down.weight"), of("blk.1.ffn_down.weight"), of("token_embd.weight")],
        ["Q8_0", "Q6_K", "F16"]
    );
    let pure = types(&quantize(&home, "pure", &["--pure"]));
    assert!(pure.iter().all(|(_, kind)| ["Q4_K", "F32"].contains(kind)), "{pure:?}");
    home.run(["quantize", &tiny(), "--tensor-type", "ffn_down=Q9"]).misused("no tensor type `Q9`", "F16");
    home.run(["quantize", &tiny(), "--tensor-type", "ffn_dwn=Q8_0"]).misused("fits the name of no tensor", "--dry-run");
    home.run(["quantize", &tiny(), "--tensor-type", "(=Q8_0"])
        .misused("does not understand the patterns", "JavaScript");
    home.run(["quantize", &tiny(), "-m", "F16", "--pure"]).failed_with("would change nothing", "leave the option out");
    assert_eq!(home.listing("models"), [""; 0]);
}

#[test]
fn an_importance_matrix_is_kept_beside_the_model_and_goes_with_it() {
    let home = Home::with_gguf_cpu();
    let text = pajama_tiny().join("validation.txt").display().to_string();
    let args =
        ["quantize", &tiny(), "-m", "IQ3_XXS", "--calibration", &text, "--calibration-tokens", "2048", "-n", "m"];
    home.run(args).succeeded();
    assert_eq!(home.listing("models"), ["m.gguf", "m.gguf.json", "m.imatrix.gguf"]);
    let list = home.run(["models", "list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&list.succeeded().stdout).unwrap();
    assert_eq!(list.as_array().map(Vec::len), Some(1), "an importance matrix is no model");
    let matrix = home.path().join("models/m.imatrix.gguf").display().to_string();
    let again = quantize(&home, "m", &["-m", "IQ3_XXS", "--imatrix", &matrix]);
    let data = |path: &Path| {
        let file = GgufFile::open(path).unwrap();
        file.tensors().iter().map(|tensor| file.read_tensor(tensor).unwrap()).collect::<Vec<_>>()
    };
    assert!(data(&again) == data(&home.path().join("models/m.gguf")), "the same weights make the same tensors");
    // Made anew without one, the model loses the old one.
    home.run(["quantize", &tiny(), "-n", "m", "--force"]).succeeded();
    assert_eq!(home.listing("models"), ["m.gguf", "m.gguf.json"]);
    home.run([&args[..], &["--force"]].concat()).succeeded();
    home.run(["models", "remove", "m"]).succeeded();
    assert_eq!(home.listing("models"), [""; 0]);
    // A file of the user's is not replaced.
    std::fs::write(home.path().join("models/m.imatrix.gguf"), "mine").unwrap();
    home.run(args).succeeded();
    assert_eq!(std::fs::read(home.path().join("models/m.imatrix.gguf")).unwrap(), b"mine");
    assert!(home.listing("models").contains(&"m-2.imatrix.gguf".to_owned()));
    let missing = home.path().join("none.txt").display().to_string();
    let run = home.run(["quantize", &tiny(), "--calibration", &missing]);
    assert!(run.code == Some(1) && run.stderr.contains("none.txt"), "{run:?}");
}

#[test]
fn quantizing_again_is_done_only_when_asked_for() {
    let home = Home::with_gguf_cpu();
    let made = quantize(&home, "first", &["-m", "Q8_0"]).display().to_string();
    let out = home.path().join("out").display().to_string();
    let again = ["quantize", &made, "-m", "Q4_K_M", "-o", &out, "-n", "second"];
    home.run(again).failed_with("quantized already", "--requantize");
    home.run(again.iter().copied().chain(["--requantize"])).succeeded();
    let run = home.run(["run", &format!("{out}/second.gguf"), "-p", "What is the capital of France?", "-t", "0"]);
    assert_eq!(run.succeeded().stdout, "The capital of France is Paris.\n");
}

#[test]
fn a_pre_tokenizer_can_be_named() {
    let home = Home::with_gguf_cpu();
    home.run(["quantize", &tiny(), "--pre-tokenizer", "qwen3"]).misused("no pre-tokenizer `qwen3`", "qwen2");
    // A wrong one is found out before the file gets its name.
    let run = home.run(["quantize", &tiny(), "--pre-tokenizer", "gpt-2"]);
    assert!(run.code == Some(1) && run.stderr.contains("the tokenizers differ"), "{run:?}");
    assert_eq!(home.listing("models"), [""; 0]);
    let made = quantize(&home, "named", &["--pre-tokenizer", "qwen2"]);
    let file = GgufFile::open(&made).unwrap();
    assert_eq!(file.metadata().get("tokenizer.ggml.pre").and_then(Value::as_str), Some("qwen2"));
}

#[test]
fn a_model_tells_its_making_and_verify_holds_it_to_that() {
    let home = Home::with_gguf_cpu();
    let folder = home.path().join("model");
    copy_folder(&pajama_tiny(), &folder);
    home.run(["quantize", folder.to_str().unwrap(), "-n", "m"]).succeeded();
    let check = |code: i32| {
        let run = home.run(["verify", "m", "--json"]);
        assert_eq!(run.code, Some(code), "{}", run.stderr);
        let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        assert_schema("verify", &report);
        assert_eq!(report["passed"].as_bool(), Some(code == 0));
        let checks = report["checks"].as_array().unwrap().iter();
        checks
            .map(|check| format!("{} {}", check["name"].as_str().unwrap(), check["outcome"].as_str().unwrap()))
            .collect::<Vec<_>>()
    };
    let passed = ["structure passed", "content passed", "source passed", "record passed", "backend passed"];
    assert_eq!(check(0), passed);
    let info = home.run(["info", "m"]);
    let shown = &info.succeeded().stdout;
    let stated =
        ["pajamas.source.sha256", "  model.safetensors", "pajamas.content.sha256", "pajamas.method", "pajamas.version"];
    assert!(stated.iter().all(|key| shown.contains(key)), "{shown}");

    // Validating writes into the file, and changes nothing that counts.
    home.run(["validate", "m", "--tokens", "512"]).succeeded();
    assert_eq!(check(0), passed);

    std::fs::write(folder.join("generation_config.json"), "{}").unwrap();
    assert_eq!(check(1)[2], "source failed");
    std::fs::copy(pajama_tiny().join("generation_config.json"), folder.join("generation_config.json")).unwrap();
    assert_eq!(check(0), passed);

    // A key of the header counts as much as a weight.
    let path = home.path().join("models/m.gguf");
    let sound = std::fs::read(&path).unwrap();
    let template = sound.windows(12).position(|window| window == b"<|im_start|>").unwrap();
    let mut bytes = sound.clone();
    bytes[template] = b'[';
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(check(1)[1], "content failed");
    std::fs::write(&path, &sound).unwrap();
    assert_eq!(check(0), passed);

    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(check(1)[1], "content failed");
    std::fs::write(&path, &bytes[..middle]).unwrap();
    assert_eq!(check(1), ["structure failed"]);
}

#[test]
fn an_mlx_folder_is_verified_too() {
    let home = Home::new();
    home.install("mlx_quantize");
    home.run(["quantize", &tiny(), "--format", "mlx", "-n", "m"]).succeeded();
    let run = home.run(["verify", "m"]);
    let shown = &run.succeeded().stdout;
    assert!(shown.contains("content    ok") && shown.contains("source     ok"), "{shown}");
    let weights = home.path().join("models/m/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&weights, &bytes).unwrap();
    let run = home.run(["verify", "m"]);
    assert!(run.code == Some(1) && run.stdout.contains("content    FAILED"), "{}", run.stdout);
}

#[test]
fn quantized_checkpoints_are_refused_by_name() {
    let home = Home::with_gguf_cpu();
    for method in ["gptq", "awq", "fp8", "bitsandbytes"] {
        let folder = home.path().join(method);
        copy_folder(&pajama_tiny(), &folder);
        let path = folder.join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["quantization_config"] = serde_json::json!({"quant_method": method});
        std::fs::write(&path, config.to_string()).unwrap();
        let run = home.run(["quantize", folder.to_str().unwrap()]);
        run.failed_with(&format!("quantized already ({method})"), "unquantized");
    }
}
