//! Asks a plugin, in a worker process, what it is and whether it can run here. A crash or a hang ends the worker.

use super::cache::{Answer, Failure, now};
use super::file::PluginFile;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::worker::client::Worker;
use crate::worker::protocol::{Reply, Request};
use std::time::Duration;

/// What may help with a plugin that failed, where nothing better is known.
const ASK_AGAIN: &str = "`pajamas plugins list --rescan` asks it again";

/// Loads the plugin in a worker and asks it. A plugin that crashed, hung or failed has answered, too.
///
/// # Errors
/// When the worker cannot be started.
pub fn probe(file: &PluginFile, environment: &str, config: &Config) -> Result<Answer> {
    let mut worker = Worker::start(config)?;
    let reply = worker
        .send(&Request::Probe { plugin: file.clone() })
        .and_then(|()| worker.receive(Some(Duration::from_secs(config.probe_timeout_s))));
    let result = match reply {
        Ok(Reply::Probed(report)) => Ok(report),
        Ok(Reply::Failed(error)) => Err(failure(&error.into())),
        Ok(other) => Err(failure(&worker.confused(&other))),
        Err(error) => Err(failure(&error)),
    };
    Ok(Answer { asked_at: now(), environment: environment.into(), result, stderr: worker.finish() })
}

fn failure(error: &Error) -> Failure {
    let text = error.to_string();
    if let Some((reason, remedy)) = missing(&text) {
        return Failure { reason, remedy };
    }
    let remedy = match error {
        // What it logged is the tail that is kept with the answer.
        Error::Worker { .. } => ASK_AGAIN.into(),
        error => error.hint().unwrap_or_default(),
    };
    Failure { reason: text, remedy }
}

/// What the loader missed, if that is why: it says so in words of its own.
fn missing(text: &str) -> Option<(String, String)> {
    let install = |name: &str| format!("install `{name}`, or put it where the loader looks (`LD_LIBRARY_PATH`)");
    if let Some((before, _)) = text.split_once(": cannot open shared object file") {
        let name = before.rsplit([' ', '`']).next()?;
        return Some((format!("it needs the library `{name}`, which is not here"), install(name)));
    }
    if let Some((_, after)) = text.split_once("Library not loaded: ") {
        let name = after.split_whitespace().next()?;
        return Some((format!("it needs the library `{name}`, which is not here"), install(name)));
    }
    let symbol =
        text.split_once("undefined symbol: ").or_else(|| text.split_once("symbol not found in flat namespace "));
    let symbol = symbol?.1.split([',', ' ', '`']).find(|word| !word.is_empty())?.trim_matches('\'');
    let remedy = "install the version of its libraries that it was built with, or another build of it";
    Some((format!("it needs the function `{symbol}`, which no library here has"), remedy.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_loader_misses_is_said_in_plain_words() {
        let reason = |text: &str| missing(text).map(|(reason, _)| reason);
        let glibc =
            "the library cannot be loaded: libfoo.so.1: cannot open shared object file: No such file or directory";
        assert_eq!(reason(glibc).unwrap(), "it needs the library `libfoo.so.1`, which is not here");
        let macos =
            "the library cannot be loaded: dlopen(/p/x.dylib, 0x0002): Library not loaded: @rpath/libfoo.dylib\n";
        assert_eq!(reason(macos).unwrap(), "it needs the library `@rpath/libfoo.dylib`, which is not here");
        for text in
            ["/p/x.so: undefined symbol: foo_bar, version V", "dlopen(x): symbol not found in flat namespace 'foo_bar'"]
        {
            assert_eq!(reason(text).unwrap(), "it needs the function `foo_bar`, which no library here has");
        }
        assert_eq!(reason("the plugin panicked: no wool"), None);
    }
}
