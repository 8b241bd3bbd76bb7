//! Reads a plugin's file without loading it: is it a library of this system, is it whole, what does its manifest say?

use object::read::{ReadCache, ReadRef};
use object::{Object, ObjectSection, ObjectSegment};
use pajamas_plugin_api::manifest::{Manifest, SECTION_NAMES, SIZE_BYTES_MAX};
use pajamas_plugin_api::version::{API_VERSION, incompatibility};
use std::fs::File;
use std::io;
use std::path::Path;

/// The remedy for a file that is no plugin at all, of whatever version or system.
pub const NO_PLUGIN: &str = "only plugins belong into the plugin folder";
const COPY_AGAIN: &str = "copy it again";
/// This machine's.
const ARCHITECTURE: object::Architecture =
    if cfg!(target_arch = "x86_64") { object::Architecture::X86_64 } else { object::Architecture::Aarch64 };
/// Where in a text file the words of a linker script are looked for.
const SCRIPT_BYTES: u64 = 4096;

/// Why a file is not loaded.
#[derive(Debug, Default)]
pub struct Refusal {
    /// The manifest, where it could be read.
    pub manifest: Option<Box<Manifest>>,
    /// In a sentence.
    pub reason: String,
    /// What the user can do about it; may be empty.
    pub remedy: String,
}

impl Refusal {
    /// A refusal for `reason`.
    pub fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { manifest: None, reason: reason.into(), remedy: remedy.into() }
    }
}

/// Reads and judges the manifest of the plugin at `path`.
///
/// # Errors
/// When the file must not be loaded, with the reason.
pub fn preflight(path: &Path) -> Result<Manifest, Refusal> {
    let manifest = read_manifest(path)?;
    let refuse = |reason: String, remedy: &str| Refusal {
        manifest: Some(Box::new(manifest.clone())),
        reason,
        remedy: remedy.into(),
    };
    let host_api = API_VERSION.parse().map_err(|_| Refusal::new("this pajamas has no API version", ""))?;
    if let Some(reason) = incompatibility(&host_api, &manifest.api_version, &manifest.minimum_host_api) {
        return Err(refuse(reason, ""));
    }
    let missing: Vec<&str> = manifest.cpu_features.iter().map(String::as_str).filter(|f| !cpu_has(f)).collect();
    if !missing.is_empty() {
        let reason = format!("this CPU lacks {}, which the plugin was built for", missing.join(", "));
        return Err(refuse(reason, "install a build of the plugin for an older CPU level"));
    }
    Ok(manifest)
}

/// The manifest of the library at `path`.
///
/// # Errors
/// When the file is no whole library of this system, or has no manifest.
fn read_manifest(path: &Path) -> Result<Manifest, Refusal> {
    let (file, length) = open_regular(path)?;
    let cache = ReadCache::new(std::io::BufReader::new(file));
    manifest_of(&cache, length)
}

/// Opens the file at `path`, if it is one. Opening a pipe or a device could block or worse.
///
/// # Errors
/// When it is anything else, is empty, or cannot be read.
pub fn open_regular(path: &Path) -> Result<(File, u64), Refusal> {
    let unreadable = |error: io::Error| Refusal::new(format!("it cannot be read: {error}"), "");
    let is_regular = |metadata: &std::fs::Metadata| match metadata.is_file() {
        true => Ok(()),
        false if metadata.is_dir() => Err(Refusal::new("it is a folder, not a library", NO_PLUGIN)),
        false => Err(Refusal::new("it is not a regular file", NO_PLUGIN)),
    };
    is_regular(&std::fs::metadata(path).map_err(unreadable)?)?;
    let mut options = File::options();
    options.read(true);
    // What was a file a moment ago may be a pipe now.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = options.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let quoted = crate::text::quoted(&path.to_string_lossy());
            Refusal::new("it may not be read by this user", format!("chmod u+r {quoted}"))
        }
        _ => unreadable(error),
    })?;
    let metadata = file.metadata().map_err(unreadable)?;
    is_regular(&metadata)?;
    match metadata.len() {
        0 => Err(Refusal::new("the file is empty", COPY_AGAIN)),
        length => Ok((file, length)),
    }
}

/// The manifest of a library of `length` bytes, of this system.
///
/// # Errors
/// When it is not whole, not of this system, or has no manifest. Never panics, whatever the bytes.
pub fn manifest_of<'data>(data: impl ReadRef<'data>, length: u64) -> Result<Manifest, Refusal> {
    match own_slice(data) {
        Some(slice) => manifest_of_one(slice, slice.len() as u64),
        None => manifest_of_one(data, length),
    }
}

/// As [`manifest_of`], of a library that is not universal. (A universal one may claim to be a part of itself.)
fn manifest_of_one<'data>(data: impl ReadRef<'data>, length: u64) -> Result<Manifest, Refusal> {
    let object = object::File::parse(data).map_err(|_| no_library(data, length))?;
    check_system(&object)?;
    let is_inside = |range: (u64, u64)| range.0.checked_add(range.1).is_some_and(|end| end <= length);
    if !object.segments().all(|segment| is_inside(segment.file_range())) {
        return Err(Refusal::new("the file is truncated", COPY_AGAIN));
    }
    let section = SECTION_NAMES
        .iter()
        .find_map(|name| object.section_by_name(name))
        .ok_or_else(|| Refusal::new("it is no pajamas plugin: it has no manifest", NO_PLUGIN))?;
    if section.size() > SIZE_BYTES_MAX as u64 {
        return Err(Refusal::new("its manifest is too long", "rebuild the plugin"));
    }
    let bytes = section.data().map_err(|_| Refusal::new("the file is truncated", COPY_AGAIN))?;
    Manifest::parse(bytes).map_err(|error| Refusal::new(error.to_string(), "rebuild the plugin"))
}

/// Of a universal library of macOS, the part that is for this machine, or else the first.
fn own_slice<'data>(data: impl ReadRef<'data>) -> Option<&'data [u8]> {
    use object::read::macho::{FatArch, MachOFatFile32, MachOFatFile64};
    fn own<'data, A: FatArch, R: ReadRef<'data>>(parts: &[A], data: R) -> Option<&'data [u8]> {
        let own = parts.iter().find(|part| part.architecture() == ARCHITECTURE);
        own.or_else(|| parts.first())?.data(data).ok()
    }
    match object::FileKind::parse(data).ok()? {
        object::FileKind::MachOFat32 => own(MachOFatFile32::parse(data).ok()?.arches(), data),
        object::FileKind::MachOFat64 => own(MachOFatFile64::parse(data).ok()?.arches(), data),
        _ => None,
    }
}

/// Why `data` is no library that can be read.
fn no_library<'data>(data: impl ReadRef<'data>, length: u64) -> Refusal {
    let start = data.read_bytes_at(0, length.min(SCRIPT_BYTES)).unwrap_or_default();
    let is_a_librarys = |magic: &&[u8]| start.starts_with(magic);
    if [b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"MZ\x90\0"]
        .map(|magic| &magic[..])
        .iter()
        .any(is_a_librarys)
    {
        return Refusal::new("the file is truncated or damaged", COPY_AGAIN);
    }
    // As `libc.so` of many systems: the linker reads it, the loader does not.
    let text = String::from_utf8_lossy(start);
    if ["INPUT", "GROUP"].iter().any(|word| text.contains(&format!("{word}(")) || text.contains(&format!("{word} ("))) {
        return Refusal::new("it is a linker script, not a shared library", NO_PLUGIN);
    }
    Refusal::new("it is not a shared library", NO_PLUGIN)
}

/// The shared libraries that the one at `path` needs, as its file names them; empty where that cannot be read.
pub fn needed_libraries(path: &Path) -> Vec<String> {
    let read = || -> Option<Vec<String>> {
        let (file, _) = open_regular(path).ok()?;
        let cache = ReadCache::new(std::io::BufReader::new(file));
        needed_by(&cache)
    };
    read().unwrap_or_default()
}

/// As [`needed_libraries`], of the bytes of a file; none where they cannot be read.
pub fn needed_by<'data>(data: impl ReadRef<'data>) -> Option<Vec<String>> {
    use object::read::elf::Dyn;
    let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match object::File::parse(data).ok()? {
        object::File::Elf64(elf) => {
            let (endian, sections) = (elf.endian(), elf.elf_section_table());
            let (entries, strings) = sections.dynamic(endian, data).ok()??;
            let strings = sections.strings(endian, data, strings).ok()?;
            let needed = entries.iter().filter(|entry| entry.d_tag(endian) == u64::from(object::elf::DT_NEEDED));
            let offset = |entry: &_| u32::try_from(Dyn::d_val(entry, endian)).ok();
            Some(needed.filter_map(offset).filter_map(|offset| strings.get(offset).ok()).map(name).collect())
        }
        object::File::MachO64(macho) => {
            let mut commands = macho.macho_load_commands().ok()?;
            let mut needed = Vec::new();
            while let Some(command) = commands.next().ok()? {
                if let Some(dylib) = command.dylib().ok()? {
                    needed.push(name(command.string(macho.endian(), dylib.dylib.name).ok()?));
                }
            }
            Some(needed)
        }
        object::File::Pe64(pe) => {
            let table = pe.import_table().ok()??;
            let mut descriptors = table.descriptors().ok()?;
            let mut needed = Vec::new();
            while let Some(descriptor) = descriptors.next().ok()? {
                needed.push(name(table.name(descriptor.name.get(object::LittleEndian)).ok()?));
            }
            Some(needed)
        }
        _ => None,
    }
}

fn check_system<'data, R: ReadRef<'data>>(object: &object::File<'data, R>) -> Result<(), Refusal> {
    use object::{BinaryFormat, ObjectKind};
    let format = if cfg!(target_vendor = "apple") {
        BinaryFormat::MachO
    } else if cfg!(windows) {
        BinaryFormat::Pe
    } else {
        BinaryFormat::Elf
    };
    if object.format() != format || object.architecture() != ARCHITECTURE {
        let reason = format!("it was built for {:?} on {:?}", object.format(), object.architecture());
        return Err(Refusal::new(reason, format!("install a build for {}", pajamas_plugin_api::TARGET)));
    }
    if object.kind() != ObjectKind::Dynamic {
        return Err(Refusal::new("it is not a shared library", "build it with crate-type = [\"cdylib\"]"));
    }
    Ok(())
}

/// Whether this CPU has `feature`, named as `std::arch` names it. What is not known here is taken as absent.
fn cpu_has(feature: &str) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        match feature {
            "sse3" => has!("sse3"),
            "ssse3" => has!("ssse3"),
            "sse4.1" => has!("sse4.1"),
            "sse4.2" => has!("sse4.2"),
            "popcnt" => has!("popcnt"),
            "avx" => has!("avx"),
            "avx2" => has!("avx2"),
            "bmi1" => has!("bmi1"),
            "bmi2" => has!("bmi2"),
            "f16c" => has!("f16c"),
            "fma" => has!("fma"),
            "lzcnt" => has!("lzcnt"),
            "avx512f" => has!("avx512f"),
            "avx512bw" => has!("avx512bw"),
            "avx512cd" => has!("avx512cd"),
            "avx512dq" => has!("avx512dq"),
            "avx512vl" => has!("avx512vl"),
            "avx512vbmi" => has!("avx512vbmi"),
            "avx512vnni" => has!("avx512vnni"),
            "avx512bf16" => has!("avx512bf16"),
            "avxvnni" => has!("avxvnni"),
            _ => false,
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        use std::arch::is_aarch64_feature_detected as has;
        match feature {
            "neon" => has!("neon"),
            "dotprod" => has!("dotprod"),
            "fp16" => has!("fp16"),
            "i8mm" => has!("i8mm"),
            "bf16" => has!("bf16"),
            "sve" => has!("sve"),
            _ => false,
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = feature;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn reason(bytes: &[u8]) -> String {
        let file = tempfile::Builder::new().suffix(".so").tempfile().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        preflight(file.path()).unwrap_err().reason
    }

    #[test]
    fn what_is_no_library_is_said_to_be_none() {
        assert_eq!(reason(b""), "the file is empty");
        assert_eq!(reason(b"hello"), "it is not a shared library");
        assert_eq!(reason(b"/* GNU ld script */ INPUT(-lc)"), "it is a linker script, not a shared library");
        assert_eq!(reason(b"\x7fELF\x02\x01\x01\0garbage"), "the file is truncated or damaged");
    }

    #[test]
    fn a_program_is_no_plugin() {
        let refusal = preflight(&std::env::current_exe().unwrap()).unwrap_err();
        assert!(refusal.reason.starts_with("it is no"), "{}", refusal.reason);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn libraries_of_other_systems_say_so_also_inside_of_a_universal_one() {
        let macho = include_bytes!("../../../tests/fuzz/corpus/plugin_preflight/macho");
        assert_eq!(reason(macho), "it was built for MachO on Aarch64");
        let pe = include_bytes!("../../../tests/fuzz/corpus/plugin_preflight/pe");
        assert!(reason(pe).starts_with("it was built for Pe on "));
        // One part, for AArch64, at 4096.
        let parts = [0xcafe_babe, 1, 0x0100_000c, 0, 4096, u32::try_from(macho.len()).unwrap(), 12];
        let mut universal: Vec<u8> = parts.iter().flat_map(|word: &u32| word.to_be_bytes()).collect();
        universal.resize(4096, 0);
        universal.extend(macho);
        assert_eq!(reason(&universal), "it was built for MachO on Aarch64");
        assert_eq!(reason(&universal[..4096]), "the file is truncated or damaged");
        let within_itself = include_bytes!("../../../tests/fuzz/corpus/plugin_preflight/macho_universal_within_itself");
        assert_eq!(reason(within_itself), "the file is truncated or damaged");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_libraries_that_a_file_needs_are_read_from_it() {
        let needed = needed_libraries(&std::env::current_exe().unwrap());
        assert!(needed.iter().any(|name| name.starts_with("libc.")), "{needed:?}");
        assert!(needed_libraries(Path::new("/none")).is_empty());
    }

    #[test]
    fn cpu_features_are_looked_up() {
        assert!(!cpu_has("abacus"));
        #[cfg(target_arch = "x86_64")]
        assert!(cpu_has("sse3"));
    }
}
