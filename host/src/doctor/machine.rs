//! Room on the disk and in memory.

use super::{Check, shell};
use crate::config::Config;
use crate::hardware;
use crate::hardware::disk;
use crate::text::size;

/// With less than this on the disk, a model of some billions of weights cannot be made.
const DISK_LOW_BYTES: u64 = 5 << 30;
/// With less than this, nothing can.
const DISK_FULL_BYTES: u64 = 100 << 20;
/// With less memory than this, the smallest models only run.
const MEMORY_LOW_BYTES: u64 = 1 << 30;

/// Looks at both.
pub(super) fn check(config: &Config) -> Vec<Check> {
    let machine = hardware::detect();
    let models = config.models_dir();
    let mut checks = Vec::new();
    if let Some(room) = disk::room(&models) {
        let found = format!("{} free of {}", size(room.free_bytes), size(room.total_bytes));
        checks.push(judge(
            "disk",
            room.free_bytes,
            DISK_LOW_BYTES,
            DISK_FULL_BYTES,
            found,
            &format!("du -h {}", shell(&models)),
        ));
    }
    if machine.memory_total_bytes > 0 {
        let found =
            format!("{} available of {}", size(machine.memory_available_bytes), size(machine.memory_total_bytes));
        let remedy = "close other programs";
        checks.push(judge("memory", machine.memory_available_bytes, MEMORY_LOW_BYTES, 0, found, remedy));
    }
    checks
}

fn judge(name: &'static str, bytes: u64, low: u64, none: u64, found: String, remedy: &str) -> Check {
    match bytes {
        bytes if bytes < none => Check::problem(name, found, remedy),
        bytes if bytes < low => Check::warning(name, found, remedy),
        _ => Check::ok(name, found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn little_is_a_warning_and_nothing_a_problem() {
        let status = |bytes| judge("disk", bytes, 10, 2, String::new(), "du").status;
        assert_eq!([status(1), status(9), status(10)], [Status::Problem, Status::Warning, Status::Ok]);
        assert_eq!(judge("memory", 0, 10, 0, String::new(), "").status, Status::Warning);
    }
}
