//! What a plugin's answer depends on besides its files: the drivers and libraries of this machine and the variables that
//! hide or choose devices. A fingerprint of it tells when an answer is stale; nothing here starts a driver.

use sha2::{Digest, Sha256};
use std::path::Path;

/// How the names of the variables begin that drivers, engines and the loader read.
const PREFIXES: [&str; 20] = [
    "AMD_", "ASCEND_", "CUDA_", "GGML_", "GPU_", "HABANA_", "HIP_", "HSA_", "LD_", "DYLD_", "LIBGL_", "MESA_",
    "METAL_", "MLX_", "MTL_", "NVIDIA_", "ONEAPI_", "ROCR_", "VK_", "ZE_",
];

/// Files and folders that change when a driver or a library is installed, or a device appears.
const WITNESSES: [&str; 12] = [
    "/dev",
    "/dev/dri",
    "/dev/kfd",
    "/etc/ld.so.cache",
    "/etc/vulkan/icd.d",
    "/usr/share/vulkan/icd.d",
    "/proc/driver/nvidia/version",
    "/sys/module/amdgpu",
    "/sys/module/nvidia",
    "/opt/rocm",
    "/usr/local/cuda",
    "/System/Library/CoreServices/SystemVersion.plist",
];

/// Of this moment, in hexadecimal digits. The same after a restart of the machine only if nothing else changed.
pub fn fingerprint() -> String {
    let mut sum = Sha256::new();
    let mut add = |key: &str, value: &[u8]| {
        for part in [key.as_bytes(), value] {
            sum.update((part.len() as u64).to_le_bytes());
            sum.update(part);
        }
    };
    let mut variables: Vec<_> = std::env::vars_os()
        .filter(|(name, _)| PREFIXES.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)))
        .collect();
    variables.sort();
    for (name, value) in &variables {
        add(&name.to_string_lossy(), value.as_encoded_bytes());
    }
    for path in WITNESSES.map(Path::new) {
        add(&path.to_string_lossy(), &witness(path));
    }
    sum.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// What is there: nothing, a text of the kernel's, the names in a folder of devices, or when it was written last.
fn witness(path: &Path) -> Vec<u8> {
    if path.starts_with("/proc") {
        return std::fs::read(path).unwrap_or_default();
    }
    if path.starts_with("/dev") || path.starts_with("/sys") {
        let is_device = |name: &String| {
            path != Path::new("/dev") || ["nvidia", "accel", "davinci", "hl", "kfd"].iter().any(|d| name.starts_with(d))
        };
        let names = std::fs::read_dir(path).into_iter().flatten().flatten();
        let mut names: Vec<_> = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.retain(is_device);
        names.sort();
        let version = std::fs::read(path.join("version")).unwrap_or_default();
        return [names.join("/").into_bytes(), version].concat();
    }
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.map(|time| format!("{time:?}").into_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_of_an_unchanged_machine_is_the_same() {
        assert_eq!(fingerprint(), fingerprint());
        assert_eq!(fingerprint().len(), 32);
    }

    #[test]
    fn what_is_not_there_is_different_from_what_is() {
        assert!(witness(Path::new("/none/such")).is_empty());
        assert!(!witness(Path::new("/etc")).is_empty());
    }
}
