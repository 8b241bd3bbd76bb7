//! What this machine is: CPU, cores, memory.

use serde::Serialize;

/// The machine, as far as backends apart from their devices care.
#[derive(Debug, Clone, Serialize)]
pub struct Hardware {
    /// `linux-x86_64`, …
    pub platform: String,
    /// The CPU's name; empty if unknown.
    pub cpu: String,
    /// Cores that can compute at once.
    pub cores: u32,
    /// Memory, in bytes; 0 if unknown.
    pub memory_total_bytes: u64,
    /// Memory that programs can still get, in bytes; 0 if unknown.
    pub memory_available_bytes: u64,
}

/// Looks at the machine.
pub fn detect() -> Hardware {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Hardware {
        platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
        cpu: field(&cpuinfo, "model name").unwrap_or_default().to_owned(),
        cores: physical_cores(),
        memory_total_bytes: kibibytes(&meminfo, "MemTotal"),
        memory_available_bytes: kibibytes(&meminfo, "MemAvailable"),
    }
}

/// The most memory that this process has held so far, in bytes; 0 if unknown.
pub fn peak_memory_bytes() -> u64 {
    #[cfg(unix)]
    {
        // SAFETY: a usage of zeroes is valid, and it lives during the call.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
            usage
        };
        // Kibibytes everywhere but on macOS.
        let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
        u64::try_from(usage.ru_maxrss).unwrap_or(0) * unit
    }
    #[cfg(not(unix))]
    0
}

/// Bytes that this user may still write to the file system of `path`; 0 if unknown.
pub fn disk_free_bytes(path: &std::path::Path) -> u64 {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else { return 0 };
        // SAFETY: the path is NUL-terminated, and a statvfs of zeroes is valid; both live during the call.
        let (status, stat) = unsafe {
            let mut stat: libc::statvfs = std::mem::zeroed();
            (libc::statvfs(path.as_ptr(), &raw mut stat), stat)
        };
        // Their types differ between systems.
        #[allow(clippy::unnecessary_cast, reason = "u64 on this one")]
        let free = stat.f_bavail as u64 * stat.f_frsize as u64;
        if status == 0 { free } else { 0 }
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        0
    }
}

/// Whether a process of this id runs.
pub fn process_exists(id: u32) -> bool {
    #[cfg(unix)]
    {
        let Ok(id) = libc::pid_t::try_from(id) else { return false };
        // SAFETY: signal 0 asks and does nothing.
        unsafe { libc::kill(id, 0) == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM) }
    }
    #[cfg(not(unix))]
    {
        let _ = id;
        true
    }
}

/// Cores without their hyper-threads, as far as this process may use them: more threads make decoding slower.
pub fn physical_cores() -> u32 {
    let allowed = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut cores: Vec<(&str, &str)> = cpuinfo
        .split("\n\n")
        .filter_map(|block| Some((field(block, "physical id")?, field(block, "core id")?)))
        .collect();
    cores.sort_unstable();
    cores.dedup();
    match u32::try_from(cores.len()) {
        Ok(count) if count > 0 => count.min(allowed),
        _ => allowed,
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

fn kibibytes(text: &str, name: &str) -> u64 {
    let number = field(text, name).and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}
