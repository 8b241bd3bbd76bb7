//! Every environment variable that pajamas reads, declared once.

/// A variable and what it does.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// A sentence.
    pub help: &'static str,
}

macro_rules! variables {
    ($(#[doc = $help:literal] $name:ident;)+) => {
        $(
            #[doc = $help]
            pub const $name: &str = stringify!($name);
        )+
        /// Every variable, in the order to show them in.
        pub const ALL: &[Variable] = &[$(Variable { name: $name, help: $help.trim_ascii() }),+];
    };
}

variables! {
    /// Moves everything that lives in `~/.pajamas`.
    PAJAMAS_HOME;
    /// Further plugin folders, separated as in `PATH`.
    PAJAMAS_PLUGIN_PATH;
    /// The worker executable, where it is not beside the program.
    PAJAMAS_WORKER;
    /// The backend to prefer.
    PAJAMAS_BACKEND;
    /// Hugging Face's cache.
    HF_HUB_CACHE;
    /// An older name of `HF_HUB_CACHE`.
    HUGGINGFACE_HUB_CACHE;
    /// Hugging Face's folder; its cache is `hub` below it.
    HF_HOME;
    /// The server to use for the hub, in place of Hugging Face's.
    HF_ENDPOINT;
    /// The token for models that not everybody may read.
    HF_TOKEN;
    /// `1`, `true`, `yes` or `on`: nothing is ever fetched.
    HF_HUB_OFFLINE;
    /// Where caches are kept instead of `~/.cache`; Hugging Face's is `huggingface/hub` below it.
    XDG_CACHE_HOME;
    /// Filters the log, as in `pajamas=debug`.
    RUST_LOG;
    /// No colour, whatever its value.
    NO_COLOR;
    /// The kind of terminal; on a `dumb` one lines are not edited.
    TERM;
}

/// Variables that say how something looks, and not where code or data come from.
const HARMLESS: [&str; 3] = [RUST_LOG, NO_COLOR, TERM];

/// The value of `name`, if it is set and not empty. A process with more rights than whoever started it takes none that
/// could lead it to their files.
pub fn value(name: &str) -> Option<std::ffi::OsString> {
    if crate::users::is_privileged() && !HARMLESS.contains(&name) {
        return None;
    }
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The user's home folder; none where nothing tells an absolute path, so that none is implied by where a program is
/// started.
pub fn user_home() -> Option<std::path::PathBuf> {
    let home = if crate::users::is_privileged() { crate::users::own_home() } else { std::env::home_dir() };
    home.filter(|home| home.is_absolute())
}

/// Whether the value of `name` must not be shown to anybody.
pub fn is_secret(name: &str) -> bool {
    ["TOKEN", "KEY", "SECRET", "PASSWORD"].iter().any(|word| name.to_ascii_uppercase().ends_with(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_keys_are_secrets() {
        assert!(is_secret("HF_TOKEN") && is_secret("HUGGING_FACE_HUB_TOKEN") && is_secret("OPENAI_API_KEY"));
        let secrets: Vec<_> = ALL.iter().map(|variable| variable.name).filter(|name| is_secret(name)).collect();
        assert_eq!(secrets, [HF_TOKEN]);
        assert!(ALL.iter().all(|variable| variable.help.ends_with('.')));
    }
}
