//! Hostile plugin files: copies of the plugin `misbehaving` with bytes changed, so that one folder can hold any number of
//! them, each with its name and its fault.
//!
//! A mode is the name of what goes wrong. Most are a fault and where it happens:
//!
//! - where: `-at-load` (in the library's constructor), `-in-constructor` (the backend's), `-at-probe`, `-at-model` (in
//!   `load_model`), `-generate`;
//! - what: `exit-0`, `exit-1`, `abort`, `segv`, `ill`, `bus`, `cxx` (a C++ exception), `panic`, `hang`; and, going on as
//!   if nothing had happened, `fork` (a process in a session of its own keeps all descriptors for 60 s), `flood` (100 MB
//!   on stdout and on stderr), `garbage` and `nonsense` (no frame, and no message, in every pipe that can be written to);
//!   `cut` (the beginning of a frame there, and then an abort).
//!
//! The others: `well`, `well-cpu`, `well-gpu`; when probed `chatter`, `print`, `unavailable`, `huge-answer` and
//! `slow-at-probe`; when loading a model `oom-at-model` and `unsupported-at-model`; when generating `panic-midway`,
//! `slow-generate`, `other-thread` and `late-callback`; `wrong-logits`; and when unloading `panic-drop`.

use crate::{Home, built_library, library_name};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The variable that names a [`Marker`]'s file.
pub const MARKER: &str = "MISBEHAVE_MARKER";

/// What a mode in the file begins with.
const MODE: &[u8] = b"misbehave-mode:";

/// The mode that the plugin is built with.
const BUILT_MODE: &[u8] = b"misbehave-mode:well\0";

/// Bytes that [`MODE`] and the mode's name have in the file, with zeroes behind them.
const MODE_BYTES: usize = 96;

/// How abi_stable's header begins; a major and a minor version follow, 4 bytes each.
const ABI_MAGIC: &[u8; 32] = b"abi stable library for Rust     ";

/// A plugin file that is being made. Whatever is changed, nothing moves.
#[derive(Clone)]
pub struct Hostile {
    bytes: Vec<u8>,
    /// How many of them are written.
    length: usize,
    name: String,
    /// Where the manifest's TOML lies.
    manifest: Range<usize>,
}

impl Hostile {
    /// A plugin named `misbehaving` that behaves as `mode` says, unless `MISBEHAVE` in the environment says another.
    pub fn new(mode: &str) -> Self {
        let mut bytes = std::fs::read(built_library("misbehaving")).expect("the built plugin");
        let [at] = positions(&bytes, BUILT_MODE)[..] else { panic!("one mode in the file") };
        let name = &mut bytes[at..at + MODE_BYTES][MODE.len()..];
        name.fill(0);
        name[..mode.len()].copy_from_slice(mode.as_bytes());
        let (start, end) = (b"pajamas-plugin-1name = '''", b"\ncpu_features = ''''''\n");
        let [start] = positions(&bytes, start)[..] else { panic!("one manifest in the file") };
        let length = positions(&bytes[start..], end).first().expect("a manifest as the macro writes it") + end.len();
        let manifest = start + b"pajamas-plugin-1".len()..start + length;
        Self { length: bytes.len(), bytes, name: "misbehaving".into(), manifest }
    }

    /// Sets a field of the manifest to `value`, as text. What gets longer takes its room from the description.
    pub fn manifest(mut self, field: &str, value: &str) -> Self {
        let section = &mut self.bytes[self.manifest.clone()];
        let text = std::str::from_utf8(section).expect("a manifest in UTF-8");
        let mut lines: Vec<String> = text.lines().filter(|line| !line.is_empty()).map(Into::into).collect();
        let find = |lines: &[String], field: &str| {
            let start = format!("{field} = '''");
            lines.iter().position(|line| line.starts_with(&start)).expect("a field of the manifest")
        };
        let changed = find(&lines, field);
        lines[changed] = format!("{field} = '''{value}'''");
        let length: usize = lines.iter().map(|line| line.len() + 1).sum();
        if let Some(excess) = length.checked_sub(section.len()) {
            let at = find(&lines, "description");
            let end = lines[at].len() - "'''".len();
            assert!(end - "description = '''".len() >= excess, "no room in the description");
            lines[at].replace_range(end - excess..end, "");
        }
        section.fill(b'\n');
        let text = lines.join("\n");
        section[..text.len()].copy_from_slice(text.as_bytes());
        self
    }

    /// Sets the backend's name, and the name of the file that [`Self::install`] writes.
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.into();
        self.manifest("name", name)
    }

    /// Sets the API version that it says it was built against.
    pub fn api(self, version: &str) -> Self {
        self.manifest("api_version", version)
    }

    /// Sets the oldest host API that it says it works with.
    pub fn minimum(self, version: &str) -> Self {
        self.manifest("minimum_host_api", version)
    }

    /// Sets the CPU features that it says it needs, separated by commas.
    pub fn cpu_features(self, features: &str) -> Self {
        self.manifest("cpu_features", features)
    }

    /// Replaces every `from` by `to`, which must be as long and must be there.
    pub fn patch(mut self, from: &[u8], to: &[u8]) -> Self {
        patch(&mut self.bytes, from, to);
        self
    }

    /// Changes the bytes by `change`, such as [`missing_library`].
    pub fn with(mut self, change: impl FnOnce(&mut [u8])) -> Self {
        change(&mut self.bytes);
        self
    }

    /// Leaves out what follows the first `length` bytes.
    pub fn truncated(mut self, length: usize) -> Self {
        self.length = length;
        self
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Writes it to `path`, executable; in place of a file that is there, whose bytes a process may have mapped.
    pub fn write(&self, path: &Path) {
        let _ = std::fs::remove_file(path);
        std::fs::write(path, self.bytes()).expect("writing the plugin");
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(path, mode).expect("the plugin's permissions");
        }
        // Apple silicon kills who loads changed code under the old signature. What is no whole library cannot be signed.
        #[cfg(target_os = "macos")]
        {
            let mut sign = std::process::Command::new("codesign");
            let _ = sign.args(["--force", "--sign", "-"]).arg(path).output();
        }
    }

    /// Writes it into the plugin folder of `home`, as the library of its name, and returns its path.
    pub fn install(&self, home: &Home) -> PathBuf {
        let path = home.plugins().join(library_name(&self.name));
        self.write(&path);
        path
    }
}

/// A file that says which hostile plugins ran code: their library's constructors add a line to it.
///
/// Pass [`Self::path`] as [`MARKER`] to what may load them.
pub struct Marker {
    dir: tempfile::TempDir,
}

impl Marker {
    /// One without a line.
    #[expect(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    /// Its file, which is not there before the first line.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("marker")
    }

    /// How often a plugin was loaded.
    pub fn runs(&self) -> usize {
        self.lines().iter().filter(|(word, _)| word != "grandchild").count()
    }

    /// How often one in `mode` was.
    pub fn runs_of(&self, mode: &str) -> usize {
        self.lines().iter().filter(|(word, _)| word == mode).count()
    }

    /// The process ids of what the fault `fork` left behind. They live for a minute.
    pub fn grandchildren(&self) -> Vec<u32> {
        self.lines().iter().filter(|(word, _)| word == "grandchild").map(|(_, id)| *id).collect()
    }

    /// Each line's word and process id.
    fn lines(&self) -> Vec<(String, u32)> {
        let text = std::fs::read_to_string(self.path()).unwrap_or_default();
        let split = |line: &str| {
            let (word, id) = line.rsplit_once(' ').expect("a word and a process id");
            (word.to_owned(), id.parse().expect("a process id"))
        };
        text.lines().map(split).collect()
    }
}

/// Makes the ELF library `bytes` one for AArch64, or if it is for that, for x86-64; in name only.
pub fn elf_other_architecture(bytes: &mut [u8]) {
    const X86_64: [u8; 2] = 62_u16.to_le_bytes();
    const AARCH64: [u8; 2] = 183_u16.to_le_bytes();
    assert!(bytes.starts_with(b"\x7fELF"), "an ELF file");
    let machine = &mut bytes[18..20];
    machine.copy_from_slice(&if *machine == X86_64 { AARCH64 } else { X86_64 });
}

/// Makes a library of `misbehaving` import a function that nobody has.
pub fn undefined_symbol(bytes: &mut [u8]) {
    patch(bytes, b"getloadavg", b"getloadavx");
}

/// Makes a library of `misbehaving` need a library that nobody has, by the name [`MISSING_LIBRARY`].
pub fn missing_library(bytes: &mut [u8]) {
    let needed = if cfg!(target_vendor = "apple") { "/usr/lib/libc++.1.dylib" } else { "libgcc_s.so.1" };
    patch(bytes, needed.as_bytes(), MISSING_LIBRARY.as_bytes());
}

/// The library that [`missing_library`] asks for.
pub const MISSING_LIBRARY: &str =
    if cfg!(target_vendor = "apple") { "/usr/lib/libw++.1.dylib" } else { "libgcc_w.so.1" };

/// Makes a plugin `bytes` one that was built with an abi_stable of another binary interface.
pub fn other_abi_stable(bytes: &mut [u8]) {
    let headers = positions(bytes, ABI_MAGIC);
    assert!(!headers.is_empty(), "a header of abi_stable");
    for at in headers {
        let version = &mut bytes[at + ABI_MAGIC.len()..][..8];
        // The minor one counts while the major one is 0.
        version[4] ^= 0x40;
    }
}

/// Makes a plugin `bytes` one whose table of functions is laid out differently: one of them has another name.
pub fn other_layout(bytes: &mut [u8]) {
    patch(bytes, b",is_available;capabilities;", b",is_elsewhere;capabilities;");
}

fn patch(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len(), "a patch must not change the length");
    let found = positions(bytes, from);
    assert!(!found.is_empty(), "`{}` is not in the file", from.escape_ascii());
    for at in found {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
}

/// Where `what` is in `bytes`.
fn positions(bytes: &[u8], what: &[u8]) -> Vec<usize> {
    let windows = bytes.windows(what.len()).enumerate();
    windows.filter(|(_, window)| *window == what).map(|(at, _)| at).collect()
}
