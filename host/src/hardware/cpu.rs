//! Which instruction sets the CPU has, of those that make engines faster; and how busy it is.

/// How many threads of other programs are computing at this moment. None where the system does not say.
#[cfg(target_os = "linux")]
pub fn busy() -> Option<u32> {
    // A moment's number, without the one that asks; the least of a few is no accident.
    let now = || {
        let text = std::fs::read_to_string("/proc/loadavg").ok()?;
        let running = text.split_whitespace().nth(3)?.split('/').next()?.parse::<u32>().ok()?;
        Some(running.saturating_sub(1))
    };
    let mut least = now()?;
    for _ in 0..4 {
        if least == 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
        least = least.min(now()?);
    }
    Some(least)
}

/// See above.
#[cfg(not(target_os = "linux"))]
pub fn busy() -> Option<u32> {
    None
}

/// CPUs of the whole machine, which its other programs use, too. None where the system does not say.
pub fn online() -> Option<u32> {
    #[cfg(unix)]
    {
        // SAFETY: sysconf has no preconditions.
        u32::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).ok()
    }
    #[cfg(not(unix))]
    None
}

/// The names of those that this CPU has, in a fixed order.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
pub fn features() -> Vec<&'static str> {
    macro_rules! present {
        ($($name:tt),+ $(,)?) => {
            [$(($name, std::is_x86_feature_detected!($name))),+]
        };
    }
    let mut known = present!(
        "sse4.2",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "avx512f",
        "avx512bw",
        "avx512vnni",
        "avx512bf16",
        "avx512fp16",
        "avxvnni",
    )
    .to_vec();
    known.extend(amx());
    // As manifests of plugins and compilers write it.
    let name = |name: &'static str| if name == "sse4.2" { "sse4_2" } else { name };
    known.into_iter().filter(|(_, present)| *present).map(|(known, _)| name(known)).collect()
}

/// The matrix extensions, which the standard library does not tell on a stable compiler. Whether a system lets programs
/// use them is for the engine to find out.
#[cfg(target_arch = "x86_64")]
fn amx() -> Vec<(&'static str, bool)> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    let highest = __cpuid(0).eax;
    let features = if highest >= 7 { __cpuid_count(7, 0).edx } else { 0 };
    // Intel's manual, volume 2, CPUID leaf 7, EDX.
    [("amx_bf16", 22), ("amx_tile", 24), ("amx_int8", 25)]
        .map(|(name, bit)| (name, features & (1 << bit) != 0))
        .to_vec()
}

#[cfg(target_arch = "x86")]
fn amx() -> Vec<(&'static str, bool)> {
    Vec::new()
}

/// The names of those that this CPU has, in a fixed order.
#[cfg(target_arch = "aarch64")]
pub fn features() -> Vec<&'static str> {
    macro_rules! present {
        ($($name:tt),+ $(,)?) => {
            [$(($name, std::arch::is_aarch64_feature_detected!($name))),+]
        };
    }
    let known = present!("neon", "dotprod", "i8mm", "fp16", "bf16", "sve", "sve2");
    known.into_iter().filter(|(_, present)| *present).map(|(name, _)| name).collect()
}

/// Nothing is known of other CPUs.
#[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
pub fn features() -> Vec<&'static str> {
    Vec::new()
}
