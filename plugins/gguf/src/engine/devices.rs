//! The devices that ggml sees, as the plugin API describes devices.

use super::handle::start_library;
use llama_cpp_sys_2 as sys;
use pajamas_plugin_api::{Device, DeviceClass};
use std::ffi::CStr;

/// The CPU, by its maker's name, with the machine's memory. Callable from any thread.
pub fn cpu_device() -> Option<Device> {
    start_library();
    // SAFETY: ggml registers its devices at the first question and keeps them until the process ends.
    let device = unsafe { sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU) };
    if device.is_null() {
        return None;
    }
    let (mut free, mut total) = (0, 0);
    // SAFETY: `device` is one of ggml's; both targets live during the call.
    unsafe { sys::ggml_backend_dev_memory(device, &raw mut free, &raw mut total) };
    // SAFETY: a device's description is a C string that lives as long as the device.
    let name = unsafe { CStr::from_ptr(sys::ggml_backend_dev_description(device)) };
    Some(Device::new(name.to_string_lossy().trim(), DeviceClass::Cpu).with_memory(total as u64, free as u64))
}
