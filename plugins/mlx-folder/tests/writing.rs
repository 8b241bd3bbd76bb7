//! What is written around the numbers: shards and their index, the files beside them, the report; and cancelling.

mod common;

use common::{Source, convert, fixture, job, json_file, tensors_digest};
use pajamas_hf_model::HfModel;
use pajamas_mlx_folder::quantizer::quantize;
use pajamas_mlx_folder::{MlxFolder, MlxQuantizer};
use pajamas_plugin_api::{ArtifactKind, CancelToken, ErrorKind, Progress, Quantizer};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn recipes_are_folders_made_from_hugging_face_folders() {
    let recipes = MlxQuantizer.recipes();
    assert_eq!((recipes[0].name.as_str(), recipes[0].bits_per_weight), ("4bit", 4.5));
    for recipe in recipes {
        assert_eq!((recipe.format.as_str(), recipe.artifact), ("mlx", ArtifactKind::Folder));
        assert_eq!(recipe.sources, ["huggingface", "mlx"]);
    }
}

#[test]
fn a_large_model_is_split_and_indexed() {
    let scratch = tempfile::tempdir().expect("a folder");
    let (whole, split) = (scratch.path().join("whole"), scratch.path().join("split"));
    let limit = 200_000;
    convert(&fixture("pajama-tiny"), "4bit", &whole).expect("made");
    quantize(&job(&fixture("pajama-tiny"), "4bit", &split), limit, &Progress::default(), &CancelToken::never())
        .expect("made");

    let shards: Vec<String> = names(&split).into_iter().filter(|name| name.ends_with(".safetensors")).collect();
    assert!(shards.len() > 5, "{shards:?}");
    assert_eq!(shards[0], format!("model-00001-of-{:05}.safetensors", shards.len()));
    for shard in &shards {
        // A file's header is a small part of it; the embedding alone has 163,840 bytes.
        assert!(std::fs::metadata(split.join(shard)).expect("a file").len() < limit + 10_000);
    }
    let index = json_file(&split, "model.safetensors.index.json");
    let model = HfModel::open_any(&split).expect("sound");
    assert_eq!(index["metadata"]["total_size"], json!(model.size_bytes()));
    for tensor in model.tensors() {
        assert_eq!(tensor.file(), split.join(index["weight_map"][tensor.name()].as_str().expect("a file")));
    }
    assert_eq!(tensors_digest(&whole), tensors_digest(&split));
    let whole = json_file(&whole, "model.safetensors.index.json");
    assert_eq!(whole["metadata"], index["metadata"]);
}

#[test]
fn every_tensor_is_aligned_to_its_elements() {
    let scratch = tempfile::tempdir().expect("a folder");
    let (dir, made) = (scratch.path().join("source"), scratch.path().join("made"));
    let mut source = Source::small();
    source.config["vocab_size"] = json!(15);
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        source.tensor(name).shape = vec![15, 64];
    }
    source.write(&dir);
    convert(&dir, "3bit", &made).expect("made");
    for tensor in HfModel::open_any(&made).expect("sound").tensors() {
        let size = tensor.size_bytes() / tensor.elements();
        assert!(tensor.file_offset().is_multiple_of(size), "{}", tensor.name());
    }
}

#[test]
fn any_number_of_threads_writes_the_same_bytes() {
    let scratch = tempfile::tempdir().expect("a folder");
    let made = |threads: u32| {
        let dir = scratch.path().join(threads.to_string());
        let mut job = job(&fixture("pajama-tiny"), "mixed_3_6", &dir);
        job.threads = Some(threads);
        MlxQuantizer.quantize(&job, &Progress::default(), &CancelToken::never()).expect("made");
        names(&dir).into_iter().map(|name| std::fs::read(dir.join(name)).expect("a file")).collect::<Vec<_>>()
    };
    let one = made(1);
    for threads in [2, 3, 16] {
        assert!(one == made(threads), "{threads} threads");
    }
}

#[test]
fn the_files_beside_the_weights_come_along() {
    let scratch = tempfile::tempdir().expect("a folder");
    let (dir, made) = (scratch.path().join("source"), scratch.path().join("made"));
    let mut source = Source::small();
    source.generation_config = json!({"eos_token_id": [7, 9], "temperature": 0.6});
    source.write(&dir);
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).expect("file");
    write("chat_template.jinja", "{{ messages }}");
    write("special_tokens_map.json", "{}");
    write("README.md", "about the original");
    write("modeling.py", "raise SystemExit");
    std::fs::create_dir(dir.join("additional_chat_templates")).expect("folder");
    write("additional_chat_templates/tools.jinja", "{{ tools }}");
    write("additional_chat_templates/notes.txt", "no template");
    let job = job(&dir, "8bit", &made);
    let report = MlxQuantizer.quantize(&job, &Progress::default(), &CancelToken::never()).expect("made");

    let expected = [
        "additional_chat_templates",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names(&made), expected.map(str::to_owned).into());
    assert_eq!(names(&made.join("additional_chat_templates")), ["tools.jinja".to_owned()].into());
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"] {
        assert_eq!(std::fs::read(made.join(name)).expect("a file"), std::fs::read(dir.join(name)).expect("a file"));
    }
    assert_eq!(json_file(&made, "config.json")["eos_token_id"], json!([7, 9]));

    let written: u64 = names(&made)
        .iter()
        .map(|name| std::fs::metadata(made.join(name)).expect("a file"))
        .filter(|info| info.is_file())
        .map(|info| info.len())
        .sum();
    assert_eq!(report.output_bytes, written + "{{ tools }}".len() as u64);
    assert_eq!((report.architecture.as_str(), report.source_precision.as_str()), ("llama", "F16"));
    assert_eq!(report.tensor_count, MlxFolder::open(&made).expect("sound").model().tensors().len() as u64);
    assert_eq!(report.source_bytes, HfModel::open(&dir).expect("sound").size_bytes());
    assert_eq!(
        report.notes,
        ["2 matrices have rows of 96, which groups of 64 do not divide, and are not quantized (the first is \
          model.layers.0.mlp.down_proj)"]
    );
}

#[test]
fn numbers_of_the_configuration_keep_every_digit() {
    let scratch = tempfile::tempdir().expect("a folder");
    let (dir, made) = (scratch.path().join("source"), scratch.path().join("made"));
    Source::small().write(&dir);
    let text = std::fs::read_to_string(dir.join("config.json")).expect("file");
    let digits = "1.0700000524520874";
    std::fs::write(dir.join("config.json"), text.replacen('{', &format!("{{\"long_factor\":[{digits}],"), 1))
        .expect("file");
    convert(&dir, "bf16", &made).expect("made");
    assert!(std::fs::read_to_string(made.join("config.json")).expect("file").contains(digits));
}

#[test]
fn a_model_that_does_not_say_whether_it_shares_its_embedding_is_believed_by_its_tensors() {
    let scratch = tempfile::tempdir().expect("a folder");
    for has_output in [true, false] {
        let (dir, made) =
            (scratch.path().join(format!("s{has_output}")), scratch.path().join(format!("m{has_output}")));
        let mut source = Source::small();
        source.config.as_object_mut().expect("an object").remove("tie_word_embeddings");
        source.tensors.retain(|tensor| has_output || tensor.name != "lm_head.weight");
        source.write(&dir);
        convert(&dir, "4bit", &made).expect("made");
        assert_eq!(json_file(&made, "config.json")["tie_word_embeddings"], json!(!has_output));
        assert_eq!(HfModel::open_any(&made).expect("sound").tensor("lm_head.scales").is_some(), has_output);
    }
}

#[test]
fn progress_grows_and_ends_at_one() {
    let scratch = tempfile::tempdir().expect("a folder");
    let seen = Mutex::new(Vec::new());
    let report = |update: &pajamas_plugin_api::ProgressUpdate| {
        assert_eq!(update.stage, "quantizing");
        seen.lock().expect("no panic").push(update.fraction);
    };
    let job = job(&fixture("pajama-tiny"), "4bit", &scratch.path().join("made"));
    MlxQuantizer.quantize(&job, &Progress::new(&report), &CancelToken::never()).expect("made");
    let seen = seen.into_inner().expect("no panic");
    assert!(seen.len() > 20 && seen.is_sorted() && seen.last() == Some(&1.0), "{seen:?}");
}

#[test]
fn cancelling_ends_the_work_before_there_is_a_model() {
    let scratch = tempfile::tempdir().expect("a folder");
    let dir = scratch.path().join("made");
    let flag = Arc::new(AtomicBool::new(false));
    let calls = Mutex::new(0);
    let report = |_: &pajamas_plugin_api::ProgressUpdate| {
        *calls.lock().expect("no panic") += 1;
        flag.store(true, Ordering::Relaxed);
    };
    let mut job = job(&fixture("pajama-tiny"), "4bit", &dir);
    job.threads = Some(2);
    let cancel = CancelToken::from_flag(Arc::clone(&flag));
    let error = MlxQuantizer.quantize(&job, &Progress::new(&report), &cancel).expect_err("cancelled");
    assert_eq!((error.kind, *calls.lock().expect("no panic")), (ErrorKind::Cancelled, 1));
    // Weights may be there, but nothing that takes the folder for a model.
    assert_eq!(names(&dir), ["model.safetensors".to_owned()].into());
    assert!(MlxFolder::open(&dir).is_err());
    assert_eq!(names(scratch.path()), ["made".to_owned()].into());

    // Cancelled from the beginning, nothing is written at all.
    job.output = scratch.path().join("never");
    let error = MlxQuantizer.quantize(&job, &Progress::default(), &cancel).expect_err("cancelled");
    assert_eq!((error.kind, job.output.exists()), (ErrorKind::Cancelled, false));
}

#[test]
fn half_written_folders_of_others_are_left_alone() {
    let scratch = tempfile::tempdir().expect("a folder");
    let made = scratch.path().join("made");
    std::fs::create_dir(&made).expect("folder");
    std::fs::write(made.join("mine"), "x").expect("file");
    assert!(convert(&fixture("pajama-tiny"), "4bit", &made).is_err());
    assert_eq!(names(&made), ["mine".to_owned()].into());
    assert_eq!(json_file(&fixture("pajama-tiny"), "config.json")["quantization"], Value::Null, "nor is the source");
}
