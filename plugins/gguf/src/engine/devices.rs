//! The devices that ggml sees, as the plugin API describes devices.

use super::handle::start_library;
use super::log;
use llama_cpp_sys_2 as sys;
use pajamas_plugin_api::{Device, DeviceClass};
use std::ffi::CStr;
use std::sync::OnceLock;

/// The class of the device that llama.cpp describes by this text and takes for one of this class; none to leave it out.
pub type Classify = fn(&str, DeviceClass) -> Option<DeviceClass>;

static CLASSIFY: OnceLock<Classify> = OnceLock::new();

/// Sets what devices are classified by, for the whole library: a plugin is for one kind of hardware.
pub(crate) fn classify_by(classify: Classify) {
    CLASSIFY.get_or_init(|| classify);
}

/// A GPU of ggml's. It lives until the process ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gpu(sys::ggml_backend_dev_t);

// SAFETY: ggml registers its devices at the first question, keeps them until the process ends, and answers questions about
// them from any thread.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

impl Gpu {
    /// For llama.cpp's functions that take devices.
    pub(crate) fn as_ptr(self) -> sys::ggml_backend_dev_t {
        self.0
    }

    /// As its maker calls it.
    pub(crate) fn description(self) -> String {
        description(self.0)
    }

    /// As llama.cpp's log calls it: `CUDA0`.
    pub(crate) fn name(self) -> String {
        // SAFETY: a device's name is a C string that lives as long as the device.
        unsafe { CStr::from_ptr(sys::ggml_backend_dev_name(self.0)) }.to_string_lossy().into_owned()
    }

    /// Bytes that are free and that there are; zeroes where unknown.
    pub(crate) fn memory(self) -> (u64, u64) {
        memory(self.0)
    }

    /// Whether it is a GPU, and not the CPU or one of its helpers.
    fn computes(self) -> bool {
        // SAFETY: the device is one of ggml's.
        let kind = unsafe { sys::ggml_backend_dev_type(self.0) };
        !matches!(kind, sys::GGML_BACKEND_DEVICE_TYPE_CPU | sys::GGML_BACKEND_DEVICE_TYPE_ACCEL)
    }

    /// Whether what is there takes nothing of the machine's memory.
    pub(super) fn has_own_memory(self) -> bool {
        self.class() == Some(DeviceClass::DiscreteGpu)
    }

    /// None if it is not to be used.
    fn class(self) -> Option<DeviceClass> {
        // SAFETY: the device is one of ggml's.
        let class = match unsafe { sys::ggml_backend_dev_type(self.0) } {
            sys::GGML_BACKEND_DEVICE_TYPE_IGPU => DeviceClass::IntegratedGpu,
            _ => DeviceClass::DiscreteGpu,
        };
        CLASSIFY.get().map_or(Some(class), |classify| classify(&self.description(), class))
    }
}

/// The GPUs that ggml sees, where this library is for GPUs (on macOS llama.cpp always has Metal): those with memory of their own, or else the others. Callable from any thread.
pub(crate) fn gpus() -> Vec<Gpu> {
    if !cfg!(any(feature = "cuda", feature = "vulkan", feature = "metal", feature = "rocm")) {
        return Vec::new();
    }
    start_library();
    // SAFETY: ggml registers its devices at the first question; an index below the count is a device's.
    let all = unsafe { (0..sys::ggml_backend_dev_count()).map(|index| Gpu(sys::ggml_backend_dev_get(index))) };
    let all: Vec<Gpu> = all.filter(|gpu| gpu.computes() && gpu.class().is_some()).collect();
    let discrete: Vec<Gpu> = all.iter().copied().filter(|gpu| gpu.class() == Some(DeviceClass::DiscreteGpu)).collect();
    if discrete.is_empty() { all } else { discrete }
}

/// The GPUs as the plugin API describes devices, and what went wrong while they were looked for the first time.
pub(crate) fn gpu_devices() -> (Vec<Device>, Vec<String>) {
    let (gpus, lines) = log::capture(gpus);
    let device = |gpu: &Gpu| {
        let (free, total) = gpu.memory();
        Some(Device::new(gpu.description(), gpu.class()?).with_memory(total, free))
    };
    (gpus.iter().filter_map(device).collect(), log::reasons(&lines))
}

/// The CPU, by its maker's name, with the machine's memory. Callable from any thread.
pub(crate) fn cpu_device() -> Option<Device> {
    start_library();
    // SAFETY: ggml registers its devices at the first question and keeps them until the process ends.
    let device = unsafe { sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU) };
    if device.is_null() {
        return None;
    }
    let (free, total) = memory(device);
    Some(Device::new(description(device), DeviceClass::Cpu).with_memory(total, free))
}

/// Free and total memory of a device; zeroes if unknown, or if it is null.
pub(super) fn memory(device: sys::ggml_backend_dev_t) -> (u64, u64) {
    let (mut free, mut total) = (0_usize, 0_usize);
    if !device.is_null() {
        // SAFETY: the device is one of ggml's own, and the two places are valid for writing.
        unsafe { sys::ggml_backend_dev_memory(device, &raw mut free, &raw mut total) };
    }
    (free as u64, total as u64)
}

fn description(device: sys::ggml_backend_dev_t) -> String {
    // SAFETY: a device's description is a C string that lives as long as the device.
    unsafe { CStr::from_ptr(sys::ggml_backend_dev_description(device)) }.to_string_lossy().trim().to_owned()
}
