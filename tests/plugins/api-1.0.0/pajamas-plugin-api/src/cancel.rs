//! Cancellation: one flag, set by the host, polled by plugins and by their engines' abort callbacks.

use std::sync::Arc;

/// A cancellation token. Cheap to clone; may be polled from any thread, as often as once per token or tensor.
///
/// A token lives as long as any clone of it. After the call that it was given to has returned, it stays valid
/// and keeps its last value.
#[derive(Clone)]
pub struct CancelToken(Arc<dyn Fn() -> bool + Send + Sync>);

impl CancelToken {
    /// A token that asks `is_cancelled` each time it is polled.
    pub fn new(is_cancelled: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(is_cancelled))
    }

    /// A token that is never cancelled.
    pub fn never() -> Self {
        Self::new(|| false)
    }

    /// A token that is cancelled once `flag` is true.
    pub fn from_flag(flag: Arc<std::sync::atomic::AtomicBool>) -> Self {
        Self::new(move || flag.load(std::sync::atomic::Ordering::Relaxed))
    }

    /// Whether the caller wants the work to stop.
    pub fn is_cancelled(&self) -> bool {
        (self.0)()
    }

    /// `Err(Cancelled)` once the caller wants the work to stop; for `?` between steps.
    pub fn check(&self) -> crate::Result<()> {
        if self.is_cancelled() { Err(crate::Error::cancelled()) } else { Ok(()) }
    }
}

impl std::fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CancelToken").field(&self.is_cancelled()).finish()
    }
}
