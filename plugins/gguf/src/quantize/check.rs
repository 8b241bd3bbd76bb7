//! Checks before and after a file is made: room on the disk, completeness, and that llama.cpp reads the tokenizer as the
//! source's own does.

use crate::convert::verify_tokenizer;
use crate::engine::handle::ModelHandle;
use crate::engine::vocab::Vocab;
use crate::gguf_file::GgufFile;
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

/// Compares llama.cpp's tokens, from the finished file, with those of the source's own tokenizer; gives how many texts.
pub(super) fn tokenizer(source: &HfModel, output: &Path, progress: &Progress, cancel: &CancelToken) -> Result<u64> {
    progress.report("checking tokenizer", 0.0, "");
    let tokenizer = source.load_tokenizer()?;
    let vocab = vocabulary(output, cancel)?;
    let checked =
        verify_tokenizer::check(&tokenizer, &|text, parse_special| vocab.tokenize(text, false, parse_special))?;
    progress.report("checking tokenizer", 1.0, "");
    Ok(checked)
}

/// Notes on tokens that end a text for the source and not for llama.cpp.
pub(super) fn special_tokens(source: &HfModel, output: &Path, cancel: &CancelToken) -> Result<Vec<String>> {
    let ends = vocabulary(output, cancel)?.end_of_generation();
    let missed: Vec<String> =
        source.eos_token_ids().iter().filter(|id| !ends.contains(id)).map(u32::to_string).collect();
    if missed.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "the model's configuration ends a text at token {}, llama.cpp does not: answers may run on",
        missed.join(", ")
    )])
}

fn vocabulary(output: &Path, cancel: &CancelToken) -> Result<Vocab> {
    // SAFETY: gives a plain value.
    let mut parameters = unsafe { sys::llama_model_default_params() };
    parameters.vocab_only = true;
    Vocab::new(Arc::new(ModelHandle::load(output, parameters, &Progress::default(), cancel)?))
}
