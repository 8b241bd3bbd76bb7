//! Chatting on a terminal, as a user sees it: tmux types and looks at the screen.

#![cfg(unix)]

use pajamas_tests::{Home, copy_folder, pajama_tiny};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A terminal of a test's own; gone when dropped, whatever happened.
struct Terminal {
    /// The folder of its tmux server's socket: nobody else's sessions are touched.
    sockets: PathBuf,
    /// The server's name: one that is ending is not met again.
    server: String,
}

impl Terminal {
    /// Runs `command` on a terminal of 100 columns and 30 rows, and says how it ended. None, and a line in the output
    /// that says so, where there is no tmux.
    fn start(home: &Home, command: &Command) -> Option<Self> {
        if Command::new("tmux").arg("-V").output().is_err() {
            not_run("there is no tmux");
            return None;
        }
        // What is run, with its environment, as a script: no shell's settings, and nothing to quote twice.
        let script = home.path().join("script");
        std::fs::write(&script, shell_script(command)).unwrap();
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let server = format!("pajamas-{}", STARTED.fetch_add(1, Ordering::Relaxed));
        let terminal = Self { sockets: home.path().to_owned(), server };
        let start = ["new-session", "-d", "-x", "100", "-y", "30"];
        let output = terminal.tmux(start.iter().copied().chain([format!("sh {}", script.display()).as_str()]));
        assert!(output.status.success(), "{output:?}");
        Some(terminal)
    }

    fn tmux<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Output {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.server, "-f", "/dev/null"]).args(args);
        command.env_remove("TMUX").env("TMUX_TMPDIR", &self.sockets).env("LC_ALL", "C.UTF-8");
        command.output().expect("tmux runs")
    }

    /// Presses keys, by tmux's names for them.
    fn press(&self, keys: &[&str]) {
        self.tmux(["send-keys"].iter().chain(keys).copied());
    }

    /// Types `line` and presses Enter.
    fn enter(&self, line: &str) {
        self.tmux(["send-keys", "-l", line]);
        self.press(&["Enter"]);
    }

    /// What is on the screen, without the empty rows at its end. A row that was wrapped is one line.
    fn screen(&self) -> String {
        let output = self.tmux(["capture-pane", "-p", "-J"]);
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_owned()
    }

    /// Waits until the screen is as `done` wants it.
    #[track_caller]
    fn wait(&self, what: &str, done: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let screen = self.screen();
            if done(&screen) {
                return;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}; the screen is:\n{screen}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the screen ends in `text`.
    #[track_caller]
    fn ends_in(&self, text: &str) {
        self.wait(&format!("`{text}` at the end"), |screen| screen.ends_with(text));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(["kill-server"]);
    }
}

/// `command` for sh; behind it, how it ended, and then a wait for being looked at.
fn shell_script(command: &Command) -> String {
    let quoted = |text: &std::ffi::OsStr| format!("'{}'", text.to_str().expect("UTF-8").replace('\'', "'\\''"));
    // Ctrl-C reaches every program on the terminal; the shell is to stay.
    let mut script = String::from("trap : INT\n");
    for (name, value) in command.get_envs() {
        let name = name.to_str().expect("UTF-8");
        script +=
            &value.map_or_else(|| format!("unset {name}\n"), |value| format!("export {name}={}\n", quoted(value)));
    }
    let words: Vec<String> = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect();
    script + &words.join(" ") + "\necho \"ended with $?\"\nexec cat\n"
}

/// A chat with pajama-tiny, or with `model`, waiting for its first turn.
fn chat(home: &Home, model: &Path, extra: &[&str]) -> Option<Terminal> {
    let args = ["run", model.to_str().unwrap(), "-t", "0"];
    let terminal = Terminal::start(home, &home.command(args.iter().chain(extra)))?;
    terminal.ends_in("leaves.\n\n>>>");
    Some(terminal)
}

#[test]
fn a_conversation_on_a_terminal() {
    let home = Home::with_gguf_cpu();
    let Some(terminal) = chat(&home, &home.quantized("Q8_0"), &[]) else { return };
    assert_eq!(
        terminal.screen(),
        "pajama-tiny-q8_0 on gguf-cpu, 2048 tokens of context\n\
         Type a message, or `/help`. Ctrl-C stops an answer; `/exit` or Ctrl-D leaves.\n\n>>>"
    );
    terminal.enter("What does a dog say?");
    terminal.ends_in(">>> What does a dog say?\nA dog says woof.\n\n>>>");
    terminal.enter("/sistem");
    terminal.ends_in("hint: did you mean `/system`? (to send it as a message, begin with a space)\n\n>>>");
    terminal.enter("/help");
    terminal.wait("the help", |screen| screen.contains("/save FILE") && screen.ends_with("before it.\n\n>>>"));
    terminal.press(&["C-d"]);
    terminal.ends_in(">>>\nended with 0");
}

#[test]
fn turns_of_several_lines() {
    let home = Home::with_gguf_cpu();
    let Some(terminal) = chat(&home, &home.quantized("Q8_0"), &[]) else { return };
    terminal.enter("What does \\");
    terminal.ends_in("... ".trim_end());
    terminal.enter("a dog say?");
    terminal.ends_in(">>> What does \\\n... a dog say?\nA dog says woof.\n\n>>>");
    for line in ["\"\"\"", "What does", "a cow say?", "\"\"\""] {
        terminal.enter(line);
    }
    terminal.ends_in(">>> \"\"\"\n... What does\n... a cow say?\n... \"\"\"\nA cow says moo.\n\n>>>");
    // In one line, and at once by the history.
    terminal.press(&["What does", "M-Enter", "a cat say?", "Enter"]);
    terminal.ends_in(">>> What does\na cat say?\nA cat says meow.\n\n>>>");
    terminal.press(&["Up"]);
    terminal.ends_in(">>> What does\na cat say?");
    terminal.press(&["C-c"]);
    terminal.wait("the line to be cleared", |screen| screen.ends_with("A cat says meow.\n\n>>>"));
    // What is pasted is one turn; without its end there is none.
    let pasted = home.path().join("pasted");
    std::fs::write(&pasted, "What does\na dog say?").unwrap();
    terminal.tmux(["load-buffer", pasted.to_str().unwrap()]);
    terminal.tmux(["paste-buffer", "-p"]);
    terminal.ends_in(">>> What does\na dog say?");
    terminal.press(&["Enter"]);
    terminal.ends_in(">>> What does\na dog say?\nA dog says woof.\n\n>>>");
    // Ctrl-C gives a block up.
    terminal.enter("\"\"\"");
    terminal.press(&["secret", "C-c"]);
    terminal.ends_in("... secret\n>>>");
    terminal.enter("What does a cow say?");
    terminal.ends_in(">>> What does a cow say?\nA cow says moo.\n\n>>>");
}

#[test]
fn the_history_outlives_the_chat_and_tab_completes() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::with_gguf_cpu();
    let model = home.quantized("Q8_0");
    let Some(terminal) = chat(&home, &model, &[]) else { return };
    terminal.enter("What does a dog say?");
    terminal.ends_in("A dog says woof.\n\n>>>");
    terminal.enter("/exit");
    terminal.ends_in("ended with 0");
    drop(terminal);
    let mode = std::fs::metadata(home.path().join("history")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let Some(terminal) = chat(&home, &model, &[]) else { return };
    terminal.press(&["Up"]);
    terminal.ends_in(">>> What does a dog say?");
    terminal.press(&["Enter"]);
    terminal.ends_in(">>> What does a dog say?\nA dog says woof.\n\n>>>");
    terminal.press(&["/res", "Tab"]);
    terminal.ends_in(">>> /reset");
    terminal.press(&["Enter"]);
    terminal.ends_in("Forgot 1 turn.\n\n>>>");
}

#[test]
fn ctrl_c_stops_the_answer_and_not_the_chat() {
    let home = Home::with_gguf_cpu();
    let model = endless_model(&home);
    let session = home.path().join("talk.json");
    let extra = ["--max-tokens", "100000", "-c", "65536", "--session", session.to_str().unwrap()];
    let Some(terminal) = chat(&home, &model, &extra) else { return };
    for _ in 0..2 {
        terminal.enter("Go on.");
        terminal.wait("an answer to begin", |screen| screen.ends_with("!!!!!!!!"));
        terminal.press(&["C-c"]);
        // The terminal shows what was pressed, and the next prompt has lines of its own.
        terminal.wait("the prompt to be back", |screen| screen.contains("!^C") && screen.ends_with("\n\n>>>"));
        terminal.tmux(["send-keys", "-R"]);
        terminal.enter("/system");
        terminal.ends_in("There is no system text; `/system TEXT` sets one.\n\n>>>");
    }
    // Nothing is being answered: there it does nothing but to say what would.
    terminal.press(&["C-c"]);
    terminal.ends_in(">>>\nTo leave, type `/exit` or press Ctrl-D.\n\n>>>");
    terminal.press(&["C-d"]);
    terminal.ends_in("ended with 0");
    // What there was of the answers is part of the conversation.
    let text = std::fs::read_to_string(session).unwrap();
    let kept: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(kept["messages"].as_array().unwrap().len(), 4);
    assert!(kept["messages"][3]["content"].as_str().unwrap().starts_with("!!!!!!!!"), "{text}");
}

#[test]
fn answers_and_nothing_else_go_to_a_stdout_that_is_no_terminal() {
    let home = Home::with_gguf_cpu();
    let (model, out) = (home.quantized("Q8_0"), home.path().join("answers"));
    let chat = home.command(["run", model.to_str().unwrap(), "-t", "0", "-p", "What does a dog say?", "-i"]);
    let mut piped = Command::new("sh");
    for (name, value) in chat.get_envs() {
        match value {
            Some(value) => piped.env(name, value),
            None => piped.env_remove(name),
        };
    }
    piped.args(["-c", "out=$1; shift; \"$@\" | cat > \"$out\"", "sh"]).arg(&out);
    piped.arg(chat.get_program()).args(chat.get_args());
    let Some(terminal) = Terminal::start(&home, &piped) else { return };
    terminal.ends_in(">>> What does a dog say?\n\n>>>");
    terminal.press(&["What does a cxw", "BSpace", "BSpace", "ow say?", "Enter"]);
    terminal.ends_in(">>> What does a cow say?\n\n>>>");
    terminal.press(&["C-d"]);
    terminal.ends_in("ended with 0");
    assert_eq!(std::fs::read_to_string(out).unwrap(), "A dog says woof.\nA cow says moo.\n");
}

#[test]
fn a_polite_kill_gives_the_terminal_back() {
    let home = Home::with_gguf_cpu();
    let model = home.quantized("Q8_0");
    let Some(terminal) = chat(&home, &model, &[]) else { return };
    terminal.press(&["half a line"]);
    terminal.ends_in(">>> half a line");
    // The shell of the script is the pane's process, and the chat is its only child.
    let shell = terminal.tmux(["list-panes", "-F", "#{pane_pid}"]);
    let shell = String::from_utf8(shell.stdout).unwrap();
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", shell.trim()));
    // Only Linux tells, and not every kernel of it.
    let Ok(children) = children else {
        not_run("/proc has no list of a process's children");
        return;
    };
    let chat = children.trim().parse::<libc::pid_t>().unwrap();
    // SAFETY: the child is not reaped before it ended.
    assert_eq!(unsafe { libc::kill(chat, libc::SIGTERM) }, 0);
    terminal.ends_in("ended with 130");
    // It is `cat` that runs now: the terminal shows what is typed, and hands it over line by line.
    terminal.enter("echoed");
    terminal.ends_in("\nechoed\nechoed");
}

#[test]
fn a_history_that_cannot_be_kept_is_said_once_and_keeps_nobody_from_chatting() {
    let home = Home::with_gguf_cpu();
    std::fs::create_dir(home.path().join("history")).unwrap();
    let Some(terminal) = chat(&home, &home.quantized("Q8_0"), &[]) else { return };
    for _ in 0..2 {
        terminal.enter("What does a dog say?");
        terminal.ends_in(">>> What does a dog say?\nA dog says woof.\n\n>>>");
        terminal.tmux(["send-keys", "/reset", "Enter"]);
        terminal.ends_in("Forgot 1 turn.\n\n>>>");
    }
    assert_eq!(terminal.screen().matches("note: what you type is not kept in").count(), 1);
}

/// Says by name that this test is not run. Not captured, so that a run of all shows what it left out.
fn not_run(why: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "not run, because {why}: {test}");
}

/// A model that says `!` and never ends: all its weights are zero, and the first token is the likeliest always.
pub fn endless_model(home: &Home) -> PathBuf {
    let folder = home.path().join("endless");
    copy_folder(&pajama_tiny(), &folder);
    let weights = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    bytes[8 + usize::try_from(header).unwrap()..].fill(0);
    std::fs::write(&weights, bytes).unwrap();
    let run = home.run(["quantize", folder.to_str().unwrap(), "-m", "Q8_0"]);
    run.succeeded();
    run.stdout.trim().into()
}
