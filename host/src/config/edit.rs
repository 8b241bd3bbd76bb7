//! Changes `config.toml`: comments and order stay, and what is written was read by the same parser before.

use super::keys::{Key, Kind};
use crate::error::{Error, Result};
use crate::files;
use std::path::Path;
use toml_edit::{Array, DocumentMut, Item, Value};

/// Sets `key` in the file at `path`, which is made if it is not there. `values` are as a user wrote them: one, or for a
/// list of folders any number.
///
/// # Errors
/// When a value is of another type, or the file is damaged or cannot be written.
pub fn set(path: &Path, key: &Key, values: &[String]) -> Result<()> {
    let value = value(key, values)?;
    let mut document = read(path)?;
    match document.get_mut(key.name) {
        Some(Item::Value(old)) => {
            // What stands around the value is the user's: a comment behind it, say.
            let decor = old.decor().clone();
            *old = value;
            *old.decor_mut() = decor;
        }
        _ => {
            document.insert(key.name, Item::Value(value));
        }
    }
    let text = document.to_string();
    super::parse(&text).map_err(|(message, hint)| Error::Invalid { path: path.to_owned(), message, hint })?;
    write(path, &text)
}

/// Takes `name` out of the file at `path`, known or not: that is how a wrong key is mended. Says whether it was there.
///
/// # Errors
/// When the file is damaged or cannot be written.
pub fn unset(path: &Path, name: &str) -> Result<bool> {
    let mut document = read(path)?;
    let was_there = document.remove(name).is_some();
    if was_there {
        // Not held against the parser: of two wrong keys, one must go first.
        write(path, &document.to_string())?;
    }
    Ok(was_there)
}

/// The value that a user's words mean for `key`.
fn value(key: &Key, values: &[String]) -> Result<Value> {
    let wrong = |given: &str| Error::Usage {
        message: format!("`{}` cannot be `{given}`", key.name),
        hint: format!("expected {}", key.kind.describe()),
    };
    if key.kind == Kind::Folders {
        return Ok(Value::Array(values.iter().collect::<Array>()));
    }
    let [one] = values else { return Err(wrong(&values.join(" "))) };
    Ok(match key.kind {
        Kind::Text | Kind::Folders if one.is_empty() => return Err(wrong(one)),
        Kind::Text | Kind::Folders => one.into(),
        Kind::Word(words) if !words.contains(&one.as_str()) => return Err(wrong(one)),
        Kind::Word(_) => one.into(),
        Kind::Switch => match one.as_str() {
            "true" | "on" | "yes" | "1" => true.into(),
            "false" | "off" | "no" | "0" => false.into(),
            _ => return Err(wrong(one)),
        },
        Kind::Count(max) => {
            one.parse::<i64>().ok().filter(|number| (1..=max).contains(number)).ok_or_else(|| wrong(one))?.into()
        }
    })
}

fn read(path: &Path) -> Result<DocumentMut> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Error::io("reading", path)(error)),
    };
    text.parse::<DocumentMut>().map_err(|error| Error::Invalid {
        path: path.to_owned(),
        message: error.to_string(),
        hint: "mend it with an editor".into(),
    })
}

/// Replaces the file as a whole, so that a full disk or a crash leaves the old one.
fn write(path: &Path, text: &str) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(Error::io("creating", dir))?;
    files::replace(path, text.as_bytes(), 0o666)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys;

    fn words(text: &[&str]) -> Vec<String> {
        text.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn comments_and_order_stay_and_only_the_key_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/config.toml");
        let set_key = |name: &str, values: &[&str]| set(&path, keys::find(name).unwrap(), &words(values));
        set_key("threads", &["4"]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "threads = 4\n");
        std::fs::write(&path, "# mine\nthreads = 4 # not 8\n\nfallback = true\n").unwrap();
        set_key("threads", &["2"]).unwrap();
        set_key("plugin_dirs", &["a", "/b c"]).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "# mine\nthreads = 2 # not 8\n\nfallback = true\nplugin_dirs = [\"a\", \"/b c\"]\n"
        );
        assert!(unset(&path, "fallback").unwrap() && !unset(&path, "fallback").unwrap());
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "# mine\nthreads = 2 # not 8\nplugin_dirs = [\"a\", \"/b c\"]\n"
        );
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[cfg(unix)]
    #[test]
    fn settings_that_are_their_users_alone_stay_so() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, "threads = 4\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        set(&path, keys::find("threads").unwrap(), &words(&["2"])).unwrap();
        assert_eq!(mode(), 0o600);
        assert!(unset(&path, "threads").unwrap());
        assert_eq!(mode(), 0o600);
    }

    #[test]
    fn values_of_another_type_are_refused_and_a_wrong_key_can_be_taken_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        for (name, values) in
            [("threads", &["0"][..]), ("threads", &["two"]), ("fallback", &["maybe"]), ("backend", &["a", "b"])]
        {
            let error = set(&path, keys::find(name).unwrap(), &words(values)).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
        }
        assert!(!path.exists());
        std::fs::write(&path, "bakend = 'x'\nthreads = 1\nfalback = 1\n").unwrap();
        let error = set(&path, keys::find("threads").unwrap(), &words(&["2"])).unwrap_err();
        assert!(error.to_string().contains("unknown key `bakend`"), "{error}");
        assert!(unset(&path, "bakend").unwrap() && unset(&path, "falback").unwrap());
        std::fs::write(&path, "threads = \n").unwrap();
        assert!(unset(&path, "threads").is_err());
    }
}
