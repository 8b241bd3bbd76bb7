//! Ctrl-C: once asks the work to stop, twice ends the program. While a line is edited it is a key like others.

use pajamas_plugin_api::CancelToken;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What Ctrl-C, and a polite kill, do now.
pub struct Interrupt {
    /// One of them came since the work began.
    pressed: Arc<AtomicBool>,
    /// A polite kill came, ever: it means the program and not only its work.
    killed: Arc<AtomicBool>,
    /// Ctrl-C ends the program.
    idle: Arc<AtomicBool>,
    /// A polite kill ends the program.
    mortal: Arc<AtomicBool>,
    #[cfg(unix)]
    terminal: Arc<Terminal>,
}

impl Interrupt {
    /// Takes over Ctrl-C (and a polite kill). Nothing is being done yet, so pressing it ends the program.
    pub fn install() -> anyhow::Result<Self> {
        let flag = |value| Arc::new(AtomicBool::new(value));
        let interrupt = Self {
            pressed: flag(false),
            killed: flag(false),
            idle: flag(true),
            mortal: flag(true),
            #[cfg(unix)]
            terminal: Arc::default(),
        };
        #[cfg(unix)]
        interrupt.handle_signals()?;
        Ok(interrupt)
    }

    #[cfg(unix)]
    fn handle_signals(&self) -> std::io::Result<()> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let terminal = Arc::clone(&self.terminal);
        // SAFETY: what it does is allowed in a signal's handler, see there.
        unsafe { signal_hook::low_level::register(SIGTERM, move || terminal.restore())? };
        signal_hook::flag::register(SIGTERM, Arc::clone(&self.killed))?;
        for (signal, ends) in [(SIGINT, &self.idle), (SIGTERM, &self.mortal)] {
            // In this order: a second press, or one while idle, ends the program; the first one is noted.
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&self.pressed))?;
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(ends))?;
            signal_hook::flag::register(signal, Arc::clone(&self.pressed))?;
        }
        Ok(())
    }

    /// A token for the work that begins now.
    pub fn begin(&self) -> CancelToken {
        self.set(false, false);
        CancelToken::from_flag(Arc::clone(&self.pressed))
    }

    /// The work is done: Ctrl-C ends the program again.
    pub fn end(&self) {
        self.set(true, true);
    }

    /// The work is done, and a line is going to be read. Until then Ctrl-C does nothing: whoever presses it once more
    /// than it took to stop an answer does not want to lose the chat.
    pub fn rest(&self) {
        self.set(false, true);
    }

    /// Whether a polite kill asked the program to end. It stopped only the work that there was.
    pub fn killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    /// Runs `read`, which edits a line with the terminal in raw mode and handles Ctrl-C itself. A polite kill gives the
    /// terminal back as it was before.
    pub fn while_editing<T>(&self, read: impl FnOnce() -> T) -> T {
        #[cfg(unix)]
        self.terminal.lend();
        self.rest();
        let line = read();
        #[cfg(unix)]
        self.terminal.lent.store(false, Ordering::Relaxed);
        line
    }

    fn set(&self, idle: bool, mortal: bool) {
        self.idle.store(idle, Ordering::Relaxed);
        self.mortal.store(mortal, Ordering::Relaxed);
        self.pressed.store(false, Ordering::Relaxed);
    }
}

/// The terminal as it was before a line editor changed it.
#[cfg(unix)]
#[derive(Default)]
struct Terminal {
    before: std::sync::OnceLock<libc::termios>,
    lent: AtomicBool,
}

#[cfg(unix)]
impl Terminal {
    fn lend(&self) {
        let mut now = std::mem::MaybeUninit::uninit();
        // SAFETY: it writes a termios there if it returns 0.
        if unsafe { libc::tcgetattr(libc::STDIN_FILENO, now.as_mut_ptr()) } == 0 {
            // SAFETY: as above.
            let now = unsafe { now.assume_init() };
            self.before.get_or_init(|| now);
            self.lent.store(true, Ordering::Relaxed);
        }
    }

    /// For a signal's handler: it only reads atomics and calls what POSIX allows there.
    fn restore(&self) {
        const BRACKETED_PASTE_OFF: &[u8] = b"\x1b[?2004l\n";
        let Some(before) = self.before.get().filter(|_| self.lent.load(Ordering::Relaxed)) else { return };
        // SAFETY: both get pointers to what lives longer than the call, with its length.
        unsafe {
            libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, before);
            libc::write(libc::STDIN_FILENO, BRACKETED_PASTE_OFF.as_ptr().cast(), BRACKETED_PASTE_OFF.len());
        }
    }
}
