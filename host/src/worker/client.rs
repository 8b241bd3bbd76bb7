//! The host's end: starts a worker, talks to it, and ends it and everything it started.

use super::protocol::{self, PROTOCOL_VERSION, Reply, Request};
use crate::config::Config;
use crate::env_vars::PAJAMAS_WORKER;
use crate::error::{Error, Result};
use crate::files;
use crate::plugins::file::PluginFile;
use crate::plugins::trust;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes of a worker's stderr that are kept, the last ones.
const STDERR_BYTES_MAX: usize = 16 * 1024;

/// Replies that wait to be taken.
const REPLIES_MAX: usize = 16;

/// How long the rest of an ended worker's stderr is waited for.
const STDERR_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a worker may take to say hello.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// What comes from a worker, in order.
pub type Replies = Receiver<std::io::Result<Reply>>;

/// A worker process. Dropping it ends it, with its whole process group.
pub struct Worker {
    child: Child,
    /// The process that started it. One that was forked off has copies of all this, and no right to it.
    owner: u32,
    requests: Option<ChildStdin>,
    replies: Replies,
    stderr: Arc<Mutex<Vec<u8>>>,
    stderr_reader: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a worker and greets it.
    ///
    /// # Errors
    /// When there is no worker executable, or it is not this host's.
    pub fn start(config: &Config) -> Result<Self> {
        let executable = find_executable(config)?;
        if crate::users::is_privileged() {
            trusted(&executable)?;
        }
        let mut command = Command::new(&executable);
        // An aborting ggml would start a debugger to print its stack.
        command.env("GGML_NO_BACKTRACE", "1").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(Error::io("starting", &executable))?;
        let requests = child.stdin.take();
        // Bounded, so that a worker which is faster than its host waits in its pipe: rows of logits are large.
        let (sender, replies) = mpsc::sync_channel(REPLIES_MAX);
        if let Some(mut stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                while let Some(reply) = protocol::read::<Reply>(&mut stdout).transpose() {
                    // The process was ended while it was writing: how it ended tells more than what it left.
                    if reply.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof) {
                        break;
                    }
                    let failed = reply.is_err();
                    if sender.send(reply).is_err() || failed {
                        break;
                    }
                }
            });
        }
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let stderr_reader = child.stderr.take().map(|from| {
            let tail = Arc::clone(&stderr);
            std::thread::spawn(move || keep_tail(from, &tail))
        });
        let owner = std::process::id();
        let mut worker = Self { child, owner, requests, replies, stderr, stderr_reader };
        worker.send(&Request::Hello {
            protocol: PROTOCOL_VERSION,
            cache_dir: config.cache_dir(),
            thread_budget: config.threads.unwrap_or_else(crate::hardware::physical_cores),
        })?;
        match worker.receive(Some(START_TIMEOUT)) {
            Ok(Reply::Ready { protocol: PROTOCOL_VERSION }) => Ok(worker),
            // No plugin is in it yet, so this says nothing of any.
            Err(Error::Worker { what, .. }) => Err(Error::Refused {
                message: format!("`{}` does not work: it {what}", executable.display()),
                hint: "`pajamas doctor` looks into it".into(),
            }),
            Err(error) => Err(error),
            Ok(_) => Err(Error::Refused {
                message: format!("`{}` is of another version than this pajamas", executable.display()),
                hint: "install pajamas and pajamas-worker together".into(),
            }),
        }
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When the worker is gone.
    pub fn send(&mut self, request: &Request) -> Result<()> {
        match self.requests.as_mut().map(|requests| protocol::write(requests, request)) {
            Some(Ok(())) => Ok(()),
            // Nothing of it was written.
            Some(Err(error)) if error.kind() == std::io::ErrorKind::InvalidData => Err(Error::Refused {
                message: format!("a worker process takes {} MiB at once: {error}", protocol::FRAME_BYTES_MAX >> 20),
                hint: "send less, or run without `--isolate`".into(),
            }),
            Some(Err(error)) if error.kind() == std::io::ErrorKind::InvalidInput => Err(Error::Usage {
                message: "the name of a file or folder here is not UTF-8, and plugins take no other".into(),
                hint: "rename it, or work in another folder".into(),
            }),
            _ => Err(self.gone()),
        }
    }

    /// The next reply; the plugin's log lines go to `tracing` on the way.
    ///
    /// # Errors
    /// When the worker ended or spoke nonsense, or took longer than `timeout`.
    pub fn receive(&mut self, timeout: Option<Duration>) -> Result<Reply> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let wait = deadline.map_or(Duration::MAX, |d| d.saturating_duration_since(Instant::now()));
            match self.replies.recv_timeout(wait.min(Duration::from_secs(3600))) {
                // A plugin that logs without end does not get more time for it.
                Ok(Ok(Reply::Log { level, target, message })) if !wait.is_zero() => log(level, &target, &message),
                Ok(Ok(Reply::Log { .. })) => return Err(self.late(timeout)),
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(error)) => return Err(self.failed(nonsense(&error))),
                Err(RecvTimeoutError::Disconnected) => return Err(self.gone()),
                Err(RecvTimeoutError::Timeout) if deadline.is_none() => (),
                Err(RecvTimeoutError::Timeout) => return Err(self.late(timeout)),
            }
        }
    }

    /// The next reply if there is one within `wait`.
    ///
    /// # Errors
    /// As [`Self::receive`], but for the time.
    pub fn poll(&mut self, wait: Duration) -> Result<Option<Reply>> {
        match self.replies.recv_timeout(wait) {
            Ok(Ok(Reply::Log { level, target, message })) => {
                log(level, &target, &message);
                Ok(None)
            }
            Ok(Ok(reply)) => Ok(Some(reply)),
            Ok(Err(error)) => Err(self.failed(nonsense(&error))),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(self.gone()),
        }
    }

    /// Its replies, for one who takes them all from now on: [`Self::receive`] and [`Self::poll`] find it gone.
    pub fn take_replies(&mut self) -> Replies {
        std::mem::replace(&mut self.replies, mpsc::channel().1)
    }

    /// Ends the process, whatever it does.
    pub fn end(&mut self) {
        self.kill();
    }

    /// Ends the process and gives the end of what it wrote to stderr.
    pub fn finish(mut self) -> String {
        self.kill();
        self.stderr_tail()
    }

    /// The error for a reply that does not belong here.
    pub fn confused(&mut self, reply: &impl std::fmt::Debug) -> Error {
        self.failed(unexpected(reply))
    }

    /// The error for a worker that took longer than `timeout`.
    fn late(&mut self, timeout: Option<Duration>) -> Error {
        self.failed(format!("did not answer within {} s", timeout.unwrap_or_default().as_secs_f32()))
    }

    /// The error for a worker that ended: how, and what it wrote last.
    pub(super) fn gone(&mut self) -> Error {
        self.requests = None;
        let deadline = Instant::now() + Duration::from_secs(2);
        while !self.has_exited() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let what = if self.has_exited() {
            self.kill().map_or_else(|| "ended".into(), describe)
        } else {
            "closed its answers".into()
        };
        self.failed(what)
    }

    /// Ends it, and gives the error for what it did.
    pub(super) fn failed(&mut self, what: String) -> Error {
        self.kill();
        let stderr = self.stderr_tail();
        tracing::info!(target: "worker", "the worker process {what}; its stderr: {stderr}");
        Error::Worker { what, stderr }
    }

    /// The end of what it wrote to stderr, now that it has ended.
    fn stderr_tail(&self) -> String {
        // The reader ends with the pipe, unless a process that left the group holds it: what came until then will do.
        let deadline = Instant::now() + STDERR_TIMEOUT;
        while self.stderr_reader.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        let stderr = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&stderr).into_owned()
    }

    /// Whether the process has ended; it is not reaped by asking, so its id stays its own.
    fn has_exited(&mut self) -> bool {
        #[cfg(unix)]
        {
            // SAFETY: a siginfo of zeroes is valid, and it lives during the call.
            unsafe {
                let mut info: libc::siginfo_t = std::mem::zeroed();
                let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
                let asked = libc::waitid(libc::P_PID, self.child.id(), &raw mut info, options);
                // ECHILD: it was reaped before.
                asked != 0 || info.si_pid() != 0
            }
        }
        #[cfg(not(unix))]
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Ends the process and everything it started, and says how it ended.
    fn kill(&mut self) -> Option<ExitStatus> {
        self.requests = None;
        if self.owner != std::process::id() {
            return None;
        }
        match self.reaped() {
            Ok(None) => (),
            Ok(status) => return status,
            // Reaped by another part of this program: the id may be somebody else's by now.
            Err(_) => return None,
        }
        #[cfg(unix)]
        if let Ok(group) = libc::pid_t::try_from(self.child.id()) {
            // SAFETY: the group is the worker's own: its leader is not reaped yet, so the id is not another's.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        let _ = self.child.kill();
        self.child.wait().ok()
    }

    /// How it ended, if it was reaped already.
    fn reaped(&mut self) -> std::io::Result<Option<ExitStatus>> {
        #[cfg(unix)]
        {
            // SAFETY: as in `has_exited`.
            let known = unsafe {
                let mut info: libc::siginfo_t = std::mem::zeroed();
                let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
                libc::waitid(libc::P_PID, self.child.id(), &raw mut info, options) == 0
            };
            if known {
                return Ok(None);
            }
        }
        self.child.try_wait()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether what is about to be run with more rights than its user has can have been put there by others.
fn trusted(executable: &Path) -> Result<()> {
    let file = PluginFile::examine(executable, None).map_err(Error::io("opening", executable))?;
    trust::check(&file, executable).map_err(|refusal| Error::Refused {
        message: format!("`{}` may not be run: {}", executable.display(), refusal.reason),
        hint: refusal.remedy,
    })
}

/// What a worker did that says what does not belong there.
pub(super) fn unexpected(reply: &impl std::fmt::Debug) -> String {
    let name = format!("{reply:?}");
    format!("gave an unexpected answer ({})", name.split(['(', ' ']).next().unwrap_or_default())
}

/// What a worker did whose answer cannot be read.
pub(super) fn nonsense(error: &std::io::Error) -> String {
    format!("spoke nonsense ({error})")
}

/// Hands a line of a plugin's log on.
pub(super) fn log(level: u8, target: &str, message: &str) {
    use pajamas_plugin_api::LogLevel as L;
    match L::from_number(level) {
        L::Error => tracing::error!(target: "worker", "{target}: {message}"),
        L::Warn => tracing::warn!(target: "worker", "{target}: {message}"),
        L::Info => tracing::info!(target: "worker", "{target}: {message}"),
        L::Debug => tracing::debug!(target: "worker", "{target}: {message}"),
        L::Trace => tracing::trace!(target: "worker", "{target}: {message}"),
    }
}

fn describe(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let name = match signal {
            libc::SIGSEGV => "segmentation fault",
            libc::SIGABRT => "abort",
            libc::SIGILL => "illegal instruction",
            libc::SIGBUS => "bus error",
            libc::SIGFPE => "arithmetic error",
            libc::SIGTRAP => "trap",
            libc::SIGSYS => "forbidden system call",
            libc::SIGKILL => "killed",
            _ => "signal",
        };
        return format!("crashed ({name}, signal {signal})");
    }
    format!("ended without an answer ({status})")
}

/// Reads `from` to its end and keeps the last bytes in `tail`.
fn keep_tail(mut from: impl Read, tail: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(&buffer[..count]);
        let excess = tail.len().saturating_sub(STDERR_BYTES_MAX);
        tail.drain(..excess);
    }
}

/// The worker: named by the caller or the environment, where pajamas is installed, beside this program, or in the home folder. Never this
/// program itself: a library must not start its caller again.
///
/// # Errors
/// When there is none.
pub fn find_executable(config: &Config) -> Result<PathBuf> {
    if let Some(path) = &config.worker {
        return Ok(path.clone());
    }
    let name = format!("pajamas-worker{}", std::env::consts::EXE_SUFFIX);
    let own = match &config.prefix {
        Some(prefix) => prefix.join("bin").join(&name),
        None => files::this_program().map_err(Error::io("finding", Path::new("this program")))?.with_file_name(&name),
    };
    let places = [own, config.home.join("bin").join(&name)];
    places.iter().find(|place| place.is_file()).cloned().ok_or_else(|| Error::Refused {
        message: format!("`{name}` is neither `{}` nor `{}`", places[0].display(), places[1].display()),
        hint: format!("install them together, or set {PAJAMAS_WORKER}"),
    })
}
