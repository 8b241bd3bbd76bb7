//! `pajamas info` shows the machine; `pajamas info MODEL` all about one model, from its headers alone.

use pajamas_tests::{Home, assert_schema, copy_folder, pajama_tiny};

#[test]
fn the_machine_the_backends_and_the_models_in_text_and_json() {
    let home = Home::with_gguf_cpu();
    home.run(["quantize".as_ref(), pajama_tiny().as_os_str()]).succeeded();
    let info = home.run(["info", "--json"]).json();
    assert_schema("info", &info);
    let machine = &info["hardware"];
    assert!(machine["cores"].as_u64() <= machine["threads"].as_u64(), "{machine}");
    assert!(machine["memory_available_bytes"].as_u64() <= machine["memory_total_bytes"].as_u64(), "{machine}");
    assert!(machine["memory_total_bytes"].as_u64() > Some(0), "{machine}");
    assert_eq!(info["disks"][0]["holds"], "models");
    assert!(info["disks"][0]["free_bytes"].as_u64() > Some(0));
    assert!(info["models"][0]["created_unix_s"].as_u64() > Some(1_700_000_000), "{}", info["models"]);
    let text = home.run(["info"]);
    for expected in ["pajamas ", "instruction sets", "available of", "free of", "gguf-cpu", "pajama-tiny-q4_k_m"] {
        assert!(text.succeeded().stdout.contains(expected), "{expected}: {text:#?}");
    }
}

/// A program named `nvidia-smi` that comes first in the PATH.
#[cfg(unix)]
fn with_nvidia_smi(home: &Home, script: &str) -> std::process::Command {
    use std::os::unix::fs::PermissionsExt;
    let dir = home.path().join("bin");
    std::fs::create_dir_all(&dir).unwrap();
    let program = dir.join("nvidia-smi");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = home.command(["info", "--json"]);
    command.env("PATH", format!("{}:/usr/bin:/bin", dir.display()));
    command
}

#[cfg(unix)]
#[test]
fn a_gpu_that_no_backend_can_use_is_shown_with_that_remark() {
    let home = Home::with_gguf_cpu();
    let mut command = with_nvidia_smi(&home, "echo 'NVIDIA Test 9000, 24576, 20000, 570.1'");
    let info = pajamas_tests::Run::from(command.output().unwrap()).json();
    assert_schema("info", &info);
    let gpus = info["gpus"].as_array().unwrap();
    let gpu = gpus.iter().find(|gpu| gpu["name"] == "NVIDIA Test 9000").expect("the GPU");
    assert_eq!((&gpu["memory_free_bytes"], &gpu["driver"]), (&(20_000_u64 << 20).into(), &"570.1".into()));
    assert_eq!(gpu["remark"], "no installed backend can use it");
}

#[cfg(unix)]
#[test]
fn a_driver_that_hangs_delays_it_and_no_more() {
    let home = Home::new();
    let begun = std::time::Instant::now();
    let info = pajamas_tests::Run::from(with_nvidia_smi(&home, "exec sleep 60").output().unwrap()).json();
    assert!(begun.elapsed().as_secs() < 20, "it waited for the driver");
    assert_schema("info", &info);
}

#[test]
fn a_gguf_file_by_path_and_by_name() {
    let home = Home::with_gguf_cpu();
    home.run(["quantize".as_ref(), pajama_tiny().as_os_str()]).succeeded();
    let by_name = home.run(["info", "pajama-tiny-q4_k_m", "--json"]).json();
    assert_schema("info-model", &by_name);
    let path = home.path().join("models/pajama-tiny-q4_k_m.gguf");
    let by_path = home.run(["info".as_ref(), path.as_os_str(), "--json".as_ref()]).json();
    assert_eq!(by_name["tensor_types"], by_path["tensor_types"]);
    assert_eq!((&by_name["architecture"], &by_name["quantization"]), (&"qwen2".into(), &"Q4_K_M".into()));
    assert_eq!((&by_name["layer_count"], &by_name["kv_head_count"]), (&4.into(), &2.into()));
    assert_eq!((&by_name["context_length_trained"], &by_name["vocabulary_size"]), (&2048.into(), &1280.into()));
    assert_eq!((&by_name["chat_template"], &by_name["tokenizer"]), (&true.into(), &"gpt2 (qwen2)".into()));
    assert_eq!(by_name["provenance"]["pajamas.method"], "Q4_K_M");
    assert_eq!(by_name["provenance"]["record.method"], "Q4_K_M");
    let bits = by_name["bits_per_weight"].as_f64().unwrap();
    assert!((4.5..5.5).contains(&bits), "{bits}");
    let lengths: Vec<u64> =
        by_name["memory"]["contexts"].as_array().unwrap().iter().filter_map(|n| n["context_length"].as_u64()).collect();
    assert_eq!(lengths, [512, 1024, 2048]);
    let need = &by_name["memory"]["contexts"][2];
    assert_eq!((&by_name["memory"]["backend"], &need["fits"]), (&"gguf-cpu".into(), &true.into()));
    // 4 layers of 2 heads of 64 numbers, keys and values, 2 bytes each.
    assert_eq!(need["kv_cache_bytes"].as_u64(), Some(4 * 2 * 64 * 2 * 2 * 2048));
    let text = home.run(["info", "pajama-tiny-q4_k_m"]);
    for expected in ["parameters       3.5 M", "24 Q4_K", "trained context  2048 tokens", "CONTEXT", "2048"] {
        assert!(text.succeeded().stdout.contains(expected), "{expected}: {text:#?}");
    }
}

#[test]
fn a_folder_has_the_same_shape_as_what_is_made_of_it() {
    let home = Home::new();
    home.install("mlx_quantize");
    let folder = pajama_tiny();
    home.run(["quantize".as_ref(), folder.as_os_str(), "-m".as_ref(), "4bit".as_ref()]).succeeded();
    let source = home.run(["info".as_ref(), folder.as_os_str(), "--json".as_ref()]).json();
    let made = home.run(["info", "pajama-tiny-mlx-4bit", "--json"]).json();
    for (format, model) in [("huggingface", &source), ("mlx", &made)] {
        assert_schema("info-model", model);
        assert_eq!(model["format"], format);
        assert_eq!(model["memory"]["backend"], serde_json::Value::Null);
        assert!(model["memory"]["note"].as_str().unwrap().contains("no installed backend"), "{model:#}");
    }
    for same in ["parameter_count", "layer_count", "head_size", "vocabulary_size", "kv_values_per_token"] {
        assert_eq!(source[same], made[same], "{same}");
        assert!(source[same].as_u64() > Some(0), "{same}");
    }
    assert_eq!((&source["quantization"], &made["quantization"]), (&"BF16".into(), &"4-bit".into()));
    assert_eq!(made["provenance"]["pajamas.method"], "4bit");
}

#[test]
fn damaged_and_unknown_models_are_errors_that_name_the_file() {
    let home = Home::with_gguf_cpu();
    let file = home.quantized("F16");
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(4_000_000).unwrap();
    home.run(["info".as_ref(), file.as_os_str()]).failed_with("pajama-tiny-f16.gguf` is truncated", "again");
    let folder = home.path().join("spoiled");
    copy_folder(&pajama_tiny(), &folder);
    let weights = folder.join("model.safetensors");
    std::fs::OpenOptions::new().write(true).open(&weights).unwrap().set_len(3_000_000).unwrap();
    home.run(["info".as_ref(), folder.as_os_str()]).failed_with("model.safetensors`: it is truncated", "fetch");
    home.run(["info".as_ref(), weights.as_os_str()]).failed_with("one file of a model", "give its folder");
    home.run(["info", "./none.gguf"]).failed_with("no model `./none.gguf`", "give a GGUF file");
    home.run(["info".as_ref(), pajama_tiny().as_os_str(), "-b".as_ref(), "gguf-cpi".as_ref()])
        .misused("unknown backend `gguf-cpi`", "did you mean `gguf-cpu`?");
}

#[test]
fn a_models_own_text_cannot_command_a_terminal() {
    let home = Home::new();
    let folder = home.path().join("loom");
    copy_folder(&pajama_tiny(), &folder);
    let config = folder.join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"qwen2\"", r#""qwen2\u001b[2J\nlicence  stolen""#)).unwrap();
    let run = home.run(["info".as_ref(), folder.as_os_str()]);
    assert!(!run.succeeded().stdout.contains('\u{1b}'), "{run:#?}");
    assert!(!run.stdout.lines().any(|line| line.starts_with("licence")), "{run:#?}");
}

#[test]
fn the_forecast_is_what_a_process_takes() {
    let home = Home::with_gguf_cpu();
    let folder = home.path().join("deep");
    // Beside weights and buffers the process holds its code, the vocabulary and the plan of the computation.
    const OWN_BYTES_MAX: f64 = 48e6;
    let mut own = Vec::new();
    pajamas_tests::make_deep_model(&folder, 160);
    let quantize = ["quantize".as_ref(), folder.as_os_str(), "-m".as_ref(), "Q8_0".as_ref()];
    let path = home.run(quantize).succeeded().stdout.trim().to_owned();
    let described = home.run(["info", &path, "--json"]).json();
    for context in [512, 2048] {
        let needs = described["memory"]["contexts"].as_array().unwrap();
        let need = needs.iter().find(|need| need["context_length"] == context).unwrap();
        let forecast = need["total_bytes"].as_f64().unwrap();
        assert_eq!(need["estimated"], false);
        let length = context.to_string();
        // Enough to touch the buffers; what is mapped and was never read is not held.
        let run = ["benchmark", &path, "-p", "500", "-n", "0", "-r", "1", "-c", &length, "--json"];
        let measured = &home.run(run).json()["runs"][0]["loaded"]["memory"];
        let peak = measured["peak_resident_bytes"].as_f64().unwrap();
        let program = peak - forecast;
        println!("context {context}: forecast {forecast}, measured {peak}, {program} more");
        assert!((0.0..OWN_BYTES_MAX).contains(&program), "context {context}: forecast {forecast}, measured {peak}");
        own.push(program);
    }
    // Whatever the program takes for itself, it does not grow with the context.
    assert!((own[0] - own[1]).abs() < 4e6, "{own:?}");
}
