//! A progress bar on stderr, where stderr is a terminal; nothing at all elsewhere. And what is said while it runs.

use super::output;
use crate::pipeline::Artifact;
use crate::runtime::open::Observer;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pajamas_plugin_api::ProgressUpdate;
use std::io::IsTerminal;

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
        Self(bar)
    }

    /// Shows `update`.
    pub fn update(&self, update: &ProgressUpdate) {
        self.0.set_prefix(output::clean(&update.stage));
        self.0.set_message(output::clean(&update.detail));
        self.0.set_position((update.fraction * 1000.0) as u64);
    }

    /// Says a line on stderr, above the bar.
    pub fn say(&self, line: &str) {
        self.0.suspend(|| output::say(line));
    }

    /// Takes the bar off the screen.
    pub fn clear(&self) {
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

    fn progress(&self, update: &ProgressUpdate) {
        self.bar.update(update);
    }

    fn made(&self, artifact: &Artifact) {
        self.bar.0.suspend(|| super::quantize::summarize(artifact, self.model));
    }
}
