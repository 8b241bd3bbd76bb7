//! `pajamas doctor`: is the installation sound, and what to do if not.

use super::output;
use crate::doctor::{self, Check, Report, Status};
use crate::error::Error;

/// What `pajamas doctor` takes.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command. It fails where there is a problem; warnings are none.
pub fn execute(_: &Args, common: &super::Common) -> anyhow::Result<()> {
    let report = doctor::examine(&common.flags());
    if common.json {
        output::json(&report)?;
    } else {
        print(&report);
    }
    match report.count(Status::Problem) {
        0 => Ok(()),
        count => Err(Error::Unsound(count).into()),
    }
}

fn print(report: &Report) {
    let width = report.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for Check { name, status, found, remedy } in &report.checks {
        let status = match status {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Problem => "PROBLEM",
        };
        output::print(&output::one_line(&format!("{status:<7}  {name:<width$}  {found}")));
        if !remedy.is_empty() {
            output::print(&output::one_line(&format!("{:7}  {:width$}  -> {remedy}", "", "")));
        }
    }
    let warnings = report.count(Status::Warning);
    if report.status != Status::Problem {
        let with = if warnings == 0 { String::new() } else { format!("; warnings: {warnings}") };
        output::print(&format!("\nThis installation is sound{with}."));
    }
}
