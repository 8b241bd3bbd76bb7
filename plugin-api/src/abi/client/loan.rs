//! Lends functions of the host to a plugin for the time of one call.
//!
//! What the plugin holds is a number and not a pointer: a call that comes when the time is over, with a number that was
//! never given out, or on a thread where the function must not run, finds nothing and is told to stop. A panic of the
//! function goes on in the host, once the plugin's frames are gone.

use crate::abi::guard::message;
use crate::abi::{Callback, CancelCallback, RowCallback};
use crate::{CancelToken, Error, Result};
use abi_stable::std_types::RSlice;
use std::any::Any;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock};
use std::thread::ThreadId;

/// Takes an encoded value and says whether to go on.
pub(super) type OnBytes<'a> = &'a mut dyn FnMut(&[u8]) -> ControlFlow<()>;
/// Takes a row of logits with its position and says whether to go on.
pub(super) type OnRow<'a> = &'a mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>;

/// Everything that is lent at the moment, by number.
static LENT: LazyLock<RwLock<HashMap<usize, Arc<Lent>>>> = LazyLock::new(RwLock::default);

/// A function that is lent, and what happened to it.
struct Lent {
    /// The only thread that it may run on; none for those that run on any, one at a time.
    thread: Option<ThreadId>,
    /// It was called on another thread.
    misplaced: AtomicBool,
    function: Mutex<Function>,
    panicked: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: the function is called under its lock only, and on `thread` only, or is fit for any. A `Loan` takes it back before
// what it borrows ends.
unsafe impl Send for Lent {}
// SAFETY: as above.
unsafe impl Sync for Lent {}

enum Function {
    Bytes(*mut dyn FnMut(&[u8]) -> ControlFlow<()>),
    Rows(*mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>),
    /// Its time is over.
    Gone,
}

/// Takes the function back when it is dropped; a call that another thread is in is waited for.
struct Loan {
    number: usize,
    lent: Arc<Lent>,
}

impl Loan {
    fn new(function: Function, thread: Option<ThreadId>) -> Self {
        let (function, misplaced, panicked) = (Mutex::new(function), AtomicBool::new(false), Mutex::default());
        let lent = Arc::new(Lent { thread, misplaced, function, panicked });
        let number = number();
        LENT.write().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::clone(&lent));
        Self { number, lent }
    }

    fn data(&self) -> *const () {
        std::ptr::without_provenance(self.number)
    }

    /// Takes the function back and says what came of it: a panic of the function's goes on here.
    fn end(self) -> Result<()> {
        let lent = Arc::clone(&self.lent);
        drop(self);
        if let Some(payload) = lent.panicked.lock().unwrap_or_else(PoisonError::into_inner).take() {
            tracing::error!("a callback panicked inside a plugin's call: {}", message(payload.as_ref()));
            resume_unwind(payload);
        }
        match lent.misplaced.load(Ordering::Relaxed) {
            true => Err(Error::other("the plugin handed something over on another thread than the one that asked")),
            false => Ok(()),
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        LENT.write().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
        *self.lent.function.lock().unwrap_or_else(PoisonError::into_inner) = Function::Gone;
    }
}

/// A number that was not given out before.
fn number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Runs what is lent under the number `data`; false when there is nothing to be run, or it wants no more.
fn call(data: *const (), run: impl FnOnce(&mut Function) -> ControlFlow<()>) -> bool {
    let lent = LENT.read().unwrap_or_else(PoisonError::into_inner).get(&data.addr()).cloned();
    let Some(lent) = lent else { return false };
    let function = match lent.thread {
        Some(thread) if thread != std::thread::current().id() => {
            lent.misplaced.store(true, Ordering::Relaxed);
            return false;
        }
        // Only this thread takes the lock, so who holds it is further up: the function's own work came back to it.
        Some(_) => lent.function.try_lock().ok(),
        None => Some(lent.function.lock().unwrap_or_else(PoisonError::into_inner)),
    };
    let Some(mut function) = function else { return false };
    let panicked = || lent.panicked.lock().unwrap_or_else(PoisonError::into_inner);
    if panicked().is_some() {
        return false;
    }
    match catch_unwind(AssertUnwindSafe(|| run(&mut function))) {
        Ok(flow) => flow.is_continue(),
        Err(payload) => {
            *panicked() = Some(payload);
            false
        }
    }
}

extern "C" fn on_bytes(data: *const (), bytes: RSlice<'_, u8>) -> bool {
    call(data, |function| match function {
        // SAFETY: it is borrowed until its `Loan` ends, which needs the lock that is held here.
        Function::Bytes(function) => unsafe { (**function)(&bytes) },
        _ => ControlFlow::Break(()),
    })
}

extern "C" fn on_row(data: *const (), position: usize, row: RSlice<'_, f32>) -> bool {
    call(data, |function| match function {
        // SAFETY: as in `on_bytes`.
        Function::Rows(function) => unsafe { (**function)(position, &row) },
        _ => ControlFlow::Break(()),
    })
}

/// Runs `work` with a callback to `function`, which runs on this thread only.
///
/// # Errors
/// When the plugin called it on another thread.
pub(super) fn bytes<T>(function: OnBytes<'_>, work: impl FnOnce(Callback) -> T) -> Result<T> {
    lend_bytes(function, Some(std::thread::current().id()), work)
}

/// Runs `work` with a callback to `function`, which runs on any thread, on one at a time.
///
/// # Errors
/// Never.
pub(super) fn bytes_anywhere<T>(
    function: &mut (dyn FnMut(&[u8]) -> ControlFlow<()> + Send),
    work: impl FnOnce(Callback) -> T,
) -> Result<T> {
    lend_bytes(function, None, work)
}

fn lend_bytes<T>(function: OnBytes<'_>, thread: Option<ThreadId>, work: impl FnOnce(Callback) -> T) -> Result<T> {
    // SAFETY: only the lifetime changes; the loan takes the pointer back before this function returns or unwinds.
    let function = unsafe { std::mem::transmute::<OnBytes<'_>, OnBytes<'static>>(function) };
    let loan = Loan::new(Function::Bytes(function), thread);
    let value = work(Callback { data: loan.data(), call: on_bytes });
    loan.end()?;
    Ok(value)
}

/// Runs `work` with a callback to `function`, which runs on this thread only.
///
/// # Errors
/// When the plugin called it on another thread.
pub(super) fn rows<T>(function: OnRow<'_>, work: impl FnOnce(RowCallback) -> T) -> Result<T> {
    // SAFETY: as in `lend_bytes`.
    let function = unsafe { std::mem::transmute::<OnRow<'_>, OnRow<'static>>(function) };
    let loan = Loan::new(Function::Rows(function), Some(std::thread::current().id()));
    let value = work(RowCallback { data: loan.data(), call: on_row });
    loan.end()?;
    Ok(value)
}

/// The cancellation tokens that are lent at the moment, by number.
static TOKENS: LazyLock<RwLock<HashMap<usize, CancelToken>>> = LazyLock::new(RwLock::default);

/// Runs `work` with a callback to `token`, on any thread. Whoever asks when it is over hears that it is cancelled.
pub(super) fn cancellation<T>(token: &CancelToken, work: impl FnOnce(CancelCallback) -> T) -> T {
    struct Taken(usize);
    impl Drop for Taken {
        fn drop(&mut self) {
            TOKENS.write().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
        }
    }
    extern "C" fn is_cancelled(data: *const ()) -> bool {
        let token = TOKENS.read().unwrap_or_else(PoisonError::into_inner).get(&data.addr()).cloned();
        // A token that panics wants out.
        token.is_none_or(|token| catch_unwind(AssertUnwindSafe(|| token.is_cancelled())).unwrap_or(true))
    }
    let taken = Taken(number());
    TOKENS.write().unwrap_or_else(PoisonError::into_inner).insert(taken.0, token.clone());
    work(CancelCallback { data: std::ptr::without_provenance(taken.0), call: is_cancelled })
}
