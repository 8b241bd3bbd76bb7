//! The panic guard: no panic crosses the boundary in either direction.

use crate::{Error, ErrorKind, Result};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `work`, and turns a panic in it into an error of [`ErrorKind::Panic`].
pub fn guard<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    // A caller sees the panic as an error and no half-changed state of `work` beyond what its own locks poison.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let error = Error::new(ErrorKind::Panic, format!("the plugin panicked: {}", message(payload.as_ref())));
        // Dropping a foreign payload may panic again; leaking it cannot.
        std::mem::forget(payload);
        Err(error)
    })
}

/// What a panic said.
pub fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_with_its_message() {
        let error = guard::<()>(|| panic!("no {}", "wool")).unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Panic, "the plugin panicked: no wool"));
        assert_eq!(guard(|| Ok(3)).unwrap(), 3);
    }

    #[test]
    fn a_panics_payload_is_never_dropped_because_dropping_may_panic_again() {
        use std::sync::atomic::{AtomicBool, Ordering};
        static DROPPED: AtomicBool = AtomicBool::new(false);
        struct Payload;
        impl Drop for Payload {
            fn drop(&mut self) {
                DROPPED.store(true, Ordering::Relaxed);
            }
        }
        let error = guard::<()>(|| std::panic::panic_any(Payload)).unwrap_err();
        assert_eq!((error.kind, DROPPED.load(Ordering::Relaxed)), (ErrorKind::Panic, false));
    }
}
