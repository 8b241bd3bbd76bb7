//! Whether the kernel gives this process an AMD GPU. The ROCm libraries are this plugin's dependencies: where they are
//! missing, it is not loaded at all.

use pajamas_plugin_api::{Error, Result};
use std::fs::OpenOptions;
use std::io::ErrorKind;

/// The device by which ROCm reaches its GPUs.
const DEVICE: &str = "/dev/kfd";

/// Asks the kernel. Starts nothing of ROCm's.
pub fn ready() -> Result<()> {
    let unavailable = |reason: String, remedy: &str| Err(Error::unsupported(reason).with_hint(remedy));
    match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => unavailable(
            format!("no AMD GPU's driver for computing is here: there is no {DEVICE}"),
            "install the amdgpu driver (https://rocm.docs.amd.com); in a container, pass /dev/kfd and /dev/dri on",
        ),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => unavailable(
            format!("this user may not use the GPU: {DEVICE} cannot be opened"),
            "sudo usermod -aG render,video $USER, then log in again",
        ),
        Err(error) => unavailable(format!("{DEVICE} cannot be opened: {error}"), ""),
    }
}
