//! A C stream over bytes that are made when they are asked for, so that llama.cpp can read a file that does not exist.

use pajamas_plugin_api::{Error, Result};
use std::any::Any;
use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;

/// C's `FILE`, as the bindings have it.
type CFile = c_void;

/// Bytes of the stream's buffer, and the most that one call of the C library is answered with.
const BUFFER_BYTES: usize = 256 << 10;

/// Bytes that can be read from any position.
pub(crate) trait ReadAt {
    /// How many there are.
    fn size_bytes(&self) -> u64;

    /// Fills the beginning of `buffer` with the bytes from `position` on; gives how many, 0 at the end only.
    fn read_at(&mut self, position: u64, buffer: &mut [u8]) -> Result<usize>;
}

impl ReadAt for crate::convert::View<'_> {
    fn size_bytes(&self) -> u64 {
        self.file_bytes()
    }

    fn read_at(&mut self, position: u64, buffer: &mut [u8]) -> Result<usize> {
        crate::convert::View::read_at(self, position, buffer)
    }
}

/// A `FILE *` that reads from a [`ReadAt`]. Closed when dropped.
pub(crate) struct Stream<'a> {
    file: NonNull<CFile>,
    /// Owned; a pointer because the C library holds it too.
    state: NonNull<State<'a>>,
    /// The C library's. Its own is so small that reading through it takes minutes.
    _buffer: Vec<u8>,
}

struct State<'a> {
    source: &'a mut dyn ReadAt,
    position: u64,
    failure: Option<Failure>,
}

/// Why a read failed. C only gets to know that it did.
enum Failure {
    Error(Error),
    Panic(Box<dyn Any + Send>),
}

impl<'a> Stream<'a> {
    /// A stream that reads `source` from its beginning.
    ///
    /// # Errors
    /// `Unsupported` where the C library has no streams of this kind; `OutOfMemory`.
    pub(crate) fn open(source: &'a mut dyn ReadAt) -> Result<Self> {
        let state = NonNull::from(Box::leak(Box::new(State { source, position: 0, failure: None })));
        // SAFETY: the state lives until the stream was closed, which `drop` does first.
        let file = match unsafe { platform::open(state.as_ptr().cast()) } {
            Ok(file) => file,
            Err(error) => {
                // SAFETY: leaked above, and nobody else got it.
                drop(unsafe { Box::from_raw(state.as_ptr()) });
                return Err(error);
            }
        };
        let mut buffer = vec![0; BUFFER_BYTES];
        // SAFETY: the stream was just opened, and nothing was read from it; the buffer lives until it was closed.
        unsafe { platform::setvbuf(file.as_ptr(), buffer.as_mut_ptr().cast(), platform::FULLY_BUFFERED, BUFFER_BYTES) };
        Ok(Self { file, state, _buffer: buffer })
    }

    /// For C functions that read a stream.
    pub(crate) fn as_ptr(&self) -> *mut CFile {
        self.file.as_ptr()
    }

    /// What made a read fail, if one did. Goes on with a panic of the source's, now that no C is below it.
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        // SAFETY: the state is alive, and nobody reads the stream during this call.
        match unsafe { self.state.as_mut() }.failure.take()? {
            Failure::Error(error) => Some(error),
            Failure::Panic(payload) => resume_unwind(payload),
        }
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        // SAFETY: the stream is open and owned here; closing it ends the C library's use of the state.
        unsafe { platform::fclose(self.file.as_ptr()) };
        // SAFETY: leaked in `open`, and nobody else has it any more.
        drop(unsafe { Box::from_raw(self.state.as_ptr()) });
    }
}

/// Reads on; -1 after a failure.
///
/// # Safety
/// `state` is a stream's state that nobody else uses during the call, and `length` bytes at `buffer` are writable.
unsafe fn read(state: *mut c_void, buffer: *mut c_char, length: usize) -> isize {
    if buffer.is_null() || length == 0 {
        return 0;
    }
    let length = length.min(BUFFER_BYTES);
    // SAFETY: the caller's promise.
    let (state, buffer) = unsafe {
        // llama.cpp hands over memory that was never written, which a slice must not be.
        buffer.write_bytes(0, length);
        (&mut *state.cast::<State<'_>>(), std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length))
    };
    if state.failure.is_some() {
        return -1;
    }
    match catch_unwind(AssertUnwindSafe(|| state.source.read_at(state.position, buffer))) {
        Ok(Ok(count)) => {
            state.position += count as u64;
            count.cast_signed()
        }
        Ok(Err(error)) => {
            state.failure = Some(Failure::Error(error));
            -1
        }
        Err(payload) => {
            state.failure = Some(Failure::Panic(payload));
            -1
        }
    }
}

/// Moves to `offset` from the place that `whence` names, as `fseek` numbers them; gives the new position.
///
/// # Safety
/// `state` is a stream's state that nobody else uses during the call.
unsafe fn seek(state: *mut c_void, offset: i64, whence: c_int) -> Option<i64> {
    // SAFETY: the caller's promise.
    let state = unsafe { &mut *state.cast::<State<'_>>() };
    let from = match whence {
        0 => 0,
        1 => state.position,
        2 => state.source.size_bytes(),
        _ => return None,
    };
    let position = from.checked_add_signed(offset)?;
    state.position = position;
    i64::try_from(position).ok()
}

fn could_not_open() -> Error {
    Error::new(pajamas_plugin_api::ErrorKind::OutOfMemory, "there is no memory for a stream of the C library")
}

/// glibc's and musl's `fopencookie`.
#[cfg(target_os = "linux")]
mod platform {
    use super::{CFile, Error, NonNull, c_char, c_int, c_void, could_not_open};

    /// `_IOFBF`.
    pub(super) const FULLY_BUFFERED: c_int = 0;

    #[repr(C)]
    struct CookieFunctions {
        read: unsafe extern "C" fn(*mut c_void, *mut c_char, usize) -> isize,
        write: Option<unsafe extern "C" fn(*mut c_void, *const c_char, usize) -> isize>,
        seek: unsafe extern "C" fn(*mut c_void, *mut i64, c_int) -> c_int,
        close: Option<unsafe extern "C" fn(*mut c_void) -> c_int>,
    }

    unsafe extern "C" {
        fn fopencookie(cookie: *mut c_void, mode: *const c_char, functions: CookieFunctions) -> *mut CFile;
        pub(super) fn setvbuf(file: *mut CFile, buffer: *mut c_char, mode: c_int, size: usize) -> c_int;
        pub(super) fn fclose(file: *mut CFile) -> c_int;
    }

    /// Opens a stream over `state`.
    ///
    /// # Safety
    /// `state` is a stream's state, and outlives the stream.
    pub(super) unsafe fn open(state: *mut c_void) -> Result<NonNull<CFile>, Error> {
        let functions = CookieFunctions { read, write: None, seek, close: None };
        // SAFETY: the functions match the state, the mode is NUL-terminated.
        NonNull::new(unsafe { fopencookie(state, c"rb".as_ptr(), functions) }).ok_or_else(could_not_open)
    }

    unsafe extern "C" fn read(state: *mut c_void, buffer: *mut c_char, length: usize) -> isize {
        // SAFETY: the C library passes the stream's state and a buffer of that length, one call at a time.
        unsafe { super::read(state, buffer, length) }
    }

    unsafe extern "C" fn seek(state: *mut c_void, offset: *mut i64, whence: c_int) -> c_int {
        // SAFETY: the C library passes the stream's state and a valid offset, one call at a time.
        let position = unsafe { super::seek(state, *offset, whence) };
        let Some(position) = position else { return -1 };
        // SAFETY: as above.
        unsafe { *offset = position };
        0
    }
}

/// The `funopen` of macOS.
#[cfg(target_os = "macos")]
mod platform {
    use super::{CFile, Error, NonNull, c_char, c_int, c_void, could_not_open};

    /// `_IOFBF`.
    pub(super) const FULLY_BUFFERED: c_int = 0;

    type Read = unsafe extern "C" fn(*mut c_void, *mut c_char, c_int) -> c_int;
    type Write = unsafe extern "C" fn(*mut c_void, *const c_char, c_int) -> c_int;
    type Seek = unsafe extern "C" fn(*mut c_void, i64, c_int) -> i64;
    type Close = unsafe extern "C" fn(*mut c_void) -> c_int;

    unsafe extern "C" {
        fn funopen(
            cookie: *const c_void,
            read: Option<Read>,
            write: Option<Write>,
            seek: Option<Seek>,
            close: Option<Close>,
        ) -> *mut CFile;
        pub(super) fn setvbuf(file: *mut CFile, buffer: *mut c_char, mode: c_int, size: usize) -> c_int;
        pub(super) fn fclose(file: *mut CFile) -> c_int;
    }

    /// Opens a stream over `state`.
    ///
    /// # Safety
    /// `state` is a stream's state, and outlives the stream.
    pub(super) unsafe fn open(state: *mut c_void) -> Result<NonNull<CFile>, Error> {
        // SAFETY: the functions match the state.
        NonNull::new(unsafe { funopen(state, Some(read), None, Some(seek), None) }).ok_or_else(could_not_open)
    }

    unsafe extern "C" fn read(state: *mut c_void, buffer: *mut c_char, length: c_int) -> c_int {
        // SAFETY: the C library passes the stream's state and a buffer of that length, one call at a time.
        let count = unsafe { super::read(state, buffer, usize::try_from(length).unwrap_or(0)) };
        c_int::try_from(count).unwrap_or(-1)
    }

    unsafe extern "C" fn seek(state: *mut c_void, offset: i64, whence: c_int) -> i64 {
        // SAFETY: the C library passes the stream's state, one call at a time.
        unsafe { super::seek(state, offset, whence) }.unwrap_or(-1)
    }
}

/// Systems whose C library has no such streams.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod platform {
    use super::{CFile, Error, NonNull, c_char, c_int, c_void, could_not_open};

    pub(super) const FULLY_BUFFERED: c_int = 0;

    /// # Safety
    /// None is needed.
    pub(super) unsafe fn open(_: *mut c_void) -> Result<NonNull<CFile>, Error> {
        let _ = could_not_open;
        Err(Error::unsupported("llama.cpp cannot load a Hugging Face folder on this system")
            .with_hint("make a GGUF file of it: pajamas quantize MODEL -m BF16"))
    }

    /// # Safety
    /// Never called, since no stream can be opened.
    pub(super) unsafe fn setvbuf(_: *mut CFile, _: *mut c_char, _: c_int, _: usize) -> c_int {
        0
    }

    /// # Safety
    /// Never called, since no stream can be opened.
    pub(super) unsafe fn fclose(_: *mut CFile) -> c_int {
        0
    }
}

#[cfg(all(test, any(target_os = "linux", target_os = "macos")))]
mod tests {
    use super::*;

    unsafe extern "C" {
        fn fread(buffer: *mut c_void, size: usize, count: usize, file: *mut CFile) -> usize;
        fn fseek(file: *mut CFile, offset: std::ffi::c_long, whence: c_int) -> c_int;
        fn ftell(file: *mut CFile) -> std::ffi::c_long;
    }

    /// Counts up, in pieces of at most 100 bytes; fails behind `broken_at`.
    struct Counting {
        broken_at: u64,
        panics: bool,
    }

    impl ReadAt for Counting {
        fn size_bytes(&self) -> u64 {
            10_000
        }

        fn read_at(&mut self, position: u64, buffer: &mut [u8]) -> Result<usize> {
            if position >= self.broken_at {
                assert!(!self.panics, "the source panics");
                return Err(Error::other("broken"));
            }
            let left = self.size_bytes().saturating_sub(position).min(100) as usize;
            let count = buffer.len().min(left);
            for (byte, value) in buffer[..count].iter_mut().zip(position..) {
                *byte = value as u8;
            }
            Ok(count)
        }
    }

    fn read(stream: &Stream<'_>, from: i64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        // SAFETY: the stream is open, and the buffer has that many bytes.
        let done = unsafe {
            assert_eq!(fseek(stream.as_ptr(), from, 0), 0);
            fread(bytes.as_mut_ptr().cast(), 1, count, stream.as_ptr())
        };
        bytes.truncate(done);
        bytes
    }

    #[test]
    fn c_reads_what_the_source_makes_from_wherever_it_likes() {
        let mut source = Counting { broken_at: u64::MAX, panics: false };
        let stream = Stream::open(&mut source).expect("opened");
        for (from, count) in [(0, 5), (9_990, 100), (300, 9_000), (3, 1), (10_000, 1)] {
            let expected: Vec<u8> = (from..10_000).take(count).map(|value| value as u8).collect();
            assert_eq!(read(&stream, from, count), expected, "{count} from {from}");
        }
        // SAFETY: the stream is open.
        assert_eq!(unsafe { (fseek(stream.as_ptr(), 0, 2), ftell(stream.as_ptr())) }, (0, 10_000));
        // SAFETY: as above.
        assert_ne!(unsafe { fseek(stream.as_ptr(), -1, 0) }, 0, "there is nothing before the beginning");
    }

    #[test]
    fn a_failure_is_kept_for_the_caller() {
        let mut source = Counting { broken_at: 500, panics: false };
        let mut stream = Stream::open(&mut source).expect("opened");
        assert_eq!(read(&stream, 0, 1_000).len(), 500);
        assert_eq!(stream.take_failure().map(|error| error.message).as_deref(), Some("broken"));
        assert!(stream.take_failure().is_none());
    }

    #[test]
    fn a_panic_goes_on_behind_the_c_code() {
        let mut source = Counting { broken_at: 0, panics: true };
        let mut stream = Stream::open(&mut source).expect("opened");
        assert_eq!(read(&stream, 0, 10).len(), 0);
        let panicked = catch_unwind(AssertUnwindSafe(|| stream.take_failure())).expect_err("it panics");
        assert!(panicked.downcast_ref::<&str>().is_some_and(|text| text.contains("the source panics")));
    }
}
