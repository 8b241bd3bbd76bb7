//! What a plugin's answer depends on besides its files: the drivers and libraries of this machine, and the environment,
//! which hides or chooses devices. A fingerprint of it tells when an answer is stale; nothing here starts a driver.

use sha2::{Digest, Sha256};
use std::path::Path;

/// How the names of variables begin that shells, terminals, desktops and services set for themselves, and of those that
/// this program reads. Any other may matter to a plugin: its author knows it, and nobody else.
const OF_NO_MATTER: [&str; 62] = [
    "_",
    "CARGO",
    "CLICOLOR",
    "COLOR",
    "COLUMNS",
    "DBUS_",
    "DESKTOP_",
    "EDITOR",
    "FORCE_COLOR",
    "GIT_",
    "GNOME_",
    "GPG_",
    "GTK_",
    "HF_",
    "HISTCONTROL",
    "HISTFILE",
    "HISTSIZE",
    "HUGGING",
    "INVOCATION_ID",
    "ITERM_",
    "JOURNAL_STREAM",
    "KDE_",
    "KONSOLE_",
    "LANG",
    "LC_",
    "LESS",
    "LINES",
    "LISTEN_",
    "LOGNAME",
    "LS_COLORS",
    "MAIL",
    "MANAGERPID",
    "MANPATH",
    "MEMORY_PRESSURE_",
    "NOTIFY_SOCKET",
    "NO_COLOR",
    "OLDPWD",
    "PAGER",
    "PAJAMAS_",
    "PROMPT",
    "PS1",
    "PWD",
    "QT_",
    "RUST",
    "SECURITYSESSIONID",
    "SESSION_",
    "SHELL",
    "SHLVL",
    "SSH_",
    "STY",
    "SYSTEMD_",
    "TERM",
    "TMUX",
    "VISUAL",
    "VSCODE_",
    "VTE_",
    "WINDOWID",
    "WSL_",
    "WT_",
    "XAUTHORITY",
    "XDG_",
    "XPC_",
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
    let mut variables: Vec<_> = std::env::vars_os().filter(|(name, _)| may_matter(&name.to_string_lossy())).collect();
    variables.sort();
    for (name, value) in &variables {
        add(&name.to_string_lossy(), value.as_encoded_bytes());
    }
    for path in WITNESSES.map(Path::new) {
        add(&path.to_string_lossy(), &witness(path));
    }
    sum.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn may_matter(name: &str) -> bool {
    !OF_NO_MATTER.iter().any(|prefix| name.starts_with(prefix))
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
    fn what_a_driver_or_an_author_may_read_matters_and_what_a_shell_sets_does_not() {
        for name in ["CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "GGML_VK_VISIBLE_DEVICES", "PATH", "ACME_NPU", "HOME"] {
            assert!(may_matter(name), "{name}");
        }
        for name in ["PWD", "_", "SSH_CONNECTION", "XDG_SESSION_ID", "TERM_PROGRAM", "PAJAMAS_HOME", "RUST_LOG"] {
            assert!(!may_matter(name), "{name}");
        }
    }

    #[test]
    fn what_is_not_there_is_different_from_what_is() {
        assert!(witness(Path::new("/none/such")).is_empty());
        assert!(!witness(Path::new("/etc")).is_empty());
    }
}
