//! What commands print: sizes, tables, JSON, and text from models' metadata made harmless.

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

/// `text` without control characters: metadata of a stranger's model must not command a terminal.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// A size for people: `2.1 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Prints rows in columns as wide as their widest cell; the first row is the head.
pub fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        print(&clean(cells.join("  ").trim_end()));
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
    fn sizes_and_harmless_text() {
        assert_eq!(size(999), "999 B");
        assert_eq!(size(2_211_616), "2.1 MiB");
        assert_eq!(clean("a\x1b[31mb\r"), "a\u{fffd}[31mb\u{fffd}");
    }
}
