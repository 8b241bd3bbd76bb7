//! The library as a file.

use super::{Finding, Obstacle, ensure, open};
use crate::conformance::Subject;
use crate::manifest::{Manifest, SECTION_NAMES};
use crate::version::{API_VERSION, TARGET, incompatibility};
use object::{BinaryFormat, Object, ObjectSection, ObjectSymbol};
use std::collections::BTreeSet;

/// The one symbol, without the underscore that Mach-O puts before it.
const ROOT: &str = "pajamas_plugin_root";

/// What linkers define by themselves.
const LINKERS_OWN: [&str; 8] =
    ["_init", "_fini", "_edata", "_end", "__bss_start", "_DYNAMIC", "_GLOBAL_OFFSET_TABLE_", "__end__"];

pub(crate) fn loads_with_all_symbols(subject: &Subject) -> Finding {
    open(subject)?;
    Ok(String::new())
}

pub(crate) fn exports_only_its_root(subject: &Subject) -> Finding {
    let bytes = read(subject)?;
    let file = parse(&bytes)?;
    let names: BTreeSet<String> = match file.format() {
        BinaryFormat::Elf => file
            .dynamic_symbols()
            .filter(|symbol| symbol.is_definition() && symbol.is_global())
            .filter_map(|symbol| Some(symbol.name().ok()?.to_owned()))
            .collect(),
        _ => {
            let exports = file.exports().map_err(|error| Obstacle::Failed(format!("its exports: {error}")))?;
            exports.iter().map(|export| String::from_utf8_lossy(export.name()).into_owned()).collect()
        }
    };
    let plain = |name: &String| match file.format() {
        BinaryFormat::MachO => name.strip_prefix('_').unwrap_or(name).to_owned(),
        _ => name.clone(),
    };
    let names: BTreeSet<String> = names.iter().map(plain).collect();
    ensure!(names.contains(ROOT), "it does not export `{ROOT}`");
    let others: Vec<&String> =
        names.iter().filter(|name| *name != ROOT && !LINKERS_OWN.contains(&name.as_str())).collect();
    let shown: Vec<&str> = others.iter().take(5).map(|name| name.as_str()).collect();
    ensure!(
        others.is_empty(),
        "it also exports {}{}: other libraries of the process could find them",
        shown.join(", "),
        if others.len() > shown.len() { format!(" and {} more", others.len() - shown.len()) } else { String::new() }
    );
    Ok(String::new())
}

pub(crate) fn manifest_agrees(subject: &Subject) -> Finding {
    let bytes = read(subject)?;
    let file = parse(&bytes)?;
    let section = SECTION_NAMES.iter().find_map(|name| file.section_by_name(name));
    let section =
        section.ok_or_else(|| Obstacle::Failed("it has no manifest: does it use `export_plugin!`?".into()))?;
    let section = section.data().map_err(|error| Obstacle::Failed(format!("its manifest: {error}")))?;
    let manifest = Manifest::parse(section).map_err(|error| Obstacle::Failed(error.to_string()))?;
    let name = &manifest.name;
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    ensure!(
        name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(is_plain),
        "the name `{name}` is not of lower-case letters, digits and hyphens, a letter first"
    );
    ensure!(!manifest.description.trim().is_empty(), "the description is empty: Cargo.toml says it");
    ensure!(manifest.target == TARGET, "it was built for {}, and this is {TARGET}", manifest.target);
    if let Ok(host) = API_VERSION.parse()
        && let Some(reason) = incompatibility(&host, &manifest.api_version, &manifest.minimum_host_api)
    {
        return Err(Obstacle::Failed(reason));
    }
    let (said, can): (BTreeSet<_>, BTreeSet<_>) =
        (manifest.formats.into_iter().collect(), open(subject)?.capabilities()?.formats.into_iter().collect());
    ensure!(said == can, "the manifest's formats are {said:?}, those of the capabilities {can:?}");
    Ok(format!("{name} {}, API {}", manifest.version, manifest.api_version))
}

fn read(subject: &Subject) -> Result<Vec<u8>, Obstacle> {
    std::fs::read(&subject.plugin).map_err(|error| Obstacle::Failed(format!("it cannot be read: {error}")))
}

fn parse(bytes: &[u8]) -> Result<object::File<'_>, Obstacle> {
    object::File::parse(bytes).map_err(|error| Obstacle::Failed(format!("it is no library: {error}")))
}
