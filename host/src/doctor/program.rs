//! The programs themselves: the worker, and what else goes by the name of pajamas.

use super::{Check, shell};
use crate::config::Config;
use crate::error::{Error, INSTALL_AGAIN};
use crate::worker::client::{self, Worker};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

const WORKER: &str = "worker program";
/// The worker says its version before it does anything else; so much only on a machine that hardly moves.
const VERSION_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of its answer that are read, the most.
const VERSION_BYTES_MAX: u64 = 4096;
const PATH: &str = "programs on PATH";

/// Whether the worker is found, starts, speaks our protocol and is of our version.
pub(super) fn check_worker(config: &Config) -> Vec<Check> {
    let executable = match client::find_executable(config) {
        Ok(executable) => executable,
        Err(error) => return vec![broken(&error)],
    };
    if let Err(error) = Worker::start(config) {
        return vec![broken(&error)];
    }
    let shown = format!("`{}` starts and answers", executable.display());
    let mut asked = Command::new(&executable);
    asked.arg("--version");
    match version(asked, VERSION_TIME_MAX) {
        Err(_) => {
            let seconds = VERSION_TIME_MAX.as_secs();
            let found = format!("`{} --version` gave no answer in {seconds} s", executable.display());
            vec![Check::warning(WORKER, found, INSTALL_AGAIN)]
        }
        Ok(Some(version)) if version != env!("CARGO_PKG_VERSION") => {
            let found =
                format!("`{}` is of version {version}, pajamas of {}", executable.display(), env!("CARGO_PKG_VERSION"));
            vec![Check::warning(WORKER, found, INSTALL_AGAIN)]
        }
        _ => vec![Check::ok(WORKER, shown)],
    }
}

fn broken(error: &Error) -> Check {
    let remedy = match crate::env_vars::value(crate::env_vars::PAJAMAS_WORKER) {
        Some(_) => "unset PAJAMAS_WORKER",
        None => INSTALL_AGAIN,
    };
    Check::problem(WORKER, error.to_string().replace('\n', " "), remedy)
}

/// What the worker says of its version when it is `asked`; none if it is too old to say.
///
/// # Errors
/// When it has not answered after `time_max`. Then it is killed.
fn version(mut asked: Command, time_max: Duration) -> Result<Option<String>, RecvTimeoutError> {
    let started = asked.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let Ok(mut worker) = started else { return Ok(None) };
    let (said, answer) = std::sync::mpsc::channel();
    let stdout = worker.stdout.take();
    // Nobody waits for the thread: what the worker started may keep the pipe open, even when it is killed.
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.map(|stdout| stdout.take(VERSION_BYTES_MAX).read_to_string(&mut text));
        // Whoever asked may be gone, because it took too long.
        let _ = said.send(if matches!(read, Some(Ok(_))) { text } else { String::new() });
    });
    let text = answer.recv_timeout(time_max);
    // It has said all it has to say, or will not. Where it has ended, there is nothing to kill.
    let _ = worker.kill();
    let _ = worker.wait();
    Ok(text?.trim().strip_prefix("pajamas-worker ").map(str::to_owned))
}

/// Whether what a shell would start is this program.
pub(super) fn check_path() -> Vec<Check> {
    let this = crate::files::this_program().unwrap_or_default();
    if this.parent().is_some_and(|folder| folder.ends_with("pajamas/_bundle/bin")) {
        // Started by the command that came with it, which does nothing else.
        return vec![Check::ok(PATH, format!("this one is the Python package's: `{}`", this.display()))];
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    vec![judge(&this, &programs(std::env::split_paths(&path)))]
}

/// Every different `pajamas` in `folders`, in their order.
fn programs(folders: impl Iterator<Item = PathBuf>) -> Vec<PathBuf> {
    let name = format!("pajamas{}", std::env::consts::EXE_SUFFIX);
    let mut found: Vec<PathBuf> = Vec::new();
    for program in folders.map(|folder| folder.join(&name)).filter(|program| program.is_file()) {
        let program = program.canonicalize().unwrap_or(program);
        if !found.contains(&program) {
            found.push(program);
        }
    }
    found
}

fn judge(this: &Path, found: &[PathBuf]) -> Check {
    let list = found.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(", ");
    match found {
        [] => Check::ok(PATH, format!("none; this one is `{}`", this.display())),
        [one] if one == this => Check::ok(PATH, format!("{list}, this one")),
        [first, ..] if first != this => {
            let found = format!("a shell starts `{}`, and this is `{}`", first.display(), this.display());
            let folder = this.parent().unwrap_or(this);
            Check::warning(PATH, found, format!("export PATH={}:\"$PATH\"", shell(folder)))
        }
        [_, rest @ ..] => {
            let rest: Vec<String> = rest.iter().map(|path| shell(path)).collect();
            Check::warning(PATH, format!("there are several: {list}"), format!("rm {}", rest.join(" ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[cfg(unix)]
    #[test]
    fn a_worker_is_not_waited_for_without_end() {
        let command = |program: &str, words: &[&str]| {
            let mut command = Command::new(program);
            command.args(words);
            command
        };
        let long = Duration::from_secs(60);
        assert_eq!(version(command("echo", &["pajamas-worker 1.2.3"]), long), Ok(Some("1.2.3".into())));
        assert_eq!(version(command("echo", &["usage"]), long), Ok(None));
        assert_eq!(version(command("/no/such/program", &[]), long), Ok(None));
        let endless = version(command("sleep", &["60"]), Duration::from_millis(50));
        assert_eq!(endless, Err(RecvTimeoutError::Timeout));
        let chatty = version(command("yes", &["pajamas"]), long);
        assert_eq!(chatty, Ok(None), "more than it could have to say is not read");
    }

    #[test]
    fn another_program_of_that_name_is_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let name = format!("pajamas{}", std::env::consts::EXE_SUFFIX);
        let program = |folder: &str| {
            std::fs::create_dir_all(root.join(folder)).unwrap();
            std::fs::write(root.join(folder).join(&name), folder).unwrap();
            root.join(folder).join(&name)
        };
        let (a, b) = (program("a"), program("b"));
        let folders = ["a", "none", "b", "a"].map(|folder| root.join(folder));
        let found = programs(folders.into_iter());
        assert_eq!(found, [a.clone(), b.clone()]);
        assert_eq!(judge(&a, &[]).status, Status::Ok);
        assert_eq!(judge(&a, &found[..1]).status, Status::Ok);
        let several = judge(&a, &found);
        assert!(several.status == Status::Warning && several.remedy.starts_with("rm "), "{several:?}");
        let other = judge(&b, &found);
        assert!(other.status == Status::Warning && other.remedy.starts_with("export PATH="), "{other:?}");
    }
}
