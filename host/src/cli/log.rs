//! The log on stderr: a warning looks like every other warning, the rest carries its level.

use super::{output, progress};
use crate::env_vars::RUST_LOG;
use std::fmt;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Starts it: warnings, and with each `-v` more, unless `RUST_LOG` says what.
pub fn start(verbose: u8) {
    let default = ["warn", "info", "debug", "trace"][usize::from(verbose.min(3))];
    let filter = EnvFilter::try_from_env(RUST_LOG).unwrap_or_else(|_| EnvFilter::new(default));
    // A second start, in a test that calls `main` twice, keeps the first.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| progress::Log)
        // The fields are cleaned and coloured below.
        .with_ansi(false)
        .event_format(Line)
        .try_init();
}

/// One event, one line.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = match *event.metadata().level() {
            Level::WARN => "warning: ".to_owned(),
            level => format!("[{}] ", level.as_str().to_lowercase()),
        };
        context.format_fields(Writer::new(&mut line), event)?;
        writeln!(writer, "{}", output::painted(&output::clean(&line)))
    }
}
