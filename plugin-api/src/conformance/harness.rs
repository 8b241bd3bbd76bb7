//! The kit as a test program of a plugin's own: for a `[[test]]` with `harness = false`.

use super::{Outcome, RULES, Rule, Subject, run};
use crate::abi::wire;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The first argument of the process that checks one rule; behind it the rule's number, and the files of the subject and of
/// the outcome.
const CHECK: &str = "--check-rule";
/// Lines of a failed process's stderr that are shown.
const STDERR_LINES: usize = 6;

/// Checks the plugin that cargo built as the library `library` (`acme_npu` for `libacme_npu.so`) beside this program, each
/// rule in a process of its own, and prints what came of it as other tests do. `model` makes or names a small model that
/// the plugin can load; without one, the rules that need it are ignored.
///
/// As of other tests, an argument chooses rules by a part of their name or number, and `--list` lists them.
pub fn main(library: &str, model: impl FnOnce() -> Option<PathBuf>) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [check, rule, subject, outcome] = arguments.as_slice()
        && check == CHECK
    {
        return check_one(rule, Path::new(subject), Path::new(outcome));
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let name = |rule: &Rule| format!("R{:02} {}", rule.number, rule.name);
    let chosen = |rule: &&Rule| filters.is_empty() || filters.iter().any(|filter| name(rule).contains(*filter));
    let chosen: Vec<&Rule> = RULES.iter().filter(chosen).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        chosen.iter().for_each(|rule| println!("{}: test", name(rule)));
        return ExitCode::SUCCESS;
    }
    let built = match built(library) {
        Ok(built) => built,
        Err(reason) => {
            eprintln!("error: {reason}");
            return ExitCode::FAILURE;
        }
    };
    let mut subject = Subject::new(built);
    // Absolute, because a rule's process may well be somewhere else.
    subject.model = model().map(|path| std::path::absolute(&path).unwrap_or(path));
    println!("\nrunning {} tests", chosen.len());
    let (mut passed, mut ignored, mut failures) = (0, 0, Vec::new());
    for rule in &chosen {
        let shown = match in_a_process(rule, &subject) {
            Outcome::Passed { .. } => {
                passed += 1;
                "ok".into()
            }
            Outcome::Skipped { reason } => {
                ignored += 1;
                format!("ignored, {reason}")
            }
            Outcome::Failed { reason } => {
                failures.push((*rule, reason));
                "FAILED".into()
            }
        };
        println!("test {} ... {shown}", name(rule));
    }
    if !failures.is_empty() {
        println!("\nfailures:");
        for (rule, reason) in &failures {
            println!("\n---- {} ----\n{}\n{reason}", name(rule), rule.text);
        }
    }
    let verdict = if failures.is_empty() { "ok" } else { "FAILED" };
    let (failed, left) = (failures.len(), RULES.len() - chosen.len());
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; {left} filtered out\n"
    );
    // As libtest ends.
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

/// The library beside this test program.
fn built(library: &str) -> Result<PathBuf, String> {
    use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
    let program = std::env::current_exe().map_err(|error| format!("this program's own path is unknown: {error}"))?;
    let name = format!("{DLL_PREFIX}{library}{DLL_SUFFIX}");
    // This is target/PROFILE/deps/PROGRAM. Cargo builds the library there for tests; for a build it has a link one folder up.
    let folders = program.ancestors().skip(1).take(2);
    folders.map(|folder| folder.join(&name)).find(|path| path.is_file()).ok_or_else(|| {
        format!("`{name}` is not built beside this test: does Cargo.toml say `crate-type = [\"cdylib\", \"lib\"]`?")
    })
}

/// What the process for one rule does.
fn check_one(rule: &str, subject: &Path, outcome: &Path) -> ExitCode {
    let subject = std::fs::read(subject).ok().and_then(|bytes| wire::decode::<Subject>(&bytes, "the subject").ok());
    let found = subject.and_then(|subject| run(rule.parse().ok()?, &subject));
    let written = found.is_some_and(|found| std::fs::write(outcome, wire::encode(&found)).is_ok());
    if written { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Checks `rule` in a process of its own.
fn in_a_process(rule: &Rule, subject: &Subject) -> Outcome {
    let attempt = || -> std::io::Result<Outcome> {
        let folder = std::env::temp_dir().join(format!("pajamas-conformance-{}-{}", std::process::id(), rule.number));
        std::fs::create_dir_all(&folder)?;
        let (input, output, log) = (folder.join("subject"), folder.join("outcome"), folder.join("stderr"));
        std::fs::write(&input, wire::encode(&Subject { cache_dir: folder.clone(), ..subject.clone() }))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args([CHECK.as_ref(), rule.number.to_string().as_ref(), input.as_os_str(), output.as_os_str()]);
        // Into a file: a pipe that nobody reads fills up.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&log)?);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn()?;
        let status = wait(&mut child, rule.timeout())?;
        let found = std::fs::read(&output).ok().and_then(|bytes| wire::decode::<Outcome>(&bytes, "the outcome").ok());
        let stderr = std::fs::read(&log).unwrap_or_default();
        let _ = std::fs::remove_dir_all(&folder);
        Ok(match (status, found) {
            (Some(_), Some(found)) => found,
            (status, _) => Outcome::Failed { reason: format!("{}{}", ended(status, rule.timeout()), tail(&stderr)) },
        })
    };
    attempt().unwrap_or_else(|error| Outcome::Failed { reason: format!("its process: {error}") })
}

/// Waits for `child`; none if it took longer than `timeout` and was killed, with all that it started.
fn wait(child: &mut Child, timeout: Duration) -> std::io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            #[cfg(unix)]
            if let Ok(group) = libc::pid_t::try_from(child.id()) {
                // SAFETY: the group is the child's own: it is not reaped yet, so its number is not another's.
                unsafe { libc::kill(-group, libc::SIGKILL) };
            }
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn ended(status: Option<ExitStatus>, timeout: Duration) -> String {
    match status {
        Some(status) => format!("the process ended without an answer ({status})"),
        None => format!("the process did not end within {} s", timeout.as_secs()),
    }
}

fn tail(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(STDERR_LINES)..].iter().map(|line| format!("\n  {line}")).collect()
}
