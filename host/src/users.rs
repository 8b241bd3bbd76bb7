//! The users and groups of this system, where it has any.

use std::path::PathBuf;

/// The name of the user `uid`.
#[cfg(unix)]
pub fn name(uid: u32) -> Option<String> {
    entry(uid).map(|(name, _)| name)
}

/// The home folder of the user that this process acts as, by the system's account and not by the environment's.
pub fn own_home() -> Option<PathBuf> {
    #[cfg(unix)]
    {
        // SAFETY: geteuid has no preconditions.
        entry(unsafe { libc::geteuid() }).map(|(_, home)| home)
    }
    #[cfg(not(unix))]
    None
}

/// Whether this process has rights that whoever started it may lack: then the environment is not to be followed to code.
pub fn is_privileged() -> bool {
    #[cfg(target_os = "linux")]
    // SAFETY: getauxval has no preconditions.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        return true;
    }
    #[cfg(unix)]
    // SAFETY: none of these has preconditions.
    unsafe {
        libc::getuid() != libc::geteuid() || libc::getgid() != libc::getegid()
    }
    #[cfg(not(unix))]
    false
}

/// The name and the home folder of the user `uid`.
#[cfg(unix)]
fn entry(uid: u32) -> Option<(String, PathBuf)> {
    let mut buffer = vec![0; 64 * 1024];
    let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
    let mut found = std::ptr::null_mut();
    // SAFETY: the buffer is as long as it is said to be, and all pointers live during the call.
    let code = unsafe { libc::getpwuid_r(uid, entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found) };
    if code != 0 || found.is_null() {
        return None;
    }
    // SAFETY: after a success with a result, the entry is filled in, with strings in the buffer.
    unsafe { Some((text((*found).pw_name), text((*found).pw_dir).into())) }
}

/// The name and the members of the group `gid`.
#[cfg(unix)]
pub fn group(gid: u32) -> Option<(String, Vec<String>)> {
    let mut buffer = vec![0; 64 * 1024];
    let mut entry = std::mem::MaybeUninit::<libc::group>::uninit();
    let mut found = std::ptr::null_mut();
    // SAFETY: the buffer is as long as it is said to be, and all pointers live during the call.
    let code = unsafe { libc::getgrgid_r(gid, entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found) };
    if code != 0 || found.is_null() {
        return None;
    }
    // SAFETY: after a success with a result, the entry is filled in: its name is a string in the buffer, its members are
    // an array of such that ends with a null pointer.
    unsafe {
        let mut members = Vec::new();
        let mut member = (*found).gr_mem;
        while !(*member).is_null() {
            members.push(text(*member));
            member = member.add(1);
        }
        Some((text((*found).gr_name), members))
    }
}

/// # Safety
/// `pointer` must point to a string that ends with a zero.
#[cfg(unix)]
unsafe fn text(pointer: *const libc::c_char) -> String {
    // SAFETY: the caller says so.
    unsafe { std::ffi::CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_and_tests_are_not_privileged() {
        assert_eq!(name(0).as_deref(), Some("root"));
        assert!(group(0).is_some() && name(4_000_000_000).is_none());
        assert!(!is_privileged());
    }
}
