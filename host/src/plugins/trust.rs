//! Decides whether a file may be loaded, by who could have written it.

use super::preflight::Refusal;
use std::path::Path;

/// Accepts a file that is the user's or root's, and that others could not have put or changed there.
///
/// # Errors
/// With what makes the file untrustworthy.
#[cfg(unix)]
pub fn check(path: &Path) -> Result<(), Refusal> {
    use std::os::unix::fs::MetadataExt;
    // SAFETY: geteuid has no preconditions.
    let user = unsafe { libc::geteuid() };
    let unreadable = |error: std::io::Error| Refusal::new(format!("its owner is unknown: {error}"), "");
    for (what, path) in [("it", path), ("its folder", path.parent().unwrap_or(path))] {
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        if metadata.uid() != user && metadata.uid() != 0 {
            let reason = format!("{what} belongs to another user (uid {})", metadata.uid());
            return Err(Refusal::new(reason, format!("sudo chown {user} '{}'", path.display())));
        }
        let sticky = metadata.is_dir() && metadata.mode() & 0o1000 != 0;
        if metadata.mode() & 0o002 != 0 && !sticky {
            let reason = format!("{what} can be written by every user");
            return Err(Refusal::new(reason, format!("chmod o-w '{}'", path.display())));
        }
    }
    Ok(())
}

/// Accepts every file: owners and modes are Unix's.
///
/// # Errors
/// Never.
#[cfg(not(unix))]
pub fn check(_: &Path) -> Result<(), Refusal> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_that_everyone_can_write_is_refused_and_mended_by_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lib.so");
        std::fs::write(&file, "x").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
        let refusal = check(&file).unwrap_err();
        assert_eq!(refusal.reason, "it can be written by every user");
        assert!(refusal.remedy.starts_with("chmod o-w"));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        check(&file).unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(check(&file).unwrap_err().reason, "its folder can be written by every user");
    }
}
