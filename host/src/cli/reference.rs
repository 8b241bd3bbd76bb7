//! The reference in docs/reference/cli.md, made from the same definitions as the program. This test compares it:
//! `UPDATE_REFERENCE=1 cargo test -p pajamas --lib reference` writes it anew.

use super::Cli;
use crate::config::keys::KEYS;
use crate::env_vars;
use clap::{Command, CommandFactory};
use std::fmt::Write;
use std::path::Path;

/// As wide as help is where no terminal tells its width.
const WIDTH: usize = 100;

fn reference() -> String {
    let mut text = "# The command line\n\n".to_owned();
    text += "Made from the program by `make reference`; a test holds it against the program.\n";
    add(&mut text, &Cli::command(), &["pajamas"]);
    text += "\n## Environment\n\n| variable | what it does |\n|---|---|\n";
    for variable in env_vars::ALL {
        let _ = writeln!(text, "| `{}` | {} |", variable.name, variable.help);
    }
    text += "\n## Settings\n\n`config.toml` in the home folder, shown and changed by `pajamas config`. Flags come before the\n";
    text += "environment, that before the file, that before the default.\n\n";
    text += "| key | values | default | what it is for |\n|---|---|---|---|\n";
    for key in KEYS {
        let _ = writeln!(text, "| `{}` | {} | {} | {} |", key.name, key.kind.describe(), key.default, key.help);
    }
    text
}

/// The help of the command that `words` call, then of the commands in it.
fn add(text: &mut String, command: &Command, words: &[&str]) {
    let asked = words.iter().chain(&["--help"]);
    let help = Cli::command().term_width(WIDTH).try_get_matches_from(asked).expect_err("help").to_string();
    // Help has blanks at the ends of empty lines.
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    let _ = write!(text, "\n## {}\n\n```text\n{}\n```\n", words.join(" "), help.join("\n").trim_end());
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        add(text, inner, &[words, &[inner.get_name()]].concat());
    }
}

#[test]
fn the_reference_is_what_the_program_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/cli.md");
    let current = reference();
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, &current).expect("writing the reference");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let line = written.lines().zip(current.lines()).position(|(old, new)| old != new);
    assert!(written == current, "docs/reference/cli.md is out of date (line {line:?}): run `make reference`");
}
