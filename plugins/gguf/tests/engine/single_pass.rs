//! One pass against two: what our quantizer writes is, byte for byte, what llama.cpp's writes from our converter's file.

use super::{Progress, fixture};
use llama_cpp_sys_2 as sys;
use pajamas_gguf::GgufQuantizer;
use pajamas_gguf_file::FileType;
use pajamas_plugin_api::{CancelToken, OptionValue, QuantizeJob, QuantizeReport, Quantizer, Result};
use std::ffi::CString;
use std::path::{Path, PathBuf};

/// Models whose rows 256 divides, so that every type is made and not its replacement: a dense one, one with experts, and
/// one whose norms and embedding differ.
fn wide_models(dir: &Path) -> Vec<PathBuf> {
    ["llama3", "qwen3moe", "gemma2"].map(|family| widen(family, &dir.join(family))).into()
}

/// The model of `tests/fixtures/families` with larger matrices of random bfloat16 weights.
fn widen(family: &str, to: &Path) -> PathBuf {
    let from = families().join(family);
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(&from).expect("the fixture").flatten() {
        if entry.path().extension().is_none_or(|extension| extension != "safetensors") {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    }
    let path = to.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (key, value) in [("hidden_size", 256), ("intermediate_size", 256), ("moe_intermediate_size", 256)] {
        if config.get(key).is_some() {
            config[key] = value.into();
        }
    }
    config["head_dim"] = 64.into();
    let get = |key: &str| config[key].as_u64().unwrap_or_else(|| panic!("{family} has no {key}"));
    let (hidden, layers, vocabulary) = (256, get("num_hidden_layers"), get("vocab_size"));
    let (q, kv) = (get("num_attention_heads") * 64, get("num_key_value_heads") * 64);
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocabulary, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    for layer in 0..layers {
        let mut add =
            |name: &str, shape: &[u64]| tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        add("self_attn.q_proj.weight", &[q, hidden]);
        add("self_attn.k_proj.weight", &[kv, hidden]);
        add("self_attn.v_proj.weight", &[kv, hidden]);
        add("self_attn.o_proj.weight", &[hidden, q]);
        add("input_layernorm.weight", &[hidden]);
        add("post_attention_layernorm.weight", &[hidden]);
        if family == "gemma2" {
            add("pre_feedforward_layernorm.weight", &[hidden]);
            add("post_feedforward_layernorm.weight", &[hidden]);
        }
        if family == "qwen3moe" {
            add("self_attn.q_norm.weight", &[64]);
            add("self_attn.k_norm.weight", &[64]);
            let experts = config.get("num_experts").or(config.get("num_local_experts")).unwrap().as_u64().unwrap();
            add("mlp.gate.weight", &[experts, hidden]);
            for expert in 0..experts {
                add(&format!("mlp.experts.{expert}.gate_proj.weight"), &[256, hidden]);
                add(&format!("mlp.experts.{expert}.up_proj.weight"), &[256, hidden]);
                add(&format!("mlp.experts.{expert}.down_proj.weight"), &[hidden, 256]);
            }
        } else {
            add("mlp.gate_proj.weight", &[256, hidden]);
            add("mlp.up_proj.weight", &[256, hidden]);
            add("mlp.down_proj.weight", &[hidden, 256]);
        }
    }
    if family == "qwen3moe" && config["tie_word_embeddings"] != true {
        tensors.push(("lm_head.weight".to_owned(), vec![vocabulary, hidden]));
    }
    std::fs::write(&path, config.to_string()).unwrap();
    let _ = std::fs::remove_file(to.join("model.safetensors.index.json"));
    write_safetensors(&to.join("model.safetensors"), &tensors);
    to.to_owned()
}

/// Writes bfloat16 weights between -0.2 and 0.2 that depend on nothing but their number.
fn write_safetensors(path: &Path, tensors: &[(String, Vec<u64>)]) {
    let (mut header, mut data, mut state) = (serde_json::Map::new(), Vec::new(), 0x2545_f491_u32);
    for (name, shape) in tensors {
        let start = data.len();
        for _ in 0..shape.iter().product::<u64>() {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            let value = (state as f32 / u32::MAX as f32 - 0.5) * 0.4;
            data.extend(((value.to_bits() >> 16) as u16).to_le_bytes());
        }
        let entry = serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    std::fs::write(path, bytes).unwrap();
}

pub(super) fn families() -> PathBuf {
    fixture().with_file_name("families")
}

pub(super) fn make(
    source: &Path,
    recipe: &str,
    output: &Path,
    options: &[(&str, OptionValue)],
) -> Result<QuantizeReport> {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let mut job = QuantizeJob::new(source, recipe, output, scratch.path());
    job.threads = Some(2);
    for (name, value) in options {
        job.options.set(*name, value.clone());
    }
    GgufQuantizer.quantize(&job, &Progress::default(), &CancelToken::never())
}

/// llama.cpp's quantizer on the file `input`, with an importance matrix where there is one.
fn llama_quantize(input: &Path, output: &Path, file_type: FileType, weights: &[(CString, Vec<f32>)]) -> bool {
    let paths = [input, output].map(|path| CString::new(path.to_str().unwrap()).unwrap());
    // SAFETY: gives a plain value.
    let mut parameters = unsafe { sys::llama_model_quantize_default_params() };
    parameters.ftype = file_type.id;
    parameters.nthread = 2;
    let mut list: Vec<sys::llama_model_imatrix_data> = weights
        .iter()
        .map(|(name, data)| sys::llama_model_imatrix_data {
            name: name.as_ptr(),
            data: data.as_ptr(),
            size: data.len(),
        })
        .collect();
    list.push(sys::llama_model_imatrix_data { name: std::ptr::null(), data: std::ptr::null(), size: 0 });
    if !weights.is_empty() {
        parameters.imatrix = list.as_ptr();
    }
    // SAFETY: the paths are NUL-terminated, the list ends with an empty entry, and all outlive the call.
    unsafe { sys::llama_model_quantize(paths[0].as_ptr(), paths[1].as_ptr(), &raw const parameters) == 0 }
}

/// Weights for every matrix of the GGUF file `path`, for each expert other ones.
fn weights_for(path: &Path) -> Vec<(CString, Vec<f32>)> {
    let file = pajamas_gguf_file::GgufFile::open(path).unwrap();
    let matrices = file.tensors().iter().filter(|tensor| tensor.shape.len() > 1);
    let weights = |tensor: &pajamas_gguf_file::reader::TensorInfo| {
        let count = tensor.shape[0] * tensor.shape.get(2).copied().unwrap_or(1);
        (0..count).map(|index| 0.01 + ((index * 7919) % 1000) as f32 / 250.0).collect()
    };
    matrices.map(|tensor| (CString::new(tensor.name.clone()).unwrap(), weights(tensor))).collect()
}

/// The same weights in a file of llama.cpp's older format.
fn write_weights(path: &Path, weights: &[(CString, Vec<f32>)]) {
    let mut bytes = (weights.len() as u32).to_le_bytes().to_vec();
    for (name, data) in weights {
        bytes.extend((name.as_bytes().len() as u32).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend((data.len() as u32).to_le_bytes());
        data.iter().for_each(|weight| bytes.extend(weight.to_le_bytes()));
    }
    std::fs::write(path, bytes).unwrap();
}

/// The file without the keys that only ours has.
fn compare(ours: &Path, theirs: &Path, what: &str, failures: &mut Vec<String>) {
    let (a, b) = (std::fs::read(ours).unwrap(), std::fs::read(theirs).unwrap());
    if a != b {
        let at = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
        failures.push(format!("{what}: {} and {} bytes, differing from byte {at} on", a.len(), b.len()));
    }
}

#[test]
fn one_pass_makes_what_two_make_for_every_method_and_three_families() {
    let dir = tempfile::tempdir().unwrap();
    let mut failures = Vec::new();
    let recipes = GgufQuantizer.recipes();
    assert_eq!(recipes.len(), 35);
    for model in wide_models(dir.path()) {
        let name = model.file_name().unwrap().to_string_lossy().into_owned();
        let whole = dir.path().join("whole.gguf");
        make(&model, "BF16", &whole, &[]).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut compared = 0;
        for recipe in &recipes {
            let (ours, theirs) = (dir.path().join("ours.gguf"), dir.path().join("theirs.gguf"));
            let what = format!("{name} {}", recipe.name);
            let file_type = FileType::from_name(&recipe.name).expect("a file type");
            if ["F32", "F16", "BF16"].contains(&recipe.name.as_str()) {
                // Converted from the folder in the converter's order; from a file in the quantizer's.
                make(&whole, &recipe.name, &ours, &[]).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(llama_quantize(&whole, &theirs, file_type, &[]), "{what}");
                compare(&ours, &theirs, &what, &mut failures);
                continue;
            }
            let without = make(&model, &recipe.name, &ours, &[]);
            let possible = llama_quantize(&whole, &theirs, file_type, &[]);
            match without {
                Ok(_) if possible => {
                    compare(&ours, &theirs, &what, &mut failures);
                    compared += 1;
                }
                Err(error) if !possible => {
                    assert!(error.message.contains("needs an importance matrix"), "{what}: {error}");
                    assert!(!ours.exists() || std::fs::remove_file(&ours).is_ok());
                }
                other => failures.push(format!("{what}: llama.cpp can: {possible}, we: {other:?}")),
            }
        }
        // The rest cannot do without an importance matrix.
        assert_eq!(compared, 23, "{name}");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn with_an_importance_matrix_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut failures = Vec::new();
    for model in wide_models(dir.path()).into_iter().take(2) {
        let name = model.file_name().unwrap().to_string_lossy().into_owned();
        let (whole, imatrix) = (dir.path().join("whole.gguf"), dir.path().join("imatrix.dat"));
        make(&model, "BF16", &whole, &[]).unwrap();
        let weights = weights_for(&whole);
        write_weights(&imatrix, &weights);
        let option = [("imatrix", OptionValue::Text(imatrix.display().to_string()))];
        for recipe in
            ["Q4_K_M", "Q4_0", "Q2_K_S", "IQ4_XS", "IQ3_XXS", "IQ3_M", "IQ2_M", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"]
        {
            let (ours, theirs) = (dir.path().join("ours.gguf"), dir.path().join("theirs.gguf"));
            let what = format!("{name} {recipe}");
            make(&model, recipe, &ours, &option).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(llama_quantize(&whole, &theirs, FileType::from_name(recipe).unwrap(), &weights), "{what}");
            compare_without_provenance(&ours, &theirs, &what, &mut failures);
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Ours tells what it was weighed by; the rest is to be the same.
fn compare_without_provenance(ours: &Path, theirs: &Path, what: &str, failures: &mut Vec<String>) {
    let open = |path: &Path| pajamas_gguf_file::GgufFile::open(path).unwrap();
    let (a, b) = (open(ours), open(theirs));
    let keys = |file: &pajamas_gguf_file::GgufFile| {
        let theirs = file.metadata().iter().filter(|(key, _)| !key.starts_with("pajamas."));
        theirs.map(|(key, value)| (key.to_owned(), value.clone())).collect::<Vec<_>>()
    };
    assert!(a.metadata().get("pajamas.imatrix.sha256").is_some(), "{what}");
    if keys(&a) != keys(&b) {
        failures.push(format!("{what}: the metadata differs"));
    }
    for (ours, theirs) in a.tensors().iter().zip(b.tensors()) {
        let same_place = (&ours.name, &ours.shape, ours.ggml_type) == (&theirs.name, &theirs.shape, theirs.ggml_type);
        if !same_place || a.read_tensor(ours).unwrap() != b.read_tensor(theirs).unwrap() {
            failures.push(format!("{what}: {} ({}) differs from {}", ours.name, ours.ggml_type.name, theirs.name));
        }
    }
}
