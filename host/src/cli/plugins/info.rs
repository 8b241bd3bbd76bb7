//! `pajamas plugins info NAME`: everything about one plugin.

use crate::cli::output;
use crate::config::Config;
use crate::plugins::{self, Candidate, Status};
use pajamas_plugin_api::{ArtifactKind, Availability, Capabilities, Device, OptionKind, OptionSpec, Recipe};
use serde::Serialize;

/// Lines of a plugin's stderr that are shown.
const STDERR_LINES: usize = 20;

/// What `pajamas plugins info` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The plugin's name, or its file's.
    name: String,
    #[command(flatten)]
    asking: super::Asking,
}

#[derive(Debug, Serialize)]
struct Report {
    name: String,
    path: String,
    /// Every file of a bundle.
    files: Vec<String>,
    size_bytes: Option<u64>,
    sha256: Option<String>,
    owner: Option<String>,
    /// The shared libraries that it needs.
    needs: Vec<String>,
    version: Option<String>,
    api_version: Option<String>,
    minimum_host_api: Option<String>,
    target: Option<String>,
    cpu_features: Vec<String>,
    description: String,
    status: Status,
    reason: String,
    remedy: String,
    rank: Option<usize>,
    rank_reason: String,
    /// Other files of the same name.
    others: Vec<String>,
    devices: Vec<Device>,
    hardware: Option<String>,
    formats: Vec<String>,
    precisions: Vec<String>,
    context_length_max: Option<u32>,
    sampling: Vec<String>,
    features: Vec<&'static str>,
    score: Option<i32>,
    probe_ms: Option<f64>,
    /// When it was asked, in seconds since 1970.
    asked_at: Option<u64>,
    /// The end of what it wrote to stderr when it was asked.
    stderr: String,
    options: Vec<OptionRow>,
    recipes: Vec<RecipeRow>,
}

#[derive(Debug, Serialize)]
struct OptionRow {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    range: String,
    default: String,
    help: String,
}

#[derive(Debug, Serialize)]
struct RecipeRow {
    name: String,
    format: String,
    bits_per_weight: f64,
    description: String,
    sources: Vec<String>,
    artifact: &'static str,
    options: Vec<OptionRow>,
}

/// Runs the command.
pub fn execute(args: &Args, common: &crate::cli::Common, config: &Config) -> anyhow::Result<()> {
    let candidates = &super::survey(&args.asking, config);
    let named = super::named(candidates, &args.name)?;
    let others = named[1..].iter().map(|candidate| candidate.path.display().to_string()).collect();
    let index = candidates.iter().position(|candidate| candidate.path == named[0].path).unwrap_or_default();
    let mut report = report(named[0], index, others);
    report.rank_reason = plugins::rank::why(candidates, index, config.backend.as_deref());
    if common.json {
        return output::json(&report);
    }
    print(&report);
    Ok(())
}

fn report(candidate: &Candidate, index: usize, others: Vec<String>) -> Report {
    let manifest = candidate.manifest.as_ref();
    let answer = candidate.report.as_ref();
    let can = answer.map(|answer| &answer.capabilities);
    let devices = match answer.map(|answer| &answer.availability) {
        Some(Availability::Available { devices }) => devices.clone(),
        _ => Vec::new(),
    };
    Report {
        name: candidate.name(),
        path: candidate.path.display().to_string(),
        files: candidate.file.iter().flat_map(|file| file.files()).map(|path| path.display().to_string()).collect(),
        size_bytes: candidate.file.as_ref().map(plugins::file::PluginFile::size_bytes),
        sha256: (!candidate.sha256.is_empty()).then(|| candidate.sha256.clone()),
        owner: owner(&candidate.path),
        needs: plugins::preflight::needed_libraries(&candidate.path),
        version: manifest.map(|m| m.version.to_string()),
        api_version: manifest.map(|m| m.api_version.to_string()),
        minimum_host_api: manifest.map(|m| m.minimum_host_api.to_string()),
        target: manifest.map(|m| m.target.clone()),
        cpu_features: manifest.map(|m| m.cpu_features.clone()).unwrap_or_default(),
        description: manifest.map(|m| m.description.clone()).unwrap_or_default(),
        status: candidate.status,
        reason: candidate.reason.clone(),
        remedy: candidate.remedy.clone(),
        rank: (candidate.status == Status::Available).then_some(index + 1),
        rank_reason: String::new(),
        others,
        devices,
        hardware: can.map(|can| can.hardware.clone()),
        formats: plugins::rank::loads(candidate).to_vec(),
        precisions: can.map(|can| can.precisions.clone()).unwrap_or_default(),
        context_length_max: can.and_then(|can| can.context_length_max),
        sampling: can.map(|can| can.sampling.clone()).unwrap_or_default(),
        features: can.map(features).unwrap_or_default(),
        score: can.map(|can| can.score),
        probe_ms: answer.map(|answer| (answer.elapsed_ms * 1e3).round() / 1e3),
        asked_at: candidate.asked_at,
        stderr: candidate.stderr.clone(),
        options: can.map(|can| can.options.iter().map(option).collect()).unwrap_or_default(),
        recipes: answer.map(|answer| answer.recipes.iter().map(recipe).collect()).unwrap_or_default(),
    }
}

/// The name of the user whom the file belongs to.
fn owner(path: &std::path::Path) -> Option<String> {
    #[cfg(unix)]
    {
        let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(path).ok()?);
        Some(crate::users::name(uid).unwrap_or_else(|| format!("uid {uid}")))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

fn features(can: &Capabilities) -> Vec<&'static str> {
    let all = [
        ("batching", can.batching),
        ("logits", can.logits),
        ("logprobs", can.logprobs),
        ("sessions", can.sessions),
        ("streaming", can.streaming),
    ];
    all.into_iter().filter_map(|(name, has)| has.then_some(name)).collect()
}

fn option(spec: &OptionSpec) -> OptionRow {
    let (kind, range) = match &spec.kind {
        OptionKind::Bool => ("bool", "true or false".to_owned()),
        OptionKind::Int { min, max } => ("int", format!("{min} to {max}")),
        OptionKind::Float { min, max } => ("float", format!("{min} to {max}")),
        OptionKind::Text => ("text", "any text".to_owned()),
        OptionKind::Choice { words } => ("choice", words.join(", ")),
        _ => ("unknown", "of a type that this pajamas does not know".to_owned()),
    };
    OptionRow { name: spec.name.clone(), kind, range, default: spec.default.clone(), help: spec.help.clone() }
}

fn recipe(recipe: &Recipe) -> RecipeRow {
    RecipeRow {
        name: recipe.name.clone(),
        format: recipe.format.clone(),
        // As it was written: 4.85, not what is nearest to that in half the digits.
        bits_per_weight: (f64::from(recipe.bits_per_weight) * 1e4).round() / 1e4,
        description: recipe.description.clone(),
        sources: recipe.sources.clone(),
        artifact: match recipe.artifact {
            ArtifactKind::File => "file",
            ArtifactKind::Folder => "folder",
            _ => "unknown",
        },
        options: recipe.options.iter().map(option).collect(),
    }
}

fn print(report: &Report) {
    let list = |words: &[String]| (!words.is_empty()).then(|| words.join(", "));
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let status = match report.rank {
        Some(rank) => format!("{}, rank {rank}", report.status.as_str()),
        None => report.status.as_str().to_owned(),
    };
    let api = report.api_version.as_ref().map(|version| match &report.minimum_host_api {
        Some(minimum) => format!("{version} (hosts from {minimum} on)"),
        None => version.clone(),
    });
    let mut rows = vec![
        ("name", Some(report.name.clone())),
        ("description", text(&report.description)),
        ("status", Some(status)),
        ("reason", text(&report.reason)),
        ("remedy", text(&report.remedy)),
        ("version", report.version.clone()),
        ("plugin API", api),
        ("why there", text(&report.rank_reason)),
        ("path", Some(report.path.clone())),
        ("size", report.size_bytes.map(output::size)),
        ("SHA-256", report.sha256.clone()),
        ("owner", report.owner.clone()),
        ("needs", list(&report.needs)),
        ("built for", report.target.clone()),
        ("CPU features", list(&report.cpu_features)),
        ("hardware", report.hardware.clone()),
        ("formats", list(&report.formats)),
        ("precisions", list(&report.precisions)),
        ("longest context", report.context_length_max.map(|tokens| format!("{tokens} tokens"))),
        ("sampling", list(&report.sampling)),
        ("features", Some(report.features.join(", ")).filter(|features| !features.is_empty())),
        ("answered in", report.probe_ms.map(|ms| format!("{ms:.1} ms"))),
        ("asked", report.asked_at.map(|at| format!("{} UTC", output::date(at)))),
    ];
    rows.extend(report.devices.iter().map(|device| ("device", Some(describe(device)))));
    rows.extend(report.others.iter().map(|path| ("also there", Some(path.clone()))));
    output::fields(&rows);
    if !report.stderr.trim().is_empty() {
        output::print("\nThe end of what it wrote to stderr");
        // Some write by the megabyte.
        let lines: Vec<&str> = report.stderr.trim_end().lines().collect();
        lines[lines.len().saturating_sub(STDERR_LINES)..]
            .iter()
            .for_each(|line| output::print(&format!("  {}", output::one_line(line))));
    }
    if !report.options.is_empty() {
        output::print("\nOptions, for `--set NAME=VALUE`");
        print_options(&report.options);
    }
    if !report.recipes.is_empty() {
        output::print("\nRecipes, for `pajamas quantize -m NAME`");
        print_recipes(&report.recipes);
    }
}

fn describe(device: &Device) -> String {
    let class = serde_json::to_value(device.class).ok().and_then(|class| Some(class.as_str()?.replace('_', " ")));
    let memory = match device.memory_total_bytes {
        0 => String::new(),
        total => format!(", {} free of {}", output::size(device.memory_free_bytes), output::size(total)),
    };
    format!("{} ({}{memory})", device.name, class.unwrap_or_default())
}

fn print_options(options: &[OptionRow]) {
    let mut rows = vec![["NAME", "VALUES", "DEFAULT", "HELP"].map(String::from).to_vec()];
    rows.extend(options.iter().map(|o| vec![o.name.clone(), o.range.clone(), o.default.clone(), o.help.clone()]));
    output::table(&rows);
}

/// A column of recipes: its name, and the cell of a row.
type Column<'a> = (&'a str, &'a dyn Fn(&RecipeRow) -> String);

fn print_recipes(recipes: &[RecipeRow]) {
    let options = |recipe: &RecipeRow| {
        let names: Vec<&str> = recipe.options.iter().map(|option| option.name.as_str()).collect();
        if names.is_empty() { "-".to_owned() } else { names.join(" ") }
    };
    let columns: [Column<'_>; 6] = [
        ("NAME", &|recipe| recipe.name.clone()),
        ("FORMAT", &|recipe| recipe.format.clone()),
        ("BITS", &|recipe| format!("{:.2}", recipe.bits_per_weight)),
        ("FROM", &|recipe| recipe.sources.join(" ")),
        ("OPTIONS", &options),
        ("GOOD FOR", &|recipe| recipe.description.clone()),
    ];
    // Recipes of one quantizer mostly share these, and what all of them share is said once.
    let shared = |(name, cell): &Column<'_>| {
        let [first, others @ ..] = recipes else { return false };
        ["FROM", "OPTIONS"].contains(name)
            && !others.is_empty()
            && others.iter().all(|other| cell(other) == cell(first))
    };
    let columns: Vec<_> = columns.into_iter().filter(|column| !shared(column)).collect();
    let mut rows = vec![columns.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>()];
    rows.extend(recipes.iter().map(|recipe| columns.iter().map(|(_, cell)| cell(recipe)).collect()));
    output::table(&rows);
    if !columns.iter().any(|(name, _)| *name == "FROM") && !recipes[0].sources.is_empty() {
        let sources = output::one_line(&recipes[0].sources.join(", "));
        output::print(&format!("\nAll of them are made from: {sources}"));
    }
    let mut seen: Vec<&str> = Vec::new();
    let options: Vec<&OptionRow> = recipes.iter().flat_map(|recipe| &recipe.options).collect();
    let mut rows = vec![["OPTION", "VALUES", "DEFAULT", "HELP"].map(String::from).to_vec()];
    for option in options {
        if !seen.contains(&option.name.as_str()) {
            seen.push(&option.name);
            rows.push(vec![option.name.clone(), option.range.clone(), option.default.clone(), option.help.clone()]);
        }
    }
    if rows.len() > 1 {
        output::print("\nTheir options, for `--set NAME=VALUE`");
        output::table(&rows);
    }
}
