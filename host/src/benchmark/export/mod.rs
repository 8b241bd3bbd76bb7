//! Writes a report: one file per format, behind one trait. What the tables have in common is here: their cells and the
//! explanation of their numbers.

mod csv;
mod json;
mod markdown;
mod table;

pub use self::csv::Csv;
pub use json::Json;
pub use markdown::Markdown;
pub use table::Table;

use super::report::{Loaded, Measurement, Outcome, Report, Run, TestResult};
use std::io;

/// What each number includes; under the tables and in the command's help, which is 100 columns wide where no terminal is.
pub const LEGEND: &str = "\
ppN         N random tokens of prompt, by the time from the request to the first token of the
            answer: processing them, and choosing that token
tgN         N tokens generated one by one, by the time since the first token of the answer: each
            is a step of decoding, the choice of the likeliest token, and the conversion to
            text; neither the prompt of one token nor that first token is counted
@ dN        N tokens are in the KV cache before; neither they nor the time they took are counted
t/s         tokens per second: mean of the repetitions ± their sample standard deviation
ratio       mean tokens per second, divided by that of the first row of the same test
first token median time from the request to the first token of the answer
load        from the start of the model's process until the model can answer; what the system
            has in its file cache loads faster
memory      weights, KV cache and compute buffers by the backend's account; peak is the most
            that the model's process had in main memory, files that it has mapped included
All times but that of loading are taken beside the engine, in the model's process: neither
tokenizing (prompts are token ids) nor the way to this program is in them.";

/// Writes a report in one format.
pub trait Exporter {
    /// The report, without a line break at its end.
    ///
    /// # Errors
    /// When it cannot be written in this format.
    fn export(&self, report: &Report) -> io::Result<String>;
}

/// One line of a table: a test, or a run that failed before its first.
struct Row<'a> {
    run: &'a Run,
    test: Option<&'a TestResult>,
}

impl Row<'_> {
    fn of(report: &Report) -> Vec<Row<'_>> {
        let mut rows = Vec::new();
        for run in &report.runs {
            rows.extend(run.tests.iter().map(|test| Row { run, test: Some(test) }));
            if run.tests.is_empty() {
                rows.push(Row { run, test: None });
            }
        }
        rows
    }

    /// As llama-bench names models, by what they are and how they are quantized.
    fn model(&self) -> String {
        match &self.run.loaded {
            Some(loaded) if !loaded.quantization.is_empty() => format!("{} {}", self.run.name, loaded.quantization),
            _ => self.run.name.clone(),
        }
    }

    fn backend(&self) -> String {
        self.run.backend.clone().unwrap_or_else(dash)
    }

    fn test(&self) -> String {
        self.test.map_or_else(dash, |test| test.test.clone())
    }

    fn measurement(&self) -> Option<&Measurement> {
        match self.test.map(|test| &test.outcome) {
            Some(Outcome::Measured(measurement)) => Some(measurement),
            _ => None,
        }
    }

    fn speed(&self) -> String {
        let rate = self.measurement().map(|measurement| &measurement.tokens_per_second);
        match (rate, self.test.map(|test| &test.outcome)) {
            (Some(rate), _) => match rate.standard_deviation {
                Some(deviation) => format!("{:.2} ± {deviation:.2}", rate.mean),
                None => format!("{:.2}", rate.mean),
            },
            (None, Some(Outcome::Skipped { .. })) => "skipped".into(),
            (None, _) => "failed".into(),
        }
    }

    fn ratio(&self) -> String {
        self.measurement().map_or_else(dash, |measurement| format!("{:.3}", measurement.ratio))
    }

    /// The median time to the first token, in milliseconds.
    fn first_token_ms(&self) -> String {
        let latency = self.measurement().and_then(|measurement| measurement.time_to_first_token_ms.as_ref());
        latency.map_or_else(dash, |latency| format!("{:.2}", latency.median))
    }

    /// A fact of the loaded model.
    fn loaded(&self, text: impl Fn(&Loaded) -> String) -> String {
        self.run.loaded.as_ref().map_or_else(dash, text)
    }
}

/// Whether there are ratios worth a column: one run is as fast as itself.
fn is_comparison(report: &Report) -> bool {
    report.runs.len() > 1
}

/// What is to be read beside the numbers: failures, what was skipped, notes.
fn remarks(report: &Report) -> Vec<String> {
    let mut remarks = Vec::new();
    for row in Row::of(report) {
        let place = match row.test {
            Some(test) => format!("{}, {}, {}", row.run.name, row.backend(), test.test),
            None => format!("{}, {}", row.run.name, row.backend()),
        };
        match (row.test.map(|test| &test.outcome), &row.run.error) {
            (Some(Outcome::Skipped { reason }), _) => remarks.push(format!("{place}: skipped: {reason}")),
            (Some(Outcome::Failed { reason }), _) => remarks.push(format!("{place}: failed: {reason}")),
            (None, Some(error)) => remarks.push(format!("{place}: failed: {error}")),
            _ => (),
        }
        if let Some(note) = row.test.and_then(|test| test.note.as_ref()) {
            remarks.push(format!("{place}: {note}"));
        }
    }
    if report.interrupted {
        remarks.push("interrupted: what is missing was not measured".into());
    }
    remarks
}

/// How it was measured, in a line.
fn heading(report: &Report) -> String {
    let (settings, machine) = (&report.settings, &report.hardware);
    let cpu = if machine.cpu.is_empty() { "unknown CPU" } else { &machine.cpu };
    let warm_up = if settings.warm_up { "after a warm-up" } else { "without warm-up" };
    let times = match settings.repetitions {
        1 => "once".into(),
        count => format!("{count} times"),
    };
    let threads = match settings.threads {
        1 => "1 thread".into(),
        count => format!("{count} threads"),
    };
    format!(
        "pajamas {}, {}, {}, {cpu}; {threads}, context of {} tokens, each test {times} {warm_up}",
        report.pajamas_version, report.started_at, machine.platform, settings.context_length,
    )
}

fn dash() -> String {
    "-".into()
}

/// A size for people, as llama-bench writes it: `373.71 MiB`. 0 is unknown.
fn size(bytes: u64) -> String {
    const UNITS: [(f64, &str); 2] = [((1_u64 << 30) as f64, "GiB"), ((1_u64 << 20) as f64, "MiB")];
    let bytes = bytes as f64;
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.2} {name}", bytes / unit),
        None if bytes > 0.0 => format!("{:.2} KiB", bytes / 1024.0),
        None => dash(),
    }
}

/// A number of parameters, as llama-bench writes it: `494.03 M`. 0 is unknown.
fn parameters(count: u64) -> String {
    let count = count as f64;
    match count {
        0.0 => dash(),
        _ if count >= 1e9 => format!("{:.2} B", count / 1e9),
        _ if count >= 1e6 => format!("{:.2} M", count / 1e6),
        _ => format!("{:.2} K", count / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::benchmark::plan::{Kind, Test};
    use crate::benchmark::report::Settings;
    use crate::benchmark::statistics::{Latency, Rate};
    use crate::error::Error;
    use crate::hardware::Hardware;
    use pajamas_plugin_api::ModelInfo;

    /// Two runs of one model: one was measured, the other failed; and names that try to break the tables.
    pub(super) fn report() -> Report {
        let mut info = ModelInfo { quantization: "Q4_K - Medium".into(), ..ModelInfo::default() };
        (info.parameter_count, info.size_bytes) = (494_032_768, 391_864_320);
        let test = |kind, outcome| TestResult::new(&Test { kind, tokens: 8, depth: 0 }, outcome, None);
        let measured = Outcome::Measured(Measurement {
            tokens_per_second: Rate::of(vec![1.0, 2.0]),
            time_to_first_token_ms: Some(Latency::of(vec![8.0, 4.0])),
            ratio: 1.0,
        });
        let skipped = Outcome::Skipped { reason: "no, \"never\"".into() };
        let good = Run {
            model: "a|b\nc.gguf".into(),
            name: "a|b\nc".into(),
            backend: Some("good".into()),
            backend_version: Some("1.0.0".into()),
            path: Some("/m/a.gguf".into()),
            loaded: Some(Loaded::new(&info, 12.34)),
            tests: vec![test(Kind::PromptProcessing, measured), test(Kind::TokenGeneration, skipped)],
            error: None,
        };
        let bad = Run {
            model: "x".into(),
            name: "x".into(),
            backend: Some("bad".into()),
            backend_version: None,
            path: None,
            loaded: None,
            tests: Vec::new(),
            error: Some(Error::Refused { message: "no wool".into(), hint: "buy a sheep".into() }),
        };
        Report {
            pajamas_version: "0.0.0",
            started_at: "2026-01-02T03:04:05Z".into(),
            interrupted: false,
            hardware: Hardware {
                platform: "linux-x86_64".into(),
                cpu: "a CPU".into(),
                cpu_features: Vec::new(),
                cores: 2,
                threads: 2,
                memory_total_bytes: 0,
                memory_available_bytes: 0,
                swap_total_bytes: 0,
                swap_free_bytes: 0,
            },
            settings: Settings {
                repetitions: 2,
                warm_up: true,
                delay_s: 0.0,
                threads: 2,
                context_length: 10,
                method: None,
                options: [("k".to_owned(), "v".to_owned())].into(),
            },
            runs: vec![good, bad],
        }
    }

    #[test]
    fn sizes_are_llama_benchs() {
        assert_eq!(size(391_864_320), "373.71 MiB");
        assert_eq!(size(8 << 30), "8.00 GiB");
        assert_eq!((size(1536), size(0)), ("1.50 KiB".into(), "-".into()));
        assert_eq!(parameters(494_032_768), "494.03 M");
        assert_eq!(parameters(7_615_616_512), "7.62 B");
        assert_eq!(parameters(0), "-");
    }

    #[test]
    fn what_went_wrong_is_remarked() {
        let mut report = report();
        report.interrupted = true;
        let remarks = remarks(&report);
        assert_eq!(remarks[0], "a|b\nc, good, tg8: skipped: no, \"never\"");
        assert_eq!(remarks[1], "x, bad: failed: no wool");
        assert!(remarks[2].starts_with("interrupted"), "{remarks:?}");
    }
}
