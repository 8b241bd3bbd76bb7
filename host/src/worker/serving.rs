//! The worker's end of an isolated model: loads it, then serves one call after another until the host is gone.

use super::protocol::{self, Reply, Request};
use super::server::{Out, Thinned, exit_now, on_a_thread};
use crate::plugins::file::PluginFile;
use crate::plugins::load::open;
use pajamas_plugin_api::abi::client::LoadedModel;
use pajamas_plugin_api::{CancelToken, Error, HostServices, LoadRequest, Result};
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};

/// Loads the model and serves it. Ends when the host closes its end.
pub(super) fn serve(plugin: &PluginFile, request: &LoadRequest, services: HostServices, out: &Out) -> Result<()> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let requests = listen(Arc::clone(&cancelled));
    let cancel = CancelToken::from_flag(Arc::clone(&cancelled));
    let plugin = open(plugin, services)?;
    let progress = Thinned::new(out);
    let model = plugin.load_model(request, &|update| progress.send(update), &cancel)?;
    out.send(&Reply::Loaded(Box::new(model.info().clone())));
    while let Ok(request) = requests.recv() {
        let reply = answer(&model, request, &cancel, out);
        out.send(&reply.unwrap_or_else(Reply::Failed));
    }
    Ok(())
}

/// Reads requests on a thread of its own, so that `Cancel` arrives during a call. A cancellation is for the call before
/// it: the next request takes it back.
fn listen(cancelled: Arc<AtomicBool>) -> Receiver<Request> {
    let (sender, requests) = mpsc::channel();
    on_a_thread(move || {
        loop {
            match protocol::read::<Request>(&mut io::stdin()) {
                Ok(Some(Request::Cancel)) => cancelled.store(true, Ordering::Relaxed),
                Ok(Some(request)) => {
                    cancelled.store(false, Ordering::Relaxed);
                    if sender.send(request).is_err() {
                        return;
                    }
                }
                // The host is gone: nobody waits for what the engine still computes.
                _ => exit_now(),
            }
        }
    });
    requests
}

fn answer(model: &LoadedModel, request: Request, cancel: &CancelToken, out: &Out) -> Result<Reply> {
    match request {
        Request::Generate { request, events } => {
            let mut on_event = |event| {
                if events {
                    out.send(&Reply::Event(event));
                }
                ControlFlow::Continue(())
            };
            model.generate_stream(&request, cancel, &mut on_event).map(Reply::Generated)
        }
        Request::Tokenize { text, add_special, parse_special } => {
            model.tokenize(&text, add_special, parse_special).map(Reply::Tokens)
        }
        Request::Detokenize { tokens } => model.detokenize(&tokens).map(Reply::Text),
        Request::Logits { tokens, first_row } => {
            let mut send = |position: usize, row: &[f32]| {
                let bytes = row.iter().flat_map(|value| value.to_le_bytes()).collect();
                out.send(&Reply::Row(position, bytes));
                ControlFlow::Continue(())
            };
            model.logits(&tokens, first_row, &mut send, cancel)?;
            Ok(Reply::RowsEnd)
        }
        Request::MemoryUsage => {
            Ok(Reply::Memory { usage: model.memory_usage()?, peak_bytes: crate::hardware::peak_memory_bytes() })
        }
        other => Err(Error::other(format!("a loaded model has no answer to {other:?}"))),
    }
}
