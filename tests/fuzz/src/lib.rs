//! What the fuzz targets share: an allocator with a limit, and the checks that every refusal has to pass.

use pajamas_plugin_api::{ErrorKind, Result};
use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};

/// The most bytes that may be allocated at one time, whatever a file claims.
const LIVE_BYTES_MAX: usize = 512 << 20;

/// Ends the process, as a finding, where an input makes the code ask for too much. libFuzzer's own limit is on memory
/// that is touched; a claim that is believed shows in what is asked for.
struct Limited;

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Limited = Limited;

impl Limited {
    fn count(bytes: usize) {
        let live = LIVE_BYTES.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if live > LIVE_BYTES_MAX {
            // The message itself may allocate.
            LIVE_BYTES.store(0, Ordering::Relaxed);
            eprintln!("{bytes} bytes were asked for, {live} in all; at most {LIVE_BYTES_MAX} are allowed");
            std::process::abort();
        }
    }
}

// SAFETY: every call goes on to the system's allocator with its arguments unchanged.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may exist for a moment.
        Self::count(size);
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// The file that error messages have to name.
pub fn path() -> &'static Path {
    Path::new("some/file")
}

/// What was read from [`path`]; or nothing, once the refusal has been looked at.
///
/// # Panics
///
/// As [`accepted_in`].
pub fn accepted<T>(result: Result<T>) -> Option<T> {
    accepted_in(path(), result)
}

/// What was read from `path`, or from a folder of that name; or nothing, once the refusal has been looked at.
///
/// # Panics
///
/// Where the refusal does not blame the model, or does not name the file.
pub fn accepted_in<T>(path: &Path, result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(matches!(error.kind, ErrorKind::InvalidModel | ErrorKind::Unsupported), "{error:?}");
            assert!(error.message.contains(&*path.to_string_lossy()), "{error:?}");
            None
        }
    }
}

/// Runs `body`, which may catch the panics of a library that it calls: libFuzzer's own hook would end the process first.
/// A panic that nobody catches ends it still.
pub fn with_caught_panics(body: impl FnOnce()) {
    static HOOK: Once = Once::new();
    static LAST: Mutex<String> = Mutex::new(String::new());
    let last = || LAST.lock().unwrap_or_else(PoisonError::into_inner);
    HOOK.call_once(|| std::panic::set_hook(Box::new(move |panic| *last() = panic.to_string())));
    if catch_unwind(AssertUnwindSafe(body)).is_err() {
        eprintln!("{}", last());
        std::process::abort();
    }
}

/// Splits off the first eight bytes of `input`: the size that the file is said to have.
pub fn claimed_size(input: &[u8]) -> Option<(u64, &[u8])> {
    let (size, file) = input.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*size), file))
}
