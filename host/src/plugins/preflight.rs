//! Reads a plugin's file without loading it: is it a library of this system, is it whole, what does its manifest say?

use object::read::ReadCache;
use object::{Object, ObjectSection, ObjectSegment};
use pajamas_plugin_api::manifest::{Manifest, SECTION_NAMES, SIZE_BYTES_MAX};
use pajamas_plugin_api::version::{API_VERSION, incompatibility};
use std::path::Path;

/// The remedy for a file that is no plugin at all, of whatever version or system.
pub const NO_PLUGIN: &str = "only plugins belong into the plugin folder";

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

/// The manifest of the library at `path`, of this system or another.
///
/// # Errors
/// When the file is no whole library of this system, or has no manifest.
fn read_manifest(path: &Path) -> Result<Manifest, Refusal> {
    let unreadable = |error: std::io::Error| Refusal::new(format!("it cannot be read: {error}"), "");
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    // Opening a pipe or a device could block or worse.
    if !metadata.is_file() {
        return Err(Refusal::new("it is not a regular file", NO_PLUGIN));
    }
    if metadata.len() == 0 {
        return Err(Refusal::new("the file is empty", "copy it again"));
    }
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let cache = ReadCache::new(std::io::BufReader::new(file));
    let object = object::File::parse(&cache).map_err(|_| Refusal::new("it is not a shared library", NO_PLUGIN))?;
    check_system(&object)?;
    for segment in object.segments() {
        let (offset, size) = segment.file_range();
        if offset.checked_add(size).is_none_or(|end| end > metadata.len()) {
            return Err(Refusal::new("the file is truncated", "copy it again"));
        }
    }
    let section = SECTION_NAMES
        .iter()
        .find_map(|name| object.section_by_name(name))
        .ok_or_else(|| Refusal::new("it is no pajamas plugin: it has no manifest", NO_PLUGIN))?;
    if section.size() > SIZE_BYTES_MAX as u64 {
        return Err(Refusal::new("its manifest is too long", "rebuild the plugin"));
    }
    let bytes = section.data().map_err(|_| Refusal::new("the file is truncated", "copy it again"))?;
    Manifest::parse(bytes).map_err(|error| Refusal::new(error.to_string(), "rebuild the plugin"))
}

fn check_system<'a>(
    object: &object::File<'a, &'a ReadCache<std::io::BufReader<std::fs::File>>>,
) -> Result<(), Refusal> {
    use object::{Architecture, BinaryFormat, ObjectKind};
    let format = if cfg!(target_vendor = "apple") {
        BinaryFormat::MachO
    } else if cfg!(windows) {
        BinaryFormat::Pe
    } else {
        BinaryFormat::Elf
    };
    let architecture = if cfg!(target_arch = "x86_64") { Architecture::X86_64 } else { Architecture::Aarch64 };
    if object.format() != format || object.architecture() != architecture {
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
        assert_eq!(reason(b"/* GNU ld script */ INPUT(-lc)"), "it is not a shared library");
        assert_eq!(reason(b"\x7fELF\x02\x01\x01\0garbage"), "it is not a shared library");
    }

    #[test]
    fn a_program_is_no_plugin() {
        let refusal = preflight(&std::env::current_exe().unwrap()).unwrap_err();
        assert!(refusal.reason.starts_with("it is no"), "{}", refusal.reason);
    }

    #[test]
    fn cpu_features_are_looked_up() {
        assert!(!cpu_has("abacus"));
        #[cfg(target_arch = "x86_64")]
        assert!(cpu_has("sse3"));
    }
}
