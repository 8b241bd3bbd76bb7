//! The Vulkan loader and the devices behind it: whether they are here, and which of them are GPUs.

use ash::vk;
use libloading::Library;
use pajamas_plugin_api::{DeviceClass, Error, Result};
use std::ffi::CStr;
use std::sync::OnceLock;

/// Which devices llama.cpp takes, in its own words.
const VISIBLE: &str = "GGML_VK_VISIBLE_DEVICES";

#[cfg(target_vendor = "apple")]
const LIBRARY: &str = "libvulkan.1.dylib";
#[cfg(all(unix, not(target_vendor = "apple")))]
const LIBRARY: &str = "libvulkan.so.1";
#[cfg(windows)]
const LIBRARY: &str = "vulkan-1.dll";

pajamas_late_link::late_functions! {
    /// What llama.cpp calls by name; everything else it gets through these.
    mod vulkan { vkCmdCopyBuffer, vkGetDeviceProcAddr, vkGetInstanceProcAddr, vkGetPhysicalDeviceFeatures2 }
}

struct Device {
    name: String,
    kind: vk::PhysicalDeviceType,
    /// The Vulkan version that it does.
    version: u32,
}

static FOUND: OnceLock<Result<Vec<Device>>> = OnceLock::new();

/// Opens the loader and asks for its devices, once. llama.cpp takes discrete and integrated GPUs by itself; where there is
/// none and the user chose no device, it is told to take a virtual machine's, or else what the CPU computes.
pub fn ready() -> Result<()> {
    FOUND.get_or_init(find).as_ref().map(|_| ()).map_err(Clone::clone)
}

/// Software where the device that llama.cpp describes so is the CPU.
pub fn class(description: &str, class: DeviceClass) -> Option<DeviceClass> {
    let devices = FOUND.get().and_then(|found| found.as_ref().ok())?;
    let software = |device: &Device| device.name == description && device.kind == vk::PhysicalDeviceType::CPU;
    Some(if devices.iter().any(software) { DeviceClass::Software } else { class })
}

/// The devices that llama.cpp must be told to take, since it takes none by itself; empty if it does.
fn to_be_named(devices: &[Device]) -> Vec<usize> {
    use vk::PhysicalDeviceType as Kind;
    let of = |kind| -> Vec<usize> { (0..devices.len()).filter(|&index| devices[index].kind == kind).collect() };
    if !of(Kind::DISCRETE_GPU).is_empty() || !of(Kind::INTEGRATED_GPU).is_empty() {
        return Vec::new();
    }
    let virtual_ones = of(Kind::VIRTUAL_GPU);
    if virtual_ones.is_empty() { of(Kind::CPU) } else { virtual_ones }
}

fn find() -> Result<Vec<Device>> {
    let unavailable = |reason: String, remedy: &str| Error::unsupported(reason).with_hint(remedy);
    // SAFETY: initializers of the system's Vulkan loader run, as in every program that is linked to it.
    let library = unsafe { Library::new(LIBRARY) }.map_err(|error| {
        let said = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        let install =
            "install it with the GPU's driver (Debian and Ubuntu: apt-get install libvulkan1 mesa-vulkan-drivers)";
        unavailable(format!("the Vulkan loader cannot be opened: {said}"), install)
    })?;
    // Kept open: llama.cpp goes on calling it.
    let library: &'static Library = Box::leak(Box::new(library));
    pajamas_late_link::bind(vulkan::FUNCTIONS, library)
        .map_err(|name| unavailable(format!("{LIBRARY} has no function `{name}`"), "install the Vulkan loader anew"))?;
    let devices = devices().map_err(|code| {
        let reason = match code {
            vk::Result::ERROR_INCOMPATIBLE_DRIVER => "no driver for Vulkan is installed".into(),
            code => format!("Vulkan does not start: {code}"),
        };
        unavailable(reason, "install the GPU's driver (AMD and Intel on Debian and Ubuntu: apt-get install mesa-vulkan-drivers); `vulkaninfo` says more")
    })?;
    if devices.is_empty() {
        let reason = "Vulkan finds no device".into();
        return Err(unavailable(reason, "install the GPU's driver; in a container, pass /dev/dri on"));
    }
    let old = |device: &&Device| device.version < vk::API_VERSION_1_2;
    if let Some(device) = devices.iter().find(old).filter(|_| devices.iter().all(|device| old(&device))) {
        let (major, minor) = (vk::api_version_major(device.version), vk::api_version_minor(device.version));
        let reason = format!("{} does Vulkan {major}.{minor}, and llama.cpp needs 1.2", device.name);
        return Err(unavailable(reason, "update the GPU's driver"));
    }
    let named: Vec<String> = to_be_named(&devices).iter().map(ToString::to_string).collect();
    if !named.is_empty() && std::env::var_os(VISIBLE).is_none() {
        // SAFETY: nothing of llama.cpp's, which reads it, has been called in this library, and Rust's own readers are kept
        // apart. C code that reads the environment at this very moment is the remaining risk; it is run only on machines
        // without a GPU.
        unsafe { std::env::set_var(VISIBLE, named.join(",")) };
    }
    Ok(devices)
}

fn devices() -> std::result::Result<Vec<Device>, vk::Result> {
    // SAFETY: the loader is installed as the system's packages do it; it stays loaded, being open already.
    let entry = unsafe { ash::Entry::load() }.map_err(|_| vk::Result::ERROR_INITIALIZATION_FAILED)?;
    let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_2);
    let create = vk::InstanceCreateInfo::default().application_info(&application);
    // SAFETY: what is pointed to lives during the call.
    let instance = unsafe { entry.create_instance(&create, None) }?;
    // SAFETY: the instance is alive.
    let devices = unsafe { instance.enumerate_physical_devices() }.map(|devices| {
        let describe = |device: &vk::PhysicalDevice| {
            // SAFETY: the instance is alive and the device one of its own.
            let properties = unsafe { instance.get_physical_device_properties(*device) };
            let name = properties.device_name_as_c_str().unwrap_or(c"?");
            Device {
                name: CStr::to_string_lossy(name).trim().to_owned(),
                kind: properties.device_type,
                version: properties.api_version,
            }
        };
        devices.iter().map(describe).collect()
    });
    // SAFETY: nothing made from it is left.
    unsafe { instance.destroy_instance(None) };
    devices
}
