//! Words for people and from them: sizes, counts, what a shell takes, and paths as a shell reads them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A size for people: `2.1 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A path or another word as a shell takes it.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/\\:._-+,@".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A count and what is counted: `1 file`, `2 files`.
pub fn counted(count: usize, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

/// A path whose leading `~` is the home folder, as a shell reads it, for where no shell does.
pub fn below_home(path: impl Into<OsString>, home: impl Fn() -> Option<PathBuf>) -> PathBuf {
    let path = PathBuf::from(path.into());
    match (path.strip_prefix("~").map(Path::to_owned), home()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(999), "999 B");
        assert_eq!(size(2_211_616), "2.1 MiB");
    }

    #[test]
    fn one_is_no_plural() {
        assert_eq!([counted(0, "file"), counted(1, "file"), counted(2, "file")], ["0 files", "1 file", "2 files"]);
    }

    #[test]
    fn a_leading_tilde_is_the_home_folder_where_there_is_one() {
        let home = || Some("/u".into());
        assert_eq!(below_home("~/x/", home), Path::new("/u/x/"));
        assert_eq!(below_home("~", home), Path::new("/u"));
        for path in ["~other/x", "/~/x", "x/~", ""] {
            assert_eq!(below_home(path, home), Path::new(path));
        }
        assert_eq!(below_home("~/x", || None), Path::new("~/x"));
    }

    #[test]
    fn words_are_quoted_where_a_shell_would_break_them() {
        assert_eq!(quoted("./acme-npu"), "./acme-npu");
        assert_eq!(quoted("my plugins/it's"), r"'my plugins/it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
