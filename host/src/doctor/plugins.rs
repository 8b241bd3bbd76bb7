//! The plugins: each file that was found, and whether something runs models and something makes them.

use super::Check;
use crate::config::{Config, Origin};
use crate::error::GET_PLUGINS;
use crate::plugins::discover::{self, Searched};
use crate::plugins::pins::Pins;
use crate::plugins::preflight::NO_PLUGIN;
use crate::plugins::{self, Candidate, Status};
use crate::text::counted;
use std::path::PathBuf;

/// What may help with a plugin for which nothing better is known.
const OTHER_BUILD: &str = "install another build of this plugin";

/// Asks every plugin.
pub(super) fn check(config: &Config) -> Vec<Check> {
    let mut checks = folders(config);
    checks.extend(ignored_variables());
    checks.extend(accepted(config));
    let candidates = plugins::survey_and_forget(config);
    checks.extend(candidates.iter().map(plugin));
    checks.extend(able(&candidates));
    checks.extend(preferences(config, &candidates));
    checks
}

/// The backend and the method that the settings name must be there.
fn preferences(config: &Config, candidates: &[Candidate]) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Some(name) = &config.backend {
        checks.push(match candidates.iter().find(|candidate| candidate.name() == *name) {
            None => {
                let found = format!("the settings prefer `{name}`, and no such backend is installed");
                Check::problem("preferred backend", found, "pajamas config unset backend")
            }
            Some(candidate) => {
                let found = format!("`{name}` is {}", describe(candidate.status));
                Check::ok("preferred backend", found)
            }
        });
    }
    let recipes = || candidates.iter().filter_map(|c| c.report.as_ref()).flat_map(|report| &report.recipes);
    if let Some(method) = &config.method
        && !recipes().any(|recipe| recipe.name.eq_ignore_ascii_case(method))
    {
        let found = format!("the settings ask for the method `{method}`, and no plugin makes it");
        checks.push(Check::problem("method", found, "pajamas config unset method"));
    }
    checks
}

/// Every folder that is searched, in order, with where it is named.
fn folders(config: &Config) -> Vec<Check> {
    const NAME: &str = "plugin folder";
    let searched = discover::folders(&config.plugin_dirs);
    let check = |((dir, origin), searched): ((&PathBuf, &Origin), Searched)| {
        let from = if *origin == Origin::Default { String::new() } else { format!(" ({origin})") };
        let path = format!("`{}`{from}", dir.display());
        match searched {
            Searched::Found(count) => Check::ok(NAME, format!("{path}: {}", counted(count, "plugin"))),
            // The usual ones need not be there; one that is named should.
            Searched::Missing if *origin == Origin::Default => Check::ok(NAME, format!("{path} is not there")),
            Searched::Missing => {
                Check::warning(NAME, format!("{path} is not there"), format!("mkdir -p {}", super::shell(dir)))
            }
            Searched::Unreadable(reason) => Check::problem(
                NAME,
                format!("{path} cannot be read, so its plugins are not found: {reason}"),
                format!("chmod u+rx {}", super::shell(dir)),
            ),
        }
    };
    config.plugin_dirs.iter().zip(&config.origins.plugin_dirs).zip(searched).map(check).collect()
}

/// The list of accepted plugins must be readable.
fn accepted(config: &Config) -> Option<Check> {
    let error = Pins::read(config).err()?;
    Some(Check::problem("accepted plugins", error.to_string(), error.hint().unwrap_or_default()))
}

/// That the environment is not followed, where it is not.
fn ignored_variables() -> Option<Check> {
    let found = "this program has more rights than its user: the environment's folders and programs are ignored";
    crate::users::is_privileged().then(|| Check::warning("rights", found, "run it without setuid or capabilities"))
}

fn plugin(candidate: &Candidate) -> Check {
    let version = candidate.manifest.as_ref().map(|manifest| format!(" {}", manifest.version)).unwrap_or_default();
    let reason = if candidate.reason.is_empty() { String::new() } else { format!(": {}", candidate.reason) };
    let found = format!("{}{version} is {}{reason}", candidate.name(), describe(candidate.status));
    let found = found.replace('\n', " ");
    match candidate.status {
        // Nobody loses anything with what is no plugin. One that is broken may be all that its owner has of it.
        Status::Refused | Status::Failed if candidate.remedy == NO_PLUGIN => Check::problem(
            "plugin",
            format!("{found}; {NO_PLUGIN}"),
            format!("rm {}", super::shell(&candidate.found_at)),
        ),
        Status::Refused | Status::Failed if candidate.remedy.is_empty() => Check::problem("plugin", found, OTHER_BUILD),
        Status::Refused | Status::Failed => Check::problem("plugin", found, candidate.remedy.clone()),
        // Most machines lack the hardware for most backends: the remedy is an offer.
        Status::Unavailable => Check { remedy: candidate.remedy.clone(), ..Check::ok("plugin", found) },
        Status::Available | Status::QuantizeOnly | Status::Shadowed => Check::ok("plugin", found),
    }
}

fn describe(status: Status) -> &'static str {
    match status {
        Status::Available => "available",
        Status::QuantizeOnly => "a quantizer",
        Status::Unavailable => "not for this machine",
        Status::Shadowed => "hidden by another",
        Status::Refused => "refused",
        Status::Failed => "broken",
    }
}

/// Whether something runs models, and something makes them.
fn able(candidates: &[Candidate]) -> Vec<Check> {
    let names = |able: &dyn Fn(&Candidate) -> bool| -> Vec<String> {
        candidates.iter().filter(|candidate| able(candidate)).map(Candidate::name).collect()
    };
    let runs = names(&|candidate| candidate.status == Status::Available);
    let makes = names(&|candidate| candidate.report.as_ref().is_some_and(|report| !report.recipes.is_empty()));
    let check = |name, able: Vec<String>, lacking: &str| match able.as_slice() {
        [] => Check::problem(name, lacking, GET_PLUGINS),
        able => Check::ok(name, able.join(", ")),
    };
    vec![
        check("backends", runs, "no installed backend runs models on this machine"),
        check("quantizers", makes, "no installed plugin quantizes models"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor;

    fn candidate(status: Status, remedy: &str) -> Candidate {
        let (reason, remedy) = ("because".into(), remedy.into());
        Candidate { status, reason, remedy, ..Candidate::new("/p/libx.so".into()) }
    }

    #[test]
    fn a_broken_plugin_is_a_problem_and_one_for_other_hardware_is_none() {
        let broken = plugin(&candidate(Status::Failed, ""));
        assert_eq!((broken.status, broken.remedy.as_str()), (doctor::Status::Problem, OTHER_BUILD));
        assert_eq!(broken.found, "libx.so is broken: because");
        assert_eq!(plugin(&candidate(Status::Refused, "chmod o-w x")).remedy, "chmod o-w x");
        let advice = plugin(&candidate(Status::Refused, "update it"));
        assert_eq!((advice.found.as_str(), advice.remedy.as_str()), ("libx.so is refused: because", "update it"));
        let none = plugin(&candidate(Status::Refused, NO_PLUGIN));
        assert_eq!(none.found, format!("libx.so is refused: because; {NO_PLUGIN}"));
        assert_eq!(none.remedy, "rm /p/libx.so");
        let elsewhere = plugin(&candidate(Status::Unavailable, "install a driver"));
        assert_eq!((elsewhere.status, elsewhere.remedy.as_str()), (doctor::Status::Ok, "install a driver"));
        assert_eq!(plugin(&candidate(Status::Shadowed, "")).status, doctor::Status::Ok);
    }

    #[test]
    fn without_a_backend_or_a_quantizer_nothing_can_be_done() {
        let checks = able(&[candidate(Status::Unavailable, "")]);
        assert!(checks.iter().all(|check| check.status == doctor::Status::Problem && check.remedy == GET_PLUGINS));
        assert_eq!(able(&[candidate(Status::Available, "")])[0].status, doctor::Status::Ok);
    }
}
