//! Every environment variable that pajamas reads, declared once.

/// Moves everything that lives in `~/.pajamas`.
pub const PAJAMAS_HOME: &str = "PAJAMAS_HOME";
/// Further plugin folders, separated as in `PATH`.
pub const PAJAMAS_PLUGIN_PATH: &str = "PAJAMAS_PLUGIN_PATH";
/// The worker executable, where it is not beside the program.
pub const PAJAMAS_WORKER: &str = "PAJAMAS_WORKER";
/// The backend to prefer.
pub const PAJAMAS_BACKEND: &str = "PAJAMAS_BACKEND";
/// Hugging Face's folder; its cache is `hub` below it.
pub const HF_HOME: &str = "HF_HOME";
/// Hugging Face's cache.
pub const HF_HUB_CACHE: &str = "HF_HUB_CACHE";
/// Filters the log, as in `pajamas=debug`.
pub const RUST_LOG: &str = "RUST_LOG";
/// No colour, whatever its value.
pub const NO_COLOR: &str = "NO_COLOR";
/// The kind of terminal; on a `dumb` one lines are not edited.
pub const TERM: &str = "TERM";

/// The value of `name`, if it is set and not empty.
pub fn value(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
