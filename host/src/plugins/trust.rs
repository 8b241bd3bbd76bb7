//! Decides whether a plugin's files may be loaded, by who could have written them.

use super::file::PluginFile;
use super::preflight::Refusal;
#[cfg(unix)]
use crate::users;
use std::path::Path;

/// Accepts files that are the user's or root's, and that others could not have put or changed there: neither them, nor
/// any of the folders that lead to them, nor those that lead to `found_at`, which may be a link.
///
/// # Errors
/// With what makes a file untrustworthy.
#[cfg(unix)]
pub fn check(file: &PluginFile, found_at: &Path) -> Result<(), Refusal> {
    for path in file.files() {
        let path = path.canonicalize().map_err(|error| unknown(path, &error))?;
        let what = if path == file.path { "it".to_owned() } else { format!("`{}`", path.display()) };
        check_one(&path, &what)?;
        for (depth, folder) in path.ancestors().skip(1).enumerate() {
            let what = match depth {
                0 if what == "it" => "its folder".to_owned(),
                _ => format!("the folder `{}`", folder.display()),
            };
            check_one(folder, &what)?;
        }
    }
    let found_at = std::path::absolute(found_at).map_err(|error| unknown(found_at, &error))?;
    for folder in found_at.ancestors().skip(1) {
        check_one(folder, &format!("the folder `{}`", folder.display()))?;
    }
    Ok(())
}

/// Accepts every file: owners and modes are Unix's.
///
/// # Errors
/// Never.
#[cfg(not(unix))]
pub fn check(_: &PluginFile, _: &Path) -> Result<(), Refusal> {
    Ok(())
}

#[cfg(unix)]
fn check_one(path: &Path, what: &str) -> Result<(), Refusal> {
    use std::os::unix::fs::MetadataExt;
    // SAFETY: geteuid has no preconditions.
    let user = unsafe { libc::geteuid() };
    let metadata = std::fs::metadata(path).map_err(|error| unknown(path, &error))?;
    let quoted = crate::text::quoted(&path.to_string_lossy());
    if metadata.uid() != user && metadata.uid() != 0 {
        let reason = format!("{what} belongs to another user (uid {})", metadata.uid());
        return Err(Refusal::new(reason, format!("sudo chown {user} {quoted}")));
    }
    // In a sticky folder nobody renames or removes what is another's.
    if metadata.is_dir() && metadata.mode() & 0o1000 != 0 {
        return Ok(());
    }
    if metadata.mode() & 0o002 != 0 {
        let reason = format!("{what} can be written by every user");
        return Err(Refusal::new(reason, format!("chmod o-w {quoted}")));
    }
    if metadata.mode() & 0o020 != 0 && !is_private(metadata.gid(), metadata.uid()) {
        let reason = format!("{what} can be written by the group {}", metadata.gid());
        return Err(Refusal::new(reason, format!("chmod g-w {quoted}")));
    }
    Ok(())
}

#[cfg(unix)]
fn unknown(path: &Path, error: &std::io::Error) -> Refusal {
    Refusal::new(format!("the owner of `{}` is unknown: {error}", path.display()), "")
}

/// Whether the group `gid` is root's, or the private one of the user `uid`: of the same name, with nobody else in it. On
/// macOS the administrators' is fine, too: it owns what Homebrew installs, and its members can become root.
#[cfg(unix)]
fn is_private(gid: u32, uid: u32) -> bool {
    const MACOS_ADMIN: u32 = 80;
    if gid == 0 || (cfg!(target_os = "macos") && gid == MACOS_ADMIN) {
        return true;
    }
    let (Some(user), Some((group, members))) = (users::name(uid), users::group(gid)) else { return false };
    group == user && members.iter().all(|member| *member == user)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_others_can_write_is_refused_and_mended_by_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().canonicalize().unwrap().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let file = inner.join("lib.so");
        std::fs::write(&file, "x").unwrap();
        let mode = |path: &Path, mode| set_permissions(path, Permissions::from_mode(mode)).unwrap();
        let refusal = || check(&PluginFile::examine(&file, None).unwrap(), &file).unwrap_err();
        let accepted = || check(&PluginFile::examine(&file, None).unwrap(), &file).unwrap();
        mode(&file, 0o666);
        assert_eq!(refusal().reason, "it can be written by every user");
        assert_eq!(refusal().remedy, format!("chmod o-w {}", file.display()));
        mode(&file, 0o644);
        accepted();
        mode(&inner, 0o777);
        assert_eq!(refusal().reason, "its folder can be written by every user");
        mode(&inner, 0o1777);
        accepted();
        mode(&inner, 0o755);
        mode(dir.path(), 0o777);
        assert!(refusal().reason.starts_with("the folder `") && refusal().reason.ends_with("by every user"));
        mode(dir.path(), 0o755);
        accepted();
    }

    #[test]
    fn a_group_is_trusted_if_it_is_its_owners_alone() {
        assert!(is_private(0, 0));
        // No system has this group.
        assert!(!is_private(4_000_000_000, 0));
    }
}
