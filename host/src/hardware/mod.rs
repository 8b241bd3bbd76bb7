//! What this machine is: CPU, cores, memory; [`gpu`] its GPUs, [`disk`] the room on its disks.

mod cpu;
pub mod disk;
pub mod gpu;

use serde::Serialize;
use sysinfo::{CpuRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// The machine, as far as backends apart from their devices care.
#[derive(Debug, Clone, Serialize)]
pub struct Hardware {
    /// `linux-x86_64`, …
    pub platform: String,
    /// The CPU's name; empty if unknown.
    pub cpu: String,
    /// Those of its instruction sets that matter to engines: `avx2`, …
    pub cpu_features: Vec<&'static str>,
    /// Cores that can compute at once.
    pub cores: u32,
    /// Threads that the system runs at once, hyper-threads included, as far as this process may use them.
    pub threads: u32,
    /// Memory, in bytes, or what this process's group may use of it; 0 if unknown.
    pub memory_total_bytes: u64,
    /// Memory that programs can still get, in bytes; 0 if unknown.
    pub memory_available_bytes: u64,
    /// Swap, in bytes.
    pub swap_total_bytes: u64,
    /// Swap that is free, in bytes.
    pub swap_free_bytes: u64,
}

/// How many threads to compute with while other programs do, too; none where each core is free. Engines' threads wait for each
/// other in loops, so that one which has to share its core holds up all of them, for whole turns of the scheduler.
pub fn threads_beside_others() -> Option<u32> {
    fewer(physical_cores(), allowed_threads().max(cpu::online()?), cpu::busy()?)
}

/// Of `cores`, those that are left on a machine of `cpus` where `others` compute.
fn fewer(cores: u32, cpus: u32, others: u32) -> Option<u32> {
    (others + cores > cpus).then(|| cpus.saturating_sub(others).clamp(1, cores)).filter(|threads| *threads < cores)
}

/// Looks at the machine.
pub fn detect() -> Hardware {
    let system = System::new().ok().map(|mut system| {
        system.refresh_memory();
        system.refresh_cpu_list(CpuRefreshKind::nothing());
        system
    });
    let memory = system.as_ref().map(memory_of).unwrap_or_default();
    let cpu = system.as_ref().and_then(|system| Some(system.cpus().first()?.brand().trim().to_owned()));
    Hardware {
        platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
        cpu: cpu.unwrap_or_default(),
        cpu_features: cpu::features(),
        cores: physical_cores(),
        threads: allowed_threads(),
        memory_total_bytes: memory.total_bytes,
        memory_available_bytes: memory.available_bytes,
        swap_total_bytes: system.as_ref().map_or(0, System::total_swap),
        swap_free_bytes: system.as_ref().map_or(0, System::free_swap),
    }
}

/// The machine's memory, or what the process may use of it. Zeroes mean unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Memory {
    total_bytes: u64,
    available_bytes: u64,
}

impl Memory {
    /// The same within a limit of which `used_bytes` are taken.
    fn within(self, limit_bytes: u64, used_bytes: u64) -> Self {
        // A group without a limit has one that is larger than any machine.
        if limit_bytes == 0 || limit_bytes >= self.total_bytes {
            return self;
        }
        let left = limit_bytes.saturating_sub(used_bytes);
        Self { total_bytes: limit_bytes, available_bytes: self.available_bytes.min(left) }
    }
}

fn memory_of(system: &System) -> Memory {
    let memory = Memory { total_bytes: system.total_memory(), available_bytes: system.available_memory() };
    let limits = own_limits().or_else(|| system.cgroup_limits());
    // What the group holds of files is given back when a program needs it, so only the rest counts as used.
    limits.map_or(memory, |limits| memory.within(limits.total_memory, limits.rss))
}

/// The limits of the control group that this process is in: a container's, or a service's.
fn own_limits() -> Option<sysinfo::CGroupLimits> {
    let pid = Pid::from_u32(std::process::id());
    let mut system = System::new().ok()?;
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, ProcessRefreshKind::nothing());
    system.process(pid)?.cgroup_limits()
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

/// Cores without their hyper-threads, as far as this process may use them: more threads make decoding slower.
pub fn physical_cores() -> u32 {
    let count = System::physical_core_count().ok().and_then(|count| u32::try_from(count).ok());
    match count {
        Some(count) if count > 0 => count.min(allowed_threads()),
        _ => allowed_threads(),
    }
}

fn allowed_threads() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1))
}

/// Whether a process with this id is there.
pub fn process_exists(id: u32) -> bool {
    let pid = Pid::from_u32(id);
    System::new().is_ok_and(|mut system| {
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, ProcessRefreshKind::nothing());
        system.process(pid).is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_leave_room_for_others_where_there_is_none() {
        assert_eq!(fewer(2, 2, 0), None);
        assert_eq!((fewer(2, 2, 1), fewer(2, 2, 5)), (Some(1), Some(1)));
        assert_eq!((fewer(8, 16, 8), fewer(8, 16, 11)), (None, Some(5)), "a busy machine has eight idle hyper-threads");
        assert_eq!(fewer(4, 64, 50), None, "a container on a large machine");
    }

    #[test]
    fn a_groups_limit_counts_where_it_is_lower_than_the_machine() {
        let machine = Memory { total_bytes: 100, available_bytes: 60 };
        assert_eq!(machine.within(0, 5), machine);
        assert_eq!(machine.within(u64::MAX, 5), machine);
        assert_eq!(machine.within(80, 70), Memory { total_bytes: 80, available_bytes: 10 });
        assert_eq!(machine.within(80, 0), Memory { total_bytes: 80, available_bytes: 60 });
        assert_eq!(machine.within(80, 90), Memory { total_bytes: 80, available_bytes: 0 });
    }

    #[test]
    fn this_machine_has_cores_and_memory_and_this_process_exists() {
        let machine = detect();
        assert!(machine.cores >= 1 && machine.cores <= machine.threads, "{machine:?}");
        assert!(machine.memory_available_bytes <= machine.memory_total_bytes, "{machine:?}");
        if cfg!(any(target_os = "linux", target_os = "macos", windows)) {
            assert!(machine.memory_total_bytes > 1 << 20, "{machine:?}");
            assert!(process_exists(std::process::id()));
        }
        assert!(!process_exists(u32::MAX - 1));
    }
}
