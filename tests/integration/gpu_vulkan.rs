//! The Vulkan backend, on whatever Vulkan device there is: in the test suite Mesa's, which computes in software. A shader takes
//! it long to compile, so these tests take minutes.

use pajamas_plugin_api::{CancelToken, LoadRequest};
use pajamas_tests::{Home, Run, argmax, built_library, fixture, golden, ids, load_exact, not_run, plugin};
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

/// A home with both backends; none, and a line that says why, where the plugin was not built or there is no device.
fn home() -> Option<Home> {
    let home = Home::with_gguf_cpu_and("gguf_vulkan", "plugin-vulkan")?;
    let list = home.run(["plugins", "list", "--json"]).json();
    let row = row(&list);
    if row["status"] != "available" {
        let drivers = std::fs::read_dir("/usr/share/vulkan/icd.d").into_iter().flatten().flatten();
        let mesas = drivers.filter(|file| file.file_name().to_string_lossy().starts_with("lvp_icd")).count();
        assert_eq!(mesas, 0, "Mesa's device in software is installed, and not found: {row}");
        not_run(&row["reason"].to_string());
        return None;
    }
    Some(home)
}

fn row(list: &Value) -> &Value {
    list.as_array().unwrap().iter().find(|row| row["name"] == "gguf-vulkan").expect("a row for the plugin")
}

fn ask(home: &Home, model: &Path, extra: &[&str]) -> Run {
    let args = ["run", model.to_str().unwrap(), "-b", "gguf-vulkan", "-p", "What is the capital of France?", "-t", "0"];
    home.run(args.iter().chain(extra))
}

#[test]
fn it_answers_the_demos_question_with_all_layers_on_the_device() {
    let Some(home) = home() else { return };
    let model = home.quantized("Q4_K_M");
    let run = ask(&home, &model, &["--json", "--strict"]);
    let value = run.json();
    assert_eq!((&value["text"], &value["backend"]), (&"The capital of France is Paris.".into(), &"gguf-vulkan".into()));
    assert!(!run.stderr.contains("layers"), "nothing was left on the CPU: {run:?}");
}

#[test]
fn a_device_in_software_ranks_below_the_cpu() {
    let Some(home) = home() else { return };
    let list = home.run(["plugins", "list", "--json"]).json();
    let info = home.run(["plugins", "info", "gguf-vulkan", "--json"]).json();
    let text = info.to_string();
    if !text.contains("\"software\"") {
        not_run("this machine has a GPU");
        return;
    }
    assert_eq!((&list[0]["name"], &list[1]["name"]), (&"gguf-cpu".into(), &"gguf-vulkan".into()), "{list:#}");
}

/// The likeliest token at each position of ten prompts and their answers is the CPU's; where it is not, the CPU's two best
/// must be so near to each other that rounding decides.
#[test]
fn its_choices_are_the_cpus() {
    const MARGIN: f32 = 0.05;
    let Some(home) = home() else { return };
    let model = home.quantized("F16");
    let (cpu, vulkan) = (plugin(&built_library("gguf_cpu")), plugin(&built_library("gguf_vulkan")));
    let (cpu, vulkan) = (load_exact(&cpu, &model), load_exact(&vulkan, &model));
    let golden = golden("greedy.json");
    let rows = |model: &pajamas_plugin_api::abi::client::LoadedModel, tokens: &[u32]| {
        let mut rows: Vec<Vec<f32>> = Vec::new();
        let mut keep = |_: usize, row: &[f32]| {
            rows.push(row.to_vec());
            ControlFlow::Continue(())
        };
        model.logits(tokens, 0, &mut keep, &CancelToken::never()).unwrap();
        rows
    };
    let mut compared = 0;
    for prompt in golden["prompts"].as_array().unwrap() {
        let tokens = [ids(&prompt["prompt_ids"]), ids(&prompt["ids"])].concat();
        for (expected, got) in rows(&cpu, &tokens).iter().zip(rows(&vulkan, &tokens)) {
            let (best, chosen) = (argmax(expected) as usize, argmax(&got) as usize);
            let margin = expected[best] - expected[chosen];
            assert!(best == chosen || margin < MARGIN, "{best} and {chosen}, {margin} apart");
            compared += 1;
        }
    }
    assert!(compared > 640, "{compared} positions");
}

#[test]
fn what_does_not_fit_goes_to_the_cpu_or_is_refused_and_either_is_said() {
    let Some(home) = home() else { return };
    let model = home.quantized("F16");
    // Of 5 layers, the output among them, 12 MiB hold two with the compute buffers, and 1 MiB none.
    let part = ask(&home, &model, &["--set", "gpu_memory=12", "--strict"]);
    assert_eq!(part.succeeded().stdout, "The capital of France is Paris.\n");
    assert!(part.stderr.contains("5 of 5 layers take ") && part.stderr.contains(" MiB can be had there"), "{part:?}");
    assert!(part.stderr.contains(" are kept there, the others on the CPU"), "{part:?}");
    let forced = ask(&home, &model, &["--set", "gpu_memory=12", "--set", "n_gpu_layers=99", "--strict"]);
    forced.failed_with(" MiB are missing", "--set n_gpu_layers=");
    let none = ask(&home, &model, &["--strict", "--set", "gpu_memory=1"]);
    none.failed_with("not even the model's output fits", "context-length");
    let cpu = ask(&home, &model, &["--set", "n_gpu_layers=0", "--strict"]);
    assert_eq!(cpu.succeeded().stdout, "The capital of France is Paris.\n");
}

/// A layer of Vulkan's, compiled here, lets the device refuse what its free memory promised.
#[test]
fn when_memory_runs_out_while_loading_fewer_layers_are_tried_and_then_the_cpu() {
    let Some(home) = home() else { return };
    let library = home.path().join("libsmall_memory.so");
    let source = fixture("vulkan-layer/small_memory.c");
    if !Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status().unwrap().success() {
        not_run("there are no headers of Vulkan's layers");
        return;
    }
    std::fs::copy(fixture("vulkan-layer/small_memory.json"), home.path().join("small_memory.json")).unwrap();
    let model = home.quantized("F32");
    let run = |largest: &str, extra: &[&str]| {
        let question = ["-p", "What is the capital of France?", "-t", "0", "-b", "gguf-vulkan"];
        let mut command = home.command(["run", model.to_str().unwrap()].iter().chain(&question).chain(extra));
        command.env("VK_LAYER_PATH", home.path()).env("VK_INSTANCE_LAYERS", "VK_LAYER_PAJAMAS_small_memory");
        Run::from(command.env("SMALL_MEMORY_BYTES", largest).output().unwrap())
    };
    // All weights are one piece of 13.9 MB, those of four layers one of 10.8 MB; what computing takes is 10.2 MB.
    let fewer = run("10500000", &["--strict"]);
    assert_eq!(fewer.succeeded().stdout, "The capital of France is Paris.\n");
    for said in ["memory ran out with 5 of 5 layers on ", "; trying 4", "; trying 3"] {
        assert!(fewer.stderr.contains(said), "{fewer:?}");
    }
    assert!(!fewer.stderr.contains("; trying 2"), "{fewer:?}");
    run("1000000", &["--strict"]).failed_with("memory ran out on ", "n_gpu_layers");
    let chosen = run("10500000", &["--strict", "--set", "n_gpu_layers=5"]);
    chosen.failed_with("memory ran out on ", "n_gpu_layers");
    let cpu = run("1000000", &[]);
    assert_eq!(cpu.succeeded().stdout, "The capital of France is Paris.\n");
    assert!(cpu.stderr.contains("memory ran out on ") && cpu.stderr.contains("gguf-cpu"), "{cpu:?}");
}

#[test]
fn options_that_name_gpus_which_are_not_there_are_refused() {
    let Some(home) = home() else { return };
    let model = home.quantized("Q8_0");
    ask(&home, &model, &["--set", "main_gpu=100"]).misused("main_gpu counts from 0", "");
    ask(&home, &model, &["--set", "tensor_split=1,x"]).misused("tensor_split has a number for each GPU", "");
}

#[test]
fn without_a_driver_it_says_so_and_the_cpu_takes_over_or_with_strict_nobody() {
    let Some(home) = Home::with_gguf_cpu_and("gguf_vulkan", "plugin-vulkan") else { return };
    let model = home.quantized("Q8_0");
    let run = |args: &[&str]| {
        // The first is the loader's own name for it, the second the one of older loaders.
        let mut command = home.command(args);
        Run::from(command.env("VK_DRIVER_FILES", "/none").env("VK_ICD_FILENAMES", "/none").output().unwrap())
    };
    let list = run(&["plugins", "list", "--json"]).json();
    let (status, reason) = (&row(&list)["status"], row(&list)["reason"].as_str().unwrap());
    assert_eq!(status, "unavailable");
    assert!(reason.contains("no driver for Vulkan") || reason.contains("Vulkan finds no device"), "{reason}");
    let args = ["run", model.to_str().unwrap(), "-b", "gguf-vulkan", "-p", "What does a cow say?", "-t", "0"];
    let fallen = run(&args);
    assert_eq!(fallen.succeeded().stdout, "A cow says moo.\n");
    assert!(
        fallen.stderr.contains("`gguf-vulkan` cannot run") && fallen.stderr.contains("running on `gguf-cpu`"),
        "{fallen:?}"
    );
    run(&[&args[..], &["--strict"]].concat()).failed_with("`gguf-vulkan` cannot run", "install the GPU's driver");
}

#[test]
fn memory_is_the_devices() {
    let Some(home) = home() else { return };
    let model = home.quantized("Q8_0");
    let vulkan = plugin(&built_library("gguf_vulkan"));
    let mut request = LoadRequest::new(&model);
    request.context_length = Some(512);
    let loaded = vulkan.load_model(&request, &|_| (), &CancelToken::never()).unwrap();
    let usage = loaded.memory_usage().unwrap();
    assert!(usage.weights_bytes > 3 << 20 && usage.kv_cache_bytes > 0 && usage.compute_bytes > 0, "{usage:?}");
    assert!(usage.device_total_bytes > 64 << 20, "{usage:?}");
}
