//! The worker's end: takes one request, does it, answers, ends; a loaded model it keeps and serves.

use super::protocol::{self, Answer, PROTOCOL_VERSION, ProbeReport, Reply, Request};
use super::serving;
use crate::plugins::file::PluginFile;
use crate::plugins::load::open;
use pajamas_plugin_api::conformance::{self, Outcome};
use pajamas_plugin_api::{CancelToken, Error, HostServices, LoadRequest, ProgressUpdate, QuantizeJob, Result};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long cancelled work may take to end by itself.
const CANCEL_GRACE: Duration = Duration::from_secs(2);

/// Where replies go; plugins report progress and log from any thread.
#[derive(Clone)]
pub(super) struct Out(Arc<Mutex<File>>);

impl Out {
    pub(super) fn send(&self, reply: &Reply) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A host that is gone is noticed where its requests come from; one that waits for a reply that is too long would
        // wait for ever.
        if let Err(error) = protocol::write(&mut *file, reply)
            && error.kind() == io::ErrorKind::InvalidData
        {
            let failed = Error::other(format!("an answer failed: {error}"));
            let reply = match reply {
                Reply::Answer { id, .. } => Reply::Answer { id: *id, answer: Answer::Failed(failed) },
                _ => Reply::Failed(failed),
            };
            let _ = protocol::write(&mut *file, &reply);
        }
    }
}

/// Progress on its way to the host: not more of it than anybody can see.
pub(super) struct Thinned<'a> {
    out: &'a Out,
    last: Mutex<(Instant, String)>,
}

impl<'a> Thinned<'a> {
    pub(super) fn new(out: &'a Out) -> Self {
        Self { out, last: Mutex::new((Instant::now() - Duration::from_secs(1), String::new())) }
    }

    pub(super) fn send(&self, update: &ProgressUpdate) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0.elapsed() >= Duration::from_millis(50) || last.1 != update.stage || update.fraction >= 1.0 {
            *last = (Instant::now(), update.stage.clone());
            self.out.send(&Reply::Progress(update.clone()));
        }
    }
}

/// Serves one request.
///
/// # Errors
/// When the host speaks another protocol, or is gone.
pub fn serve() -> io::Result<()> {
    let out = Out(Arc::new(Mutex::new(take_stdout()?)));
    no_core_dumps();
    let mut stdin = io::stdin();
    let hello = protocol::read(&mut stdin)?;
    let Some(Request::Hello { protocol: PROTOCOL_VERSION, cache_dir, thread_budget }) = hello else {
        return Err(io::Error::other("the host speaks another protocol"));
    };
    out.send(&Reply::Ready { protocol: PROTOCOL_VERSION });
    let Some(request) = protocol::read(&mut stdin)? else { return Ok(()) };
    let log = {
        let out = out.clone();
        move |level: pajamas_plugin_api::LogLevel, target: &str, message: &str| {
            out.send(&Reply::Log { level: level as u8, target: target.into(), message: message.into() });
        }
    };
    let services = HostServices::new(log, cache_dir, thread_budget);
    let reply = match request {
        Request::Probe { plugin } => {
            watch(|| ());
            probe(&plugin, services).map(Reply::Probed)
        }
        Request::Quantize { plugin, job } => quantize(&plugin, &job, services, &out),
        Request::Load { plugin, request } => match serving::serve(&plugin, &request, services, &out) {
            Ok(()) => return Ok(()),
            Err(error) => Err(error),
        },
        Request::Forecast { plugin, request } => {
            watch(|| ());
            forecast(&plugin, &request, services)
        }
        Request::Check { plugin, rule, subject } => {
            watch(|| ());
            // The kit opens the plugin by itself, as a part of what it checks.
            if plugin.is_unchanged() {
                let unknown = || Outcome::Failed { reason: format!("this worker knows no rule {rule}") };
                Ok(Reply::Checked(conformance::run(rule, &subject).unwrap_or_else(unknown)))
            } else {
                Err(Error::other(format!("`{}` has changed meanwhile", plugin.path.display())))
            }
        }
        _ => return Err(io::Error::other("unexpected request")),
    };
    out.send(&reply.unwrap_or_else(Reply::Failed));
    Ok(())
}

fn probe(file: &PluginFile, services: HostServices) -> Result<ProbeReport> {
    let plugin = open(file, services)?;
    let started = Instant::now();
    let availability = plugin.is_available()?;
    let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
    Ok(ProbeReport { availability, capabilities: plugin.capabilities()?, recipes: plugin.recipes()?, elapsed_ms })
}

fn forecast(file: &PluginFile, request: &LoadRequest, services: HostServices) -> Result<Reply> {
    let plugin = open(file, services)?;
    Ok(Reply::Forecast(plugin.forecast_memory(request)?))
}

fn quantize(file: &PluginFile, job: &QuantizeJob, services: HostServices, out: &Out) -> Result<Reply> {
    let cancelled = Arc::new(AtomicBool::new(false));
    clean_up_when_told(&cancelled, job.clone());
    let plugin = open(file, services)?;
    let progress = Thinned::new(out);
    let result = plugin.quantize(job, &|update| progress.send(update), &CancelToken::from_flag(Arc::clone(&cancelled)));
    // The host may be gone: whoever is left cleans up.
    if result.is_err() || cancelled.load(Ordering::Relaxed) {
        remove_leftovers(job);
    }
    out.send(&Reply::Quantized(result?));
    // Until the host has given the output its name and ends this process, the watch cleans up if the host dies.
    loop {
        std::thread::park();
    }
}

fn remove_leftovers(job: &QuantizeJob) {
    for path in [&job.output, &job.scratch_dir] {
        let _ = std::fs::remove_dir_all(path);
        let _ = std::fs::remove_file(path);
    }
    // The folder that held them, if nothing else is in it.
    if let Some(parent) = job.scratch_dir.parent() {
        let _ = std::fs::remove_dir(parent);
    }
}

/// Lets the work stop by itself when told, and stops it after a moment: an engine inside a long computation cannot be
/// asked.
fn clean_up_when_told(cancelled: &Arc<AtomicBool>, job: QuantizeJob) {
    let cancelled = Arc::clone(cancelled);
    watch(move || {
        cancelled.store(true, Ordering::Relaxed);
        std::thread::sleep(CANCEL_GRACE);
        remove_leftovers(&job);
    });
}

/// Waits, on a thread of its own, for `Cancel` or the host's end; then does `last` and ends this process.
fn watch(last: impl FnOnce() + Send + 'static) {
    on_a_thread(move || {
        let _ = protocol::read::<Request>(&mut io::stdin());
        last();
        exit_now();
    });
}

/// Runs `work` on a thread of its own, which has begun when this returns: one that begins while the loader is at work waits
/// for the loader's lock, and a plugin may hold that for ever.
pub(super) fn on_a_thread(work: impl FnOnce() + Send + 'static) {
    let (sender, started) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = sender.send(());
        work();
    });
    let _ = started.recv();
}

/// Ends the process without running destructors: a hung constructor of a plugin's would hold the lock that they need,
/// and an engine's threads are still at work.
pub(super) fn exit_now() -> ! {
    #[cfg(unix)]
    // SAFETY: `_exit` has no preconditions.
    unsafe {
        libc::_exit(1)
    }
    #[cfg(not(unix))]
    std::process::exit(1)
}

/// Keeps the real stdout for replies and points file descriptor 1 at stderr, so that nothing a plugin prints can get
/// between the frames.
#[cfg(unix)]
fn take_stdout() -> io::Result<File> {
    use std::os::fd::{AsFd, AsRawFd};
    let replies = io::stdout().as_fd().try_clone_to_owned()?;
    // SAFETY: both descriptors are open; dup2 closes and replaces the second.
    if unsafe { libc::dup2(io::stderr().as_raw_fd(), io::stdout().as_raw_fd()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(replies.into())
}

/// Uses stdout as it is.
#[cfg(not(unix))]
fn take_stdout() -> io::Result<File> {
    use std::os::windows::io::AsHandle;
    Ok(io::stdout().as_handle().try_clone_to_owned()?.into())
}

/// A crashing plugin must not fill the disk with this process's memory.
fn no_core_dumps() {
    #[cfg(unix)]
    {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `none` lives during the call. Failure leaves things as they were.
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
    }
}

/// The error that a worker's `main` prints.
pub fn describe(error: &io::Error) -> Error {
    Error::other(format!("pajamas-worker serves pajamas and is not started by hand: {error}"))
}
