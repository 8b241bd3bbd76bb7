//! A progress bar on stderr, where stderr is a terminal; nothing at all elsewhere. And what is said while it runs.

use super::output;
use crate::pipeline::Artifact;
use crate::runtime::open::Observer;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pajamas_plugin_api::ProgressUpdate;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;

/// The bar on the screen, for the log to write above it.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn set_shown(bar: Option<ProgressBar>) {
    if let Ok(mut shown) = SHOWN.lock() {
        *shown = bar;
    }
}

/// Stderr for the log: a bar that is on the screen makes room for each piece.
pub struct Log;

impl Write for Log {
    fn write(&mut self, piece: &[u8]) -> std::io::Result<usize> {
        let shown = SHOWN.lock().ok().and_then(|shown| shown.clone());
        let write = || std::io::stderr().write(piece);
        shown.map_or_else(write, |bar| bar.suspend(write))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// A bar that follows [`ProgressUpdate`]s; it goes away when dropped.
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar that draws nothing until its first update.
    pub fn new() -> Self {
        let target =
            if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(1000), target);
        if let Ok(style) = ProgressStyle::with_template("{prefix:>12} [{bar:30}] {percent:>3}% {wide_msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        set_shown(Some(bar.clone()));
        Self(bar)
    }

    /// Shows `update`.
    pub fn update(&self, update: &ProgressUpdate) {
        let stage = output::clean(&update.stage);
        if self.0.prefix() != stage {
            // Each of these may draw, and the new stage has nothing of the last one's.
            self.0.set_message("");
            self.0.set_position(0);
            self.0.set_prefix(stage);
        }
        self.0.set_position((update.fraction * 1000.0) as u64);
        self.0.set_message(output::clean(&update.detail));
    }

    /// Says a line on stderr, above the bar.
    pub fn say(&self, line: &str) {
        self.0.suspend(|| output::say(line));
    }

    /// Takes the bar off the screen.
    pub fn clear(&self) {
        set_shown(None);
        self.0.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Shows a user what happens while a model is opened.
pub struct Console<'a> {
    bar: Bar,
    model: &'a str,
}

impl<'a> Console<'a> {
    /// For `model`, as the user named it.
    pub fn new(model: &'a str) -> Self {
        Self { bar: Bar::new(), model }
    }

    /// Takes the bar off the screen.
    pub fn clear(&self) {
        self.bar.clear();
    }
}

impl Observer for Console<'_> {
    fn warn(&self, message: &str) {
        self.bar.say(&format!("warning: {}", output::clean(message)));
    }

    fn note(&self, message: &str) {
        self.bar.say(&output::clean(message));
    }

    fn progress(&self, update: &ProgressUpdate) {
        self.bar.update(update);
    }

    fn made(&self, artifact: &Artifact) {
        self.bar.0.suspend(|| super::quantize::summarize(artifact, self.model));
    }
}
