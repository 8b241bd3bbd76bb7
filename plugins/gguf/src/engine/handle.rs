//! Owners of llama.cpp's model and context, the loading of a model, and the one-time start of the library.

use super::log;
use super::stream::{ReadAt, Stream};
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_sys_2 as sys;
use pajamas_plugin_api::{CancelToken, Error, ErrorKind, Progress, Result};
use std::ffi::{CString, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::OnceLock;

/// Starts llama.cpp, once per process; cheap afterwards.
pub(crate) fn start_library() {
    static STARTED: OnceLock<Option<LlamaBackend>> = OnceLock::new();
    STARTED.get_or_init(|| {
        log::install();
        // It fails only where somebody else in this library has started it: then it runs already.
        LlamaBackend::init().ok()
    });
}

/// A loaded model. Read-only after loading, so it may be shared among threads.
pub(crate) struct ModelHandle(NonNull<sys::llama_model>);

// SAFETY: llama.cpp changes a model only while loading it and through contexts' adapters, which are not used here.
unsafe impl Send for ModelHandle {}
// SAFETY: as above; everything that takes a `ModelHandle` here only reads it.
unsafe impl Sync for ModelHandle {}

impl ModelHandle {
    /// Loads the file at `path` with `parameters`, whose progress callback is set here.
    ///
    /// # Errors
    /// `Cancelled`; `OutOfMemory` and `InvalidModel` with what llama.cpp logged as causes.
    pub(crate) fn load(
        path: &Path,
        parameters: sys::llama_model_params,
        progress: &Progress,
        cancel: &CancelToken,
    ) -> Result<Self> {
        let file = c_path(path)?;
        Self::load_with(path, parameters, progress, cancel, |parameters| {
            // SAFETY: the path is NUL-terminated; what `parameters` points to outlives the call.
            unsafe { sys::llama_model_load_from_file(file.as_ptr(), parameters) }
        })
    }

    /// Loads the GGUF file whose bytes `source` gives, called `path` in errors. Nothing of it can be mapped, so the
    /// weights are copied.
    ///
    /// # Errors
    /// As [`ModelHandle::load`], and those of `source`.
    pub(crate) fn load_bytes(
        path: &Path,
        source: &mut dyn ReadAt,
        mut parameters: sys::llama_model_params,
        progress: &Progress,
        cancel: &CancelToken,
    ) -> Result<Self> {
        parameters.load_mode = match parameters.load_mode {
            sys::LLAMA_LOAD_MODE_MLOCK | sys::LLAMA_LOAD_MODE_MMAP_MLOCK => sys::LLAMA_LOAD_MODE_MLOCK,
            _ => sys::LLAMA_LOAD_MODE_NONE,
        };
        // It maps too.
        parameters.lazy_mode = sys::LLAMA_LAZY_MODE_OFF;
        let mut stream = Stream::open(source)?;
        let model = Self::load_with(path, parameters, progress, cancel, |parameters| {
            // SAFETY: the stream is open at its beginning; it and what `parameters` points to outlive the call, and
            // llama.cpp keeps nothing of a stream that it does not map.
            unsafe { sys::llama_model_load_from_file_ptr(stream.as_ptr(), parameters) }
        });
        match stream.take_failure() {
            // llama.cpp knows only that it could not read.
            Some(error) => Err(error),
            None => model,
        }
    }

    fn load_with(
        path: &Path,
        mut parameters: sys::llama_model_params,
        progress: &Progress,
        cancel: &CancelToken,
        load: impl FnOnce(sys::llama_model_params) -> *mut sys::llama_model,
    ) -> Result<Self> {
        start_library();
        let mut watch = LoadWatch { progress, cancel, cancelled: false };
        // `watch` lives until `load` has returned.
        parameters.progress_callback = Some(on_progress);
        parameters.progress_callback_user_data = (&raw mut watch).cast();
        let (model, lines) = log::capture(|| NonNull::new(load(parameters)));
        match model {
            Some(model) => Ok(Self(model)),
            None if watch.cancelled => Err(Error::cancelled()),
            None => {
                let (kind, what) = if log::speaks_of_memory(&lines) {
                    (ErrorKind::OutOfMemory, "does not fit into memory")
                } else {
                    (ErrorKind::InvalidModel, "could not be loaded")
                };
                let mut error = Error::new(kind, format!("`{}` {what}", path.display()));
                error.causes = log::reasons(&lines);
                Err(error)
            }
        }
    }

    /// For llama.cpp's functions that only read.
    pub(crate) fn as_ptr(&self) -> *mut sys::llama_model {
        self.0.as_ptr()
    }
}

impl Drop for ModelHandle {
    fn drop(&mut self) {
        // SAFETY: it is owned here, and every context made from it holds this handle, so none is left.
        unsafe { sys::llama_model_free(self.0.as_ptr()) }
    }
}

/// A context: the KV cache and the compute buffers of a model.
pub(crate) struct ContextHandle(NonNull<sys::llama_context>);

// SAFETY: a context belongs to no thread; it must only not be used by two at once, and it is not `Sync`.
unsafe impl Send for ContextHandle {}

impl ContextHandle {
    /// A context of `model` with `parameters`, with what llama.cpp logged meanwhile; none if it failed.
    ///
    /// # Safety
    /// The context must be dropped before `model`, and whatever `parameters` points to must outlive it.
    pub(crate) unsafe fn new(
        model: &ModelHandle,
        parameters: sys::llama_context_params,
    ) -> (Option<Self>, Vec<(pajamas_plugin_api::LogLevel, String)>) {
        log::capture(|| {
            // SAFETY: the model is loaded; the rest is the caller's promise.
            NonNull::new(unsafe { sys::llama_init_from_model(model.as_ptr(), parameters) }).map(Self)
        })
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::llama_context {
        self.0.as_ptr()
    }
}

impl Drop for ContextHandle {
    fn drop(&mut self) {
        // SAFETY: it is owned here and nothing else keeps it.
        unsafe { sys::llama_free(self.0.as_ptr()) }
    }
}

/// A path as llama.cpp wants it.
///
/// # Errors
/// `InvalidRequest` for a path that cannot be said in C.
pub(crate) fn c_path(path: &Path) -> Result<CString> {
    #[cfg(unix)]
    let bytes = Some(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()));
    #[cfg(not(unix))]
    let bytes = path.to_str().map(str::as_bytes);
    bytes
        .and_then(|bytes| CString::new(bytes).ok())
        .ok_or_else(|| Error::invalid_request(format!("llama.cpp cannot open a path like `{}`", path.display())))
}

struct LoadWatch<'a, 'p> {
    progress: &'a Progress<'p>,
    cancel: &'a CancelToken,
    cancelled: bool,
}

unsafe extern "C" fn on_progress(fraction: f32, watch: *mut c_void) -> bool {
    // SAFETY: `load_with` passes its `LoadWatch`, which lives during the call, and llama.cpp calls back on that thread.
    let watch = unsafe { &mut *watch.cast::<LoadWatch<'_, '_>>() };
    let go_on = catch_unwind(AssertUnwindSafe(|| {
        watch.progress.report("loading", fraction, "");
        !watch.cancel.is_cancelled()
    }))
    .unwrap_or(false);
    watch.cancelled |= !go_on;
    go_on
}
