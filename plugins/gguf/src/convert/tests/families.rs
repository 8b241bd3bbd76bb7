//! Models of every family and layout, with random weights, against what llama.cpp's converter made of them.

use super::*;

/// The models, and what is known to differ from llama.cpp's converter, by the beginnings of [`differences`]' lines.
const MODELS: [(&str, &[&str]); 19] = [
    ("llama-spm", &[]),
    // The converter gives all tokens the same score, with which llama.cpp cannot merge, and leaves out the tokens that
    // fill the vocabulary up, without which llama.cpp does not load the model.
    ("llama-spm-json", &["tokenizer.ggml.tokens is", "tokenizer.ggml.scores is", "tokenizer.ggml.token_type is"]),
    ("llama3", &[]),
    ("mistral", &[]),
    ("mixtral", &[]),
    ("qwen2", &[]),
    ("qwen2-yarn", &[]),
    ("carded", &[]),
    ("qwen2moe", &[]),
    ("qwen2moe-fused", &[]),
    ("qwen3", &[]),
    ("qwen3moe", &[]),
    ("gemma2", &[]),
    ("gemma3", &[]),
    ("gemma3-f16", &[]),
    ("phi3", &[]),
    ("phi3-longrope", &[]),
    ("gpt-oss", &[]),
    ("gpt-oss-mxfp4", &[]),
];

/// Models whose weights are F32, which the converter's `auto` rounds to F16 and we leave as they are.
const SINGLE_PRECISION: [&str; 1] = ["qwen2-yarn"];

#[test]
fn every_family_comes_out_as_from_llama_cpp() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out.gguf");
    let mut failures = Vec::new();
    for (name, known) in MODELS {
        let golden = golden(&format!("families/{name}.json"));
        for (outtype, target) in [("auto", FloatType::Auto), ("f16", FloatType::F16), ("f32", FloatType::F32)] {
            let target = if outtype == "auto" && SINGLE_PRECISION.contains(&name) { FloatType::F16 } else { target };
            let mut expected = golden["converter"]["auto"].clone();
            let entry = golden["converter"][outtype].clone();
            for (key, value) in entry["metadata"].as_object().unwrap() {
                expected["metadata"][key] = value.clone();
            }
            expected["tensors"] = entry["tensors"].clone();
            expected["file_sha256"] = entry["file_sha256"].clone();
            if let Err(error) = convert_to(&fixtures().join("families").join(name), &output, target) {
                failures.push(format!("{name} {outtype}: {error}"));
                continue;
            }
            let found = differences(&output, &expected);
            let (expected, others): (Vec<_>, Vec<_>) =
                found.into_iter().partition(|line| known.iter().any(|known| line.starts_with(known)));
            failures.extend(others.iter().map(|line| format!("{name} {outtype}: {line}")));
            if expected.len() != known.len() {
                failures.push(format!("{name} {outtype}: of the known differences only {expected:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_tensor_is_the_same_in_small_pieces_as_in_one() {
    for (name, _) in MODELS {
        let source = HfModel::open_quantized(fixtures().join("families").join(name), &KEPT_QUANTIZATIONS).unwrap();
        let conversion = Conversion::plan(&source, FloatType::Auto, None, &BTreeMap::new()).unwrap();
        for target in conversion.targets() {
            let whole = transfer::make(&target, 0..target.rows.count()).unwrap();
            for elements in [1, 100, 3000] {
                let (count, step) = (target.rows.count(), transfer::piece_rows(target.rows, elements));
                let pieces = (0..count.div_ceil(step)).map(|index| index * step..((index + 1) * step).min(count));
                let joined: Vec<u8> = pieces.flat_map(|rows| transfer::make(&target, rows).unwrap()).collect();
                assert!(joined == whole, "{name}: {} in pieces of {elements} elements", target.spec.name);
            }
        }
    }
}
