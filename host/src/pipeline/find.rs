//! Which plugin's quantizer makes what is wanted, by which recipe.

use super::QuantizeOptions;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::models::format;
use crate::models::source::Source;
use crate::plugins::Candidate;
use pajamas_plugin_api::{ArtifactKind, Recipe, options};

/// Every recipe of every candidate, available or not: a quantizer works without its backend's device.
pub(super) fn recipes(candidates: &[Candidate]) -> impl Iterator<Item = (&Candidate, &Recipe)> {
    candidates.iter().flat_map(|candidate| {
        let recipes = candidate.report.as_ref().map_or(&[][..], |report| &report.recipes);
        let known = recipes.iter().filter(|recipe| recipe.artifact != ArtifactKind::Unknown);
        known.map(move |recipe| (candidate, recipe))
    })
}

/// The first candidate whose quantizer makes what is wanted, and its recipe for that.
pub(super) fn find_quantizer<'a>(
    candidates: &'a [Candidate],
    source: &Source,
    options: &QuantizeOptions,
    config: &Config,
) -> Result<(&'a Candidate, Recipe)> {
    let source_format = source.format.as_str();
    let able: Vec<_> = recipes(candidates)
        .filter(|(_, recipe)| recipe.sources.iter().any(|known| known == source_format))
        .filter(|(_, recipe)| options.format.as_ref().is_none_or(|format| recipe.format.eq_ignore_ascii_case(format)))
        .collect();
    if let (None, Some(method)) = (&options.method, &config.method)
        && !able.is_empty()
        && let Err(unknown) = super::is_known(method, candidates)
    {
        return Err(Error::Usage {
            message: format!("the settings ask for the method `{method}`, and no plugin here makes it"),
            hint: format!("`pajamas config` shows where that comes from; {}", unknown.hint().unwrap_or_default()),
        });
    }
    let by_name = |name: &str| able.iter().find(|(_, recipe)| recipe.name.eq_ignore_ascii_case(name));
    let found = match &options.method {
        Some(name) => by_name(name),
        // The method of the config is for the formats that have it.
        None => (config.method.as_deref().and_then(by_name))
            .or_else(|| able.iter().find(|(_, recipe)| recipe.format == format::GGUF))
            .or_else(|| able.first()),
    };
    if let Some((candidate, recipe)) = found {
        return Ok((candidate, (*recipe).clone()));
    }
    let formats = distinct(recipes(candidates).map(|(_, recipe)| &recipe.format));
    if let Some(format) = options.format.as_ref().filter(|format| !formats.contains(&format.to_lowercase()))
        && !formats.is_empty()
        // One of ours that is only not installed has a better answer.
        && ![format::GGUF, format::MLX].contains(&format.to_lowercase().as_str())
    {
        let near = options::nearest(format, formats.iter().map(String::as_str));
        let hint =
            near.map_or_else(|| format!("formats: {}", formats.join(", ")), |near| format!("did you mean `{near}`?"));
        return Err(Error::Usage { message: format!("no plugin makes the format `{format}`"), hint });
    }
    match &options.method {
        Some(name) if !able.is_empty() => {
            let elsewhere = recipes(candidates).find(|(_, recipe)| recipe.name.eq_ignore_ascii_case(name));
            let known = distinct(able.iter().map(|(_, recipe)| &recipe.name));
            match (elsewhere, &options.format) {
                (Some((_, recipe)), Some(format)) => Err(Error::Usage {
                    message: format!(
                        "`{name}` makes {} models, not {}",
                        recipe.format.to_uppercase(),
                        format.to_uppercase()
                    ),
                    hint: format!("methods: {}", known.join(", ")),
                }),
                _ => Err(Error::UnknownRecipe { name: name.clone(), known }),
            }
        }
        _ => Err(Error::NoBackend {
            task: match (&options.format, source_format) {
                (None, format::HUGGING_FACE) => "quantize models".into(),
                (None, source) => format!("make anything of {} models", source.to_uppercase()),
                (Some(format), format::HUGGING_FACE) => format!("make {} models", format.to_uppercase()),
                (Some(format), source) => {
                    format!("make {} models of {} models", format.to_uppercase(), source.to_uppercase())
                }
            },
            reasons: candidates.iter().map(|c| format!("{}: {}", c.name(), describe(c))).collect(),
        }),
    }
}

/// Each of `names` once, in their order.
pub(super) fn distinct<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut distinct: Vec<String> = Vec::new();
    for name in names {
        if !distinct.contains(name) {
            distinct.push(name.clone());
        }
    }
    distinct
}

fn describe(candidate: &Candidate) -> &str {
    if candidate.report.is_some() { "it has no quantizer for that" } else { &candidate.reason }
}
