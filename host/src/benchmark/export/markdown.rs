//! Markdown: llama-bench's columns (model, size, params, backend, threads, test, t/s), and ours behind them.

use super::{Exporter, LEGEND, Row, heading, is_comparison, parameters, remarks, size};
use crate::benchmark::report::Report;
use std::io;

/// A table with its heading above, remarks and explanation below.
pub struct Markdown;

impl Exporter for Markdown {
    fn export(&self, report: &Report) -> io::Result<String> {
        let threads = report.settings.threads.to_string();
        // Name, whether it is aligned to the right, and the cell.
        type Column<'a> = (&'a str, bool, Box<dyn Fn(&Row<'_>) -> String + 'a>);
        let mut columns: Vec<Column<'_>> = vec![
            ("model", false, Box::new(|row| row.model())),
            ("size", true, Box::new(|row| row.loaded(|loaded| size(loaded.size_bytes)))),
            ("params", true, Box::new(|row| row.loaded(|loaded| parameters(loaded.parameter_count)))),
            ("backend", false, Box::new(|row| row.backend())),
            ("threads", true, Box::new(|_| threads.clone())),
            ("test", true, Box::new(|row| row.test())),
            ("t/s", true, Box::new(|row| row.speed())),
        ];
        if is_comparison(report) {
            columns.push(("ratio", true, Box::new(|row| row.ratio())));
        }
        columns.extend::<[Column<'_>; 6]>([
            ("first token, ms", true, Box::new(|row| row.first_token_ms())),
            ("load, ms", true, Box::new(|row| row.loaded(|loaded| format!("{:.1}", loaded.load_ms)))),
            ("weights", true, Box::new(|row| row.loaded(|loaded| size(loaded.memory.weights_bytes)))),
            ("KV cache", true, Box::new(|row| row.loaded(|loaded| size(loaded.memory.kv_cache_bytes)))),
            ("compute", true, Box::new(|row| row.loaded(|loaded| size(loaded.memory.compute_bytes)))),
            ("peak memory", true, Box::new(|row| row.loaded(|loaded| size(loaded.memory.peak_resident_bytes)))),
        ]);
        let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
        let mut lines = vec![escaped(&heading(report)), String::new()];
        lines.push(line(columns.iter().map(|(name, ..)| (*name).to_owned()).collect()));
        lines.push(line(columns.iter().map(|(_, right, _)| if *right { "---:" } else { "---" }.into()).collect()));
        for row in Row::of(report) {
            lines.push(line(columns.iter().map(|(_, _, cell)| escaped(&cell(&row))).collect()));
        }
        let remarks = remarks(report);
        if !remarks.is_empty() {
            lines.push(String::new());
            lines.extend(remarks.iter().map(|remark| format!("- {}", escaped(remark))));
        }
        lines.extend([String::new(), "```text".into(), LEGEND.into(), "```".into()]);
        Ok(lines.join("\n"))
    }
}

/// `text` on one line, with nothing in it that ends a cell.
fn escaped(text: &str) -> String {
    text.replace(char::is_control, " ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_has_each_column_whatever_the_names() {
        let text = Markdown.export(&super::super::tests::report()).unwrap();
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(rows.len(), 5);
        let cells = |row: &str| row.replace("\\|", "").matches('|').count();
        assert!(rows.iter().all(|row| cells(row) == cells(rows[0])), "{text}");
        assert!(rows[0].starts_with("| model | size | params | backend | threads | test | t/s | ratio |"), "{text}");
        assert!(rows[2].starts_with(
            "| a\\|b c Q4_K - Medium | 373.71 MiB | 494.03 M | good | 2 | pp8 | 1.50 ± 0.71 | 1.000 | 6.00 | 12.3 |"
        ));
        assert!(rows[4].starts_with("| x | - | - | bad | 2 | - | failed | - |"), "{text}");
        assert!(text.contains("- x, bad: failed: no wool"), "{text}");
    }
}
