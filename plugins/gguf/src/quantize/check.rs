//! Checks before and after a file is made: room on the disk, completeness, and that llama.cpp reads the tokenizer as the
//! source's own does.

use crate::convert::verify_tokenizer;
use crate::engine::handle::ModelHandle;
use crate::engine::info::model_info;
use crate::engine::vocab::Vocab;
use crate::gguf_file::{GgufFile, Value};
use llama_cpp_sys_2 as sys;
use pajamas_hf_model::HfModel;
use pajamas_plugin_api::{CancelToken, Error, ErrorKind, Progress, Result};
use std::path::Path;
use std::sync::Arc;

/// An error where a file of `bytes` does not fit the disk that `output` will be on. A disk that says nothing passes.
pub(super) fn room(output: &Path, bytes: u64) -> Result<()> {
    let Some(Ok(free)) = output.parent().map(fs4::available_space) else { return Ok(()) };
    if free >= bytes {
        return Ok(());
    }
    let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(Error::new(
        ErrorKind::Io,
        format!(
            "`{}` will have {} MiB, and its disk has {} MiB left",
            output.display(),
            mebibytes(bytes),
            mebibytes(free)
        ),
    )
    .with_hint("free some space, or write elsewhere with `-o`"))
}

/// Reads the finished file's header and checks that nothing is missing behind it.
pub(super) fn complete(output: &Path) -> Result<()> {
    GgufFile::open(output)?.check_complete()
}

/// What the comparison of a finished file with its source's tokenizer came to.
pub(super) struct Checked {
    /// Texts that both read alike.
    pub(super) texts: u64,
    /// Things a user should know.
    pub(super) notes: Vec<String>,
}

/// Compares llama.cpp's tokens, from the finished file, with those of the source's own tokenizer, and what llama.cpp takes
/// for special tokens and for the chat template with what the file says.
///
/// # Errors
/// `InvalidModel` at the first difference.
pub(super) fn tokenizer(source: &HfModel, output: &Path, progress: &Progress, cancel: &CancelToken) -> Result<Checked> {
    progress.report("checking tokenizer", 0.0, "");
    // SAFETY: gives a plain value.
    let mut parameters = unsafe { sys::llama_model_default_params() };
    parameters.vocab_only = true;
    let model = Arc::new(ModelHandle::load(output, parameters, &Progress::default(), cancel)?);
    let vocab = Vocab::new(Arc::clone(&model))?;
    let tokenize = |text: &str, parse_special: bool| vocab.tokenize(text, false, parse_special);
    let files = source.tokenizer()?;
    let verified = verify_tokenizer::check(&files, &tokenize)?;
    let file = GgufFile::open(output)?;
    let number = |key: &str| file.metadata().get(key).and_then(Value::as_u64);
    for (key, found) in [("tokenizer.ggml.bos_token_id", vocab.bos()), ("tokenizer.ggml.eos_token_id", vocab.eos())] {
        let (stated, found) = (number(key), found.map(|token| u64::from(token.id)));
        if stated.is_some() && stated != found {
            return Err(Error::invalid_model(format!("llama.cpp takes {found:?} for {key}, the file says {stated:?}")));
        }
    }
    for role in ["padding", "seperator", "mask", "eot"] {
        let key = format!("tokenizer.ggml.{role}_token_id");
        let (stated, found) = (number(&key), vocab.role(role).map(u64::from));
        if stated.is_some() && stated != found {
            return Err(Error::invalid_model(format!("llama.cpp takes {found:?} for {key}, the file says {stated:?}")));
        }
    }
    let template = file.metadata().get("tokenizer.chat_template").and_then(Value::as_str);
    if template.map(str::to_owned) != model_info(&model, &vocab, 0).chat_templates.remove("default") {
        return Err(Error::invalid_model("llama.cpp reads another chat template than the source's"));
    }
    let mut notes = Vec::new();
    if verified.spaces_differ {
        notes.push("white space beside control tokens is read differently by llama.cpp and the source".into());
    }
    let ends = vocab.end_of_generation();
    let missed = source.eos_token_ids().into_iter().filter(|id| !ends.contains(id));
    let missed: Vec<String> = missed.map(|id| id.to_string()).collect();
    if !missed.is_empty() {
        notes.push(format!(
            "the source ends a text at token {}, llama.cpp does not: answers may run on",
            missed.join(", ")
        ));
    }
    progress.report("checking tokenizer", 1.0, "");
    Ok(Checked { texts: verified.checked, notes })
}
