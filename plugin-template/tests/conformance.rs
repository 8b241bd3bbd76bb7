//! The rules that every plugin keeps, checked on the library that cargo built. `cargo test --test conformance` runs them,
//! with a part of a rule's name behind `--` one of them.

use ngram::Ngram;
use pajamas_plugin_api::*;
use std::path::{Path, PathBuf};

fn main() -> std::process::ExitCode {
    conformance::Kit::new("ngram").model(model).run()
}

/// A small model for the rules that need one. Yours may as well be a file that lies here.
fn model() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).ok()?;
    let (source, output) = (folder.join("corpus.txt"), folder.join("corpus-f32.ngram"));
    std::fs::write(&source, include_str!("corpus.txt")).ok()?;
    let mut job = QuantizeJob::new(source, "f32", &output, &folder);
    job.source_format = "txt".into();
    Ngram.quantizer()?.quantize(&job, &Progress::default(), &CancelToken::never()).ok()?;
    Some(output)
}
