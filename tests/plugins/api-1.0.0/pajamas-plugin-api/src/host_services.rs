//! What the host lends to a plugin: its log, a cache folder, a thread budget, and where the plugin lies.

use std::path::PathBuf;
use std::sync::OnceLock;

/// How serious a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum LogLevel {
    /// Something failed.
    Error = 0,
    /// Something is not as the user would expect.
    Warn = 1,
    /// Something worth knowing.
    Info = 2,
    /// For the curious.
    Debug = 3,
    /// For the author.
    Trace = 4,
}

impl LogLevel {
    /// The level with this number; the last one for greater numbers.
    pub fn from_number(number: u8) -> Self {
        [Self::Error, Self::Warn, Self::Info, Self::Debug].get(usize::from(number)).copied().unwrap_or(Self::Trace)
    }
}

/// Takes level, target and message of a log line.
type Log = Box<dyn Fn(LogLevel, &str, &str) + Send + Sync>;

/// The host's services. Every method may be called from any thread, at any time after the plugin was made.
pub struct HostServices {
    pub(crate) log: Log,
    pub(crate) cache_dir: PathBuf,
    pub(crate) thread_budget: u32,
    pub(crate) plugin_dir: PathBuf,
}

impl HostServices {
    /// Services that log to `log` (level, target, message).
    pub fn new(
        log: impl Fn(LogLevel, &str, &str) + Send + Sync + 'static,
        cache_dir: impl Into<PathBuf>,
        thread_budget: u32,
    ) -> Self {
        let thread_budget = thread_budget.max(1);
        Self { log: Box::new(log), cache_dir: cache_dir.into(), thread_budget, plugin_dir: PathBuf::new() }
    }

    /// Writes a line to the host's log. Never print: stdout belongs to the user's data, stderr to progress bars.
    pub fn log(&self, level: LogLevel, target: &str, message: &str) {
        (self.log)(level, target, message);
    }

    /// A folder for what can be made again; it may not exist yet.
    pub fn cache_dir(&self) -> PathBuf {
        self.cache_dir.clone()
    }

    /// The folder that the plugin's library lies in, where a bundle has its other files. Empty outside of a host.
    pub fn plugin_dir(&self) -> PathBuf {
        self.plugin_dir.clone()
    }

    /// How many threads the plugin may compute with; at least 1.
    pub fn thread_budget(&self) -> u32 {
        self.thread_budget
    }
}

static HOST: OnceLock<HostServices> = OnceLock::new();

/// The host's services. In a plugin that no host has loaded (its own unit tests), the log goes nowhere.
pub fn host() -> &'static HostServices {
    HOST.get_or_init(|| {
        let threads = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
        HostServices::new(|_, _, _| (), std::env::temp_dir(), threads)
    })
}

/// Sets the services, once; later calls change nothing. Also sends this library's `tracing` events to the host's log.
pub(crate) fn install(services: HostServices) {
    if HOST.set(services).is_ok() {
        crate::tracing_bridge::install();
    }
}
