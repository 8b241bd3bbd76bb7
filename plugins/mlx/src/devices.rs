//! What MLX can work on here: the GPU that this build of MLX is for, or the CPU where it is for none.

use mlx_rs::transforms::compile::disable_compile;
use pajamas_plugin_api::{Availability, Device, DeviceClass};
use std::ffi::{CStr, c_int};
use std::sync::Once;

/// The hardware that a build of MLX is for. Which one it is does not depend on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hardware {
    Cpu,
    Cuda,
    Metal,
}

impl Hardware {
    /// As [`Capabilities::hardware`](pajamas_plugin_api::Capabilities) names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Metal => "metal",
        }
    }
}

/// Makes MLX ready. To be called before anything else is asked of it, from any thread, any number of times.
pub fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        // mlx-c ends the process at an error until mlx-rs has set its handler, which its first fallible call does.
        let default = mlx_rs::Device::try_default();
        debug_assert!(default.is_ok(), "{default:?}");
        // For the CPU, MLX compiles by running g++ and loads the result from a folder in /tmp that is anybody's.
        if hardware() == Hardware::Cpu {
            disable_compile();
        }
        // Otherwise macOS may take a large model's memory back between two tokens. Older systems cannot be asked.
        #[cfg(target_os = "macos")]
        let _ = mlx_rs::memory::set_wired_limit(Info::of(GPU, 0).size(c"max_recommended_working_set_size") as usize);
    });
}

/// What this build of MLX is for. With a GPU's build, `true` from MLX says nothing about this machine.
pub fn hardware() -> Hardware {
    let (mut cuda, mut metal) = (false, false);
    // SAFETY: both only write a constant of the build to their target.
    unsafe {
        mlx_sys::mlx_cuda_is_available(&raw mut cuda);
        mlx_sys::mlx_metal_is_available(&raw mut metal);
    }
    match (cuda, metal) {
        (true, _) => Hardware::Cuda,
        (_, true) => Hardware::Metal,
        _ => Hardware::Cpu,
    }
}

/// The devices that MLX would use, or why there are none.
pub fn availability() -> Availability {
    start();
    match hardware() {
        Hardware::Cpu => {
            let (total, available) = machine_memory();
            Availability::on([Device::new(name(mlx_sys::mlx_device_type__MLX_CPU, 0, "CPU"), DeviceClass::Cpu)
                .with_memory(total, available)])
        }
        Hardware::Cuda => match gpus() {
            0 => Availability::no(
                "this is MLX for NVIDIA GPUs, and it finds none",
                "install NVIDIA's driver (580 or later), or build MLX for the CPU: `make plugin-mlx`",
            ),
            count => Availability::on((0..count).map(|index| {
                let info = Info::of(GPU, index);
                Device::new(name(GPU, index, "NVIDIA GPU"), DeviceClass::DiscreteGpu)
                    .with_memory(info.size(c"total_memory"), info.size(c"free_memory"))
            })),
        },
        Hardware::Metal => match gpus() {
            0 => Availability::no(
                "MLX gets no Metal device",
                "run on Apple silicon, outside of virtual machines, with mlx.metallib beside the plugin",
            ),
            _ => Availability::on([Device::new(name(GPU, 0, "Apple GPU"), DeviceClass::IntegratedGpu)
                .with_memory(Info::of(GPU, 0).size(c"memory_size"), 0)]),
        },
    }
}

const GPU: mlx_sys::mlx_device_type = mlx_sys::mlx_device_type__MLX_GPU;

/// GPUs that this process can use.
fn gpus() -> c_int {
    let mut count = 0;
    // SAFETY: it writes its target only; failures are caught inside and leave it as it is.
    unsafe { mlx_sys::mlx_device_count(&raw mut count, GPU) };
    count
}

/// The device's name as its maker calls it, or `unnamed`.
fn name(kind: mlx_sys::mlx_device_type, index: c_int, unnamed: &str) -> String {
    Info::of(kind, index).text(c"device_name").unwrap_or_else(|| unnamed.into())
}

/// What MLX knows about a device; nothing if it fails to say.
struct Info(mlx_sys::mlx_device_info);

impl Info {
    fn of(kind: mlx_sys::mlx_device_type, index: c_int) -> Self {
        // SAFETY: the device lives until it is freed here; MLX copies what it says of it into `info`.
        unsafe {
            let device = mlx_sys::mlx_device_new_type(kind, index);
            let mut info = mlx_sys::mlx_device_info_new();
            mlx_sys::mlx_device_info_get(&raw mut info, device);
            mlx_sys::mlx_device_free(device);
            Self(info)
        }
    }

    fn text(&self, key: &CStr) -> Option<String> {
        let mut value = std::ptr::null();
        // SAFETY: the info is alive; a pointer that is written lives as long as it does.
        unsafe { mlx_sys::mlx_device_info_get_string(&raw mut value, self.0, key.as_ptr()) };
        // SAFETY: null, or the C string from above.
        let value = (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })?;
        Some(value.to_string_lossy().trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// 0 where it is unknown.
    fn size(&self, key: &CStr) -> u64 {
        let mut value = 0;
        // SAFETY: the info is alive, and only the target is written.
        unsafe { mlx_sys::mlx_device_info_get_size(&raw mut value, self.0, key.as_ptr()) };
        value as u64
    }
}

impl Drop for Info {
    fn drop(&mut self) {
        // SAFETY: nothing that came out of it is kept.
        unsafe { mlx_sys::mlx_device_info_free(self.0) };
    }
}

/// All memory of the device that models are loaded on, in bytes; 0 where unknown.
pub fn memory_total_bytes() -> u64 {
    match hardware() {
        Hardware::Cpu => machine_memory().0,
        Hardware::Cuda => Info::of(GPU, 0).size(c"total_memory"),
        Hardware::Metal => Info::of(GPU, 0).size(c"memory_size"),
    }
}

/// The machine's memory and what of it is left, in bytes; 0 where unknown.
fn machine_memory() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let bytes = |field: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    (bytes("MemTotal"), bytes("MemAvailable"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_build_for_the_cpu_has_the_cpu_with_its_name_and_memory() {
        if hardware() != Hardware::Cpu {
            eprintln!("not run: this MLX is built for {}", hardware().name());
            return;
        }
        let Availability::Available { devices } = availability() else { panic!("the CPU is always there") };
        let [cpu] = &devices[..] else { panic!("one CPU: {devices:?}") };
        assert_eq!(cpu.class, DeviceClass::Cpu);
        assert!(!cpu.name.is_empty());
        assert!(cpu.memory_total_bytes >= cpu.memory_free_bytes && cpu.memory_free_bytes > 0, "{cpu:?}");
    }

    #[test]
    fn asking_is_quick() {
        let asked = Instant::now();
        availability();
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    }

    #[test]
    fn an_error_in_mlx_comes_back_as_one() {
        start();
        let (a, b) = (mlx_rs::Array::from_slice(&[1f32, 2., 3.], &[3]), mlx_rs::Array::from_slice(&[1f32, 2.], &[2]));
        let error = mlx_rs::ops::add(&a, &b).unwrap_err();
        assert!(error.what().contains("broadcast"), "{error}");
    }
}
