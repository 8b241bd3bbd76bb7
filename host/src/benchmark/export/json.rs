//! JSON: all of the report.

use super::Exporter;
use crate::benchmark::report::Report;
use std::io;

/// docs/reference/json/benchmark.schema.json.
pub struct Json;

impl Exporter for Json {
    fn export(&self, report: &Report) -> io::Result<String> {
        Ok(serde_json::to_string_pretty(report)?)
    }
}
