//! A GGUF file, or the first of a model in several parts, into a description.

use super::{Description, Tally, text};
use crate::error::{Error, Result};
use pajamas_gguf_file::{FileType, GgufFile, Metadata, Value};
use std::path::{Path, PathBuf};

pub(super) fn describe(path: &Path) -> Result<Description> {
    let file = open(path)?;
    let mut tally = Tally::default();
    let mut description = Description { weights_bytes: Some(0), parameter_count: Some(0), ..read(file.metadata()) };
    add_tensors(&file, &mut description, &mut tally);
    for part in other_parts(&file)? {
        add_tensors(&open(&part)?, &mut description, &mut tally);
    }
    description.tensor_types = tally.finish();
    let named = file.metadata().get("general.file_type").and_then(Value::as_u64);
    let named = named.and_then(|id| FileType::from_id(u32::try_from(id).ok()?)).map(|file_type| file_type.name);
    let dominant = description.tensor_types.first().map(|tensors| tensors.name.as_str());
    description.quantization = named.or(dominant).map(ToOwned::to_owned);
    Ok(description)
}

fn open(path: &Path) -> Result<GgufFile> {
    let file = GgufFile::open(path)?;
    file.check_complete()?;
    Ok(file)
}

fn add_tensors(file: &GgufFile, description: &mut Description, tally: &mut Tally) {
    description.size_bytes += file.file_bytes();
    let (mut bytes, mut count) = (0_u64, 0_u64);
    for tensor in file.tensors() {
        tally.add(tensor.ggml_type.name, tensor.size_bytes);
        bytes = bytes.saturating_add(tensor.size_bytes);
        count = count.saturating_add(tensor.shape.iter().fold(1, |product: u64, size| product.saturating_mul(*size)));
    }
    description.weights_bytes = description.weights_bytes.map(|sum| sum.saturating_add(bytes));
    description.parameter_count = description.parameter_count.map(|sum| sum.saturating_add(count));
}

/// The other parts of a model whose first is `NAME-00001-of-00003.gguf`.
fn other_parts(file: &GgufFile) -> Result<Vec<PathBuf>> {
    let count = file.metadata().get("split.count").and_then(Value::as_u64).unwrap_or(1);
    let name = file.path().file_name().unwrap_or_default().to_string_lossy();
    let Some(stem) = name.strip_suffix(&format!("-00001-of-{count:05}.gguf")).filter(|_| count > 1) else {
        return Ok(Vec::new());
    };
    let part = |number| {
        let path = file.path().with_file_name(format!("{stem}-{number:05}-of-{count:05}.gguf"));
        if path.is_file() {
            return Ok(path);
        }
        let hint = "fetch it into the same folder".into();
        Err(Error::Invalid { path, message: format!("part {number} of {count} is missing"), hint })
    };
    // The first one that is missing ends it, whatever the count claims.
    (2..=count).map(part).collect()
}

fn read(metadata: &Metadata) -> Description {
    let string = |key: &str| metadata.get(key).and_then(Value::as_str).and_then(text);
    let architecture = string("general.architecture");
    let prefix = architecture.clone().unwrap_or_default();
    let value = |key: &str| metadata.get(&format!("{prefix}.{key}"));
    let number = |key: &str| value(key).and_then(Value::as_u64);
    let (layers, hidden) = (number("block_count"), number("embedding_length"));
    // Some architectures have other numbers of heads in each layer.
    let heads = value("attention.head_count").and_then(per_layer);
    let kv_heads = value("attention.head_count_kv").and_then(per_layer).or_else(|| heads.clone());
    let greatest = |numbers: &Option<Vec<u64>>| numbers.as_ref()?.iter().copied().max();
    let head_count = greatest(&heads);
    let own_size = || Some(hidden? / head_count.filter(|count| *count > 0)?);
    let key_size = number("attention.key_length").or_else(own_size);
    let value_size = number("attention.value_length").or_else(own_size);
    let kv_head_sum = kv_heads.as_ref().and_then(|counts| match counts.as_slice() {
        [one] => one.checked_mul(layers?),
        counts => {
            Some(counts.iter().take(usize::try_from(layers?).ok()?).fold(0, |sum: u64, n| sum.saturating_add(*n)))
        }
    });
    let tokenizer = string("tokenizer.ggml.model").map(|model| match string("tokenizer.ggml.pre") {
        Some(pre) => format!("{model} ({pre})"),
        None => model,
    });
    Description {
        name: string("general.name"),
        layer_count: layers,
        hidden_size: hidden,
        head_count,
        kv_head_count: greatest(&kv_heads),
        head_size: key_size,
        kv_values_per_token: kv_head_sum.and_then(|sum| sum.checked_mul(key_size?.checked_add(value_size?)?)),
        vocabulary_size: number("vocab_size")
            .or_else(|| Some(metadata.get("tokenizer.ggml.tokens")?.as_array()?.len() as u64)),
        context_length_trained: number("context_length"),
        tokenizer,
        chat_template: string("tokenizer.chat_template").is_some(),
        license: string("general.license").or_else(|| string("general.license.name")),
        architecture,
        ..Description::default()
    }
}

/// A number for all layers, or one for each.
fn per_layer(value: &Value) -> Option<Vec<u64>> {
    match value.as_array() {
        Some(items) => items.iter().map(Value::as_u64).collect(),
        None => Some(vec![value.as_u64()?]),
    }
}
