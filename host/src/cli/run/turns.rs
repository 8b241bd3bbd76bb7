//! Joins what a user enters line by line to turns: lines that end in `\`, and blocks between `"""`.

/// What opens and closes a block.
const QUOTES: &str = "\"\"\"";

/// What a user says at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Its text.
    pub text: String,
    /// It was written between `"""`: it is a message whatever it begins with.
    pub quoted: bool,
    /// What brings it back when it is entered at once, for the history.
    pub typed: String,
}

/// Takes entries, and gives a turn when it is complete. An entry is a line, or several where they were pasted together.
#[derive(Debug, Default)]
pub struct Joiner {
    open: Option<Open>,
}

/// A turn that goes on.
#[derive(Debug)]
enum Open {
    /// The last line ended in `\`.
    Lines(String),
    /// A block was opened: the command that it belongs to, or nothing, and what came since. `typed` is all of it.
    Block { command: String, text: String, typed: String },
}

impl Joiner {
    /// Whether the next entry continues a turn.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Forgets what was begun.
    pub fn clear(&mut self) {
        self.open = None;
    }

    /// Adds an entry, without the newline at its end.
    pub fn push(&mut self, entry: &str) -> Option<Turn> {
        match self.open.take() {
            None => match block_opened(entry) {
                Some((command, rest)) => self.block(command, rest.to_owned(), entry.to_owned()),
                None => self.lines(entry.to_owned()),
            },
            Some(Open::Lines(lines)) => self.lines(format!("{lines}\n{entry}")),
            Some(Open::Block { command, text, typed }) => {
                self.block(command, format!("{text}\n{entry}"), format!("{typed}\n{entry}"))
            }
        }
    }

    /// The end of the input: what goes on without end, for a `\` that is the last; none and an error for a block that
    /// nothing closes.
    pub fn finish(&mut self) -> Result<Option<Turn>, &'static str> {
        match self.open.take() {
            None => Ok(None),
            Some(Open::Lines(text)) => Ok(Some(Turn { typed: text.clone(), text, quoted: false })),
            Some(Open::Block { .. }) => Err("the input ends inside a `\"\"\"` block"),
        }
    }

    /// Only at the end of an entry: a `\` inside pasted text is part of it.
    fn lines(&mut self, text: String) -> Option<Turn> {
        if let Some(line) = text.strip_suffix('\\') {
            self.open = Some(Open::Lines(line.to_owned()));
            return None;
        }
        Some(Turn { typed: text.clone(), text, quoted: false })
    }

    fn block(&mut self, command: String, text: String, typed: String) -> Option<Turn> {
        let Some(inside) = text.trim_end().strip_suffix(QUOTES) else {
            self.open = Some(Open::Block { command, text, typed });
            return None;
        };
        // The quotes may stand in lines of their own.
        let inside = inside.strip_prefix('\n').unwrap_or(inside);
        let inside = inside.strip_suffix('\n').unwrap_or(inside);
        Some(Turn { quoted: command.is_empty(), text: command + inside, typed })
    }
}

/// Whether a block begins here: at once, or as what a command is given. Then the command, and what follows the quotes.
fn block_opened(entry: &str) -> Option<(String, &str)> {
    let trimmed = entry.trim_start();
    if let Some(rest) = trimmed.strip_prefix(QUOTES) {
        return Some((String::new(), rest));
    }
    let (command, argument) = entry.strip_prefix('/')?.split_once(char::is_whitespace)?;
    Some((format!("/{command} "), argument.trim_start().strip_prefix(QUOTES)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The turns that `entries` make, quoted ones with `Q:` before them.
    fn turns(entries: &[&str]) -> Vec<String> {
        let mut joiner = Joiner::default();
        let made = entries.iter().filter_map(|entry| joiner.push(entry));
        made.map(|turn| format!("{}{}", if turn.quoted { "Q:" } else { "" }, turn.text)).collect()
    }

    #[test]
    fn a_line_is_a_turn_and_a_backslash_at_its_end_goes_on() {
        assert_eq!(turns(&["a", "b"]), ["a", "b"]);
        assert_eq!(turns(&["a\\", "b \\", "c"]), ["a\nb \nc"]);
        assert_eq!(turns(&["/system a\\", "b"]), ["/system a\nb"]);
    }

    #[test]
    fn a_block_goes_from_quotes_to_quotes() {
        assert_eq!(turns(&["\"\"\"", "  a\\", "/b", "\"\"\"", "c"]), ["Q:  a\\\n/b", "c"]);
        assert_eq!(turns(&["\"\"\"a", "b\"\"\"  "]), ["Q:a\nb"]);
        assert_eq!(turns(&["\"\"\"/exit\"\"\""]), ["Q:/exit"]);
        assert_eq!(turns(&["\"\"\"", "", "\"\"\""]), ["Q:"]);
        assert_eq!(turns(&["/system \"\"\"", "a", "b", "\"\"\""]), ["/system a\nb"]);
    }

    #[test]
    fn quotes_elsewhere_and_the_empty_argument_open_nothing() {
        assert_eq!(turns(&["say \"\"\"", "/system \"\""]), ["say \"\"\"", "/system \"\""]);
    }

    #[test]
    fn pasted_lines_are_one_turn_as_they_are() {
        assert_eq!(turns(&["#define A \\\n  1\nint b;"]), ["#define A \\\n  1\nint b;"]);
        assert_eq!(turns(&["\"\"\"\na\n\"\"\""]), ["Q:a"]);
    }

    #[test]
    fn what_the_history_keeps_makes_the_same_turn_at_once() {
        for entries in [&["a\\", "b"][..], &["\"\"\"", "a\\", "\"\"\""], &["/system \"\"\"x", "y\"\"\""], &["c"]] {
            let mut joiner = Joiner::default();
            let turn = entries.iter().find_map(|entry| joiner.push(entry)).unwrap();
            assert_eq!(Joiner::default().push(&turn.typed), Some(turn.clone()));
        }
    }

    #[test]
    fn the_end_of_input_completes_a_line_but_no_block() {
        let end = |entry| {
            let mut joiner = Joiner::default();
            assert_eq!(joiner.push(entry), None);
            joiner.finish().map(|turn| turn.unwrap().text)
        };
        assert_eq!(end("a\\").unwrap(), "a");
        assert!(end("\"\"\"a").unwrap_err().contains("inside"));
        assert_eq!(Joiner::default().finish(), Ok(None));
    }
}
