//! Runs the rules of the plugin API's conformance kit on a plugin, each in a worker process of its own.

use super::discover::BUNDLE_FILE;
use super::file::PluginFile;
use super::{Candidate, arithmetic, judge, named};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::models::format::GGUF;
use crate::worker::client::Worker;
use crate::worker::protocol::{Reply, Request};
use pajamas_plugin_api::conformance::{Outcome, RULES, Rule, Subject};
use pajamas_plugin_api::options::nearest;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What came of a plugin's examination.
#[derive(Debug)]
pub struct Checked {
    /// The plugin's name.
    pub name: String,
    /// Its library.
    pub path: PathBuf,
    /// In the order of the rules.
    pub results: Vec<RuleResult>,
}

/// What came of one rule.
#[derive(Debug)]
pub struct RuleResult {
    /// The rule.
    pub rule: &'static Rule,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took.
    pub seconds: f64,
}

/// The number of the rule that goes by `name`: `7`, `R07`, or its name.
///
/// # Errors
/// When there is none.
pub fn rule(name: &str) -> Result<u16> {
    let number = name.trim_start_matches(['R', 'r']).parse::<u16>().ok();
    let found = RULES.iter().find(|rule| rule.name == name || Some(rule.number) == number);
    found.map(|rule| rule.number).ok_or_else(|| Error::Usage {
        message: format!("there is no rule `{name}`"),
        hint: match nearest(name, RULES.iter().map(|rule| rule.name)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("rules are R01 to R{:02}", RULES.last().map_or(0, |rule| rule.number)),
        },
    })
}

/// What is meant by `file`: a path that exists, or the name of an installed plugin, which comes to its bundle folder or
/// library.
///
/// # Errors
/// When it is neither.
pub fn find(file: &Path, config: &Config) -> Result<PathBuf> {
    // A plugin's own source folder has its name as a rule, and is none.
    if file.is_file() || file.join(BUNDLE_FILE).exists() || file.components().count() > 1 {
        return Ok(file.to_owned());
    }
    let candidates = super::inventory(config);
    let name = file.to_string_lossy();
    if let [first, ..] = named(&candidates, &name).as_slice() {
        return Ok(first.bundle.clone().unwrap_or_else(|| first.path.clone()));
    }
    let installed = candidates.iter().map(Candidate::name).collect();
    Err(Error::UnknownBackend { name: name.into_owned(), installed })
}

/// Checks the plugin at `path` against every rule whose number is `wanted`. `model` is one that it can load; none takes
/// the bundled one, for a plugin that loads GGUF files. `starting` hears the name of each rule before it is checked.
///
/// # Errors
/// When the file may not be loaded at all, or no worker can be started. What a plugin does wrong is no error.
pub fn verify(
    path: &Path,
    model: Option<&Path>,
    wanted: &dyn Fn(u16) -> bool,
    config: &Config,
    starting: &mut dyn FnMut(&str),
) -> Result<Checked> {
    // One that lies in a plugin folder is loaded only if it would be otherwise.
    let examined = judge(path, config);
    let installed = super::inventory(config).into_iter().find(|candidate| candidate.path == examined.path);
    let candidate = installed.unwrap_or(examined);
    let scratch = tempfile::tempdir().map_err(Error::io("creating", &std::env::temp_dir()))?;
    let file = candidate.file()?;
    let mut subject = Subject::new(&candidate.path);
    subject.cache_dir = scratch.path().to_owned();
    subject.threads = config.threads.unwrap_or_else(crate::hardware::physical_cores);
    match model {
        Some(model) => subject.model = Some(std::path::absolute(model).map_err(Error::io("resolving", model))?),
        None if super::rank::loads(&candidate).iter().any(|format| format == GGUF) => {
            subject.model = Some(arithmetic::model(scratch.path())?);
            subject.reference = Some(arithmetic::reference());
        }
        None => (),
    }
    let mut results = Vec::new();
    for rule in RULES.iter().filter(|rule| wanted(rule.number)) {
        starting(rule.name);
        let started = Instant::now();
        let mut outcome = check(rule, file, &subject, config)?;
        // What is measured on a busy machine is measured again.
        if matches!(outcome, Outcome::Failed { .. }) && rule.is_measured() {
            outcome = check(rule, file, &subject, config)?;
        }
        results.push(RuleResult { rule, outcome, seconds: started.elapsed().as_secs_f64() });
    }
    Ok(Checked { name: candidate.name(), path: candidate.path.clone(), results })
}

/// Checks one rule in a worker process.
///
/// # Errors
/// When it cannot be started.
fn check(rule: &Rule, file: &PluginFile, subject: &Subject, config: &Config) -> Result<Outcome> {
    let mut worker = Worker::start(config)?;
    let request = Request::Check { plugin: file.clone(), rule: rule.number, subject: Box::new(subject.clone()) };
    Ok(match worker.send(&request).and_then(|()| worker.receive(Some(rule.timeout()))) {
        Ok(Reply::Checked(outcome)) => outcome,
        Ok(Reply::Failed(error)) => Outcome::Failed { reason: error.to_string() },
        Ok(other) => Outcome::Failed { reason: worker.confused(&other).to_string() },
        Err(error) => Outcome::Failed { reason: error.to_string() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_go_by_number_and_by_name() {
        let first = &RULES[0];
        for name in [first.name, "1", "R01", "r1"] {
            assert_eq!(rule(name).unwrap(), first.number);
        }
        assert!(rule("R99").unwrap_err().hint().unwrap().starts_with("rules are R01 to R"));
    }
}
