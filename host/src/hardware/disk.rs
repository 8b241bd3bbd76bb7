//! How much room there is where a path lies or would lie.

use std::path::Path;

/// Room on a disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Room {
    /// What this user can still write.
    pub free_bytes: u64,
    /// The disk's size.
    pub total_bytes: u64,
}

/// The room where `path` is, or would be once it is made; none if unknown.
pub fn room(path: &Path) -> Option<Room> {
    let path = std::path::absolute(path).ok()?;
    let existing = path.ancestors().find(|path| path.exists())?;
    at(&existing.canonicalize().ok()?)
}

/// Whether what lies at both paths, or would once it is made, takes from the same room.
pub fn is_same(one: &Path, other: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let device = |path: &Path| {
            let path = std::path::absolute(path).ok()?;
            path.ancestors().find_map(|path| path.metadata().ok()).map(|metadata| metadata.dev())
        };
        device(one).is_some_and(|one| Some(one) == device(other))
    }
    #[cfg(not(unix))]
    {
        let prefix = |path: &Path| {
            std::path::absolute(path).ok().and_then(|path| path.components().next().map(|c| c.as_os_str().to_owned()))
        };
        prefix(one).is_some_and(|one| Some(one) == prefix(other))
    }
}

#[cfg(unix)]
fn at(path: &Path) -> Option<Room> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: the path ends with a zero, a result of zeroes is valid, and both live during the call.
    let stat = unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        if libc::statvfs(path.as_ptr(), &raw mut stat) != 0 {
            return None;
        }
        stat
    };
    // The fields' types differ from system to system.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    let (blocks, available, size) = (stat.f_blocks as u64, stat.f_bavail as u64, stat.f_frsize as u64);
    Some(Room { free_bytes: available.saturating_mul(size), total_bytes: blocks.saturating_mul(size) })
}

/// The disk whose mount point is the longest beginning of the path.
#[cfg(not(unix))]
fn at(path: &Path) -> Option<Room> {
    let disks = sysinfo::Disks::new_with_refreshed_list().ok()?;
    // Windows' canonical paths begin with `\\?\`, its mount points do not.
    let text = path.to_string_lossy();
    let path = Path::new(text.strip_prefix(r"\\?\").unwrap_or(&text));
    let holds = disks.list().iter().filter(|disk| path.starts_with(disk.mount_point()));
    let disk = holds.max_by_key(|disk| disk.mount_point().as_os_str().len())?;
    Some(Room { free_bytes: disk.available_space(), total_bytes: disk.total_space() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_yet_has_the_room_of_the_one_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let here = room(dir.path()).unwrap();
        assert!(here.free_bytes <= here.total_bytes && here.total_bytes > 0);
        assert_eq!(room(&dir.path().join("not/yet")).unwrap().total_bytes, here.total_bytes);
        assert!(is_same(dir.path(), &dir.path().join("not/yet")));
        #[cfg(target_os = "linux")]
        assert!(!is_same(dir.path(), Path::new("/proc")));
    }
}
