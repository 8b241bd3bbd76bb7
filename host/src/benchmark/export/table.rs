//! A table for people: the tests, what loading took, and what the numbers mean.

use super::{Exporter, LEGEND, Row, heading, is_comparison, parameters, remarks, size};
use crate::benchmark::report::Report;
use std::io;

/// Columns as wide as their widest cell.
pub struct Table;

impl Exporter for Table {
    fn export(&self, report: &Report) -> io::Result<String> {
        let rows = Row::of(report);
        let mut parts = vec![one_line(&heading(report)), tests(&rows, is_comparison(report)), loads(&rows)];
        let remarks: Vec<String> = remarks(report).iter().map(|remark| one_line(remark)).collect();
        parts.push(remarks.join("\n"));
        parts.push(LEGEND.into());
        parts.retain(|part| !part.is_empty());
        Ok(parts.join("\n\n"))
    }
}

/// A line for each test.
fn tests(rows: &[Row<'_>], comparison: bool) -> String {
    let mut head = vec![left("MODEL"), left("BACKEND"), left("TEST"), right("T/S"), right("FIRST TOKEN")];
    if comparison {
        head.insert(4, right("RATIO"));
    }
    let line = |row: &Row<'_>| {
        let first_token = match row.first_token_ms() {
            text if text == "-" => text,
            text => format!("{text} ms"),
        };
        let mut cells = vec![row.model(), row.backend(), row.test(), row.speed(), first_token];
        if comparison {
            cells.insert(4, row.ratio());
        }
        cells
    };
    aligned(&head, rows.iter().map(line))
}

/// A line for each run whose model was loaded.
fn loads(rows: &[Row<'_>]) -> String {
    let mut runs: Vec<&Row<'_>> = rows.iter().filter(|row| row.run.loaded.is_some()).collect();
    runs.dedup_by_key(|row| std::ptr::from_ref(row.run));
    if runs.is_empty() {
        return String::new();
    }
    let head = [
        left("MODEL"),
        left("BACKEND"),
        right("SIZE"),
        right("PARAMETERS"),
        right("LOAD"),
        right("WEIGHTS"),
        right("KV CACHE"),
        right("COMPUTE"),
        right("PEAK MEMORY"),
    ];
    let line = |row: &Row<'_>| {
        vec![
            row.model(),
            row.backend(),
            row.loaded(|loaded| size(loaded.size_bytes)),
            row.loaded(|loaded| parameters(loaded.parameter_count)),
            row.loaded(|loaded| format!("{:.1} ms", loaded.load_ms)),
            row.loaded(|loaded| size(loaded.memory.weights_bytes)),
            row.loaded(|loaded| size(loaded.memory.kv_cache_bytes)),
            row.loaded(|loaded| size(loaded.memory.compute_bytes)),
            row.loaded(|loaded| size(loaded.memory.peak_resident_bytes)),
        ]
    };
    aligned(&head, runs.into_iter().map(line))
}

/// A column's name, and whether it is aligned to the right.
type Column = (&'static str, bool);

fn left(name: &'static str) -> Column {
    (name, false)
}

fn right(name: &'static str) -> Column {
    (name, true)
}

fn aligned(head: &[Column], lines: impl Iterator<Item = Vec<String>>) -> String {
    let mut table: Vec<Vec<String>> = vec![head.iter().map(|(name, _)| (*name).to_owned()).collect()];
    table.extend(lines.map(|cells| cells.iter().map(|cell| one_line(cell)).collect()));
    let width = |column: usize| table.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &Vec<String>| {
        let padded = cells.iter().zip(head).zip(&widths).map(|((cell, (_, right)), width)| match right {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        padded.collect::<Vec<String>>().join("  ").trim_end().to_owned()
    };
    table.iter().map(line).collect::<Vec<String>>().join("\n")
}

fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_a_failed_run_has_a_row() {
        let text = Table.export(&super::super::tests::report()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[2], "MODEL                BACKEND  TEST          T/S  RATIO  FIRST TOKEN");
        assert_eq!(lines[3], "a|b c Q4_K - Medium  good     pp8   1.50 ± 0.71  1.000      6.00 ms");
        assert_eq!(lines[4], "a|b c Q4_K - Medium  good     tg8       skipped      -            -");
        assert_eq!(lines[5], "x                    bad      -          failed      -            -");
        assert_eq!(lines.iter().filter(|line| line.contains("12.3 ms")).count(), 1, "each load once: {text}");
        assert!(text.ends_with(LEGEND));
    }
}
