//! Every command under bad conditions: arguments that are wrong, missing, empty, huge or no UTF-8; streams that are
//! closed, full or files; homes that are missing or read-only; a full disk. None may panic, hang or lose anything.

use pajamas_tests::{Home, build_dir, copy_folder, pajama_tiny};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long any of these may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Each command with what it needs, given a model that is there and the folder that it was made from.
fn commands(model: &str, folder: &str) -> Vec<Vec<String>> {
    let lines = [
        "run MODEL -p Hi -t 0 --max-tokens 4",
        "run MODEL -i",
        "quantize FOLDER -m Q8_0 --no-validate",
        "validate MODEL --tokens 64 --reference FOLDER",
        "benchmark MODEL -p 8 -n 2 -r 1",
        "info",
        "info MODEL",
        "doctor",
        "config",
        "models",
        "models list",
        "models show MODEL",
        "plugins list",
        "plugins info gguf-cpu",
        "completions bash",
        "man",
        "--help",
        "--version",
    ];
    let word = |word: &str| word.replace("MODEL", model).replace("FOLDER", folder);
    lines.iter().map(|line| line.split(' ').map(word).collect()).collect()
}

/// Waits for the end; a program that hangs is killed and told of.
#[track_caller]
fn finish(mut child: Child, what: &dyn std::fmt::Debug) -> Output {
    let deadline = Instant::now() + PATIENCE;
    // Read on threads of their own, or a full pipe would keep it from ending.
    fn drain(from: Option<impl std::io::Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut from) = from {
                let _ = from.read_to_end(&mut bytes);
            }
            bytes
        })
    }
    let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let status = loop {
        if let Some(status) = child.try_wait().expect("waiting") {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("it hangs: {what:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Output { status, stdout: stdout.join().expect("stdout"), stderr: stderr.join().expect("stderr") }
}

/// Asserts that it ended by itself, with one of the documented codes, and without a panic.
#[track_caller]
fn well_behaved(output: &Output, what: &dyn std::fmt::Debug) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    assert!(matches!(code, Some(0..=3 | 130)), "{what:?} ended with {:?}: {stderr}", output.status);
    assert!(!stderr.contains("panicked"), "{what:?}: {stderr}");
    let said = stderr.lines().any(|line| line.starts_with("error: ") || line.starts_with("problem"));
    assert!(code == Some(0) || said || !output.stdout.is_empty(), "{what:?} fails without a word: {stderr}");
}

#[track_caller]
fn run(mut command: Command) -> Output {
    let what = format!("{command:?}");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = finish(command.spawn().expect("starting pajamas"), &what);
    well_behaved(&output, &what);
    output
}

fn home_with_model() -> (Home, String) {
    let home = Home::with_gguf_cpu();
    let model = home.quantized("Q8_0").display().to_string();
    (home, model)
}

#[test]
fn wrong_missing_empty_huge_and_non_utf8_arguments() {
    let home = Home::with_gguf_cpu();
    let huge = "x".repeat(100_000);
    let odd: Vec<OsString> = vec![
        "".into(),
        huge.into(),
        OsString::from_vec(b"caf\xe9".to_vec()),
        "no such thing".into(),
        "--no-such-flag".into(),
        "/dev/null".into(),
        "/dev/full".into(),
        "/proc/self/mem".into(),
        ".".into(),
        "\u{1b}[31mred\u{7}".into(),
        "../../../../etc/passwd".into(),
        "-".into(),
    ];
    let commands = [
        "run",
        "quantize",
        "validate",
        "benchmark",
        "info",
        "doctor",
        "config",
        "models",
        "models show",
        "models remove",
        "plugins",
        "plugins info",
        "plugins install",
        "plugins remove",
        "plugins trust",
        "plugins verify",
        "plugins new",
        "completions",
        "man",
        "config get",
        "config set",
        "no-such-command",
    ];
    for command in commands {
        let words: Vec<&OsStr> = command.split(' ').map(OsStr::new).collect();
        for extra in std::iter::once(None).chain(odd.iter().map(Some)) {
            let mut arguments: Vec<&OsStr> = words.clone();
            arguments.extend(extra.map(OsString::as_os_str));
            let mut command = home.command(&arguments);
            command.current_dir(home.path());
            let output = run(command);
            let text = [&output.stdout[..], &output.stderr[..]].concat();
            assert!(!text.contains(&0x1b), "an escape sequence came through: {}", String::from_utf8_lossy(&text));
        }
    }
    // What holds a value holds any.
    for flag in ["--threads", "--max-tokens", "--temperature", "--context-length", "--set", "--top-p", "--seed"] {
        for value in ["", "-1", "1e999", "99999999999999999999", "x", "\u{0661}"] {
            let output = run(home.command(["run", "nothing", "-p", "x", &format!("{flag}={value}")]));
            assert_ne!(output.status.code(), Some(0), "{flag}={value}");
        }
    }
}

#[test]
fn closed_and_odd_streams() {
    let (home, model) = home_with_model();
    let log = home.path().join("stderr.log");
    for arguments in commands(&model, pajama_tiny().to_str().unwrap()) {
        // Nothing to read.
        let mut command = home.command(&arguments);
        run_with_closed(&mut command, 0);
        // Nobody who reads.
        let mut child = home.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        well_behaved(&finish(child, &arguments), &arguments);
        // No stdout at all, no stderr at all.
        run_with_closed(&mut home.command(&arguments), 1);
        run_with_closed(&mut home.command(&arguments), 2);
        // A disk that is full where stdout goes.
        let mut command = home.command(&arguments);
        command.stdout(File::options().write(true).open("/dev/full").unwrap()).stderr(Stdio::piped());
        let output = finish(command.spawn().unwrap(), &arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
        let prints = !["run MODEL -i"].contains(&arguments.join(" ").replace(&model, "MODEL").as_str());
        assert!(
            !prints || output.status.code() == Some(1),
            "{arguments:?} lost its output: {:?} {stderr}",
            output.status
        );
        // stderr as a file has no bar and no colour in it.
        let mut command = home.command(&arguments);
        command.stdout(Stdio::piped()).stderr(File::create(&log).unwrap());
        well_behaved(&finish(command.spawn().unwrap(), &arguments), &arguments);
        let text = std::fs::read(&log).unwrap();
        assert!(!text.contains(&0x1b) && !text.contains(&b'\r'), "{arguments:?}: {}", String::from_utf8_lossy(&text));
    }
}

/// Runs `command` with the descriptor `closed` closed, as a shell's `<&-` does.
#[track_caller]
fn run_with_closed(command: &mut Command, closed: i32) {
    let what = format!("{command:?} with {closed} closed");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: `close` may be called between fork and exec.
    unsafe {
        command.pre_exec(move || {
            libc::close(closed);
            Ok(())
        });
    }
    let output = finish(command.spawn().expect("starting pajamas"), &what);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0..=3)), "{what}: {:?} {stderr}", output.status);
    assert!(!stderr.contains("panicked"), "{what}: {stderr}");
}

#[test]
fn without_a_home_and_with_one_that_is_none() {
    let (home, model, folder) = open_home();
    let plugins = home.plugins().display().to_string();
    let file = home.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    for arguments in commands(&model, &folder) {
        let arguments = [&arguments[..], &["--plugin-dir".into(), plugins.clone()]].concat();
        // As root, the system knows a home without HOME: only the absence of a crash can be asked for.
        let mut command = home.command(&arguments);
        command.env_remove("HOME").env_remove("PAJAMAS_HOME").env("XDG_CACHE_HOME", home.path());
        run(as_nobody(&home, command));
        for place in ["/proc/self/nowhere", file.to_str().unwrap(), "/dev/null"] {
            let mut command = home.command(&arguments);
            command.env("PAJAMAS_HOME", place);
            run(command);
        }
    }
}

#[test]
fn a_read_only_home_can_still_be_used() {
    let (home, model, folder) = open_home();
    set_mode(home.path(), 0o555);
    for arguments in commands(&model, &folder) {
        let output = run(as_nobody(&home, home.command(&arguments)));
        let writes = arguments[0] == "quantize";
        let line = arguments.join(" ");
        // Validating runs the folder in memory; benchmarking and running only read.
        if !writes && !line.starts_with("doctor") {
            assert_eq!(output.status.code(), Some(0), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        }
        if writes {
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            let said = stderr.contains("ermission denied") && stderr.contains("hint: this user may not write there");
            assert!(output.status.code() == Some(1) && said, "{line}: {stderr}");
        }
    }
    set_mode(home.path(), 0o755);
}

#[test]
fn a_home_in_which_nothing_can_be_kept_is_enough_to_run_a_model() {
    let (home, model, _) = open_home();
    std::fs::remove_dir_all(home.path().join("cache")).unwrap();
    set_mode(home.path(), 0o555);
    let ask = home.command(["run", &model, "What is the capital of France?", "-t", "0"]);
    let output = run(as_nobody(&home, ask));
    set_mode(home.path(), 0o755);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "The capital of France is Paris.\n", "{stderr}");
    assert!(!home.path().join("cache").exists());
}

/// `command` as somebody who may not write everywhere: root's runs become nobody's, with copies of the programs where
/// nobody may go.
fn as_nobody(home: &Home, command: Command) -> Command {
    // SAFETY: asks and does nothing.
    if unsafe { libc::geteuid() } != 0 {
        return command;
    }
    let mut nobodys = Command::new(home.path().join("bin/pajamas"));
    nobodys.args(command.get_args()).stdin(Stdio::null()).uid(65_534).gid(65_534).current_dir("/");
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => nobodys.env(name, value),
            None => nobodys.env_remove(name),
        };
    }
    nobodys
}

/// A home that nobody may enter, with a model, the programs and the fixture in it; gives the model and the fixture.
fn open_home() -> (Home, String, String) {
    let (home, model) = home_with_model();
    let (bin, folder) = (home.path().join("bin"), home.path().join("pajama-tiny"));
    std::fs::create_dir(&bin).unwrap();
    for program in ["pajamas", "pajamas-worker"] {
        std::fs::copy(build_dir().join(program), bin.join(program)).unwrap();
    }
    copy_folder(&pajama_tiny(), &folder);
    set_mode(home.path(), 0o755);
    (home, model, folder.display().to_string())
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_full_disk_leaves_nothing_that_looks_finished() {
    let home = Home::with_gguf_cpu();
    let disk = home.path().join("models");
    std::fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(&disk).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("not run, because this machine mounts no small disk: a_full_disk_leaves_nothing_that_looks_finished");
        return;
    }
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(self.0).output();
        }
    }
    let _unmount = Unmount(&disk);
    let output = run(home.command(["quantize".as_ref(), pajama_tiny().as_os_str()]));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    // That it will not fit is known before anything is written.
    let said = stderr.contains("and its disk has 1 MiB left") && stderr.contains("free some space");
    assert!(output.status.code() == Some(1) && said, "{stderr}");
    assert_eq!(home.listing("models"), [""; 0], "{stderr}");
}

#[test]
fn a_file_that_may_not_grow_leaves_nothing_that_looks_finished() {
    let home = Home::with_gguf_cpu();
    let out = home.path().join("limited");
    let quantize = home.command([
        "quantize".as_ref(),
        pajama_tiny().as_os_str(),
        "-m".as_ref(),
        "Q8_0".as_ref(),
        "-o".as_ref(),
        out.as_os_str(),
    ]);
    // In blocks of 512 bytes: half of what the file takes, and more than anything else that is written.
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -f 3600; trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(quantize.get_program())
        .args(quantize.get_args());
    limited.envs(quantize.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = run(limited);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && stderr.contains("File too large"), "{stderr}");
    assert_eq!(home.listing("limited"), [""; 0], "{stderr}");
}
