//! Ctrl-C: once asks the work to stop, twice ends the program.

use pajamas_plugin_api::CancelToken;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What Ctrl-C does now.
pub struct Interrupt {
    pressed: Arc<AtomicBool>,
    idle: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes over Ctrl-C (and a polite kill). Nothing is being done yet, so pressing it ends the program.
    pub fn install() -> anyhow::Result<Self> {
        let (pressed, idle) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
        #[cfg(unix)]
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // In this order: a second press, or one while idle, ends the program; the first one is noted.
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&pressed))?;
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&idle))?;
            signal_hook::flag::register(signal, Arc::clone(&pressed))?;
        }
        Ok(Self { pressed, idle })
    }

    /// A token for the work that begins now.
    pub fn begin(&self) -> CancelToken {
        self.pressed.store(false, Ordering::Relaxed);
        self.idle.store(false, Ordering::Relaxed);
        CancelToken::from_flag(Arc::clone(&self.pressed))
    }

    /// The work is done: Ctrl-C ends the program again.
    pub fn end(&self) {
        self.idle.store(true, Ordering::Relaxed);
        self.pressed.store(false, Ordering::Relaxed);
    }
}
