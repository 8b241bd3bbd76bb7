//! Importance matrices against those that transformers gives, and the methods that cannot do without.

use super::single_pass::{families, make};
use super::{Progress, fixture};
use pajamas_gguf::GgufQuantizer;
use pajamas_gguf_file::GgufFile;
use pajamas_plugin_api::{CancelToken, OptionValue, QuantizeJob, Quantizer};
use serde_json::Value;
use std::path::Path;

fn text() -> OptionValue {
    OptionValue::Text(fixture().join("validation.txt").display().to_string())
}

/// Makes a model with a calibration text; gives the numbers of a tensor in the importance matrix that is left for it.
fn calibrate(source: &Path, recipe: &str) -> (tempfile::TempDir, GgufFile) {
    let dir = tempfile::tempdir().unwrap();
    let scratch = dir.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let mut job = QuantizeJob::new(source, recipe, dir.path().join("out.gguf"), &scratch);
    job.threads = Some(1);
    job.options.set("calibration", text());
    let made = GgufQuantizer.quantize(&job, &Progress::default(), &CancelToken::never());
    made.unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    let out = GgufFile::open(&job.output).unwrap();
    assert!(out.metadata().get("pajamas.calibration.sha256").is_some());
    let matrix = GgufFile::open(&scratch.join("imatrix.gguf")).unwrap();
    (dir, matrix)
}

fn numbers(file: &GgufFile, name: &str) -> Vec<f32> {
    let tensor = file.tensors().iter().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no {name}"));
    let bytes = file.read_tensor(tensor).unwrap();
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

/// How far a mean and a count may be off. Experts are chosen at near-ties, where half precision in the KV cache decides
/// otherwise for a few tokens; those that see few tokens feel it most.
fn allowed(name: &str) -> (f64, f64) {
    match name {
        _ if name.contains("ffn_down_exps") => (0.15, 0.02),
        _ if name.contains("_exps") => (0.05, 0.02),
        _ => (0.02, 0.0),
    }
}

#[test]
fn importance_is_what_transformers_gives() {
    let golden = fixture().with_file_name("golden").join("imatrix.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let mut failures = Vec::new();
    for model in golden["models"].as_array().unwrap() {
        let name = model["name"].as_str().unwrap();
        let source = if name == "pajama-tiny" { fixture() } else { families().join(name) };
        let (_dir, matrix) = calibrate(&source, "Q8_0");
        let chunks = matrix.metadata().get("imatrix.chunk_count").and_then(|count| count.as_u64());
        assert_eq!(chunks, model["chunks"].as_u64(), "{name}");
        assert_eq!(matrix.tensors().len(), 2 * model["tensors"].as_array().unwrap().len(), "{name}");
        for tensor in model["tensors"].as_array().unwrap() {
            let tensor_name = tensor["name"].as_str().unwrap();
            let (squares, counts) = (
                numbers(&matrix, &format!("{tensor_name}.in_sum2")),
                numbers(&matrix, &format!("{tensor_name}.counts")),
            );
            let columns = squares.len() / counts.len();
            let (mean_off, count_off) = allowed(tensor_name);
            for (index, expected) in tensor["counts"].as_array().unwrap().iter().enumerate() {
                let (expected, found) = (expected.as_f64().unwrap(), f64::from(counts[index]));
                if (found - expected).abs() > expected * count_off + 8.0 * f64::from(u8::from(count_off > 0.0)) {
                    failures.push(format!("{name} {tensor_name} [{index}]: {found} tokens, {expected} expected"));
                }
                let means = tensor["means"][index].as_array().unwrap();
                for (column, expected) in tensor["columns"].as_array().unwrap().iter().zip(means) {
                    let column = column.as_u64().unwrap() as usize;
                    let expected = expected.as_f64().unwrap();
                    let found = f64::from(squares[index * columns + column]) / found;
                    if (found - expected).abs() > expected * mean_off {
                        failures
                            .push(format!("{name} {tensor_name} [{index}][{column}]: {found}, {expected} expected"));
                    }
                }
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} differences, such as\n{}",
        failures.len(),
        failures[..failures.len().min(20)].join("\n")
    );
}

#[test]
fn methods_that_need_weights_work_with_a_text_and_say_so_without() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out.gguf");
    for recipe in ["IQ2_XXS", "Q2_K_S"] {
        let error = make(&fixture(), recipe, &output, &[]).unwrap_err();
        assert!(error.message.contains("needs an importance matrix") && !output.exists(), "{error}");
        assert!(error.hint.unwrap().contains("--calibration"));
        let few = ("calibration_tokens", OptionValue::Int(1024));
        make(&fixture(), recipe, &output, &[("calibration", text()), few]).unwrap();
        std::fs::remove_file(&output).unwrap();
    }
    let short = dir.path().join("short.txt");
    std::fs::write(&short, "The capital of France is Paris.").unwrap();
    let option = [("calibration", OptionValue::Text(short.display().to_string()))];
    let error = make(&fixture(), "IQ4_XS", &output, &option).unwrap_err();
    assert!(error.message.contains("takes at least 512"), "{error}");
    let (other, matrix) = calibrate(&families().join("qwen3moe"), "Q8_0");
    let path = matrix.path().display().to_string();
    let error = make(&fixture(), "IQ4_XS", &output, &[("imatrix", OptionValue::Text(path))]).unwrap_err();
    assert!(error.message.contains("weights for `") && !output.exists(), "{error}");
    drop(other);
}
