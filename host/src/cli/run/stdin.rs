//! What stdin has: the prompt, or the text that a prompt is about.

use crate::cli::output;
use crate::error::Error;
use crate::text::counted;
use anyhow::Context;
use std::io::Read;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// In bytes, at the most: far more than any context holds, and an end to what is read.
const BYTES_MAX: u64 = 64 << 20;

/// After so long without its end, the user is told what is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// The prompt: all of it, less the ends of lines at its end.
pub fn prompt() -> anyhow::Result<String> {
    read(std::io::stdin().lock(), "prompt")
}

/// `prompt` after what somebody sends or redirected there, if there is any.
pub fn before(prompt: String) -> anyhow::Result<String> {
    if !is_fed() {
        return Ok(prompt);
    }
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(read(std::io::stdin().lock(), "text")));
    let text = match receiver.recv_timeout(PATIENCE) {
        Err(RecvTimeoutError::Timeout) => {
            output::say("waiting for the end of stdin, which the prompt is about (`< /dev/null` gives it none)");
            receiver.recv()?
        }
        text => text?,
    }?;
    if text.trim().is_empty() {
        return Ok(prompt);
    }
    // Said, because it may be the rest of a script that a shell reads from there, which is lost to it.
    output::say(&format!("note: the prompt comes after {} from stdin", counted(text.len(), "byte")));
    Ok(format!("{text}\n\n{prompt}"))
}

/// Whether stdin is a pipe or a file. Others are no sign that anybody means to send something: a terminal, `/dev/null`, the
/// socket that a service was started with.
#[cfg(unix)]
fn is_fed() -> bool {
    let mut status = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: it writes a status there if it returns 0.
    if unsafe { libc::fstat(libc::STDIN_FILENO, status.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: as above.
    let kind = unsafe { status.assume_init() }.st_mode & libc::S_IFMT;
    kind == libc::S_IFIFO || kind == libc::S_IFREG
}

#[cfg(not(unix))]
fn is_fed() -> bool {
    false
}

/// What `input` has, which is a `what`.
fn read(input: impl Read, what: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    input.take(BYTES_MAX + 1).read_to_end(&mut bytes).with_context(|| format!("reading the {what} on stdin failed"))?;
    if bytes.len() as u64 > BYTES_MAX {
        let message = format!("the {what} on stdin has more than {BYTES_MAX} bytes");
        return Err(Error::Usage { message, hint: format!("a context holds far less; give a shorter {what}") }.into());
    }
    // After the size, because the end of what was read may be in the middle of a character.
    let text = String::from_utf8(bytes).map_err(|error| Error::Usage {
        message: format!("the {what} on stdin is not UTF-8: {}", error.utf8_error()),
        hint: "give it text, or nothing by `< /dev/null`".into(),
    })?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_that_never_ends_is_refused_at_the_cap() {
        let error = read(std::io::repeat(b'x'), "prompt").unwrap_err().to_string();
        assert_eq!(error, "the prompt on stdin has more than 67108864 bytes");
        assert_eq!(read(&b"Hi\nthere\r\n"[..], "prompt").unwrap(), "Hi\nthere");
    }
}
