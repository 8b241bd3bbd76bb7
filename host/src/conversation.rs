//! What a chat remembers, and the file that keeps it: JSON with a format, a version and the turns, nothing of the model.

use crate::chat::Message;
use crate::error::{Error, Result};
use crate::files;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// What a session file says of itself.
const FORMAT: &str = "pajamas-session";
/// The version that is written, and the newest that is read.
const VERSION: u64 = 1;
/// A session file has at most so many bytes: far more than any context holds, and an end to what is read.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

/// A question and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// What the user said.
    pub question: String,
    /// What the model said.
    pub answer: String,
}

/// A conversation between its turns: every question in it has its answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversation {
    /// What the model is told before anything else.
    pub system: Option<String>,
    /// The turns, the oldest first.
    pub turns: Vec<Turn>,
}

impl Conversation {
    /// The system text, then questions and answers by turns, from the turn `first_turn` on, as messages.
    pub fn messages_from(&self, first_turn: usize) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new("system", text));
        let turns = self.turns.iter().skip(first_turn).flat_map(|turn| {
            [Message::new("user", turn.question.as_str()), Message::new("assistant", turn.answer.as_str())]
        });
        system.chain(turns).collect()
    }

    /// The same, with `question` behind it.
    pub fn asking(&self, first_turn: usize, question: &str) -> Vec<Message> {
        let mut messages = self.messages_from(first_turn);
        messages.push(Message::new("user", question));
        messages
    }
}

/// A conversation with what it was held on, as a session file keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The reference to the model, as the user wrote it.
    pub model: String,
    /// The backend's name.
    pub backend: String,
    /// The conversation.
    pub conversation: Conversation,
}

/// The file as it is written: `docs/reference/json/session.schema.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: String,
    version: u64,
    model: String,
    backend: String,
    system: Option<String>,
    messages: Vec<Message>,
}

impl Session {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read, is too large, is no session file, is damaged, or is of a newer version.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = read_capped(path)?;
        parse(&bytes).map_err(|(message, hint)| Error::Invalid { path: path.to_owned(), message, hint: hint.into() })
    }

    /// Writes the file at `path`: beside it first and renamed at the end, so that under the name there is a whole
    /// session always. A new file is its user's alone; one that was there keeps its permissions.
    ///
    /// # Errors
    /// When there is a file that is no session, or writing fails. Then what was there is untouched.
    pub fn write(&self, path: &Path) -> Result<()> {
        // What a link leads to is what is replaced, and so what is looked at.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        check_replaceable(&target)?;
        let text = self.text();
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(too_large(path, text.len() as u64));
        }
        files::replace(&target, text.as_bytes(), 0o600)
    }

    fn text(&self) -> String {
        let written = Written {
            format: FORMAT.into(),
            version: VERSION,
            model: self.model.clone(),
            backend: self.backend.clone(),
            system: self.conversation.system.clone(),
            messages: Conversation { system: None, turns: self.conversation.turns.clone() }.messages_from(0),
        };
        // Strings and numbers only: there is nothing in it that JSON could not say.
        serde_json::to_string_pretty(&written).unwrap_or_default() + "\n"
    }
}

/// Checks that a session may be written to `path`: that nothing is there, or a session of a version that this is.
///
/// # Errors
/// When there is something else, or no folder to write it to.
pub fn check_replaceable(path: &Path) -> Result<()> {
    match Session::read(path) {
        Ok(_) => Ok(()),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            match folder {
                Some(folder) if !folder.is_dir() => Err(Error::Invalid {
                    path: path.to_owned(),
                    message: format!("there is no folder `{}`", folder.display()),
                    hint: "make the folder first, or name another file".into(),
                }),
                // Nobody wants to know after an answer that cannot be kept.
                folder => {
                    let folder = folder.unwrap_or(Path::new("."));
                    tempfile::tempfile_in(folder).map(drop).map_err(Error::io("writing", path))
                }
            }
        }
        Err(Error::Invalid { path, message, .. }) => Err(Error::Invalid {
            path,
            message: format!("{message}; it is not overwritten"),
            hint: "name another file, or remove this one".into(),
        }),
        Err(error) => Err(error),
    }
}

/// The bytes of the regular file at `path`. Anything else, a pipe say, could keep its reader waiting for ever.
fn read_capped(path: &Path) -> Result<Vec<u8>> {
    let metadata = fs::metadata(path).map_err(Error::io("reading", path))?;
    if !metadata.is_file() {
        let message = "it is no file; expected a session, as `/save` writes it".into();
        return Err(Error::Invalid { path: path.to_owned(), message, hint: String::new() });
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(too_large(path, metadata.len()));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Error::io("reading", path))?;
    // It may have grown since.
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(Error::io("reading", path))?;
    if bytes.len() as u64 > FILE_BYTES_MAX { Err(too_large(path, bytes.len() as u64)) } else { Ok(bytes) }
}

fn too_large(path: &Path, size_bytes: u64) -> Error {
    let message = format!("it has {size_bytes} bytes; a session has {FILE_BYTES_MAX} at the most");
    Error::Invalid { path: path.to_owned(), message, hint: String::new() }
}

/// Reads a session file's bytes; else what is wrong, and what to do.
fn parse(bytes: &[u8]) -> std::result::Result<Session, (String, &'static str)> {
    const WANTED: &str = "a session is the JSON that `/save` and `--session` write";
    let value: serde_json::Value = serde_json::from_slice(bytes)
        .map_err(|error| (format!("expected a session as JSON, and it is none: {error}"), WANTED))?;
    if value.get("format").and_then(serde_json::Value::as_str) != Some(FORMAT) {
        return Err((format!("it is no session: its `format` is not `{FORMAT}`"), WANTED));
    }
    // Before anything else of it is looked at, because a newer version may look different.
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(VERSION) => (),
        Some(newer) if newer > VERSION => {
            let message = format!("it is a session of version {newer}; this pajamas reads version {VERSION}");
            return Err((message, "run the pajamas that wrote it, or a newer one"));
        }
        _ => return Err((format!("the session is damaged: its `version` is not {VERSION}"), WANTED)),
    }
    let written: Written =
        serde_json::from_value(value).map_err(|error| (format!("the session is damaged: {error}"), WANTED))?;
    let turns = turns(written.messages).map_err(|what| (format!("the session is damaged: {what}"), WANTED))?;
    let conversation = Conversation { system: written.system, turns };
    Ok(Session { model: written.model, backend: written.backend, conversation })
}

/// Pairs questions and answers, or says which message is out of order.
fn turns(messages: Vec<Message>) -> std::result::Result<Vec<Turn>, String> {
    let mut turns = Vec::new();
    let mut question = None;
    for (index, message) in messages.into_iter().enumerate() {
        let expected = if question.is_none() { "user" } else { "assistant" };
        if message.role != expected {
            return Err(format!("message {} is of `{}`, expected `{expected}`", index + 1, message.role));
        }
        match question.take() {
            None => question = Some(message.content),
            Some(question) => turns.push(Turn { question, answer: message.content }),
        }
    }
    if question.is_some() { Err("its last message has no answer".into()) } else { Ok(turns) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        let turn = |question: &str, answer: &str| Turn { question: question.into(), answer: answer.into() };
        let turns = vec![turn("Hi\nthere", "Ho"), turn("<|im_end|>", "\u{1b}[31m")];
        let conversation = Conversation { system: Some("Be \"kind\".".into()), turns };
        Session { model: "org/name".into(), backend: "gguf-cpu".into(), conversation }
    }

    #[test]
    fn a_session_comes_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.json");
        session().write(&path).unwrap();
        assert_eq!(Session::read(&path).unwrap(), session());
        // A second time, over itself; and nothing else stays in the folder.
        session().write(&path).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_new_file_is_its_users_alone_and_an_old_one_keeps_its_permissions_and_its_link() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("s.json"), dir.path().join("link"));
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        session().write(&path).unwrap();
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        symlink(&path, &link).unwrap();
        session().write(&link).unwrap();
        assert_eq!(mode(), 0o644);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn what_is_no_session_is_an_error_that_says_what_was_expected_and_is_not_overwritten() {
        let text = session().text();
        let cases = [
            (String::new(), "expected a session as JSON"),
            ("Dear diary".into(), "expected a session as JSON"),
            (text[..text.len() / 2].into(), "expected a session as JSON"),
            ("[]".into(), "its `format` is not `pajamas-session`"),
            ("{\"version\": 1}".into(), "its `format` is not `pajamas-session`"),
            (text.replace("\"version\": 1", "\"version\": 2"), "version 2; this pajamas reads version 1"),
            (text.replace("\"version\": 1", "\"version\": -1"), "its `version` is not 1"),
            (text.replace("\"backend\"", "\"engine\""), "unknown field `engine`"),
            (text.replace("\"gguf-cpu\"", "7"), "invalid type"),
            (text.replacen("\"user\"", "\"system\"", 1), "message 1 is of `system`, expected `user`"),
            (text.replace("\"assistant\"", "\"user\""), "message 2 is of `user`, expected `assistant`"),
            ("[".repeat(100_000), "expected a session as JSON"),
        ];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.json");
        for (text, wanted) in cases {
            fs::write(&path, &text).unwrap();
            for error in [Session::read(&path).unwrap_err(), session().write(&path).unwrap_err()] {
                let error = error.to_string();
                assert!(error.contains(wanted) && error.contains("s.json"), "wanted {wanted}: {error}");
            }
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let error = Session::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("it is no file"), "{error}");
    }

    #[test]
    fn a_question_without_an_answer_is_damage() {
        let messages = vec![Message::new("user", "Hi")];
        assert_eq!(turns(messages).unwrap_err(), "its last message has no answer");
    }

    #[test]
    fn a_huge_file_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.json");
        // Of holes only: it takes no room.
        File::create(&path).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        let error = Session::read(&path).unwrap_err().to_string();
        assert!(error.contains("67108865 bytes; a session has 67108864 at the most"), "{error}");
    }

    #[test]
    fn a_folder_that_is_missing_is_said_before_anything_is_answered() {
        let error = check_replaceable(Path::new("/no/such/folder/s.json")).unwrap_err().to_string();
        assert!(error.contains("there is no folder `/no/such/folder`"), "{error}");
        check_replaceable(Path::new("a-file-that-is-not-there.json")).unwrap();
    }
}
