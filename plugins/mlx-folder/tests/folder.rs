//! Reading MLX folders: how each layer is quantized, as mlx-lm would load it.

mod common;

use common::{Source, convert, json_file};
use pajamas_mlx_folder::{LayerQuantization, MlxFolder, Mode};
use pajamas_plugin_api::ErrorKind;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const QUERIES: &str = "model.layers.0.self_attn.q_proj";
const VALUES: &str = "model.layers.0.self_attn.v_proj";

fn affine(bits: u32, group_size: u32) -> Option<LayerQuantization> {
    Some(LayerQuantization { bits, group_size, mode: Mode::Affine })
}

/// The smallest Llama, converted, with a change to its `quantization`.
fn made(recipe: &str, change: impl FnOnce(&mut Value)) -> (TempDir, PathBuf) {
    let scratch = tempfile::tempdir().expect("a folder");
    let (source, dir) = (scratch.path().join("source"), scratch.path().join("made"));
    Source::small().write(&source);
    convert(&source, recipe, &dir).expect("made");
    let mut config = json_file(&dir, "config.json");
    change(&mut config["quantization"]);
    std::fs::write(dir.join("config.json"), config.to_string()).expect("file");
    (scratch, dir)
}

fn layer(dir: &Path, path: &str, in_features: Option<u64>) -> Option<LayerQuantization> {
    MlxFolder::open(dir).expect("opened").layer_quantization(path, in_features).expect("sound")
}

#[test]
fn layers_are_as_they_were_made() {
    let (_scratch, dir) = made("6bit/32", |_| ());
    for in_features in [None, Some(64)] {
        assert_eq!(layer(&dir, QUERIES, in_features), affine(6, 32));
        assert_eq!(layer(&dir, "model.norm", in_features), None);
        assert_eq!(layer(&dir, "no.such.layer", in_features), None);
    }
    let (_scratch, dir) = made("6bit", |_| ());
    assert_eq!(layer(&dir, "model.layers.0.mlp.down_proj", Some(96)), None, "64 does not divide 96");
    let (_scratch, dir) = made("mixed_2_6/32", |_| ());
    assert_eq!(layer(&dir, QUERIES, None), affine(2, 32));
    assert_eq!(layer(&dir, "model.layers.1.self_attn.v_proj", None), affine(6, 32));
    assert_eq!(layer(&dir, "lm_head", None), affine(6, 32));
    assert_eq!(MlxFolder::open(&dir).expect("opened").quantization().expect("quantized").model().bits, 4);
}

#[test]
fn unquantized_folders_have_no_quantized_layer() {
    let (_scratch, dir) = made("bf16", |_| ());
    // `made` left a null there, which says nothing.
    assert!(json_file(&dir, "config.json")["quantization"].is_null());
    let folder = MlxFolder::open(&dir).expect("opened");
    assert!(folder.quantization().is_none() && folder.model().tensor("lm_head.weight").is_some());
    assert_eq!(folder.layer_quantization(QUERIES, None).expect("sound"), None);
}

#[test]
fn an_entry_decides_and_the_tensors_where_there_is_none() {
    // As folders of older mlx-lm have it: an entry of false for what is not quantized.
    let (_scratch, dir) = made("4bit", |quantization| quantization[VALUES] = json!(false));
    assert_eq!(layer(&dir, VALUES, None), None);
    // The whole model's bits are wrong, and the layers have no entries.
    let (_scratch, dir) = made("4bit", |quantization| quantization["bits"] = json!(8));
    assert_eq!(layer(&dir, QUERIES, Some(64)), affine(4, 64));
    let error = MlxFolder::open(&dir).expect("opened").layer_quantization(QUERIES, None).expect_err("contradiction");
    assert!(error.message.contains("not those of 8 bits in groups of 64 (affine)"), "{error}");
    assert_eq!(error.kind, ErrorKind::InvalidModel);
    // A null is the mode's default, as mlx-lm writes it for mixed recipes without a group size.
    let (_scratch, dir) = made("mixed_3_4", |quantization| quantization[QUERIES]["group_size"] = Value::Null);
    assert_eq!(layer(&dir, QUERIES, None), affine(3, 64));
}

#[test]
fn tensors_that_contradict_the_configuration_are_refused() {
    let refused = |dir: &Path, path: &str, in_features: Option<u64>| {
        let error = MlxFolder::open(dir).expect("opened").layer_quantization(path, in_features).expect_err("refused");
        assert!(error.kind == ErrorKind::InvalidModel && error.hint.is_some(), "{error}");
        assert!(error.message.contains(path) && error.message.contains(&*dir.to_string_lossy()), "{error}");
    };
    let (_scratch, dir) = made("4bit", |quantization| {
        quantization[QUERIES] = json!({"bits": 4, "group_size": 32});
        quantization["model.norm"] = json!({"bits": 4, "group_size": 64});
    });
    refused(&dir, QUERIES, None);
    refused(&dir, "model.norm", None);
    for in_features in [0, 1, 63, 96, u64::MAX] {
        refused(&dir, VALUES, Some(in_features));
    }
}

#[test]
fn other_modes_are_reported() {
    let (_scratch, dir) = made("4bit/32", |quantization| quantization[QUERIES] = json!({"mode": "mxfp4"}));
    let mode = layer(&dir, QUERIES, None).expect("quantized").mode;
    assert_eq!(mode, Mode::Mxfp4);
    let other = json!({"mode": "nested", "bits": 4, "group_size": 32});
    let (_scratch, dir) = made("4bit/32", |quantization| quantization[QUERIES] = other);
    assert_eq!(layer(&dir, QUERIES, None).expect("quantized").mode.word(), "nested");
}

#[test]
fn a_folder_that_is_not_there_is_an_error() {
    let error = MlxFolder::open("/no/such/folder").expect_err("nothing there");
    assert_eq!(error.kind, ErrorKind::InvalidModel);
}

#[test]
fn what_others_have_quantized_is_refused() {
    let scratch = tempfile::tempdir().expect("a folder");
    let dir = scratch.path().join("source");
    let mut source = Source::small();
    source.config["quantization_config"] = json!({"quant_method": "awq"});
    source.write(&dir);
    assert_eq!(MlxFolder::open(&dir).expect_err("not MLX's").kind, ErrorKind::Unsupported);
    source.config["quantization"] = json!({"bits": "four"});
    std::fs::write(dir.join("config.json"), source.config.to_string()).expect("file");
    let error = MlxFolder::open(&dir).expect_err("not MLX's");
    assert!(error.message.contains("config.json"), "{error}");
}
