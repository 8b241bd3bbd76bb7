//! Orders the candidates. Pure functions of what was reported and what the user wants; nothing is asked here.

use super::{Candidate, Status};
use crate::error::{self, Error, Result};
use crate::models::format::MLX;
use pajamas_plugin_api::{Availability, DeviceClass};
use std::cmp::Reverse;

/// Sorts best first: the preferred backend, then by device class, the plugin's own score, version and name; what
/// cannot run comes after, in the order of how far it came.
pub fn sort(candidates: &mut [Candidate], preferred: Option<&str>) {
    candidates.sort_by_cached_key(|candidate| Place::of(candidate, preferred));
}

/// What decides where a candidate stands: the first part that differs.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    status: u8,
    preferred: Reverse<bool>,
    class: u8,
    score: Reverse<i32>,
    /// Of one backend built for several CPU levels, the one for the newest.
    features: Reverse<usize>,
    version: Reverse<Option<semver::Version>>,
    name: String,
}

impl Place {
    fn of(candidate: &Candidate, preferred: Option<&str>) -> Self {
        let name = candidate.name();
        let manifest = candidate.manifest.as_ref();
        Self {
            status: status_order(candidate.status),
            preferred: Reverse(candidate.status == Status::Available && preferred == Some(name.as_str())),
            class: class_order(class(candidate)),
            score: Reverse(candidate.report.as_ref().map_or(0, |report| report.capabilities.score)),
            features: Reverse(manifest.map_or(0, |manifest| manifest.cpu_features.len())),
            version: Reverse(manifest.map(|manifest| manifest.version.clone())),
            name,
        }
    }
}

/// Why the candidate at `index` of the sorted ones stands before the next; empty where it cannot run, or none comes after
/// that can.
pub fn why(candidates: &[Candidate], index: usize, preferred: Option<&str>) -> String {
    let runs = |candidate: &&Candidate| candidate.status == Status::Available;
    let this = candidates.get(index).filter(runs);
    let (Some(this), Some(next)) = (this, candidates.get(index + 1).filter(runs)) else { return String::new() };
    let (a, b) = (Place::of(this, preferred), Place::of(next, preferred));
    let because = if a.preferred != b.preferred {
        "it is the preferred one".into()
    } else if a.class != b.class {
        format!("{} rather than {}", class_name(class(this)), class_name(class(next)))
    } else if a.score != b.score {
        format!("its own score is {}, not {}", a.score.0, b.score.0)
    } else if a.features != b.features {
        "it is built for a newer CPU".into()
    } else if a.version != b.version {
        "it is the newer version".into()
    } else {
        "by name, all else being equal".into()
    };
    format!("before `{}`: {because}", next.name())
}

fn class_name(class: DeviceClass) -> &'static str {
    match class {
        DeviceClass::DiscreteGpu => "a discrete GPU",
        DeviceClass::IntegratedGpu => "an integrated GPU",
        DeviceClass::Npu => "an NPU",
        DeviceClass::Cpu => "the CPU",
        DeviceClass::Software => "a device in software",
        _ => "another device",
    }
}

fn status_order(status: Status) -> u8 {
    match status {
        Status::Available => 0,
        Status::QuantizeOnly => 1,
        Status::Unavailable => 2,
        Status::Failed => 3,
        Status::Refused => 4,
        Status::Shadowed => 5,
    }
}

/// The class of the candidate's best device.
pub fn class(candidate: &Candidate) -> DeviceClass {
    match candidate.report.as_ref().map(|report| &report.availability) {
        Some(Availability::Available { devices }) => devices.first().map_or(DeviceClass::Other, |device| device.class),
        _ => DeviceClass::Other,
    }
}

fn class_order(class: DeviceClass) -> u8 {
    match class {
        DeviceClass::DiscreteGpu => 0,
        DeviceClass::Npu | DeviceClass::IntegratedGpu => 1,
        DeviceClass::Cpu => 2,
        _ => 3,
    }
}

/// The backend to run, and what to tell the user about the choice.
#[derive(Debug)]
pub struct Choice<'a> {
    /// It.
    pub candidate: &'a Candidate,
    /// The format that it runs the model in.
    pub format: String,
    /// Set when another one was asked for.
    pub warning: Option<String>,
}

/// The best of the sorted `candidates` that can load one of `formats` (those that the model has or can be made in);
/// `requested` if it can. A backend whose own format it is comes before those that load it besides.
///
/// # Errors
/// When none can, or `requested` cannot and `fallback` is false, with every reason.
pub fn choose<'a>(
    candidates: &'a [Candidate],
    formats: &[String],
    requested: Option<&str>,
    fallback: bool,
) -> Result<Choice<'a>> {
    let Some(name) = requested else {
        return best(candidates.iter(), formats).ok_or_else(|| none_can(candidates, formats));
    };
    if let Some(choice) = best(candidates.iter().filter(|c| c.name() == name), formats) {
        return Ok(choice);
    }
    let Some(first) = candidates.iter().find(|c| c.name() == name) else {
        let mut installed: Vec<String> = candidates.iter().filter(|c| runs(c)).map(Candidate::name).collect();
        installed.dedup();
        return Err(Error::UnknownBackend { name: name.into(), installed });
    };
    let obstacle = obstacle(first, formats).unwrap_or_default();
    match best(candidates.iter(), formats) {
        Some(choice) if fallback => {
            let remedy =
                if first.remedy.is_empty() { String::new() } else { format!(" (to fix it: {})", first.remedy) };
            let warning = format!("`{name}` cannot run: {obstacle}{remedy}; running on `{}`", choice.candidate.name());
            Ok(Choice { warning: Some(warning), ..choice })
        }
        _ => Err(Error::Refused { message: format!("`{name}` cannot run: {obstacle}"), hint: first.remedy.clone() }),
    }
}

fn best<'a>(candidates: impl Iterator<Item = &'a Candidate>, formats: &[String]) -> Option<Choice<'a>> {
    let able = candidates.filter(|candidate| obstacle(candidate, formats).is_none());
    let able = able.filter_map(|candidate| {
        let (place, format) = loads(candidate).iter().enumerate().find(|(_, format)| formats.contains(format))?;
        Some((place, Choice { candidate, format: format.clone(), warning: None }))
    });
    // The first of the least: the order of the candidates decides among equals.
    able.min_by_key(|(place, _)| usize::from(*place > 0)).map(|(_, choice)| choice)
}

/// The formats that `candidate` loads, its own first, whether it is available or not.
pub fn loads(candidate: &Candidate) -> &[String] {
    match (&candidate.report, &candidate.manifest) {
        (Some(report), _) => &report.capabilities.formats,
        (None, Some(manifest)) => &manifest.formats,
        (None, None) => &[],
    }
}

/// Whether a model can be in `format`: it is one of pajamas' own, or one that a plugin loads or makes something of.
pub fn is_known(candidates: &[Candidate], format: &str) -> bool {
    use crate::models::format::{GGUF, HUGGING_FACE};
    let known = |candidate: &Candidate| {
        let recipes = candidate.report.as_ref().map_or(&[][..], |report| &report.recipes);
        loads(candidate).iter().any(|known| known == format)
            || recipes.iter().any(|recipe| recipe.sources.iter().any(|source| source == format))
    };
    [GGUF, HUGGING_FACE, MLX].contains(&format) || candidates.iter().any(known)
}

/// Why `candidate` cannot load any of `formats`; none when it can.
fn obstacle(candidate: &Candidate, formats: &[String]) -> Option<String> {
    if candidate.status != Status::Available {
        return Some(candidate.reason.clone());
    }
    let own = loads(candidate);
    (!own.iter().any(|known| formats.contains(known)))
        .then(|| format!("it loads {} models, not {}", own.join(", "), formats.join(" or ")))
}

/// Whether it is a backend that runs models, here or elsewhere.
fn runs(candidate: &Candidate) -> bool {
    candidate.manifest.is_some() && candidate.status != Status::QuantizeOnly
}

fn none_can(candidates: &[Candidate], formats: &[String]) -> Error {
    let reason = |c: &Candidate| format!("{}: {}", c.name(), obstacle(c, formats).unwrap_or_default());
    let mut reasons: Vec<String> = candidates.iter().map(reason).collect();
    let loaded = |format: &String| candidates.iter().any(|c| runs(c) && loads(c).contains(format));
    // One of ours that is only not installed.
    if formats.iter().any(|format| format == MLX) && !formats.iter().any(loaded) {
        reasons.push(format!("mlx: not installed; {}", error::how_to_install("mlx")));
    }
    Error::NoBackend { task: format!("run {} models", formats.join(" or ").to_uppercase()), reasons }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::protocol::ProbeReport;
    use pajamas_plugin_api::manifest::Manifest;
    use pajamas_plugin_api::{Capabilities, Device};
    use semver::Version;

    fn candidate(name: &str, class: Option<DeviceClass>) -> Candidate {
        let availability = match class {
            Some(class) => Availability::Available { devices: vec![Device::new("d", class)] },
            None => Availability::Unavailable { reason: "no driver".into(), remedy: "install one".into() },
        };
        Candidate {
            manifest: Some(Manifest {
                name: name.into(),
                version: Version::new(1, 0, 0),
                description: String::new(),
                api_version: Version::new(1, 0, 0),
                minimum_host_api: Version::new(1, 0, 0),
                target: String::new(),
                formats: vec!["gguf".into()],
                cpu_features: vec![],
            }),
            status: if class.is_some() { Status::Available } else { Status::Unavailable },
            reason: if class.is_some() { String::new() } else { "no driver".into() },
            remedy: if class.is_some() { String::new() } else { "install one".into() },
            report: Some(ProbeReport {
                availability,
                capabilities: Capabilities::new("cpu", &["gguf"]),
                recipes: vec![],
                elapsed_ms: 0.0,
            }),
            ..Candidate::new(format!("/p/lib{name}.so").into())
        }
    }

    fn order(mut candidates: Vec<Candidate>, preferred: Option<&str>) -> Vec<String> {
        sort(&mut candidates, preferred);
        candidates.iter().map(Candidate::name).collect()
    }

    #[test]
    fn gpus_before_npus_before_cpus_before_software_and_the_unavailable_last() {
        let all = || {
            vec![
                candidate("soft", Some(DeviceClass::Software)),
                candidate("cuda", None),
                candidate("cpu", Some(DeviceClass::Cpu)),
                candidate("npu", Some(DeviceClass::Npu)),
                candidate("gpu", Some(DeviceClass::DiscreteGpu)),
            ]
        };
        assert_eq!(order(all(), None), ["gpu", "npu", "cpu", "soft", "cuda"]);
        assert_eq!(order(all(), Some("cpu"))[0], "cpu");
        assert_eq!(order(all(), Some("cuda"))[0], "gpu", "a preference does not make it able");
    }

    #[test]
    fn every_place_has_its_reason() {
        let mut all = vec![
            candidate("cpu", Some(DeviceClass::Cpu)),
            candidate("gpu", Some(DeviceClass::DiscreteGpu)),
            candidate("a-cpu", Some(DeviceClass::Cpu)),
            candidate("cuda", None),
        ];
        all[2].report.as_mut().unwrap().capabilities.score = 3;
        sort(&mut all, None);
        assert_eq!(why(&all, 0, None), "before `a-cpu`: a discrete GPU rather than the CPU");
        assert_eq!(why(&all, 1, None), "before `cpu`: its own score is 3, not 0");
        assert_eq!((why(&all, 2, None), why(&all, 3, None)), (String::new(), String::new()));
        sort(&mut all, Some("cpu"));
        assert_eq!(why(&all, 0, Some("cpu")), "before `gpu`: it is the preferred one");
    }

    #[test]
    fn among_equals_score_then_version_then_name() {
        let mut newer = candidate("a", Some(DeviceClass::Cpu));
        newer.manifest.as_mut().unwrap().version = Version::new(2, 0, 0);
        newer.manifest.as_mut().unwrap().name = "newer".into();
        let mut scored = candidate("scored", Some(DeviceClass::Cpu));
        scored.report.as_mut().unwrap().capabilities.score = 5;
        let rest = ["c", "b"].map(|n| candidate(n, Some(DeviceClass::Cpu)));
        assert_eq!(order([vec![newer, scored], rest.into()].concat(), None), ["scored", "newer", "b", "c"]);
    }

    #[test]
    fn an_unavailable_request_falls_back_with_the_reason_or_is_refused() {
        let candidates = [candidate("gguf-cpu", Some(DeviceClass::Cpu)), candidate("gguf-cuda", None)];
        let gguf = ["gguf".to_owned()];
        let choice = choose(&candidates, &gguf, Some("gguf-cuda"), true).unwrap();
        assert_eq!(choice.candidate.name(), "gguf-cpu");
        assert_eq!(
            choice.warning.unwrap(),
            "`gguf-cuda` cannot run: no driver (to fix it: install one); running on `gguf-cpu`"
        );
        let error = choose(&candidates, &gguf, Some("gguf-cuda"), false).unwrap_err();
        assert_eq!(
            (error.to_string(), error.hint()),
            ("`gguf-cuda` cannot run: no driver".into(), Some("install one".into()))
        );
        let error = choose(&candidates, &gguf, Some("guf-cpu"), true).unwrap_err();
        assert_eq!(error.hint().unwrap(), "did you mean `gguf-cpu`?");
        let error = choose(&candidates, &["mlx".into()], None, true).unwrap_err();
        assert!(error.to_string().contains("gguf-cpu: it loads gguf models, not mlx"), "{error}");
    }

    #[test]
    fn a_model_goes_to_the_backend_whose_own_format_it_has() {
        let loading = |name: &str, formats: &[&str]| {
            let mut candidate = candidate(name, Some(DeviceClass::Cpu));
            candidate.report.as_mut().unwrap().capabilities = Capabilities::new("cpu", formats);
            candidate
        };
        let candidates = [loading("mlx", &["mlx", "gguf"]), loading("gguf-cpu", &["gguf"])];
        let chosen = |formats: &[&str], requested| {
            let formats: Vec<String> = formats.iter().map(|format| (*format).into()).collect();
            let choice = choose(&candidates, &formats, requested, true).unwrap();
            (choice.candidate.name(), choice.format)
        };
        let is = |name: &str, format: &str| (name.to_owned(), format.to_owned());
        assert_eq!(chosen(&["gguf"], None), is("gguf-cpu", "gguf"));
        assert_eq!(chosen(&["gguf"], Some("mlx")), is("mlx", "gguf"));
        assert_eq!(chosen(&["gguf", "mlx"], None), is("mlx", "mlx"), "the first, in its own format");
        assert_eq!(chosen(&["gguf", "mlx"], Some("gguf-cpu")), is("gguf-cpu", "gguf"));
    }
}
