//! Forecasts of memory against what the loaded models then hold.

use super::{fixture, kind, load, model_file};
use pajamas_gguf::forecast_memory;
use pajamas_plugin_api::{ErrorKind, LoadRequest, MemoryUsage, Model, OptionValue};
use std::path::PathBuf;

fn request(path: PathBuf, context_length: u32) -> LoadRequest {
    LoadRequest { threads: Some(1), context_length: Some(context_length), ..LoadRequest::new(path) }
}

#[track_caller]
fn check(request: &LoadRequest) {
    let forecast = forecast_memory(request).unwrap_or_else(|error| panic!("{error}"));
    assert!(forecast.weights_bytes > 0 && forecast.kv_cache_bytes > 0 && forecast.compute_bytes > 0, "{forecast:?}");
    assert_eq!(forecast, load(request).memory_usage(), "{request:?}");
}

#[test]
fn a_forecast_is_what_the_loaded_model_holds() {
    for recipe in ["Q4_K_M", "F16"] {
        for context_length in [256, 512, 2048] {
            let plain = request(model_file(recipe), context_length);
            check(&plain);
            let mut small = LoadRequest { parallel_slots: 3, ..plain };
            for (name, value) in [("cache_type_k", "q8_0"), ("cache_type_v", "q8_0"), ("flash_attention", "on")] {
                small.options.set(name, OptionValue::Text(value.into()));
            }
            check(&small);
        }
    }
    let mut other = request(model_file("Q4_K_M"), 700);
    other.options.set("flash_attention", OptionValue::Text("off".into()));
    other.options.set("ubatch_size", OptionValue::Int(64));
    other.options.set("mmap", OptionValue::Bool(false));
    check(&other);
    check(&LoadRequest { context_length: None, ..request(fixture(), 0) });
    check(&request(fixture(), 512));
}

#[test]
fn a_forecast_reads_no_weights_and_leaves_the_machines_size_to_others() {
    // Its weights are zeroes, all of which a hole in the file says.
    let dir = tempfile::tempdir().expect("a folder");
    let sparse = dir.path().join("sparse.gguf");
    let whole = std::fs::read(model_file("F16")).expect("readable");
    let header = pajamas_gguf_file::GgufFile::open(&model_file("F16")).expect("a GGUF file").data_offset() as usize;
    std::fs::write(&sparse, &whole[..header]).expect("written");
    let file = std::fs::OpenOptions::new().write(true).open(&sparse).expect("opened");
    file.set_len(whole.len() as u64).expect("made longer");
    let of = |path: PathBuf| forecast_memory(&request(path, 512)).expect("a forecast");
    assert_eq!(of(sparse), of(model_file("F16")));

    let huge = request(model_file("F16"), 1 << 30);
    let forecast: MemoryUsage = forecast_memory(&huge).expect("a forecast, if of a model that does not fit");
    assert!(forecast.kv_cache_bytes > 1 << 40 && forecast.compute_bytes == 0, "{forecast:?}");
}

#[test]
fn what_cannot_be_loaded_has_no_forecast() {
    let dir = tempfile::tempdir().expect("a folder");
    let of = |path: PathBuf| kind(forecast_memory(&request(path, 512)));
    assert_eq!(of(dir.path().to_owned()), ErrorKind::InvalidModel);
    assert_eq!(of(dir.path().join("missing.gguf")), ErrorKind::Io);
    let whole = std::fs::read(model_file("F16")).expect("readable");
    let cut = dir.path().join("cut.gguf");
    std::fs::write(&cut, &whole[..whole.len() - 100]).expect("written");
    assert_eq!(of(cut), ErrorKind::InvalidModel);
    let mut contradictory = request(model_file("F16"), 512);
    for (name, value) in [("cache_type_v", "q8_0"), ("flash_attention", "off")] {
        contradictory.options.set(name, OptionValue::Text(value.into()));
    }
    assert_eq!(kind(forecast_memory(&contradictory)), ErrorKind::Unsupported);
}
