//! The driver: whether it is there, new enough, and which GPUs it gives this process.

use crate::Architectures;
use libloading::Library;
use pajamas_plugin_api::{Error, Result};
use std::ffi::{CStr, c_char, c_int, c_uint};
use std::path::Path;

/// The driver's library, as its kernel module's package installs it.
const LIBRARY: &str = "libcuda.so.1";

const INSTALL: &str = "install NVIDIA's driver, 580 or later: https://www.nvidia.com/drivers";

/// NVIDIA's driver, opened and started in this process. It stays open.
#[derive(Debug)]
pub struct Driver {
    library: &'static Library,
    /// The newest CUDA that it runs, as 13000 for 13.0.
    version: c_int,
    /// The GPUs that this process may use, in CUDA's order.
    gpus: Vec<Gpu>,
}

/// A GPU as the driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Compute capability: major, minor.
    pub capability: (u32, u32),
}

/// Functions of the driver answer with a code, zero for success.
type Code = c_uint;

const NO_DEVICE: Code = 100;
const VERSIONS_DIFFER: Code = 803;

impl Driver {
    /// Opens and starts the driver, and asks for its GPUs.
    ///
    /// # Errors
    /// `Unsupported`, with the reason and the remedy as its hint: it is not installed or cannot be loaded, it does not start,
    /// or it sees no GPU.
    pub fn open() -> Result<Self> {
        // SAFETY: initializers of the driver's own library run, as in every program that uses it.
        let library = unsafe { Library::new(LIBRARY) }.map_err(|error| absent(Path::new("/"), &crate::said(&error)))?;
        // A driver that was started is never unloaded: it may have threads.
        let library = Box::leak(Box::new(library));
        let mut driver = Self { library, version: 0, gpus: Vec::new() };
        // SAFETY: this is the function's type, in every version of the driver.
        let init = unsafe { driver.function::<unsafe extern "C" fn(c_uint) -> Code>(c"cuInit")? };
        // SAFETY: it takes flags, of which there are none, and may be called any number of times.
        match unsafe { init(0) } {
            0 => {}
            NO_DEVICE => return Err(no_gpu()),
            VERSIONS_DIFFER => {
                let reason = "NVIDIA's driver was updated, and the kernel still runs the old one (cuInit: 803)";
                return Err(Error::unsupported(reason).with_hint("restart the machine"));
            }
            code => {
                let reason = format!("NVIDIA's driver does not start (cuInit: {code}{})", driver.meaning(code));
                let remedy = "`nvidia-smi` says more; `sudo modprobe nvidia_uvm` or a restart helps where the kernel's module is not loaded";
                return Err(Error::unsupported(reason).with_hint(remedy));
            }
        }
        // SAFETY: this is the function's type.
        let version = unsafe { driver.function::<unsafe extern "C" fn(*mut c_int) -> Code>(c"cuDriverGetVersion")? };
        // SAFETY: the place is valid for writing.
        unsafe { version(&raw mut driver.version) };
        driver.gpus = driver.find_gpus()?;
        if driver.gpus.is_empty() { Err(no_gpu()) } else { Ok(driver) }
    }

    /// Checks that programs for CUDA `major.minor` run on this driver. Within a major version all do.
    ///
    /// # Errors
    /// `Unsupported`, with the remedy as its hint.
    pub fn check_runtime(&self, major: u32, minor: u32) -> Result<()> {
        let (has_major, has_minor) = (self.version / 1000, self.version % 1000 / 10);
        if has_major >= major.cast_signed() {
            return Ok(());
        }
        let reason = format!(
            "NVIDIA's driver runs CUDA {has_major}.{has_minor} at the most, and this plugin was built with {major}.{minor}"
        );
        let remedy = match major {
            13 => "update NVIDIA's driver to 580 or later, or build the plugin with that CUDA",
            _ => "update NVIDIA's driver, or build the plugin with that CUDA",
        };
        Err(Error::unsupported(reason).with_hint(remedy))
    }

    /// The GPUs for which there is no code, whose use would end the process.
    ///
    /// # Errors
    /// `Unsupported`, with the GPUs, and the remedy as its hint, if these are all.
    pub fn without_code(&self, built: &Architectures) -> Result<Vec<&Gpu>> {
        let without = |gpu: &&Gpu| !built.run_on(gpu.capability.0, gpu.capability.1);
        let gpus: Vec<&Gpu> = self.gpus.iter().filter(without).collect();
        if gpus.len() < self.gpus.len() {
            return Ok(gpus);
        }
        let name = |gpu: &Gpu| format!("{} has compute capability {}.{}", gpu.name, gpu.capability.0, gpu.capability.1);
        let gpus: Vec<String> = self.gpus.iter().map(name).collect();
        let reason = format!("this plugin was built for compute capability {}; {}", built.describe(), gpus.join(", "));
        let (major, minor) = self.gpus[0].capability;
        let mut remedy = format!("build it for this GPU: make plugin-cuda CUDA_ARCHITECTURES={major}{minor}-real");
        if (major, minor) < (7, 5) {
            remedy += ", with CUDA 12: later ones cannot";
        }
        Err(Error::unsupported(reason).with_hint(remedy))
    }

    /// The GPUs that this process may use, in CUDA's order; at least one.
    pub fn gpus(&self) -> &[Gpu] {
        &self.gpus
    }

    /// The driver's library.
    pub fn library(&self) -> &'static Library {
        self.library
    }

    fn find_gpus(&self) -> Result<Vec<Gpu>> {
        const CAPABILITY_MAJOR: c_int = 75;
        const CAPABILITY_MINOR: c_int = 76;
        type Count = unsafe extern "C" fn(*mut c_int) -> Code;
        type Get = unsafe extern "C" fn(*mut c_int, c_int) -> Code;
        type Name = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> Code;
        type Attribute = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> Code;
        // SAFETY: these are the functions' types; a device is a number in all versions of the driver.
        let (count_of, get, name_of, attribute) = unsafe {
            (
                self.function::<Count>(c"cuDeviceGetCount")?,
                self.function::<Get>(c"cuDeviceGet")?,
                self.function::<Name>(c"cuDeviceGetName")?,
                self.function::<Attribute>(c"cuDeviceGetAttribute")?,
            )
        };
        let mut count = 0;
        // SAFETY: the place is valid for writing.
        unsafe { count_of(&raw mut count) };
        let gpu = |index: c_int| {
            let (mut device, mut major, mut minor) = (0, 0, 0);
            let mut name = [0; 256];
            // SAFETY: the places are valid for writing, and the buffer has the size that is stated.
            unsafe {
                get(&raw mut device, index);
                name_of(name.as_mut_ptr(), 256, device);
                attribute(&raw mut major, CAPABILITY_MAJOR, device);
                attribute(&raw mut minor, CAPABILITY_MINOR, device);
            }
            name[255] = 0;
            // SAFETY: the last byte is zero.
            let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
            let number = |value: c_int| u32::try_from(value).unwrap_or(0);
            Gpu { name, capability: (number(major), number(minor)) }
        };
        Ok((0..count).map(gpu).collect())
    }

    /// What the driver calls an error: `, invalid device ordinal`.
    fn meaning(&self, code: Code) -> String {
        type Text = unsafe extern "C" fn(Code, *mut *const c_char) -> Code;
        // SAFETY: this is the function's type.
        let Ok(text_of) = (unsafe { self.function::<Text>(c"cuGetErrorString") }) else { return String::new() };
        let mut text = std::ptr::null();
        // SAFETY: the place is valid for writing; the text is the driver's and stays.
        match unsafe { text_of(code, &raw mut text) } {
            // SAFETY: as above; it is checked for null.
            0 if !text.is_null() => format!(", {}", unsafe { CStr::from_ptr(text) }.to_string_lossy()),
            _ => String::new(),
        }
    }

    /// # Safety
    /// `T` must be the type of the function `name`.
    unsafe fn function<T: Copy>(&self, name: &CStr) -> Result<T> {
        // SAFETY: the caller's promise.
        let function = unsafe { self.library.get::<T>(name.to_bytes_with_nul()) };
        function.map(|function| *function).map_err(|_| {
            let reason = format!("{LIBRARY} has no function `{}`: it is no driver that works", name.to_string_lossy());
            Error::unsupported(reason).with_hint(INSTALL)
        })
    }
}

/// Why there is no driver, from what the machine below `root` looks like.
fn absent(root: &Path, loader: &str) -> Error {
    let (reason, remedy) = if !loader.contains("cannot open shared object file: No such file") {
        (format!("NVIDIA's driver cannot be loaded: {loader}"), INSTALL)
    } else if root.join("proc/driver/nvidia/version").exists() || root.join("dev/nvidiactl").exists() {
        let remedy = "in a container, start it with NVIDIA's container toolkit (docker run --gpus all); else install the driver's libraries";
        (format!("NVIDIA's kernel driver runs, but its library {LIBRARY} is not found"), remedy)
    } else if has_nvidia_gpu(root) {
        (format!("an NVIDIA GPU is here, but not its driver ({LIBRARY} is not found)"), INSTALL)
    } else {
        let reason = format!("no NVIDIA GPU and no driver for one is here ({LIBRARY} is not found)");
        (reason, "this backend is for machines with one: `pajamas plugins list` shows what else runs here")
    };
    Error::unsupported(reason).with_hint(remedy)
}

fn no_gpu() -> Error {
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(value) => Error::unsupported(format!("CUDA_VISIBLE_DEVICES=`{value}` leaves this process no NVIDIA GPU"))
            .with_hint("unset CUDA_VISIBLE_DEVICES, or name a GPU with it"),
        Err(_) => Error::unsupported("NVIDIA's driver is here, and sees no GPU")
            .with_hint("`nvidia-smi` says more; in a container, pass the GPU on (docker run --gpus all)"),
    }
}

/// Whether a display controller of NVIDIA's is on the PCI bus.
fn has_nvidia_gpu(root: &Path) -> bool {
    let devices = std::fs::read_dir(root.join("sys/bus/pci/devices")).into_iter().flatten().flatten();
    devices.map(|entry| entry.path()).any(|device| {
        let read = |name| std::fs::read_to_string(device.join(name)).unwrap_or_default();
        read("vendor").trim() == "0x10de" && read("class").trim().starts_with("0x03")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_library_the_reason_goes_by_what_the_machine_has() {
        const LOADER: &str = "libcuda.so.1: cannot open shared object file: No such file or directory";
        let root = tempfile::tempdir().unwrap();
        let reason = || absent(root.path(), LOADER);
        assert!(reason().message.starts_with("no NVIDIA GPU and no driver"), "{}", reason());
        let device = root.path().join("sys/bus/pci/devices/0000:01:00.0");
        std::fs::create_dir_all(&device).unwrap();
        std::fs::write(device.join("vendor"), "0x10de\n").unwrap();
        std::fs::write(device.join("class"), "0x040300\n").unwrap();
        assert!(reason().message.starts_with("no NVIDIA GPU"), "its sound device is none");
        std::fs::write(device.join("class"), "0x030200\n").unwrap();
        assert!(reason().message.starts_with("an NVIDIA GPU is here, but not its driver"));
        assert_eq!(reason().hint.as_deref(), Some(INSTALL));
        std::fs::create_dir_all(root.path().join("proc/driver/nvidia")).unwrap();
        std::fs::write(root.path().join("proc/driver/nvidia/version"), "NVRM").unwrap();
        assert!(reason().hint.unwrap().contains("--gpus all"));
        let odd = absent(root.path(), "libcuda.so.1: wrong ELF class: ELFCLASS32");
        assert!(odd.message.contains("wrong ELF class"));
    }
}
