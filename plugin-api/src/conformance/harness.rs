//! The kit as a test program of a plugin's own: for a `[[test]]` with `harness = false`.

use super::{Outcome, RULES, Reference, Rule, Subject, run};
use crate::abi::wire;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The first argument of the process that checks one rule; behind it the rule's number, and the files of the subject and of
/// the outcome.
const CHECK: &str = "--check-rule";
/// Lines of a failed process's stderr that are shown.
const STDERR_LINES: usize = 6;

/// Flags of libtest's that take a value, and mean nothing here.
const WITH_VALUE: [&str; 6] = ["--test-threads", "--format", "--color", "--logfile", "--report-time", "-Z"];

/// The kit for one plugin, as a test program.
#[must_use = "it does nothing before `run`"]
pub struct Kit {
    library: String,
    model: Box<dyn FnOnce() -> Option<PathBuf>>,
    reference: Option<Reference>,
}

impl Kit {
    /// For the plugin that cargo built as the library of the crate `name`, beside this program.
    pub fn new(name: &str) -> Self {
        Self { library: name.replace('-', "_"), model: Box::new(|| None), reference: None }
    }

    /// With a small model that the plugin can load, which `model` makes or names; the rules that need one are ignored
    /// without. It is called once.
    pub fn model(mut self, model: impl FnOnce() -> Option<PathBuf> + 'static) -> Self {
        self.model = Box::new(model);
        self
    }

    /// With logits that another implementation computed of that model.
    pub fn reference(mut self, reference: Reference) -> Self {
        self.reference = Some(reference);
        self
    }

    /// Checks each rule in a process of its own, which is this program again, and prints what came of it as other tests do.
    ///
    /// As of other tests, an argument chooses rules by a part of their name or number, `--skip` leaves out, `--exact` wants
    /// the whole name, and `--list` lists.
    pub fn run(self) -> ExitCode {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        if let [check, rule, subject, outcome] = arguments.as_slice()
            && check == CHECK
        {
            return check_one(rule, Path::new(subject), Path::new(outcome));
        }
        let choice = Choice::read(&arguments);
        let chosen: Vec<&Rule> = RULES.iter().filter(|rule| choice.takes(&name(rule))).collect();
        if choice.list {
            chosen.iter().for_each(|rule| println!("{}: test", name(rule)));
            return ExitCode::SUCCESS;
        }
        let built = match built(&self.library) {
            Ok(built) => built,
            Err(reason) => {
                eprintln!("error: {reason}");
                return ExitCode::FAILURE;
            }
        };
        let mut subject = Subject::new(built);
        // Absolute, because a rule's process may well be somewhere else.
        subject.model = (self.model)().map(|path| std::path::absolute(&path).unwrap_or(path));
        subject.reference = self.reference;
        report(&chosen, &subject)
    }
}

/// As tests are named.
fn name(rule: &Rule) -> String {
    format!("R{:02}::{}", rule.number, rule.name)
}

/// What the arguments ask for.
#[derive(Debug, Default)]
struct Choice {
    filters: Vec<String>,
    skipped: Vec<String>,
    exact: bool,
    list: bool,
}

impl Choice {
    fn read(arguments: &[String]) -> Self {
        let mut choice = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--list" => choice.list = true,
                "--exact" => choice.exact = true,
                "--skip" => choice.skipped.extend(arguments.next().cloned()),
                flag if WITH_VALUE.contains(&flag) => _ = arguments.next(),
                flag if flag.starts_with('-') => choice.skipped.extend(flag.strip_prefix("--skip=").map(Into::into)),
                filter => choice.filters.push(filter.into()),
            }
        }
        choice
    }

    fn takes(&self, name: &str) -> bool {
        let fits = |filter: &String| if self.exact { name == filter } else { name.contains(filter.as_str()) };
        (self.filters.is_empty() || self.filters.iter().any(fits)) && !self.skipped.iter().any(fits)
    }
}

/// Checks the `chosen` rules and says what came of them in libtest's words.
fn report(chosen: &[&Rule], subject: &Subject) -> ExitCode {
    println!("\nrunning {} tests", chosen.len());
    let (mut passed, mut ignored, mut failures) = (0, 0, Vec::new());
    for rule in chosen {
        let mut outcome = in_a_process(rule, subject);
        if matches!(outcome, Outcome::Failed { .. }) && rule.is_measured() {
            outcome = in_a_process(rule, subject);
        }
        let shown = match outcome {
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
    #[cfg(unix)]
    {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `none` lives during the call. Failure leaves things as they were.
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
    }
    let subject = std::fs::read(subject).ok().and_then(|bytes| wire::decode::<Subject>(&bytes, "the subject").ok());
    let found = subject.and_then(|subject| run(rule.parse().ok()?, &subject));
    let written = found.is_some_and(|found| std::fs::write(outcome, wire::encode(&found)).is_ok());
    if written { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Checks `rule` in a process of its own.
fn in_a_process(rule: &Rule, subject: &Subject) -> Outcome {
    let attempt = || -> std::io::Result<Outcome> {
        let folder = Scratch::new(rule.number)?;
        let folder = &folder.0;
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
        Ok(match (status, found) {
            (Some(_), Some(found)) => found,
            (status, _) => Outcome::Failed { reason: format!("{}{}", ended(status, rule.timeout()), tail(&stderr)) },
        })
    };
    attempt().unwrap_or_else(|error| Outcome::Failed { reason: format!("its process: {error}") })
}

/// A folder of this process's and its user's own, gone when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(number: u16) -> std::io::Result<Self> {
        let nanoseconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let nanoseconds = nanoseconds.map_or(0, |time| time.subsec_nanos());
        let name = format!("pajamas-conformance-{}-{number}-{nanoseconds}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        // An error if somebody else has made it: what lies in it says which library is loaded.
        builder.create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A folder of the temporary folder that stays is no finding.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits for `child`; none if it took longer than `timeout` and was killed, with all that it started.
fn wait(child: &mut Child, timeout: Duration) -> std::io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    #[cfg(unix)]
    if let Ok(group) = libc::pid_t::try_from(child.id()) {
        // SAFETY: the group is the child's own: it is not reaped yet, so its number is not another's.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtests_arguments_choose_rules() {
        let takes = |arguments: &[&str], name: &str| {
            Choice::read(&arguments.iter().map(|argument| (*argument).into()).collect::<Vec<_>>()).takes(name)
        };
        let name = name(&RULES[0]);
        for all in
            [&[][..], &["--nocapture", "-q"], &["--test-threads", "7"], &["loads"], &["R01"], &[&*name, "--exact"]]
        {
            assert!(takes(all, &name), "{all:?}");
        }
        for none in [&["other"][..], &["--skip", "loads"], &["--skip=R01"], &["loads", "--exact"]] {
            assert!(!takes(none, &name), "{none:?}");
        }
    }
}
