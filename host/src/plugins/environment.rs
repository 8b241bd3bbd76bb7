//! What a plugin's answer depends on besides its files: the drivers and libraries of this machine, and the environment,
//! which hides or chooses devices. A fingerprint of it tells when an answer is stale; nothing here starts a driver.

use sha2::{Digest, Sha256};
use std::path::Path;

/// How the names of variables begin that drivers, engines and the loader read: they choose and hide devices.
const OF_DRIVERS: [&str; 21] = [
    "AMD_", "ASCEND_", "CUDA_", "DYLD_", "GGML_", "GPU_", "HABANA_", "HIP_", "HSA_", "LD_", "LIBGL_", "MESA_",
    "METAL_", "MLX_", "MTL_", "NVIDIA_", "ONEAPI_", "ROCR_", "VK_", "ZE_", "__",
];

/// How the names of variables begin that shells, terminals, desktops and services set for themselves, and of those that
/// this program reads. Any other may matter to a plugin: its author knows it, and nobody else.
const OF_NO_MATTER: [&str; 81] = [
    "ALACRITTY_",
    "ATUIN_",
    "CARGO",
    "CLICOLOR",
    "COLOR",
    "COLUMNS",
    "CONDA_",
    "DBUS_",
    "DESKTOP_",
    "DIRENV_",
    "EDITOR",
    "FORCE_COLOR",
    "GHOSTTY_",
    "GITHUB_",
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
    "KITTY_",
    "KONSOLE_",
    "KRB5",
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
    "PYENV_",
    "QT_",
    "RUNNER_",
    "RUST",
    "SECURITYSESSIONID",
    "SESSION_",
    "SHELL",
    "SHLVL",
    "SLURM_",
    "SSH_",
    "STARSHIP_",
    "STY",
    "SYSTEMD_",
    "TERM",
    "TMUX",
    "VIRTUAL_ENV",
    "VISUAL",
    "VSCODE_",
    "VTE_",
    "WEZTERM_",
    "WINDOWID",
    "WSL_",
    "WT_",
    "XAUTHORITY",
    "XDG_CURRENT_",
    "XDG_GREETER_",
    "XDG_MENU_",
    "XDG_RUNTIME_",
    "XDG_SEAT",
    "XDG_SESSION_",
    "XDG_VTNR",
    "XPC_",
];

/// Files and folders that change when a driver or a library is installed, a device appears, or this is another machine.
const WITNESSES: [&str; 15] = [
    "/dev",
    "/dev/dri",
    "/dev/kfd",
    "/etc/ld.so.cache",
    "/etc/machine-id",
    "/etc/vulkan/icd.d",
    "/usr/share/vulkan/icd.d",
    "/proc/driver/nvidia/version",
    "/proc/sys/kernel/osrelease",
    "/sys/class/drm",
    "/sys/module/amdgpu",
    "/sys/module/nvidia",
    "/opt/rocm",
    "/usr/local/cuda",
    "/System/Library/CoreServices/SystemVersion.plist",
];

/// All that a plugin's answer may depend on at this moment, as hexadecimal digits. The same after a restart of the machine
/// if nothing else changed.
pub fn everything() -> String {
    fingerprint(&|name| name != "_" && !OF_NO_MATTER.iter().any(|prefix| name.starts_with(prefix)))
}

/// What a backend's arithmetic may depend on: the drivers, the libraries and the devices.
pub fn drivers() -> String {
    fingerprint(&|name| OF_DRIVERS.iter().any(|prefix| name.starts_with(prefix)))
}

fn fingerprint(matters: &dyn Fn(&str) -> bool) -> String {
    let mut sum = Sha256::new();
    let mut add = |key: &str, value: &[u8]| {
        for part in [key.as_bytes(), value] {
            sum.update((part.len() as u64).to_le_bytes());
            sum.update(part);
        }
    };
    let mut variables: Vec<_> = std::env::vars_os().filter(|(name, _)| matters(&name.to_string_lossy())).collect();
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
    if path.starts_with("/proc") || path == Path::new("/etc/machine-id") {
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
        // A GPU goes by its maker's and its own number, a module of the kernel's by its version.
        let numbers =
            names.iter().flat_map(|name| ["vendor", "device"].map(|n| path.join(name).join("device").join(n)));
        let files: Vec<_> =
            numbers.chain([path.join("version")]).map(|file| std::fs::read(file).unwrap_or_default()).collect();
        return [names.join("/").into_bytes(), files.concat()].concat();
    }
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.map(|time| format!("{time:?}").into_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_of_an_unchanged_machine_is_the_same_and_the_drivers_is_another() {
        assert_eq!((everything(), drivers()), (everything(), drivers()));
        assert_ne!(everything(), drivers());
        assert_eq!(everything().len(), 32);
    }

    #[test]
    fn no_variable_of_a_driver_is_taken_for_one_of_no_matter() {
        for prefix in OF_DRIVERS {
            assert!(
                !OF_NO_MATTER.iter().any(|other| prefix.starts_with(other) || other.starts_with(prefix)),
                "{prefix}"
            );
        }
    }

    #[test]
    fn what_is_not_there_is_different_from_what_is() {
        assert!(witness(Path::new("/none/such")).is_empty());
        assert!(!witness(Path::new("/etc")).is_empty());
    }
}
