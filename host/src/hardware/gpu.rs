//! The GPUs of this machine: what the backends report, and what the system tells without one, so that a GPU which nothing
//! installed can use is shown all the same.

use pajamas_plugin_api::{Device, DeviceClass};
use serde::Serialize;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long `nvidia-smi` may take. It hangs where a driver is broken.
const NVIDIA_SMI_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of `nvidia-smi`'s answer that are read at the most.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// A GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// As its maker or its driver calls it.
    pub name: String,
    /// Its memory, in bytes; 0 if unknown. On Apple silicon, the machine's, which it shares.
    pub memory_total_bytes: u64,
    /// Memory that is free, in bytes; 0 if unknown.
    pub memory_free_bytes: u64,
    /// Its driver's version, if known.
    pub driver: Option<String>,
    /// The available backends that can use it.
    pub backends: Vec<String>,
    /// What a user should know about it; may be empty.
    pub remark: String,
}

/// The GPUs that the system tells of, without any backend.
pub fn detect() -> Vec<Gpu> {
    let mut gpus = nvidia_smi().map(|text| parse_nvidia_smi(&text)).unwrap_or_default();
    gpus.extend(amd(Path::new("/sys/class/drm")));
    if cfg!(all(target_os = "macos", target_arch = "aarch64")) {
        gpus.push(apple());
    }
    gpus
}

/// Joins what the system tells with the devices of the available `backends`: a GPU that both know is there once.
pub fn merge(system: Vec<Gpu>, backends: &[(String, &[Device])]) -> Vec<Gpu> {
    let mut gpus = system;
    for (backend, devices) in backends {
        for device in devices.iter().filter(|device| is_gpu(device)) {
            // Of two alike that one backend reports, each is another one.
            let known = gpus.iter_mut().find(|gpu| same(gpu, device) && !gpu.backends.contains(backend));
            match known {
                Some(gpu) => gpu.backends.push(backend.clone()),
                None => gpus.push(Gpu {
                    name: device.name.clone(),
                    memory_total_bytes: device.memory_total_bytes,
                    memory_free_bytes: device.memory_free_bytes,
                    backends: vec![backend.clone()],
                    ..Gpu::default()
                }),
            }
        }
    }
    for gpu in gpus.iter_mut().filter(|gpu| gpu.backends.is_empty()) {
        gpu.remark = "no installed backend can use it".into();
    }
    gpus
}

fn is_gpu(device: &Device) -> bool {
    matches!(device.class, DeviceClass::DiscreteGpu | DeviceClass::IntegratedGpu)
}

/// Whether a backend's device is this GPU: by its name, or, where sysfs has none, by its memory. Drivers of different
/// interfaces count the memory slightly differently.
fn same(gpu: &Gpu, device: &Device) -> bool {
    let (known, reported) = (gpu.name.to_lowercase(), device.name.to_lowercase());
    if known.contains(&reported) || reported.contains(&known) {
        return true;
    }
    let close = gpu.memory_total_bytes.abs_diff(device.memory_total_bytes) <= gpu.memory_total_bytes / 16;
    let nameless = known.starts_with("amd gpu ") && ["amd", "radeon", "gfx"].iter().any(|word| reported.contains(word));
    nameless && close
}

/// What `nvidia-smi` says; none where there is none, or it failed or took too long.
fn nvidia_smi() -> Option<String> {
    let mut child = Command::new("nvidia-smi")
        .args(["--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader,nounits"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let answer = wait(&mut child, NVIDIA_SMI_TIMEOUT);
    if answer.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    answer
}

fn wait(child: &mut Child, timeout: Duration) -> Option<String> {
    let deadline = Instant::now() + timeout;
    loop {
        match child.try_wait().ok()? {
            Some(status) if status.success() => break,
            Some(_) => return None,
            None if Instant::now() >= deadline => return None,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    let mut text = String::new();
    // It has ended: what it wrote lies in the pipe.
    child.stdout.take()?.take(ANSWER_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// One GPU a line: name, total and free memory in MiB, driver. What a GPU does not tell is `[N/A]` there.
fn parse_nvidia_smi(text: &str) -> Vec<Gpu> {
    let gpu = |line: &str| {
        // From the end: only the name could hold a comma.
        let mut fields = line.rsplitn(4, ',').map(str::trim);
        let driver = fields.next()?;
        let mut bytes = || Some(fields.next()?.parse::<u64>().unwrap_or(0) << 20);
        let (free, total) = (bytes()?, bytes()?);
        let name = fields.next().filter(|name| !name.is_empty())?;
        Some(Gpu {
            name: name.into(),
            memory_total_bytes: total,
            memory_free_bytes: free,
            driver: Some(driver.into()).filter(|driver: &String| !driver.starts_with('[')),
            ..Gpu::default()
        })
    };
    text.lines().filter_map(gpu).collect()
}

/// The GPUs that the `amdgpu` driver shows below `root`.
fn amd(root: &Path) -> Vec<Gpu> {
    let Ok(listing) = std::fs::read_dir(root) else { return Vec::new() };
    let mut cards: Vec<_> = listing.flatten().map(|entry| entry.path()).collect();
    cards.sort();
    // `card0-DP-1` is a connector.
    let is_card = |path: &&std::path::PathBuf| {
        let digits = path.file_name().and_then(|name| name.to_str()?.strip_prefix("card"));
        digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let gpu = |card: &std::path::PathBuf| {
        let read = |file: &str| std::fs::read_to_string(card.join("device").join(file)).ok();
        let bytes = |file: &str| read(file)?.trim().parse::<u64>().ok();
        let (total, used) = (bytes("mem_info_vram_total")?, bytes("mem_info_vram_used")?);
        let named = read("product_name").map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
        let id = read("device").map(|id| id.trim().to_owned()).unwrap_or_default();
        Some(Gpu {
            name: named.unwrap_or_else(|| format!("AMD GPU {id}")),
            memory_total_bytes: total,
            memory_free_bytes: total.saturating_sub(used),
            ..Gpu::default()
        })
    };
    cards.iter().filter(is_card).filter_map(gpu).collect()
}

/// Apple's GPU computes in the machine's own memory.
fn apple() -> Gpu {
    let machine = super::detect();
    Gpu {
        name: machine.cpu,
        memory_total_bytes: machine.memory_total_bytes,
        memory_free_bytes: machine.memory_available_bytes,
        ..Gpu::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nvidia_smis_lines_are_gpus_and_what_it_does_not_know_is_zero() {
        let text = "NVIDIA H200, 143771, 143165, 570.133.20\nNVIDIA GB10, [N/A], [N/A], 580.95.05\n\nnonsense\n";
        let gpus = parse_nvidia_smi(text);
        assert_eq!(gpus.len(), 2);
        assert_eq!(gpus[0].name, "NVIDIA H200");
        assert_eq!((gpus[0].memory_total_bytes, gpus[0].memory_free_bytes), (143_771 << 20, 143_165 << 20));
        assert_eq!(gpus[0].driver.as_deref(), Some("570.133.20"));
        assert_eq!((gpus[1].memory_total_bytes, gpus[1].memory_free_bytes), (0, 0));
        assert_eq!(parse_nvidia_smi("No devices were found\n"), []);
    }

    #[test]
    fn amds_cards_are_read_from_sysfs_and_connectors_are_none() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("card0/device/mem_info_vram_total", "17163091968\n");
        write("card0/device/mem_info_vram_used", "163091968\n");
        write("card0/device/device", "0x744c\n");
        write("card0-DP-1/device/mem_info_vram_total", "1\n");
        write("card0-DP-1/device/mem_info_vram_used", "1\n");
        write("card1/device/vendor", "0x8086\n");
        let gpus = amd(root.path());
        assert_eq!(gpus.len(), 1);
        assert_eq!((gpus[0].name.as_str(), gpus[0].memory_free_bytes), ("AMD GPU 0x744c", 17_000_000_000));
    }

    #[test]
    fn a_gpu_that_backend_and_system_know_is_there_once_and_a_useless_one_is_said_to_be() {
        let gpu = |name: &str, total: u64| Gpu { name: name.into(), memory_total_bytes: total, ..Gpu::default() };
        let device = |name: &str, total: u64| Device::new(name, DeviceClass::DiscreteGpu).with_memory(total, total / 2);
        let cuda = [device("NVIDIA H200", 100), device("NVIDIA H200", 100)];
        let vulkan = [device("AMD Radeon RX 7900 XTX (RADV NAVI31)", 16_900), Device::new("CPU", DeviceClass::Cpu)];
        let system = vec![
            gpu("NVIDIA H200", 100),
            gpu("NVIDIA H200", 100),
            gpu("AMD GPU 0x744c", 17_000),
            gpu("NVIDIA T400", 4),
        ];
        let merged = merge(system, &[("cuda".into(), &cuda), ("vulkan".into(), &vulkan)]);
        let backends: Vec<_> = merged.iter().map(|gpu| gpu.backends.join(",")).collect();
        assert_eq!(backends, ["cuda", "cuda", "vulkan", ""]);
        assert_eq!(merged[3].remark, "no installed backend can use it");
        let alone = merge(Vec::new(), &[("cuda".into(), &cuda[..1])]);
        assert_eq!((alone[0].memory_free_bytes, alone[0].remark.as_str()), (50, ""));
    }

    #[cfg(unix)]
    #[test]
    fn a_program_that_hangs_is_given_up() {
        let mut child = Command::new("sleep").arg("30").stdout(Stdio::piped()).spawn().unwrap();
        assert_eq!(wait(&mut child, Duration::from_millis(20)), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
