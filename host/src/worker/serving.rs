//! The worker's end of an isolated model: loads it, then serves calls, each on a thread of its own, until the host is gone.

use super::protocol::{self, Answer, Call, Reply, Request};
use super::server::{Out, Thinned, exit_now, on_a_thread};
use crate::plugins::file::PluginFile;
use crate::plugins::load::open;
use pajamas_plugin_api::abi::client::LoadedModel;
use pajamas_plugin_api::{CancelToken, Error, HostServices, LoadRequest, Result};
use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Loads the model and serves it. Ends when the host closes its end.
pub(super) fn serve(plugin: &PluginFile, request: &LoadRequest, services: HostServices, out: &Out) -> Result<()> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let running = Arc::default();
    let calls = listen(Arc::clone(&cancelled), Arc::clone(&running));
    let plugin = open(plugin, services)?;
    let progress = Thinned::new(out);
    let model = plugin.load_model(request, &|update| progress.send(update), &CancelToken::from_flag(cancelled))?;
    out.send(&Reply::Loaded(Box::new(model.info().clone())));
    std::thread::scope(|scope| {
        while let Ok((id, call, state)) = calls.recv() {
            let (model, running) = (&model, &running);
            let begun = std::thread::Builder::new().spawn_scoped(scope, move || {
                // Whatever happens, somebody waits for an end.
                let ended = std::panic::catch_unwind(AssertUnwindSafe(|| answer(model, id, call, &state, out)));
                let ended = ended.unwrap_or_else(|_| Err(Error::other("the worker panicked")));
                running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                out.send(&Reply::Answer { id, answer: ended.unwrap_or_else(Answer::Failed) });
            });
            if let Err(error) = begun {
                running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                let error = Error::other(format!("no thread can be started for the call: {error}"));
                out.send(&Reply::Answer { id, answer: Answer::Failed(error) });
            }
        }
    });
    Ok(())
}

/// What the host may still say of a call.
struct CallState {
    cancelled: AtomicBool,
    /// Events or rows that may be sent before the host has taken more.
    window: Mutex<u32>,
    changed: Condvar,
}

impl CallState {
    fn new(window: u32) -> Self {
        Self { cancelled: AtomicBool::new(false), window: Mutex::new(window), changed: Condvar::new() }
    }

    fn cancel(&self) {
        // Under the lock, so that nobody begins to wait just now.
        let _window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        self.cancelled.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    fn widen(&self, count: u32) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        *window = window.saturating_add(count);
        self.changed.notify_all();
    }

    /// Waits until one more may be sent: a host that is slow in one call must not hold up the others, nor be flooded.
    fn wait(&self) -> ControlFlow<()> {
        let full = |window: &mut u32| *window == 0 && !self.cancelled.load(Ordering::Relaxed);
        let window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let mut window = self.changed.wait_while(window, full).unwrap_or_else(PoisonError::into_inner);
        if self.cancelled.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        *window -= 1;
        ControlFlow::Continue(())
    }
}

/// The calls that have no end yet.
type Running = Mutex<HashMap<u64, Arc<CallState>>>;

/// Reads requests on a thread of its own, so that what concerns a call arrives during it. `Cancel` is for the loading.
fn listen(cancelled: Arc<AtomicBool>, running: Arc<Running>) -> Receiver<(u64, Call, Arc<CallState>)> {
    let (sender, calls) = mpsc::channel();
    on_a_thread(move || {
        // What has just ended is told of for nothing.
        let tell = |id: u64, what: &dyn Fn(&CallState)| {
            let state = running.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
            state.iter().for_each(|state| what(state));
        };
        loop {
            match protocol::read::<Request>(&mut io::stdin()) {
                Ok(Some(Request::Cancel)) => cancelled.store(true, Ordering::Relaxed),
                Ok(Some(Request::CancelCall { id })) => tell(id, &CallState::cancel),
                Ok(Some(Request::More { id, count })) => tell(id, &|state| state.widen(count)),
                Ok(Some(Request::Call { id, window, call })) => {
                    let state = Arc::new(CallState::new(window));
                    running.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&state));
                    if sender.send((id, call, state)).is_err() {
                        return;
                    }
                }
                // The host is gone, or says what it must not: nobody waits for what the engine still computes.
                _ => exit_now(),
            }
        }
    });
    calls
}

fn answer(model: &LoadedModel, id: u64, call: Call, state: &Arc<CallState>, out: &Out) -> Result<Answer> {
    let cancel = {
        let state = Arc::clone(state);
        CancelToken::new(move || state.cancelled.load(Ordering::Relaxed))
    };
    let send = |answer| {
        state.wait()?;
        out.send(&Reply::Answer { id, answer });
        ControlFlow::Continue(())
    };
    match call {
        Call::Generate { request, events } => {
            let mut on_event = |event| if events { send(Answer::Event(event)) } else { ControlFlow::Continue(()) };
            model.generate_stream(&request, &cancel, &mut on_event).map(Answer::Generated)
        }
        Call::Tokenize { text, add_special, parse_special } => {
            model.tokenize(&text, add_special, parse_special).map(Answer::Tokens)
        }
        Call::Detokenize { tokens } => model.detokenize(&tokens).map(Answer::Text),
        Call::Logits { tokens, first_row } => {
            let mut on_row = |position: usize, row: &[f32]| {
                send(Answer::Row(position, row.iter().flat_map(|value| value.to_le_bytes()).collect()))
            };
            model.logits(&tokens, first_row, &mut on_row, &cancel)?;
            Ok(Answer::RowsEnd)
        }
        Call::MemoryUsage => {
            Ok(Answer::Memory { usage: model.memory_usage()?, peak_bytes: crate::hardware::peak_memory_bytes() })
        }
    }
}
