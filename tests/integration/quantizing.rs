//! A Hugging Face folder in, a quantized model out, found again the next time.

use pajamas_plugin_api::CancelToken;
use pajamas_tests::{Home, copy_folder, load_exact, pajama_tiny, plugin};
use std::path::PathBuf;

const QUESTION: &str = "What is the capital of France?";
const ANSWER: &str = "The capital of France is Paris.";

fn ask(home: &Home, model: &str) -> pajamas_tests::Run {
    home.run(["run", model, "-p", QUESTION, "-t", "0"])
}

#[test]
fn the_default_method_answers_and_its_path_is_the_last_line() {
    let home = Home::with_gguf_cpu();
    let run = home.run(["quantize".as_ref(), pajama_tiny().as_os_str()]);
    let path = PathBuf::from(run.succeeded().stdout.trim());
    assert_eq!(path, home.path().canonicalize().unwrap().join("models/pajama-tiny-q4_k_m.gguf"));
    assert!(
        run.stderr.contains("times smaller than BF16") && run.stderr.contains("tokenizations are those of the source")
    );
    assert_eq!(home.listing("models"), ["pajama-tiny-q4_k_m.gguf", "pajama-tiny-q4_k_m.gguf.json"]);
    for reference in [path.to_str().unwrap(), "pajama-tiny-q4_k_m"] {
        assert_eq!(ask(&home, reference).succeeded().stdout, format!("{ANSWER}\n"));
    }
}

#[test]
fn every_short_listed_method_makes_a_file_that_answers() {
    let home = Home::with_gguf_cpu();
    for method in ["q4_k_m", "Q4_K_S", "Q5_K_M", "Q6_K", "Q8_0", "F16", "BF16", "F32"] {
        let file = home.quantized(method);
        assert_eq!(file.file_name().unwrap().to_str().unwrap(), format!("pajama-tiny-{}.gguf", method.to_lowercase()));
        assert_eq!(ask(&home, file.to_str().unwrap()).succeeded().stdout, format!("{ANSWER}\n"), "{method}");
    }
    assert_eq!(home.listing("out").len(), 8, "nothing but the files themselves");
    assert_eq!(home.listing("models"), [""; 0], "`-o` keeps nothing in the store");
}

#[test]
fn run_makes_the_model_once_and_finds_it_again_until_the_source_changes() {
    let home = Home::with_gguf_cpu();
    let folder = home.path().join("my-model");
    copy_folder(&pajama_tiny(), &folder);
    let model = folder.to_str().unwrap();
    let made = |run: &pajamas_tests::Run| run.succeeded().stderr.contains("quantized ");
    let first = ask(&home, model);
    assert!(made(&first) && first.stdout == format!("{ANSWER}\n"), "{first:?}");
    assert!(!made(&ask(&home, model)));
    let made_file = home.path().join("models/my-model-q4_k_m.gguf");
    std::fs::OpenOptions::new().write(true).open(&made_file).unwrap().set_len(1000).unwrap();
    assert!(made(&ask(&home, model)), "a damaged file is made again");
    home.run(["run", "my-model-q4_k", "-p", "x"]).failed_with("no model", "did you mean `my-model-q4_k_m`?");
    home.run(["run", "my-model-q4_k_m", "-m", "Q8_0", "-p", "x"]).misused("has no effect", "leave `-m` out");
    std::fs::write(folder.join("generation_config.json"), "{}").unwrap();
    assert!(made(&ask(&home, model)), "a changed source is another source");
}

#[test]
fn two_sources_of_one_name_do_not_overwrite_each_other() {
    let home = Home::with_gguf_cpu();
    for parent in ["a", "b"] {
        let folder = home.path().join(parent).join("model");
        copy_folder(&pajama_tiny(), &folder);
        home.run(["quantize", folder.to_str().unwrap()]).succeeded();
    }
    let files = home.listing("models");
    assert_eq!(files.iter().filter(|file| file.ends_with(".gguf")).count(), 2, "{files:?}");
}

#[test]
fn an_id_in_the_hugging_face_cache_is_found_by_branch_and_by_commit() {
    let home = Home::with_gguf_cpu();
    let repo = home.path().join("huggingface/hub/models--acme--tiny-chat");
    copy_folder(&pajama_tiny(), &repo.join("snapshots/0123abcd"));
    std::fs::create_dir_all(repo.join("refs")).unwrap();
    std::fs::write(repo.join("refs/main"), "0123abcd").unwrap();
    for id in ["acme/tiny-chat", "acme/tiny-chat@main", "acme/tiny-chat@0123abcd"] {
        assert_eq!(ask(&home, id).succeeded().stdout, format!("{ANSWER}\n"), "{id}");
    }
    assert_eq!(home.listing("models"), ["tiny-chat-q4_k_m.gguf", "tiny-chat-q4_k_m.gguf.json"]);
    let repo = home.path().join("huggingface/hub/models--tiny");
    copy_folder(&pajama_tiny(), &repo.join("snapshots/4567"));
    std::fs::create_dir_all(repo.join("refs")).unwrap();
    std::fs::write(repo.join("refs/main"), "4567").unwrap();
    for _ in 0..2 {
        assert_eq!(ask(&home, "tiny").succeeded().stdout, format!("{ANSWER}\n"), "what it made does not hide it");
    }
    ask(&home, "acme/tiny-chat@v2").failed_with("not its revision `v2`", "pajamas models pull acme/tiny-chat");
}

#[test]
fn a_gguf_is_a_source_too_and_requantizing_is_refused() {
    let home = Home::with_gguf_cpu();
    let full = home.quantized("F16");
    let run = home.run(["quantize", full.to_str().unwrap(), "-m", "Q8_0", "--name", "small", "--json"]);
    let value = run.json();
    assert!(value["path"].as_str().unwrap().ends_with("models/small.gguf"), "{value}");
    assert_eq!((value["method"].as_str(), value["backend"].as_str()), (Some("Q8_0"), Some("gguf-cpu")));
    assert!(value["ratio"].as_f64().unwrap() > 1.5);
    assert_eq!(ask(&home, "small").succeeded().stdout, format!("{ANSWER}\n"));
    home.run(["quantize", "small", "-m", "Q4_K_M"]).failed_with("already", "");
}

#[test]
fn leaving_the_output_tensor_makes_a_larger_file() {
    let home = Home::with_gguf_cpu();
    // The fixture ties output and embeddings; here they are apart.
    let folder = home.path().join("untied");
    copy_folder(&pajama_tiny(), &folder);
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let untied = config.replace(r#""tie_word_embeddings": true"#, r#""tie_word_embeddings": false"#);
    assert_ne!(config, untied);
    std::fs::write(folder.join("config.json"), untied).unwrap();
    let bytes = std::fs::read(pajama_tiny().join("model.safetensors")).unwrap();
    let mut tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap().tensors();
    let embeddings = tensors.iter().find(|(name, _)| name == "model.embed_tokens.weight").unwrap().1.clone();
    tensors.push(("lm_head.weight".into(), embeddings));
    safetensors::serialize_to_file(tensors, None, &folder.join("model.safetensors")).unwrap();
    let size = |extra: &[&str]| {
        let mut args = vec!["quantize", folder.to_str().unwrap(), "-m", "Q4_K_S", "--json"];
        args.extend(extra);
        home.run(args).json()["output_bytes"].as_u64().unwrap()
    };
    // 1280 x 256 weights in 16 bits instead of some 6.
    assert!(size(&["--leave-output-tensor", "--name", "left"]) > size(&[]) + 300_000);
    let run = home.run(["run", folder.to_str().unwrap(), "-m", "Q4_K_S", "-p", QUESTION, "-t", "0", "--json"]);
    assert!(
        run.json()["model"].as_str().unwrap().ends_with("untied-q4_k_s.gguf"),
        "not the one with the larger tensor"
    );
    assert!(!run.succeeded().stderr.contains("quantized "), "the plain one is there");
}

#[test]
fn sharded_and_transformers_5_folders_give_the_same_tensors_as_the_plain_one() {
    let home = Home::with_gguf_cpu();
    let plain = home.quantized("F16");
    let folder = home.path().join("sharded/pajama-tiny");
    copy_folder(&pajama_tiny(), &folder);
    shard(&folder);
    let config_path = folder.join("config.json");
    let mut config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&config_path).unwrap()).unwrap();
    let map = config.as_object_mut().unwrap();
    let theta = map.remove("rope_theta").unwrap();
    map.insert("rope_parameters".into(), serde_json::json!({"rope_theta": theta, "rope_type": "default"}));
    let dtype = map.remove("torch_dtype").unwrap();
    map.insert("dtype".into(), dtype);
    std::fs::write(&config_path, config.to_string()).unwrap();
    let out = home.path().join("out2");
    let run = home.run(["quantize", folder.to_str().unwrap(), "-m", "F16", "-o", out.to_str().unwrap()]);
    let sharded = PathBuf::from(run.succeeded().stdout.trim());
    let plugin = plugin(&pajamas_tests::built_library("gguf_cpu"));
    let row = |file: &std::path::Path| {
        let model = load_exact(&plugin, file);
        let tokens = model.tokenize("Once upon a time", true, false).unwrap();
        let mut last = Vec::new();
        let mut keep = |_: usize, row: &[f32]| {
            last = row.to_vec();
            std::ops::ControlFlow::Continue(())
        };
        model.logits(&tokens, 0, &mut keep, &CancelToken::never()).unwrap();
        last
    };
    assert_eq!(row(&plain), row(&sharded));
}

/// Splits a folder's model.safetensors in two with an index.
fn shard(folder: &std::path::Path) {
    let whole = folder.join("model.safetensors");
    let bytes = std::fs::read(&whole).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap().tensors();
    let mut weight_map = serde_json::Map::new();
    for (index, half) in tensors.chunks(tensors.len().div_ceil(2)).enumerate() {
        let name = format!("model-0000{}-of-00002.safetensors", index + 1);
        half.iter().for_each(|(tensor, _)| {
            weight_map.insert(tensor.clone(), name.clone().into());
        });
        safetensors::serialize_to_file(half.to_vec(), None, &folder.join(name)).unwrap();
    }
    std::fs::remove_file(whole).unwrap();
    let index = serde_json::json!({"metadata": {}, "weight_map": weight_map});
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn a_name_in_the_store_is_not_given_to_another_model_by_accident() {
    let home = Home::with_gguf_cpu();
    let folder = pajama_tiny().display().to_string();
    let make =
        |method: &str, extra: &[&str]| home.run(["quantize", &folder, "-m", method, "-n", "mine"].iter().chain(extra));
    make("Q4_0", &[]).succeeded();
    // The same again is no accident, and says what it does.
    assert!(make("Q4_0", &[]).succeeded().stderr.contains("it replaces the one of that name"));
    make("Q8_0", &[]).failed_with("`mine` is there already: Q4_0 of", "`pajamas models remove mine`");
    make("Q8_0", &["--force"]).succeeded();
    let listed = home.run(["models", "--json"]).json();
    assert_eq!((&listed[0]["name"], &listed[0]["method"]), (&"mine".into(), &"Q8_0".into()));
}
