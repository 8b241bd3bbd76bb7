//! The slash commands of a chat: their names, what they take, and their help.

use crate::env_vars::user_home;
use crate::error::Error;
use crate::text::below_home;
use pajamas_plugin_api::options::nearest;
use std::path::PathBuf;

/// What a user can tell the chat instead of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Show the help.
    Help,
    /// Forget the turns.
    Reset,
    /// Show the system text.
    ShowSystem,
    /// Set the system text; none removes it.
    SetSystem(Option<String>),
    /// Show statistics.
    Stats,
    /// Write the conversation to a file.
    Save(PathBuf),
    /// Go on with the conversation of a file.
    Load(PathBuf),
    /// Leave.
    Exit,
}

/// A command as it is typed and explained.
struct Spec {
    name: &'static str,
    argument: &'static str,
    help: &'static str,
}

const fn spec(name: &'static str, argument: &'static str, help: &'static str) -> Spec {
    Spec { name, argument, help }
}

/// In the order of the help.
const SPECS: [Spec; 7] = [
    spec("/help", "", "Show this"),
    spec("/reset", "", "Forget the turns so far; the system text stays"),
    spec("/system", "[TEXT]", "Show what the model is told before anything else, or set it; \"\" for nothing"),
    spec("/stats", "", "Show speeds, totals, and how full the context is"),
    spec("/save", "FILE", "Write the conversation to a session file"),
    spec("/load", "FILE", "Go on with the conversation of a session file"),
    spec("/exit", "", "Leave; /quit and /bye do the same"),
];

/// Other names of commands.
const ALIASES: [(&str, &str); 3] = [("/quit", "/exit"), ("/bye", "/exit"), ("/?", "/help")];

const KEYS: [(&str, &str); 7] = [
    ("Enter", "Send"),
    ("\\ at a line's end, Alt-Enter", "Go on in a new line"),
    ("\"\"\"", "Begin a message of several lines, and end it"),
    ("Up, Down, Ctrl-R", "Bring back what was typed before, or search in it"),
    ("Tab", "Complete a command or a file"),
    ("Ctrl-C", "Stop the answer, or clear the line"),
    ("Ctrl-D", "Leave, on an empty line"),
];

/// The text of `/help`.
pub fn help() -> String {
    let mut text = String::from("Commands\n");
    for Spec { name, argument, help } in SPECS {
        text += &format!("  {:<16} {help}\n", format!("{name} {argument}"));
    }
    text += "\nKeys\n";
    for (keys, help) in KEYS {
        text += &format!("  {keys:<30} {help}\n");
    }
    text + "\nA message that begins with a slash is written with a space before it."
}

/// The commands that `typed`, the beginning of a line, can be completed to; those that take something with a space.
pub fn completions(typed: &str) -> Vec<String> {
    let space = |spec: &Spec| if spec.argument.is_empty() { "" } else { " " };
    SPECS.iter().filter(|s| s.name.starts_with(typed)).map(|s| s.name.to_owned() + space(s)).collect()
}

/// The command in `text`; none if it is a message.
///
/// # Errors
/// When it begins with a slash and is no command, or the command is given too little or too much.
pub fn parse(text: &str) -> Result<Option<Command>, Error> {
    if !text.starts_with('/') {
        return Ok(None);
    }
    let (typed, argument) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let argument = argument.trim();
    let name = ALIASES.iter().find(|(alias, _)| *alias == typed).map_or(typed, |(_, name)| name);
    let command = match name {
        "/help" => Command::Help,
        "/reset" => Command::Reset,
        "/stats" => Command::Stats,
        "/exit" => Command::Exit,
        "/system" => match argument {
            "" => Command::ShowSystem,
            "\"\"" => Command::SetSystem(None),
            text => Command::SetSystem(Some(text.into())),
        },
        "/save" => Command::Save(file(name, argument)?),
        "/load" => Command::Load(file(name, argument)?),
        _ => return Err(unknown(typed)),
    };
    let takes_something = matches!(command, Command::SetSystem(_) | Command::Save(_) | Command::Load(_));
    if !argument.is_empty() && !takes_something {
        let message = format!("`{typed}` takes nothing, and was given `{}`", one_line(argument));
        return Err(Error::Usage { message, hint: format!("write `{typed}` alone; {AS_MESSAGE}") });
    }
    Ok(Some(command))
}

const AS_MESSAGE: &str = "to send it as a message, begin with a space";

fn unknown(typed: &str) -> Error {
    let names = SPECS.iter().map(|spec| spec.name).chain(ALIASES.iter().map(|(alias, _)| *alias));
    // Without the slash, that all names share.
    let near = nearest(typed.trim_start_matches('/'), names.map(|name| &name[1..]));
    let what = near.map_or_else(|| "`/help` lists the commands".into(), |near| format!("did you mean `/{near}`?"));
    Error::Usage {
        message: format!("there is no command `{}`", one_line(typed)),
        hint: format!("{what} ({AS_MESSAGE})"),
    }
}

fn file(name: &str, argument: &str) -> Result<PathBuf, Error> {
    if argument.is_empty() {
        let message = format!("`{name}` needs the name of a file");
        return Err(Error::Usage { message, hint: format!("write `{name} FILE`") });
    }
    if argument.contains('\n') {
        let message = format!("`{name}` takes the name of a file, and was given several lines");
        return Err(Error::Usage { message, hint: AS_MESSAGE.into() });
    }
    // No shell is there to do it.
    Ok(below_home(argument, user_home))
}

/// The beginning of `text`, for a message about it.
fn one_line(text: &str) -> String {
    const CHARS_MAX: usize = 40;
    let line = text.lines().next().unwrap_or_default();
    let cut = line.chars().count() > CHARS_MAX || text.lines().nth(1).is_some();
    line.chars().take(CHARS_MAX).chain(cut.then_some('…')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn command(text: &str) -> Command {
        parse(text).unwrap().expect("a command")
    }

    #[test]
    fn commands_and_their_other_names() {
        assert_eq!(command("/help"), Command::Help);
        assert_eq!(command("/?"), Command::Help);
        assert_eq!(command("/reset  "), Command::Reset);
        assert_eq!(command("/stats"), Command::Stats);
        for exit in ["/exit", "/quit", "/bye"] {
            assert_eq!(command(exit), Command::Exit);
        }
    }

    #[test]
    fn what_commands_are_given() {
        assert_eq!(command("/system"), Command::ShowSystem);
        assert_eq!(command("/system  Be kind.\nAlways. "), Command::SetSystem(Some("Be kind.\nAlways.".into())));
        assert_eq!(command("/system \"\""), Command::SetSystem(None));
        assert_eq!(command("/save my talk.json"), Command::Save("my talk.json".into()));
        assert_eq!(command("/load\tx"), Command::Load("x".into()));
        let home = user_home().unwrap();
        assert_eq!(command("/load ~/x"), Command::Load(home.join("x")));
    }

    #[test]
    fn a_message_is_no_command() {
        for text in ["hello", " /help", "1/2", ""] {
            assert_eq!(parse(text).unwrap(), None);
        }
    }

    #[test]
    fn mistakes_say_what_was_expected() {
        let error = |text| {
            let error = parse(text).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            format!("{error} / {}", error.hint().unwrap_or_default())
        };
        assert_eq!(
            error("/sistem x"),
            "there is no command `/sistem` / did you mean `/system`? (to send it as a message, begin with a space)"
        );
        assert!(error("/usr/bin/env is a file").contains("`/help` lists the commands"));
        assert!(error("/").contains("there is no command `/`"));
        assert_eq!(error("/save"), "`/save` needs the name of a file / write `/save FILE`");
        assert!(error("/load a\nb").contains("several lines"));
        assert!(error("/reset now").contains("`/reset` takes nothing, and was given `now`"));
        assert!(error(&format!("/{}", "x".repeat(1000))).len() < 200);
    }

    #[test]
    fn completions_are_those_that_begin_so() {
        assert_eq!(completions("/s"), ["/system ", "/stats", "/save "]);
        assert_eq!(completions("/x"), [""; 0]);
        assert_eq!(completions("/").len(), SPECS.len());
    }

    #[test]
    fn every_command_that_is_offered_is_known_and_fits_the_help() {
        for Spec { name, argument, .. } in SPECS {
            assert!(parse(&format!("{name} {}", argument.replace(['[', ']'], ""))).unwrap().is_some(), "{name}");
        }
        assert!(help().lines().all(|line| line.chars().count() <= 100), "{}", help());
    }
}
