//! What commands print: sizes, tables, JSON, and text from models' metadata made harmless.

pub use crate::text::{quoted, size};

use serde::Serialize;
use std::io::Write;

/// Prints `value` as JSON.
pub fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints a line of data on stdout. When nobody reads it any more, as in `pajamas … | head`, the program ends quietly.
pub fn print(line: &str) {
    let mut stdout = std::io::stdout();
    if let Err(error) = writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        gone(&error);
    }
}

/// Says a line on stderr; when nobody listens, that is no failure.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", painted(line));
}

/// `line` with the word that it begins with in colour, where stderr is a terminal that shows colours and the user has
/// not said no (`NO_COLOR`).
pub fn painted(line: &str) -> String {
    const WORDS: [(&str, anstyle::AnsiColor); 3] = [
        ("error", anstyle::AnsiColor::Red),
        ("warning", anstyle::AnsiColor::Yellow),
        ("hint", anstyle::AnsiColor::Cyan),
    ];
    let word = WORDS.iter().find_map(|(word, colour)| Some((word, line.strip_prefix(word)?, colour)));
    match word.filter(|(_, rest, _)| rest.starts_with(':')) {
        Some((word, rest, colour)) if colours_on_stderr() => {
            let style = colour.on_default().bold();
            format!("{style}{word}{style:#}{rest}")
        }
        _ => line.to_owned(),
    }
}

fn colours_on_stderr() -> bool {
    anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never
}

/// Ends the program because its stdout is gone: quietly when a reader closed it, else as a failure (a full disk).
pub fn gone(error: &std::io::Error) -> ! {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    say(&format!("error: writing the output failed: {error}"));
    std::process::exit(1);
}

/// `text` as stdout may have it: a terminal obeys escape sequences, and what a model makes up must not command it.
pub fn shown(text: &str) -> String {
    if std::io::IsTerminal::is_terminal(&std::io::stdout()) { clean(text) } else { text.to_owned() }
}

/// `text` without control characters: metadata of a stranger's model must not command a terminal.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// `text` harmless and on one line: for a cell or a value, where a line break could make up a line of its own.
pub fn one_line(text: &str) -> String {
    clean(text).replace(['\n', '\t'], " ")
}

/// A moment for people, in UTC: `2025-11-23 16:05`. The argument counts seconds since 1970.
pub fn date(unix_s: u64) -> String {
    let moment = i64::try_from(unix_s).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    moment.map_or_else(|| "-".into(), |moment| moment.strftime("%F %R").to_string())
}

/// A count for people: `494.0 M`, `7.62 G`.
pub fn count(number: u64) -> String {
    match number {
        0..=99_999 => number.to_string(),
        100_000..=999_999_999 => format!("{:.1} M", number as f64 / 1e6),
        _ => format!("{:.2} G", number as f64 / 1e9),
    }
}

/// Prints names and values in two columns, leaving out what has no value.
pub fn fields(rows: &[(&str, Option<String>)]) {
    let present = || rows.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    let width = present().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, value) in present() {
        print(format!("{name:<width$}  {}", one_line(value)).trim_end());
    }
}

/// Prints rows in columns as wide as their widest cell; the first row is the head.
pub fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        print(&one_line(cells.join("  ").trim_end()));
    }
}

/// Splits NAME=VALUE; for clap.
pub fn name_and_value(pair: &str) -> Result<(String, String), String> {
    let (name, value) = pair.split_once('=').ok_or("it has no `=`; write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_harmless_text() {
        assert_eq!(clean("a\x1b[31mb\r"), "a\u{fffd}[31mb\u{fffd}");
        assert_eq!(one_line("a\nb\tc"), "a b c");
        assert_eq!((count(4608).as_str(), count(494_032_768).as_str()), ("4608", "494.0 M"));
        assert_eq!(count(7_615_616_512), "7.62 G");
    }

    #[test]
    fn dates_are_of_the_calendar() {
        // By `date -u -d @N`.
        assert_eq!(date(0), "1970-01-01 00:00");
        assert_eq!(date(951_827_696), "2000-02-29 12:34");
        assert_eq!(date(1_763_913_900), "2025-11-23 16:05");
        assert_eq!(date(u64::MAX), "-");
    }
}
