//! One engine, many callers: whoever comes first is served first, and a waiting caller can still cancel.

use pajamas_plugin_api::{CancelToken, Error, Result};
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a waiting caller looks whether it was cancelled.
const CANCEL_POLL: Duration = Duration::from_millis(20);

/// Lends `T` to one caller at a time, in the order of asking.
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    after_panic: fn(&mut T),
}

struct State<T> {
    item: Option<T>,
    waiting: VecDeque<u64>,
    next_ticket: u64,
}

/// `T`, until dropped.
pub(crate) struct Lease<'a, T> {
    queue: &'a Queue<T>,
    item: Option<T>,
}

impl<T> Queue<T> {
    /// A queue for `item`; `after_panic` repairs it when its holder panicked.
    pub(crate) fn new(item: T, after_panic: fn(&mut T)) -> Self {
        let state = State { item: Some(item), waiting: VecDeque::new(), next_ticket: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new(), after_panic }
    }

    /// Waits for the item.
    ///
    /// # Errors
    /// `Cancelled`, at the latest 20 ms after `cancel` says so.
    pub(crate) fn acquire(&self, cancel: &CancelToken) -> Result<Lease<'_, T>> {
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push_back(ticket);
        loop {
            if state.waiting.front() == Some(&ticket)
                && let Some(item) = state.item.take()
            {
                state.waiting.pop_front();
                return Ok(Lease { queue: self, item: Some(item) });
            }
            state = self.changed.wait_timeout(state, CANCEL_POLL).unwrap_or_else(PoisonError::into_inner).0;
            // The host's flag is asked without the lock, because it is the host's code.
            drop(state);
            let cancelled = cancel.is_cancelled();
            state = self.lock();
            if cancelled {
                state.waiting.retain(|other| *other != ticket);
                self.changed.notify_all();
                return Err(Error::cancelled());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for Lease<'_, T> {
    fn drop(&mut self) {
        if let Some(mut item) = self.item.take() {
            if std::thread::panicking() {
                (self.queue.after_panic)(&mut item);
            }
            self.queue.lock().item = Some(item);
            self.queue.changed.notify_all();
        }
    }
}

impl<T> Deref for Lease<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.item.as_ref().expect("a lease holds its item until it is dropped")
    }
}

impl<T> DerefMut for Lease<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.item.as_mut().expect("a lease holds its item until it is dropped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn one_holder_at_a_time_and_all_are_served() {
        let queue = Queue::new(0_u32, |_| ());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        *queue.acquire(&CancelToken::never()).expect("never cancelled") += 1;
                    }
                });
            }
        });
        assert_eq!(*queue.acquire(&CancelToken::never()).expect("never cancelled"), 400);
    }

    #[test]
    fn a_waiting_caller_can_cancel_and_does_not_block_the_next() {
        let queue = Queue::new((), |()| ());
        let held = queue.acquire(&CancelToken::never()).expect("free");
        let flag = std::sync::Arc::new(AtomicBool::new(false));
        flag.store(true, Ordering::Relaxed);
        assert!(queue.acquire(&CancelToken::from_flag(flag)).is_err());
        drop(held);
        assert!(queue.acquire(&CancelToken::never()).is_ok());
    }

    #[test]
    fn a_panicking_holder_gives_the_item_back_repaired() {
        let queue = Queue::new(1, |item| *item = 0);
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut item = queue.acquire(&CancelToken::never()).expect("free");
            *item = 7;
            std::panic::resume_unwind(Box::new("holder fails"));
        }));
        assert_eq!(*queue.acquire(&CancelToken::never()).expect("given back"), 0);
    }
}
