//! One run of llama.cpp's quantizer: its progress and its fallbacks are read from its log, and its log is where it can
//! be interrupted.

use crate::engine::handle::{c_path, start_library};
use crate::engine::log::{self, LogEvent};
use llama_cpp_sys_2 as sys;
use pajamas_plugin_api::{CancelToken, Error, ErrorKind, LogLevel, Progress, Result};
use std::collections::BTreeMap;
use std::ffi::c_char;
use std::ops::ControlFlow;
use std::path::Path;

unsafe extern "C-unwind" {
    /// llama.cpp's quantizer, declared so that an interruption may leave it: it is C++ all the way to the log.
    fn llama_model_quantize(
        input: *const c_char,
        output: *const c_char,
        parameters: *const sys::llama_model_quantize_params,
    ) -> u32;
}

/// What to make.
pub(super) struct Run<'a> {
    /// A complete GGUF file that is not quantized.
    pub(super) input: &'a Path,
    /// A path that does not exist yet.
    pub(super) output: &'a Path,
    pub(super) file_type: sys::llama_ftype,
    pub(super) threads: u32,
    pub(super) leave_output_tensor: bool,
    /// Text to store in the output's metadata.
    pub(super) metadata: &'a BTreeMap<String, String>,
}

impl Run<'_> {
    /// Quantizes; gives notes for the user. Blocks; `cancel` is polled once per tensor.
    ///
    /// # Errors
    /// `Cancelled`, `OutOfMemory`, `Io`, and `Other` with llama.cpp's reasons.
    pub(super) fn execute(&self, progress: &Progress, cancel: &CancelToken) -> Result<Vec<String>> {
        start_library();
        let (input, output) = (c_path(self.input)?, c_path(self.output)?);
        let mut notes = Vec::new();
        let overrides = overrides(self.metadata, &mut notes);
        // SAFETY: gives a plain value.
        let mut parameters = unsafe { sys::llama_model_quantize_default_params() };
        parameters.nthread = i32::try_from(self.threads.clamp(1, 512)).unwrap_or(1);
        parameters.ftype = self.file_type;
        parameters.quantize_output_tensor = !self.leave_output_tensor;
        if !self.metadata.is_empty() {
            parameters.kv_overrides = overrides.as_ptr();
        }

        let mut lines = Vec::new();
        let mut on_event = |event: LogEvent<'_>| {
            match event {
                LogEvent::Chunk(chunk) => {
                    if let Some((done, total, tensor)) = tensor_begun(chunk) {
                        if cancel.is_cancelled() {
                            return ControlFlow::Break(());
                        }
                        progress.report("quantizing", done as f32 / total as f32, tensor);
                    }
                }
                LogEvent::Line(level, line) => {
                    // One line per tensor is no reason for anything.
                    if level < LogLevel::Debug {
                        lines.push((level, line.to_owned()));
                    }
                }
            }
            ControlFlow::Continue(())
        };
        let status = log::observe_interruptible(&mut on_event, || {
            // SAFETY: the paths are NUL-terminated, and the overrides end with an empty key and outlive the call. An
            // interruption unwinds C++ frames only, from a line that the main loop writes with no worker running.
            unsafe { llama_model_quantize(input.as_ptr(), output.as_ptr(), &raw const parameters) }
        });
        match status {
            None => Err(Error::cancelled()),
            Some(0) => {
                cancel.check()?;
                progress.report("quantizing", 1.0, "");
                notes.extend(fallback_notes(&lines));
                Ok(notes)
            }
            Some(_) => Err(self.failure(&lines)),
        }
    }

    fn failure(&self, lines: &[(LogLevel, String)]) -> Error {
        // What the C++ library says of a stream that could not be written.
        let writing = lines.iter().any(|(_, line)| line.contains("iostream") || line.contains("basic_ios"));
        let mut error = if log::speaks_of_memory(lines) {
            Error::new(ErrorKind::OutOfMemory, format!("not enough memory to quantize `{}`", self.input.display()))
        } else if writing {
            Error::new(ErrorKind::Io, format!("writing `{}` failed", self.output.display()))
                .with_hint("see whether the disk is full: df -h")
        } else {
            Error::other(format!("llama.cpp could not quantize `{}`", self.input.display()))
        };
        error.causes = log::reasons(lines);
        error
    }
}

/// Reads `[  34/  50] blk.1.attn_q.weight - [ 128, …`: tensors done before this one, all tensors, its name.
fn tensor_begun(chunk: &str) -> Option<(u64, u64, &str)> {
    let (counts, rest) = chunk.trim_start().strip_prefix('[')?.split_once(']')?;
    let (current, total) = counts.split_once('/')?;
    let (current, total): (u64, u64) = (current.trim().parse().ok()?, total.trim().parse().ok()?);
    let name = rest.split_whitespace().next()?;
    (total > 0).then(|| (current.saturating_sub(1), total, name))
}

/// Says which tensors could not have the type that was meant for them.
fn fallback_notes(lines: &[(LogLevel, String)]) -> Vec<String> {
    let mut by_type: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (_, line) in lines {
        let Some((before, fallback)) = line.split_once("falling back to") else { continue };
        let tensor = before.trim().trim_start_matches("warning:").split_whitespace().next().unwrap_or("?");
        by_type.entry(fallback.trim()).or_default().push(tensor);
    }
    by_type
        .into_iter()
        .map(|(fallback, tensors)| {
            let (noun, verb) = if tensors.len() == 1 { ("tensor has", "is") } else { ("tensors have", "are") };
            format!(
                "{} {noun} rows that do not divide into the blocks of the type meant for them and {verb} stored as \
                 {fallback}, which is larger (the first is {})",
                tensors.len(),
                tensors[0],
            )
        })
        .collect()
}

/// llama.cpp's array of metadata to set, ended by an entry without a key. Its texts have room for 127 bytes.
fn overrides(metadata: &BTreeMap<String, String>, notes: &mut Vec<String>) -> Vec<sys::llama_model_kv_override> {
    let mut entries = Vec::new();
    for (key, value) in metadata {
        let (Some(key_bytes), (value_bytes, cut)) = (fixed(key), fixed_start(value)) else {
            notes.push(format!("metadata key `{key}` is too long for llama.cpp and was left out"));
            continue;
        };
        if cut {
            notes.push(format!("metadata `{key}` is cut after 127 bytes, all that llama.cpp takes"));
        }
        entries.push(sys::llama_model_kv_override {
            tag: sys::LLAMA_KV_OVERRIDE_TYPE_STR,
            key: key_bytes,
            __bindgen_anon_1: sys::llama_model_kv_override__bindgen_ty_1 { val_str: value_bytes },
        });
    }
    entries.push(sys::llama_model_kv_override {
        tag: sys::LLAMA_KV_OVERRIDE_TYPE_STR,
        key: [0; 128],
        __bindgen_anon_1: sys::llama_model_kv_override__bindgen_ty_1 { val_str: [0; 128] },
    });
    entries
}

/// `text` as a NUL-terminated array; none if it does not fit or has a NUL inside.
fn fixed(text: &str) -> Option<[c_char; 128]> {
    let (bytes, cut) = fixed_start(text);
    (!cut && !text.is_empty()).then_some(bytes)
}

/// As much of `text` as fits, in whole characters, and whether any was cut.
fn fixed_start(text: &str) -> ([c_char; 128], bool) {
    let mut end = text.find('\0').unwrap_or(text.len()).min(127);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = [0; 128];
    for (to, from) in bytes.iter_mut().zip(&text.as_bytes()[..end]) {
        *to = *from as c_char;
    }
    (bytes, end < text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_the_log() {
        let chunk = "[  34/  50] blk.1.attn_q.weight                  - [  128,   128,     1,     1], type =   bf16, ";
        assert_eq!(tensor_begun(chunk), Some((33, 50, "blk.1.attn_q.weight")));
        for other in ["converting to q4_K .. ", "[a/b] c", "[1/0] x", "[]", ""] {
            assert_eq!(tensor_begun(other), None, "{other}");
        }
    }

    #[test]
    fn fallbacks_are_summed_up_by_type() {
        let line = |name: &str| {
            let text = format!(
                "warning: {name} - ncols    192 not divisible by 256 (required for type q4_K) -> falling back to    q5_0"
            );
            (LogLevel::Warn, text)
        };
        let notes = fallback_notes(&[line("blk.0.a"), line("blk.1.a")]);
        assert_eq!(notes.len(), 1);
        assert!(notes[0].starts_with("2 tensors have") && notes[0].contains("q5_0") && notes[0].contains("blk.0.a"));
    }

    #[test]
    fn metadata_is_cut_at_whole_characters_and_said() {
        let long = "ä".repeat(100);
        let metadata = BTreeMap::from([("pajamas.a".to_owned(), "x".to_owned()), ("pajamas.b".to_owned(), long)]);
        let mut notes = Vec::new();
        let entries = overrides(&metadata, &mut notes);
        assert_eq!((entries.len(), entries[2].key[0], notes.len()), (3, 0, 1));
        // SAFETY: the entry was made with its text set.
        let value = unsafe { entries[1].__bindgen_anon_1.val_str };
        assert_eq!(value.iter().position(|byte| *byte == 0), Some(126));
    }
}
