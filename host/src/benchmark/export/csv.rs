//! CSV: a record for each test, with every repetition's sample in one field.

use super::{Exporter, Row};
use crate::benchmark::plan::Kind;
use crate::benchmark::report::{Outcome, Report};
use serde::Serialize;
use std::io;

/// RFC 4180 with a header. Fields that do not apply are empty; samples are separated by semicolons.
pub struct Csv;

/// The fields, in order.
#[derive(Serialize)]
struct Record<'a> {
    model: &'a str,
    path: Option<&'a str>,
    architecture: Option<&'a str>,
    quantization: Option<&'a str>,
    size_bytes: Option<u64>,
    parameter_count: Option<u64>,
    backend: Option<&'a str>,
    backend_version: Option<&'a str>,
    threads: u32,
    context_length: Option<u32>,
    test: Option<&'a str>,
    kind: Option<Kind>,
    tokens: Option<u32>,
    depth: Option<u32>,
    status: &'static str,
    reason: Option<String>,
    tokens_per_second_mean: Option<f64>,
    tokens_per_second_standard_deviation: Option<f64>,
    tokens_per_second_samples: String,
    ratio: Option<f64>,
    time_to_first_token_ms_median: Option<f64>,
    time_to_first_token_ms_samples: String,
    load_ms: Option<f64>,
    weights_bytes: Option<u64>,
    kv_cache_bytes: Option<u64>,
    compute_bytes: Option<u64>,
    peak_resident_bytes: Option<u64>,
    note: Option<&'a str>,
    repetitions: u32,
    warm_up: bool,
    options: String,
    pajamas_version: &'a str,
    started_at: &'a str,
    platform: &'a str,
    cpu: &'a str,
    cores: u32,
    memory_total_bytes: u64,
}

impl Exporter for Csv {
    fn export(&self, report: &Report) -> io::Result<String> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for row in Row::of(report) {
            writer.serialize(record(report, &row))?;
        }
        let bytes = writer.into_inner().map_err(csv::IntoInnerError::into_error)?;
        let text = String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(text.trim_end().to_owned())
    }
}

fn record<'a>(report: &'a Report, row: &Row<'a>) -> Record<'a> {
    let (run, test, measurement) = (row.run, row.test, row.measurement());
    let loaded = run.loaded.as_ref();
    let memory = loaded.map(|loaded| &loaded.memory);
    let rate = measurement.map(|measurement| &measurement.tokens_per_second);
    let latency = measurement.and_then(|measurement| measurement.time_to_first_token_ms.as_ref());
    let (status, reason) = match test.map(|test| &test.outcome) {
        Some(Outcome::Measured(_)) => ("measured", None),
        Some(Outcome::Skipped { reason }) => ("skipped", Some(reason.clone())),
        Some(Outcome::Failed { reason }) => ("failed", Some(reason.clone())),
        None => ("failed", run.error.as_ref().map(ToString::to_string)),
    };
    let options = report.settings.options.iter().map(|(name, value)| format!("{name}={value}"));
    Record {
        model: &run.model,
        path: run.path.as_deref(),
        architecture: loaded.map(|loaded| loaded.architecture.as_str()),
        quantization: loaded.map(|loaded| loaded.quantization.as_str()),
        size_bytes: loaded.map(|loaded| loaded.size_bytes),
        parameter_count: loaded.map(|loaded| loaded.parameter_count),
        backend: run.backend.as_deref(),
        backend_version: run.backend_version.as_deref(),
        threads: report.settings.threads,
        context_length: loaded.map(|loaded| loaded.context_length),
        test: test.map(|test| test.test.as_str()),
        kind: test.map(|test| test.kind),
        tokens: test.map(|test| test.tokens),
        depth: test.map(|test| test.depth),
        status,
        reason,
        tokens_per_second_mean: rate.map(|rate| rate.mean),
        tokens_per_second_standard_deviation: rate.and_then(|rate| rate.standard_deviation),
        tokens_per_second_samples: rate.map_or_else(String::new, |rate| joined(&rate.samples)),
        ratio: measurement.map(|measurement| measurement.ratio),
        time_to_first_token_ms_median: latency.map(|latency| latency.median),
        time_to_first_token_ms_samples: latency.map_or_else(String::new, |latency| joined(&latency.samples)),
        load_ms: loaded.map(|loaded| loaded.load_ms),
        weights_bytes: memory.map(|memory| memory.weights_bytes),
        kv_cache_bytes: memory.map(|memory| memory.kv_cache_bytes),
        compute_bytes: memory.map(|memory| memory.compute_bytes),
        peak_resident_bytes: memory.map(|memory| memory.peak_resident_bytes),
        note: test.and_then(|test| test.note.as_deref()),
        repetitions: report.settings.repetitions,
        warm_up: report.settings.warm_up,
        options: options.collect::<Vec<String>>().join(";"),
        pajamas_version: report.pajamas_version,
        started_at: &report.started_at,
        platform: &report.hardware.platform,
        cpu: &report.hardware.cpu,
        cores: report.hardware.cores,
        memory_total_bytes: report.hardware.memory_total_bytes,
    }
}

fn joined(samples: &[f64]) -> String {
    samples.iter().map(ToString::to_string).collect::<Vec<String>>().join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_csv_reader_reads_it() {
        let text = Csv.export(&super::super::tests::report()).unwrap();
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let head = reader.headers().unwrap().clone();
        let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        let cell = |record: usize, name: &str| {
            records[record].get(head.iter().position(|known| known == name).unwrap()).unwrap().to_owned()
        };
        assert_eq!(records.len(), 3);
        assert_eq!(cell(0, "model"), "a|b\nc.gguf");
        assert_eq!((cell(0, "kind"), cell(0, "status")), ("prompt_processing".into(), "measured".into()));
        assert_eq!(
            (cell(0, "tokens_per_second_mean"), cell(0, "tokens_per_second_samples")),
            ("1.5".into(), "1;2".into())
        );
        assert_eq!(cell(0, "time_to_first_token_ms_median"), "6.0");
        assert_eq!((cell(1, "status"), cell(1, "reason")), ("skipped".into(), "no, \"never\"".into()));
        assert_eq!(
            (cell(2, "status"), cell(2, "reason"), cell(2, "test")),
            ("failed".into(), "no wool".into(), String::new())
        );
    }
}
