//! Where llama.cpp's log goes: to the host, line by line, and to whoever on the same thread waits for an explanation.

use llama_cpp_sys_2 as sys;
use pajamas_plugin_api::{LogLevel, host};
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The log target under which the host sees llama.cpp's lines.
const TARGET: &str = "llama.cpp";

/// A line of the log is cut here; llama.cpp prints whole chat templates into single lines.
const LINE_BYTES_MAX: usize = 64 * 1024;

type Observer<'a> = dyn FnMut(LogLevel, &str) + 'a;

thread_local! {
    /// The line being written on this thread: llama.cpp writes lines in pieces, each thread its own.
    static LINE: RefCell<(LogLevel, String)> = const { RefCell::new((LogLevel::Debug, String::new())) };
    /// The innermost observer of this thread, valid while the `observe` that set it runs.
    static OBSERVER: Cell<Option<*mut Observer<'static>>> = const { Cell::new(None) };
}

/// Sends llama.cpp's and ggml's log here. Call it once, before anything else of llama.cpp.
pub(crate) fn install() {
    // SAFETY: called once, before any other thread can be inside llama.cpp; the callback needs no user data.
    unsafe { sys::llama_log_set(Some(on_log), std::ptr::null_mut()) };
    // SAFETY: the callback only logs; ggml aborts after it.
    unsafe { sys::ggml_set_abort_callback(Some(on_abort)) };
}

/// Runs `body` and collects what llama.cpp logs on this thread meanwhile. Its errors reach the host's log at the debug
/// level only, because the caller turns them into an error of its own.
pub(crate) fn capture<R>(body: impl FnOnce() -> R) -> (R, Vec<(LogLevel, String)>) {
    let mut lines = Vec::new();
    let mut on_line = |level: LogLevel, line: &str| lines.push((level, line.to_owned()));
    let result = observe(&mut on_line, body);
    (result, lines)
}

/// Runs `body` with `observer` seeing the log of this thread, line by line.
fn observe<R>(observer: &mut Observer<'_>, body: impl FnOnce() -> R) -> R {
    /// Puts the outer observer back, on an unwind too.
    struct Restore(Option<*mut Observer<'static>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            OBSERVER.set(self.0);
        }
    }
    let pointer: *mut Observer<'_> = observer;
    // SAFETY: only the lifetime is changed; `Restore` takes the pointer out of the thread's cell before it ends.
    let pointer = unsafe { std::mem::transmute::<*mut Observer<'_>, *mut Observer<'static>>(pointer) };
    let _restore = Restore(OBSERVER.replace(Some(pointer)));
    body()
}

/// The reasons that llama.cpp gave in `lines` for a failure: its error lines, or its last warnings.
pub(crate) fn reasons(lines: &[(LogLevel, String)]) -> Vec<String> {
    let at = |wanted: LogLevel| -> Vec<String> {
        lines.iter().filter(|(level, _)| *level == wanted).map(|(_, line)| tidy(line)).collect()
    };
    let mut found = at(LogLevel::Error);
    if found.is_empty() {
        found = at(LogLevel::Warn);
    }
    found.retain(|line| !line.is_empty());
    found.dedup();
    // The last lines say what failed; the first ones of a long list say why. Both fit.
    if found.len() > 6 {
        found.drain(3..found.len() - 3);
    }
    found
}

/// Whether llama.cpp's `lines` speak of memory that could not be had.
pub(crate) fn speaks_of_memory(lines: &[(LogLevel, String)]) -> bool {
    const SIGNS: [&str; 6] = [
        "failed to allocate",
        "unable to allocate",
        "out of memory",
        "cudaMalloc failed",
        "bad_alloc",
        "OutOfDeviceMemory",
    ];
    lines.iter().any(|(_, line)| SIGNS.iter().any(|sign| line.contains(sign)))
}

/// A line without the name of the C++ function that wrote it.
fn tidy(line: &str) -> String {
    let line = line.trim();
    match line.split_once(": ") {
        Some((name, rest)) if !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_') => rest.into(),
        _ => line.into(),
    }
}

unsafe extern "C" fn on_log(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: ggml hands over a NUL-terminated string that lives during this call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let _ = catch_unwind(AssertUnwindSafe(|| take(level, &text)));
}

unsafe extern "C" fn on_abort(message: *const c_char) {
    if !message.is_null() {
        // SAFETY: ggml hands over a NUL-terminated string that lives during this call.
        let message = unsafe { CStr::from_ptr(message) }.to_string_lossy();
        let _ = catch_unwind(|| host().log(LogLevel::Error, TARGET, message.trim()));
    }
}

/// Takes a piece of log.
fn take(level: sys::ggml_log_level, text: &str) {
    let level = match level {
        sys::GGML_LOG_LEVEL_ERROR => Some(LogLevel::Error),
        sys::GGML_LOG_LEVEL_WARN => Some(LogLevel::Warn),
        sys::GGML_LOG_LEVEL_INFO => Some(LogLevel::Debug),
        sys::GGML_LOG_LEVEL_DEBUG => Some(LogLevel::Trace),
        // A continuation has the level of the line that it continues.
        _ => None,
    };
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, ended) = match rest.split_once('\n') {
            Some((piece, after)) => {
                rest = after;
                (piece, true)
            }
            None => (std::mem::take(&mut rest), false),
        };
        let line = LINE.with_borrow_mut(|(line_level, line)| {
            if let Some(level) = level {
                // A warning inside a line makes the line one (`LogLevel` counts down in severity).
                *line_level = if line.is_empty() { level } else { (*line_level).min(level) };
            }
            if line.len() + piece.len() <= LINE_BYTES_MAX {
                line.push_str(piece);
            }
            ended.then(|| (*line_level, std::mem::take(line)))
        });
        if let Some((level, line)) = line {
            finish_line(level, line.trim_end());
        }
    }
}

fn finish_line(level: LogLevel, line: &str) {
    // Loading draws its progress in dots.
    if line.trim_matches('.').trim().is_empty() {
        return;
    }
    let observed = OBSERVER.get().is_some();
    tell(level, line);
    host().log(if observed { level.max(LogLevel::Debug) } else { level }, TARGET, line);
}

fn tell(level: LogLevel, line: &str) {
    // Taken out for the call, so that an observer that makes llama.cpp log is not entered twice.
    let Some(observer) = OBSERVER.take() else { return };
    // SAFETY: the pointer is of this thread's innermost `observe`, which is still running, and nobody else holds it
    // now, because it was taken out of the cell.
    unsafe { (*observer)(level, line) };
    OBSERVER.set(Some(observer));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_joined_from_pieces_and_get_the_gravest_level() {
        let ((), lines) = capture(|| {
            take(sys::GGML_LOG_LEVEL_INFO, "load: one");
            take(sys::GGML_LOG_LEVEL_CONT, ".....");
            take(sys::GGML_LOG_LEVEL_CONT, "\nload: two\nthr");
            take(sys::GGML_LOG_LEVEL_WARN, "ee\n......\n");
        });
        let expected = [(LogLevel::Debug, "load: one....."), (LogLevel::Debug, "load: two"), (LogLevel::Warn, "three")];
        assert_eq!(lines.len(), expected.len());
        for (line, (level, text)) in lines.iter().zip(expected) {
            assert!(line.0 == level && line.1 == text, "{}", line.1);
        }
    }

    #[test]
    fn reasons_are_the_error_lines_without_function_names() {
        let lines =
            vec![(LogLevel::Warn, "w".into()), (LogLevel::Error, "llama_model_load: error loading model: no".into())];
        assert_eq!(reasons(&lines), ["error loading model: no"]);
        assert_eq!(reasons(&lines[..1]), ["w"]);
    }
}
