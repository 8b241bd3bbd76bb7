//! The network of each architecture against transformers' logits, on small models made from a formula.

#[path = "../../../mlx-folder/tests/common/mod.rs"]
mod common;

use super::architecture::Architecture;
use super::cache::Cache;
use super::network::{Network, Rows};
use crate::folder as load;
use common::Source;
use mlx_rs::{Array, Dtype};
use pajamas_mlx_folder::MlxFolder;
use pajamas_plugin_api::{CancelToken, Progress};
use serde_json::Value;

/// How far a logit may be from transformers', in parts of the greatest of its row.
const TOLERANCE: f32 = 2e-4;

fn network(folder: &std::path::Path) -> (Network, Architecture) {
    let folder = MlxFolder::open(folder).expect("a folder");
    let architecture = Architecture::new(folder.model().config()).expect("an architecture");
    let (progress, cancel) = (Progress::default(), CancelToken::never());
    let weights = load::weights(&folder, &architecture, Some(Dtype::Float32), &progress, &cancel).expect("weights");
    (Network::new(&architecture, weights).expect("a network"), architecture)
}

/// Logits after each of `tokens`, processed in steps of `step`.
fn logits(network: &Network, layers: usize, tokens: &[u32], step: usize) -> Vec<Vec<f32>> {
    let mut cache = Cache::new(layers);
    let mut rows = Vec::new();
    for chunk in tokens.chunks(step) {
        let input = Array::from_slice(chunk, &[1, i32::try_from(chunk.len()).unwrap()]);
        let logits = network.forward(&input, &mut cache, Rows::All).expect("logits").expect("rows");
        let values = logits.try_as_slice::<f32>().expect("values").to_vec();
        rows.extend(values.chunks(values.len() / chunk.len()).map(<[f32]>::to_vec));
    }
    rows
}

fn close(ours: &[f32], theirs: &[f32], what: &str) {
    let greatest = theirs.iter().fold(0_f32, |greatest, value| greatest.max(value.abs()));
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert!((ours - theirs).abs() <= TOLERANCE * greatest.max(1.0), "{what}: {ours} and {theirs}");
    }
}

#[test]
fn every_architecture_gives_transformers_logits_in_steps_of_any_size() {
    crate::devices::start();
    let golden: Value =
        serde_json::from_slice(&std::fs::read(common::fixture("golden/architectures.json")).unwrap()).unwrap();
    let models = golden["models"].as_array().unwrap();
    assert_eq!(models.len(), 5);
    for model in models {
        let name = model["name"].as_str().unwrap();
        let mut source = Source::golden(model["base"].as_str().unwrap());
        for (key, value) in model["config"].as_object().unwrap() {
            source.config[key] = value.clone();
        }
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("model");
        source.write(&folder);
        let (network, architecture) = network(&folder);
        let vocabulary = architecture.vocabulary_size.unsigned_abs();
        let tokens: Vec<u32> = (0..160_u32).map(|i| (7 * i * i + 3 * i) % vocabulary).collect();
        let whole = logits(&network, architecture.layers, &tokens, tokens.len());
        for row in model["rows"].as_array().unwrap() {
            let ours = &whole[usize::try_from(row["row"].as_u64().unwrap()).unwrap()];
            let theirs: Vec<f32> =
                row["logits"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect();
            close(&ours[..theirs.len()], &theirs, &format!("{name}, row {}", row["row"]));
            if row["margin"].as_f64().unwrap() > 0.001 {
                let best = (0..ours.len()).max_by(|a, b| ours[*a].total_cmp(&ours[*b])).unwrap();
                assert_eq!(best as u64, row["best"].as_u64().unwrap(), "{name}, row {}", row["row"]);
            }
        }
        for step in [1, 7, 64] {
            for (row, (ours, theirs)) in
                logits(&network, architecture.layers, &tokens, step).iter().zip(&whole).enumerate()
            {
                close(ours, theirs, &format!("{name} in steps of {step}, row {row}"));
            }
        }
    }
}

#[test]
fn the_last_position_alone_has_the_logits_that_it_has_among_all() {
    crate::devices::start();
    // One with a sliding window, one without.
    for base in ["mistral", "qwen3"] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("model");
        Source::golden(base).write(&folder);
        let (network, architecture) = network(&folder);
        let tokens: Vec<u32> = (0..150_u32).map(|i| (5 * i * i + i) % 96).collect();
        let all = logits(&network, architecture.layers, &tokens, tokens.len());
        for step in [150, 100, 1] {
            let mut cache = Cache::new(architecture.layers);
            let mut end = 0;
            for chunk in tokens.chunks(step) {
                end += chunk.len();
                let input = Array::from_slice(chunk, &[1, i32::try_from(chunk.len()).unwrap()]);
                let last = network.forward(&input, &mut cache, Rows::Last).expect("logits").expect("a row");
                close(last.try_as_slice::<f32>().expect("values"), &all[end - 1], &format!("{base}, after {end}"));
            }
        }
    }
}

#[test]
fn a_cache_that_grows_token_by_token_loses_nothing() {
    crate::devices::start();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    Source::golden("qwen3").write(&folder);
    let (network, architecture) = network(&folder);
    // Twice over the step that a cache grows by, and one more.
    let tokens: Vec<u32> = (0..513_u32).map(|i| (5 * i * i + i) % 112).collect();
    let whole = logits(&network, architecture.layers, &tokens, tokens.len());
    let single = logits(&network, architecture.layers, &tokens, 1);
    assert_eq!(single.len(), 513);
    for (row, (ours, theirs)) in single.iter().zip(&whole).enumerate() {
        close(ours, theirs, &format!("row {row}"));
    }
}

#[test]
fn mlxs_ways_of_saying_that_memory_ran_out_are_known() {
    use pajamas_plugin_api::ErrorKind;
    for text in [
        "[metal::malloc] Attempting to allocate 9 bytes which is greater than the maximum allowed buffer size of 8 bytes.",
        "[metal::malloc] Resource limit (499000) exceeded.",
        "[malloc_or_wait] Unable to allocate 9 bytes.",
        "[METAL] Command buffer execution failed: Insufficient Memory (00000008)",
    ] {
        assert_eq!(super::of_text(text).kind, ErrorKind::OutOfMemory, "{text}");
    }
    assert_eq!(super::of_text("[matmul] Last dimension").kind, ErrorKind::Other);
}
