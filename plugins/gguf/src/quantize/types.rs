//! Which type each tensor gets: llama.cpp's own choice, from a dry run of its quantizer on a file that has the header of
//! the model and nothing else.

use super::importance::ImportanceMatrix;
use super::settings::Settings;
use crate::engine::handle::{c_path, start_library};
use crate::engine::log;
use crate::gguf_file::{GgmlType, Header, Metadata, TensorSpec};
use llama_cpp_sys_2 as sys;
use pajamas_plugin_api::{Error, LogLevel, Result};
use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// What becomes of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decision {
    /// Its place in the list that was asked about.
    pub(super) tensor: usize,
    /// What it will be stored as.
    pub(super) ggml_type: GgmlType,
    /// What was meant for it, where its rows do not divide into the blocks of that.
    pub(super) meant: Option<GgmlType>,
}

/// Asks llama.cpp about a model of these `metadata` and `tensors`; gives decisions in the order in which its quantizer
/// writes. `scratch` is a folder that a small file is put into for the time.
///
/// # Errors
/// `InvalidModel` where llama.cpp does not know the model; `InvalidRequest` for overrides that it does not understand.
pub(super) fn decide(
    metadata: &Metadata,
    tensors: &[TensorSpec],
    file_type: sys::llama_ftype,
    settings: &Settings,
    importance: Option<&ImportanceMatrix>,
    scratch: &Path,
) -> Result<Vec<Decision>> {
    let path = scratch.join("header.gguf");
    write_hollow(metadata, tensors, &path)?;
    let lines = dry_run(&path, file_type, settings, importance);
    let removed = std::fs::remove_file(&path);
    let lines = lines?;
    removed.map_err(|error| Error::io("removing", &path, &error))?;
    read_decisions(&lines, tensors)
}

/// Writes a file that is as long as the model's would be, and has no blocks on the disk behind its header.
fn write_hollow(metadata: &Metadata, tensors: &[TensorSpec], path: &Path) -> Result<()> {
    let header = Header::new(metadata, tensors)?;
    let failed = |error: &std::io::Error| Error::io("writing", path, error);
    let mut file = File::create(path).map_err(|error| failed(&error))?;
    file.write_all(&header.bytes).map_err(|error| failed(&error))?;
    file.set_len(header.file_bytes).map_err(|error| failed(&error))
}

fn dry_run(
    path: &Path,
    file_type: sys::llama_ftype,
    settings: &Settings,
    importance: Option<&ImportanceMatrix>,
) -> Result<Vec<(LogLevel, String)>> {
    start_library();
    let input = c_path(path)?;
    let patterns = settings.patterns()?;
    let mut overrides: Vec<sys::llama_model_tensor_override> = patterns
        .iter()
        .map(|(pattern, ggml_type)| sys::llama_model_tensor_override { pattern: pattern.as_ptr(), type_: ggml_type.id })
        .collect();
    overrides.push(sys::llama_model_tensor_override { pattern: std::ptr::null(), type_: sys::GGML_TYPE_COUNT });
    let names: Vec<(CString, &[f32])> = match importance {
        Some(matrix) => {
            matrix.entries().filter_map(|(name, weights)| Some((CString::new(name).ok()?, weights))).collect()
        }
        None => Vec::new(),
    };
    let mut weights: Vec<sys::llama_model_imatrix_data> = names
        .iter()
        .map(|(name, weights)| sys::llama_model_imatrix_data {
            name: name.as_ptr(),
            data: weights.as_ptr(),
            size: weights.len(),
        })
        .collect();
    weights.push(sys::llama_model_imatrix_data { name: std::ptr::null(), data: std::ptr::null(), size: 0 });

    // SAFETY: gives a plain value.
    let mut parameters = unsafe { sys::llama_model_quantize_default_params() };
    parameters.nthread = 1;
    parameters.ftype = file_type;
    parameters.dry_run = true;
    parameters.pure_ = settings.pure;
    parameters.quantize_output_tensor = !settings.leave_output_tensor;
    if let Some(ggml_type) = settings.output_tensor_type {
        parameters.output_tensor_type = ggml_type.id;
    }
    if let Some(ggml_type) = settings.token_embedding_type {
        parameters.token_embedding_type = ggml_type.id;
    }
    if overrides.len() > 1 {
        parameters.tt_overrides = overrides.as_ptr();
    }
    if importance.is_some() {
        parameters.imatrix = weights.as_ptr();
    }
    let (status, lines) = log::capture(|| {
        // SAFETY: the paths are NUL-terminated, the lists end as llama.cpp wants them to, and everything that they point
        // to outlives the call. A dry run writes no file, so that the output's name is never opened.
        unsafe { sys::llama_model_quantize(input.as_ptr(), input.as_ptr(), &raw const parameters) }
    });
    if status == 0 {
        return Ok(lines);
    }
    let causes = log::reasons(&lines);
    // C++ libraries name the error or say it.
    let mut error = if causes.iter().any(|cause| cause.contains("regex") || cause.contains("regular expression")) {
        Error::invalid_request("llama.cpp does not understand the patterns of tensors' names")
            .with_hint("they are regular expressions as in JavaScript: `blk\\.[0-3]\\.ffn_down=Q6_K`")
    } else {
        Error::invalid_model("llama.cpp cannot say which types this model's tensors should have")
    };
    error.causes = causes;
    Err(error)
}

fn read_decisions(lines: &[(LogLevel, String)], tensors: &[TensorSpec]) -> Result<Vec<Decision>> {
    let by_name: HashMap<&str, usize> =
        tensors.iter().enumerate().map(|(index, tensor)| (tensor.name.as_str(), index)).collect();
    let mut meant: HashMap<usize, GgmlType> = HashMap::new();
    let mut decisions = Vec::with_capacity(tensors.len());
    for (_, line) in lines {
        if let Some((name, ggml_type)) = fallback(line)
            && let Some(tensor) = by_name.get(name)
        {
            meant.insert(*tensor, ggml_type);
        } else if let Some((name, to)) = decision(line)
            && let Some(tensor) = by_name.get(name)
        {
            let kept = tensors[*tensor].ggml_type;
            let ggml_type = to.map_or(Some(kept), GgmlType::from_name).ok_or_else(|| unread(line))?;
            let meant = meant.get(tensor).copied().filter(|meant| *meant != ggml_type);
            decisions.push(Decision { tensor: *tensor, ggml_type, meant });
        }
    }
    // Every tensor once: what is missing here would be missing in the file.
    let mut seen = vec![false; tensors.len()];
    decisions.iter().for_each(|decision| seen[decision.tensor] = true);
    match tensors.iter().zip(&seen).find(|(_, seen)| !**seen) {
        None if decisions.len() == tensors.len() => Ok(decisions),
        None => Err(unread("a tensor is named twice")),
        Some((tensor, _)) => Err(unread(&format!("nothing is said of {}", tensor.name))),
    }
}

fn unread(what: &str) -> Error {
    Error::other(format!("llama.cpp's plan could not be read: {what}"))
}

/// Reads `[  34/  50] blk.1.attn_q.weight - [ 128, 128, 1, 1], type = bf16, size = 0.03 MiB -> 0.02 MiB (q4_K)`: the name, and
/// the new type if there is one.
fn decision(line: &str) -> Option<(&str, Option<&str>)> {
    let (counts, rest) = line.trim_start().strip_prefix('[')?.split_once("] ")?;
    counts.split_once('/').filter(|(done, all)| [done, all].iter().all(|count| count.trim().parse::<u64>().is_ok()))?;
    let (name, rest) = rest.split_once(" - [")?;
    let to =
        rest.rsplit_once(" (").filter(|_| rest.contains(" -> ")).map(|(_, to)| to.trim_end().trim_end_matches(')'));
    Some((name.trim(), to))
}

/// Reads `warning: blk.0.a - ncols 192 not divisible by 256 (required for type q4_K) -> falling back to q5_0`: the tensor and
/// the type that was meant.
fn fallback(line: &str) -> Option<(&str, GgmlType)> {
    line.contains("falling back to").then_some(())?;
    let (before, after) = line.trim_start().trim_start_matches("warning:").split_once(" - ncols")?;
    let meant = after.split_once("required for type")?.1.split_once(')')?.0;
    Some((before.trim(), GgmlType::from_name(meant.trim())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str) -> TensorSpec {
        TensorSpec { name: name.into(), shape: vec![256, 2], ggml_type: GgmlType::BF16 }
    }

    fn lines(lines: &[&str]) -> Vec<(LogLevel, String)> {
        lines.iter().map(|line| (LogLevel::Info, (*line).to_owned())).collect()
    }

    #[test]
    fn decisions_and_fallbacks_are_read_from_the_log() {
        let log = lines(&[
            "llama_model_loader: loaded meta data",
            "warning: blk.0.ffn_down.weight             - ncols    192 not divisible by 256 (required for type    q4_K) -> falling back to    q5_0",
            "[   1/   2] blk.0.ffn_down.weight                - [  192,   128,     1,     1], type =   bf16, size =     0.09 MiB ->     0.03 MiB (q5_0)",
            "[   2/   2] output_norm.weight                   - [  256,     1,     1,     1], type =    f32, size =    0.001 MiB",
        ]);
        let decisions =
            read_decisions(&log, &[spec("output_norm.weight"), spec("blk.0.ffn_down.weight")]).expect("read");
        assert_eq!(
            decisions,
            [
                Decision { tensor: 1, ggml_type: GgmlType::Q5_0, meant: Some(GgmlType::Q4_K) },
                Decision { tensor: 0, ggml_type: GgmlType::BF16, meant: None },
            ]
        );
    }

    #[test]
    fn a_tensor_that_nothing_is_said_of_is_an_error() {
        let log = lines(&["[   1/   1] a - [ 256, 1, 1, 1], type = f32, size = 0.001 MiB"]);
        assert!(read_decisions(&log, &[spec("a"), spec("b")]).unwrap_err().message.contains("nothing is said of b"));
        for other in ["converting to q4_K .. ", "[a/b] c - [1]", "[1/2 x", ""] {
            assert_eq!(decision(other), None, "{other}");
        }
    }
}
