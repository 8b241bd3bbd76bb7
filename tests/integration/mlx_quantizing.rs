//! Making MLX folders, which needs no MLX: names, options, refusals, and what an interruption leaves behind.

use pajamas_tests::{Home, Run, copy_folder, make_deep_model, pajama_tiny};
use std::path::{Path, PathBuf};

/// A home with the quantizers, and no backend that runs MLX models.
fn home() -> Home {
    let home = Home::with_gguf_cpu();
    home.install("mlx_quantize");
    home
}

fn quantize(home: &Home, source: &Path, extra: &[&str]) -> Run {
    home.run(["quantize", source.to_str().unwrap()].iter().chain(extra))
}

#[test]
fn bits_group_sizes_and_recipes_name_the_folder_and_are_remembered() {
    let home = home();
    for (flags, name) in [
        (&["--format", "mlx"][..], "pajama-tiny-mlx-4bit"),
        (&["--bits", "4", "--group-size", "64"], "pajama-tiny-mlx-4bit"),
        (&["--bits", "8", "--group-size", "32"], "pajama-tiny-mlx-8bit-group_size-32"),
        (&["--recipe", "mixed_3_6"], "pajama-tiny-mlx-mixed_3_6"),
        (&["-m", "6bit", "--set", "dtype=float16"], "pajama-tiny-mlx-6bit-dtype-float16"),
        (&["-f", "mlx", "-m", "bf16", "-n", "plain"], "plain"),
    ] {
        let run = quantize(&home, &pajama_tiny(), flags);
        let path = home.path().join("models").join(name);
        assert_eq!(run.succeeded().stdout.trim(), path.canonicalize().expect(name).to_str().unwrap());
        let provenance = std::fs::read_to_string(path.join("pajamas.json")).unwrap();
        assert!(provenance.contains("\"pajamas.quantizer\": \"mlx-quantize"), "{provenance}");
    }
    let config = std::fs::read_to_string(home.path().join("models/pajama-tiny-mlx-8bit-group_size-32/config.json"));
    let config: serde_json::Value = serde_json::from_str(&config.unwrap()).unwrap();
    assert_eq!(
        (config["quantization"]["bits"].as_u64(), config["quantization"]["group_size"].as_u64()),
        (Some(8), Some(32))
    );
    let models = home.run(["info", "--json"]).json()["models"].clone();
    let files: Vec<&str> = models.as_array().unwrap().iter().map(|model| model["file"].as_str().unwrap()).collect();
    assert_eq!(files.len(), 5, "{models}");
    assert!(
        models
            .as_array()
            .unwrap()
            .iter()
            .all(|model| model["format"] == "mlx" && model["size_bytes"].as_u64() > Some(1 << 20))
    );
    // The default stays GGUF, whoever else can quantize.
    assert!(quantize(&home, &pajama_tiny(), &[]).succeeded().stdout.trim().ends_with("pajama-tiny-q4_k_m.gguf"));
}

#[test]
fn what_cannot_be_made_is_refused_before_anything_is_written() {
    let home = home();
    let fails = |source: &Path, flags: &[&str], error: &str, hint: &str| {
        quantize(&home, source, flags).failed_with(error, hint);
        assert_eq!(home.listing("models"), [""; 0]);
    };
    let run = quantize(&home, &pajama_tiny(), &["--bits", "4", "--group-size", "48"]);
    assert!(run.code == Some(2) && run.stderr.contains("`group_size` is `48`, expected one of 32, 64, 128"), "{run:?}");
    let misused = |flags: &[&str], error: &str, hint: &str| {
        quantize(&home, &pajama_tiny(), flags).misused(error, hint);
        assert_eq!(home.listing("models"), [""; 0]);
    };
    misused(&["--bits", "7"], "unknown quantization method `7bit`", "bit`?");
    misused(&["--bits", "4", "--set", "groups=32"], "unknown option `groups`", "group_size");
    std::fs::create_dir_all(home.path().join("models/Qwen2.5-7B")).unwrap();
    home.run(
        ["quantize", "Qwen2.5-7B"].map(|arg| arg.replace("Qwen", &format!("{}/models/Qwen", home.path().display()))),
    )
    .failed_with("no config.json", "give the folder");
    std::fs::remove_dir(home.path().join("models/Qwen2.5-7B")).unwrap();
    misused(&["-m", "Q8_0", "--group-size", "32"], "unknown option `group_size`", "leave_output_tensor");
    assert_eq!(quantize(&home, &pajama_tiny(), &["--bits", "4", "-m", "8bit"]).code, Some(2), "one or the other");

    let out = home.path().join("out");
    let made = quantize(&home, &pajama_tiny(), &["--bits", "4", "-o", out.to_str().unwrap()]);
    let made = PathBuf::from(made.succeeded().stdout.trim());
    for flags in [&["-f", "mlx"][..], &[]] {
        fails(&made, flags, "quantized already (MLX, 4 bits)", "original");
    }
    // One that MLX wrote and did not quantize is as good as the original.
    let plain = quantize(&home, &pajama_tiny(), &["-f", "mlx", "-m", "bf16", "-o", out.to_str().unwrap()]);
    let plain = PathBuf::from(plain.succeeded().stdout.trim());
    let again = quantize(&home, &plain, &["--bits", "4", "-o", home.path().join("again").to_str().unwrap()]);
    let again = PathBuf::from(again.succeeded().stdout.trim());
    let weights = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert!(weights(&again) == weights(&made), "the same as from the original");
    let run = home.run(["run", made.to_str().unwrap(), "-p", "x"]);
    run.failed_with("no backend can run MLX models", "plugins list");
    assert!(run.stderr.contains("mlx: not installed; `make plugin-mlx install`"), "{run:?}");
    // Somebody else's quantization.
    let other = home.path().join("other");
    copy_folder(&pajama_tiny(), &other);
    let config = std::fs::read_to_string(other.join("config.json")).unwrap();
    let config = config.replacen('{', "{\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 4},", 1);
    std::fs::write(other.join("config.json"), config).unwrap();
    fails(&other, &["-f", "mlx"], "quantized already (gptq)", "unquantized");
    std::fs::write(other.join("config.json"), r#"{"model_type": "loom", "architectures": ["LoomForCausalLM"]}"#)
        .unwrap();
    let run = quantize(&home, &other, &["-f", "mlx"]);
    assert!(run.code == Some(1) && run.stderr.contains("loom") && run.stderr.contains("qwen3"), "{run:?}");
}

#[test]
fn a_folder_is_replaced_only_if_pajamas_made_it() {
    let home = home();
    let out = home.path().join("out");
    let flags = ["--bits", "4", "-o", out.to_str().unwrap()];
    quantize(&home, &pajama_tiny(), &flags).succeeded();
    let made = out.join("pajama-tiny-mlx-4bit");
    let marked = made.join("mark");
    std::fs::write(&marked, "").unwrap();
    quantize(&home, &pajama_tiny(), &flags).succeeded();
    assert!(!marked.exists(), "the whole folder is another");
    assert_eq!(home.listing("out"), ["pajama-tiny-mlx-4bit"]);
    std::fs::remove_file(made.join("pajamas.json")).unwrap();
    quantize(&home, &pajama_tiny(), &flags).failed_with("is a folder that pajamas did not make", "--name");
    assert!(made.join("model.safetensors").is_file(), "it was not touched");
}

#[cfg(unix)]
#[test]
fn an_interruption_leaves_nothing() {
    use std::process::Stdio;
    use std::time::{Duration, Instant};
    let home = home();
    let model = home.path().join("deep");
    make_deep_model(&model, 200);
    let out = home.path().join("out");
    for (signal, code) in [(libc::SIGINT, Some(130)), (libc::SIGKILL, None)] {
        let args = ["quantize", model.to_str().unwrap(), "-f", "mlx", "-o", out.to_str().unwrap()];
        let mut child = home.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begun = out.join(format!(".deep-mlx-4bit.{}.partial/deep-mlx-4bit", child.id()));
        let deadline = Instant::now() + Duration::from_secs(20);
        while !begun.exists() {
            assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "it did not begin in time");
        }
        // SAFETY: the child is not reaped yet, so the id is its own.
        assert_eq!(unsafe { libc::kill(libc::pid_t::try_from(child.id()).unwrap(), signal) }, 0);
        assert_eq!(child.wait().unwrap().code(), code);
        while !home.listing("out").is_empty() {
            assert!(Instant::now() < deadline, "left behind: {:?}", home.listing("out"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
