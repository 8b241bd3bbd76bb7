//! Long work for Python: on a thread of its own, without the interpreter's lock, while the caller's thread looks for signals
//! and hands on what is said of the work.

use crate::errors;
use pajamas::{Artifact, CancelToken, Observer, ProgressUpdate};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// What stops each piece of work that is going on, with the process that does it: one that was forked off has none of it.
static GOING_ON: Mutex<Vec<(u32, Weak<AtomicBool>)>> = Mutex::new(Vec::new());
/// Whether the interpreter is about to end.
static ENDING: AtomicBool = AtomicBool::new(false);
/// How long the interpreter's end waits for work to stop.
const END_TIME_MAX: Duration = Duration::from_secs(5);

/// Stops all work, for the end of the interpreter: what an engine's threads compute with is torn down with the process.
#[pyfunction]
pub fn end(py: Python<'_>) {
    let going_on = {
        let mut going_on = GOING_ON.lock().unwrap_or_else(PoisonError::into_inner);
        ENDING.store(true, Ordering::Relaxed);
        std::mem::take(&mut *going_on)
    };
    let own = |(process, stop)| (process == std::process::id()).then_some(stop);
    let going_on: Vec<Weak<AtomicBool>> = going_on.into_iter().filter_map(own).collect();
    going_on.iter().filter_map(Weak::upgrade).for_each(|stop| stop.store(true, Ordering::Relaxed));
    let started = Instant::now();
    py.detach(|| {
        while going_on.iter().any(|stop| stop.strong_count() > 0) && started.elapsed() < END_TIME_MAX {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}

/// What stops a piece of work, which is going on until it is let go of.
pub fn begin() -> PyResult<Arc<AtomicBool>> {
    let mut going_on = GOING_ON.lock().unwrap_or_else(PoisonError::into_inner);
    if ENDING.load(Ordering::Relaxed) {
        return Err(PyRuntimeError::new_err("the interpreter is ending"));
    }
    let stop = Arc::new(AtomicBool::new(false));
    going_on.retain(|(_, stop)| stop.strong_count() > 0);
    going_on.push((std::process::id(), Arc::downgrade(&stop)));
    Ok(stop)
}

/// How often a signal is looked for.
pub const POLL: Duration = Duration::from_millis(50);

enum Said<T> {
    Warning(String),
    Note(String),
    Progress(ProgressUpdate),
    Made(String),
    /// How it ended; none if it panicked.
    Done(Option<pajamas::Result<T>>),
}

/// An observer that sends all to the caller's thread.
struct Teller<T>(Mutex<Sender<Said<T>>>);

impl<T> Teller<T> {
    fn tell(&self, said: Said<T>) {
        // Who no longer listens has an exception to raise.
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).send(said);
    }
}

impl<T: Send> Observer for Teller<T> {
    fn warn(&self, message: &str) {
        self.tell(Said::Warning(message.into()));
    }

    fn note(&self, message: &str) {
        self.tell(Said::Note(message.into()));
    }

    fn progress(&self, update: &ProgressUpdate) {
        self.tell(Said::Progress(update.clone()));
    }

    fn made(&self, artifact: &Artifact) {
        self.tell(Said::Made(artifact.path.display().to_string()));
    }
}

/// The next thing that was said. Of progress, only the latest: a callback may be slower than the work.
struct Heard<T> {
    said: Receiver<Said<T>>,
    next: Option<Said<T>>,
}

impl<T> Heard<T> {
    fn next(&mut self) -> Result<Said<T>, RecvTimeoutError> {
        let mut next = match self.next.take() {
            Some(next) => next,
            None => self.said.recv_timeout(POLL)?,
        };
        while let Said::Progress(_) = next {
            match self.said.try_recv() {
                Ok(later @ Said::Progress(_)) => next = later,
                Ok(later) => {
                    self.next = Some(later);
                    break;
                }
                Err(_) => break,
            }
        }
        Ok(next)
    }
}

/// Does `job`. `on_notice(kind, text, stage, fraction)` is called on this thread for what is said of it; an exception of its own,
/// or a signal's, stops the job and is raised once that has ended.
pub fn run<T: Send>(
    py: Python<'_>,
    on_notice: Option<&Bound<'_, PyAny>>,
    job: impl FnOnce(&dyn Observer, CancelToken) -> pajamas::Result<T> + Send,
) -> PyResult<T> {
    let (done, raised) = run_to_its_end(py, on_notice, job)?;
    match raised {
        Some(raised) => Err(raised),
        None => done.map_err(errors::of(py)),
    }
}

/// As [`run`], but gives what came of the job also where an exception stopped it.
pub fn run_to_its_end<T: Send>(
    py: Python<'_>,
    on_notice: Option<&Bound<'_, PyAny>>,
    job: impl FnOnce(&dyn Observer, CancelToken) -> pajamas::Result<T> + Send,
) -> PyResult<(pajamas::Result<T>, Option<PyErr>)> {
    let stop = begin()?;
    let (sender, said) = mpsc::channel();
    let cancel = CancelToken::from_flag(Arc::clone(&stop));
    let heard = Mutex::new(Heard { said, next: None });
    std::thread::scope(|scope| {
        let begun = std::thread::Builder::new().spawn_scoped(scope, move || {
            let teller = Teller(Mutex::new(sender));
            let done = std::panic::catch_unwind(AssertUnwindSafe(|| job(&teller, cancel)));
            teller.tell(Said::Done(done.ok()));
        });
        begun.map_err(|error| PyRuntimeError::new_err(format!("no thread can be started: {error}")))?;
        let mut raised: Option<PyErr> = None;
        loop {
            let next = py.detach(|| heard.lock().unwrap_or_else(PoisonError::into_inner).next());
            let told = match next {
                Ok(Said::Done(Some(done))) => return Ok((done, raised)),
                Ok(Said::Done(None)) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(PyRuntimeError::new_err("the work panicked; what it said is on stderr"));
                }
                Ok(notice) if raised.is_none() => on_notice.map_or(Ok(()), |callback| tell(callback, notice)),
                // So that it can raise also where nothing is said.
                Err(RecvTimeoutError::Timeout) if raised.is_none() => {
                    on_notice.map_or(Ok(()), |callback| callback.call1(("alive", "", "", 0.0)).map(drop))
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) => Ok(()),
            };
            if let Err(error) = told.and_then(|()| py.check_signals())
                && raised.is_none()
            {
                stop.store(true, Ordering::Relaxed);
                raised = Some(error);
            }
        }
    })
}

fn tell<T>(callback: &Bound<'_, PyAny>, said: Said<T>) -> PyResult<()> {
    match said {
        Said::Warning(text) => callback.call1(("warning", text, "", 0.0)),
        Said::Note(text) => callback.call1(("note", text, "", 0.0)),
        Said::Made(path) => callback.call1(("made", path, "", 1.0)),
        Said::Progress(update) => callback.call1(("progress", update.detail, update.stage, update.fraction)),
        Said::Done(_) => return Ok(()),
    }
    .map(drop)
}

/// `value` as JSON, for Python to read.
pub fn json(value: &impl serde::Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(|error| PyRuntimeError::new_err(error.to_string()))
}
