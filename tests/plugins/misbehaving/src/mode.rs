//! How this plugin is to behave: as `MISBEHAVE` in the environment says, else as its own file does.
//!
//! A mode is a word. Most are a fault and where it happens, `segv-at-probe`; the others are looked for where they belong.

use std::ffi::CStr;

/// What the mode in the file begins with. Tests look for it and write a name behind it.
const MARK: &[u8] = b"misbehave-mode:";

/// Bytes of mark and name, padded with zeroes.
const LENGTH: usize = 96;

#[used]
static IN_FILE: [u8; LENGTH] = {
    let mut bytes = [0; LENGTH];
    bytes.split_at_mut(MARK.len()).0.copy_from_slice(MARK);
    bytes.split_at_mut(MARK.len()).1.split_at_mut(4).0.copy_from_slice(b"well");
    bytes
};

/// Modes that have a second name.
const OTHER_NAMES: [(&str, &str); 7] = [
    ("abort", "abort-at-probe"),
    ("exit", "exit-0-at-probe"),
    ("hang", "hang-at-probe"),
    ("panic", "panic-at-probe"),
    ("panic-load", "panic-at-model"),
    ("garbage-answer", "garbage-at-probe"),
    ("nonsense-frame", "nonsense-at-probe"),
];

/// Where a fault happens.
#[derive(Clone, Copy)]
pub enum Stage {
    /// In the library's constructor, before anybody has called a function of it.
    Load,
    /// While the backend is made.
    Constructor,
    /// In `is_available`.
    Probe,
    /// In `load_model`.
    Model,
    /// In `generate`, after the prompt.
    Generate,
}

impl Stage {
    /// How the names of modes say it.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Load => "-at-load",
            Self::Constructor => "-in-constructor",
            Self::Probe => "-at-probe",
            Self::Model => "-at-model",
            Self::Generate => "-generate",
        }
    }
}

/// The name of a mode. Reading it allocates nothing, so that a constructor of the library can do it.
#[derive(Clone, Copy)]
pub struct Mode {
    bytes: [u8; LENGTH],
    length: usize,
}

impl Mode {
    /// The one that holds now.
    pub fn now() -> Self {
        // SAFETY: the name is a C string, and nothing in this process changes the environment meanwhile.
        let variable = unsafe {
            let value = libc::getenv(c"MISBEHAVE".as_ptr());
            if value.is_null() { None } else { Some(CStr::from_ptr(value)) }
        };
        if let Some(value) = variable {
            return Self::new(value.to_bytes());
        }
        // Volatile, because what the compiler knows of it need not be what the file says by now.
        // SAFETY: the static lives for ever and is aligned.
        let bytes = unsafe { (&raw const IN_FILE).read_volatile() };
        Self::new(&bytes[MARK.len()..])
    }

    fn new(name: &[u8]) -> Self {
        let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len()).min(LENGTH);
        let mut bytes = [0; LENGTH];
        bytes[..length].copy_from_slice(&name[..length]);
        Self { bytes, length }
    }

    /// Its name, as whoever chose it wrote it.
    pub fn as_written(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        let written = self.as_written();
        OTHER_NAMES.iter().find(|(other, _)| *other == written).map_or(written, |(_, name)| name)
    }

    /// Whether it is the one with this name.
    pub fn is(&self, name: &str) -> bool {
        self.name() == name
    }

    /// What it wants to happen at `stage`, if anything: the `segv` of `segv-at-probe`.
    pub fn fault(&self, stage: Stage) -> Option<&str> {
        self.name().strip_suffix(stage.suffix())
    }
}
