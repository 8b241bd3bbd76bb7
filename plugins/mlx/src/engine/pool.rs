//! Threads for MLX that outlive a model: MLX keeps a stream and random state for each thread that ever used it, and gives
//! them back never, so a thread whose model is gone waits for the next one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};

type Work = Box<dyn FnOnce() + Send>;

/// Ways to the threads that wait.
static IDLE: Mutex<Vec<Sender<Work>>> = Mutex::new(Vec::new());

/// Work that runs on a thread of the pool. Dropping it waits for the work to end.
pub(super) struct Running(Mutex<Receiver<()>>);

impl Drop for Running {
    fn drop(&mut self) {
        // The other end is dropped when the work has ended, in whichever way.
        let _ = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).recv();
    }
}

/// Runs `work` on a thread that waits, or on a new one.
///
/// # Errors
/// When there is no new one to be had.
pub(super) fn run(work: impl FnOnce() + Send + 'static) -> std::io::Result<Running> {
    let (done, ended) = mpsc::channel();
    let mut work: Work = Box::new(move || {
        let _done = done;
        work();
    });
    loop {
        let waiting = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(waiting) = waiting else { break };
        match waiting.send(work) {
            Ok(()) => return Ok(Running(Mutex::new(ended))),
            // That thread has ended.
            Err(returned) => work = returned.0,
        }
    }
    std::thread::Builder::new().name("mlx".into()).spawn(move || serve(work))?;
    Ok(Running(Mutex::new(ended)))
}

/// Does `work`, and then what else comes, for ever: a plugin is never unloaded.
fn serve(work: Work) {
    let (sender, works) = mpsc::channel::<Work>();
    let mut next = Some(work);
    while let Some(work) = next {
        // What it has to say of a panic it has said.
        let _ = catch_unwind(AssertUnwindSafe(work));
        IDLE.lock().unwrap_or_else(PoisonError::into_inner).push(sender.clone());
        next = works.recv().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn work_that_follows_other_work_runs_on_its_thread_and_a_panic_ends_none() {
        let threads = Arc::new(Mutex::new(Vec::new()));
        for panics in [false, true, false, false] {
            let noted = Arc::clone(&threads);
            let running = run(move || {
                noted.lock().unwrap().push(std::thread::current().id());
                assert!(!panics, "on purpose");
            });
            drop(running.unwrap());
            // It waits again a moment after its work has ended.
            while IDLE.lock().unwrap().is_empty() {
                std::thread::yield_now();
            }
        }
        let threads = threads.lock().unwrap();
        assert!(threads.len() == 4 && threads.iter().all(|thread| *thread == threads[0]), "{threads:?}");
    }
}
