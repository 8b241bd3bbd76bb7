//! What a loaded model says about itself, read from it once.

use super::handle::ModelHandle;
use super::vocab::Vocab;
use llama_cpp_sys_2 as sys;
use pajamas_plugin_api::ModelInfo;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};

/// Metadata longer than this is no fact to show but a text.
const METADATA_BYTES_MAX: usize = 256;

const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// Everything that `Model::info` tells; `context_length` is per slot.
pub(crate) fn model_info(model: &ModelHandle, vocab: &Vocab, context_length: u32) -> ModelInfo {
    let metadata = metadata(model);
    let text = |key: &str| metadata.get(key).cloned().unwrap_or_default();
    let pointer = model.as_ptr();
    // SAFETY: the model is loaded; these only read, and the name of a file type is a static string.
    let (quantization, parameter_count, size_bytes) = unsafe {
        let name = sys::llama_ftype_name(sys::llama_model_ftype(pointer));
        let name = if name.is_null() { String::new() } else { CStr::from_ptr(name).to_string_lossy().into_owned() };
        (name, sys::llama_model_n_params(pointer), sys::llama_model_size(pointer))
    };
    let mut chat_templates = BTreeMap::new();
    for (key, template) in &metadata {
        match key.strip_prefix(CHAT_TEMPLATE).map(|rest| rest.strip_prefix('.').unwrap_or(rest)) {
            Some("") => chat_templates.insert("default".to_owned(), template.clone()),
            Some(name) => chat_templates.insert(name.to_owned(), template.clone()),
            None => None,
        };
    }
    let worth_showing =
        |key: &str, value: &str| !key.starts_with("tokenizer.chat_template") && value.len() <= METADATA_BYTES_MAX;
    ModelInfo {
        architecture: text("general.architecture"),
        name: text("general.name"),
        quantization,
        parameter_count,
        size_bytes,
        context_length,
        context_length_trained: trained_context(model),
        vocabulary_size: vocab.count(),
        bos_token: vocab.bos(),
        eos_token: vocab.eos(),
        end_of_generation_tokens: vocab.end_of_generation(),
        control_tokens: vocab.control_tokens(),
        chat_templates,
        metadata: metadata.into_iter().filter(|(key, value)| worth_showing(key, value)).collect(),
    }
}

/// Tokens of context that the model was trained with; 0 if it does not say.
pub(crate) fn trained_context(model: &ModelHandle) -> u32 {
    // SAFETY: the model is loaded; this only reads.
    u32::try_from(unsafe { sys::llama_model_n_ctx_train(model.as_ptr()) }).unwrap_or(0)
}

/// The model's scalar metadata, as text. Arrays (the vocabulary) are not among it.
fn metadata(model: &ModelHandle) -> BTreeMap<String, String> {
    // SAFETY: the model is loaded; this only reads.
    let count = unsafe { sys::llama_model_meta_count(model.as_ptr()) };
    (0..count)
        .filter_map(|index| {
            // SAFETY: the model is loaded, the index inside, and `read_text` passes a buffer with its true size.
            let key = read_text(|buffer, size| unsafe {
                sys::llama_model_meta_key_by_index(model.as_ptr(), index, buffer, size)
            })?;
            // SAFETY: as above.
            let value = read_text(|buffer, size| unsafe {
                sys::llama_model_meta_val_str_by_index(model.as_ptr(), index, buffer, size)
            })?;
            Some((key, value))
        })
        .collect()
}

/// Reads a text through a function that works like `snprintf`: it answers the whole length and writes what fits.
fn read_text(read: impl Fn(*mut c_char, usize) -> i32) -> Option<String> {
    let mut buffer = vec![0_u8; 256];
    loop {
        let length = usize::try_from(read(buffer.as_mut_ptr().cast(), buffer.len())).ok()?;
        if length < buffer.len() {
            buffer.truncate(length);
            return Some(String::from_utf8_lossy(&buffer).into_owned());
        }
        buffer.resize(length + 1, 0);
    }
}
