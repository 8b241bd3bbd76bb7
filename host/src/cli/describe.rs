//! All about one model: what `pajamas info MODEL` and `pajamas models show NAME` print.

use super::output;
use crate::config::Config;
use crate::error::Error;
use crate::models::describe::{self, Description, TensorType};
use crate::models::provenance::CHOICE;
use crate::models::source;
use crate::plugins::{self, Candidate, rank};
use crate::runtime::forecast::{self, Forecast, Need};
use crate::search::Evidence;
use crate::validate::Summary;
use serde::Serialize;

#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    description: Description,
    /// None for a model that tells too little of itself.
    memory: Option<Forecast>,
}

/// Describes `model` and forecasts its memory on `backend`, or on the one that would run it.
pub fn execute(model: &str, backend: Option<&str>, common: &super::Common, config: &Config) -> anyhow::Result<()> {
    let source = source::resolve(model, config)?;
    let candidates = plugins::survey(config);
    if !rank::is_known(&candidates, &source.format) {
        return Err(Error::Invalid {
            message: format!("this is no model: no installed plugin knows the format `{}`", source.format),
            hint: "give a GGUF file, or the folder of a Hugging Face or MLX model".into(),
            path: source.path,
        }
        .into());
    }
    let description = describe::describe(&source, config)?;
    let candidate = chosen(&candidates, &description.format, backend, config)?;
    let memory = forecast::forecast(&description, candidate, &crate::hardware::detect(), config);
    let report = Report { description, memory };
    if common.json {
        return output::json(&report);
    }
    print(&report);
    Ok(())
}

/// The backend that would run a model of this format. That there is none is no failure unless one was named.
fn chosen<'a>(
    candidates: &'a [Candidate],
    format: &str,
    backend: Option<&str>,
    config: &Config,
) -> Result<Option<&'a Candidate>, Error> {
    let requested = backend.or(config.backend.as_deref());
    let fallback = backend.is_none();
    match rank::choose(candidates, &[format.to_owned()], requested, fallback) {
        Ok(choice) => Ok(Some(choice.candidate)),
        Err(error) if backend.is_some() => Err(error),
        // One that is preferred and not installed is for others to complain about.
        Err(_) => Ok(rank::choose(candidates, &[format.to_owned()], None, true).ok().map(|choice| choice.candidate)),
    }
}

fn print(report: &Report) {
    let model = &report.description;
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    let heads = |count: u64| match model.kv_head_count.filter(|kv_heads| *kv_heads != count) {
        Some(kv_heads) => format!("{count} ({kv_heads} for keys and values)"),
        None => count.to_string(),
    };
    let weights = model.bits_per_weight.map(|bits| format!(" ({bits:.2} bits per weight)")).unwrap_or_default();
    output::fields(&[
        ("path", Some(model.path.display().to_string())),
        ("name", model.name.clone()),
        ("format", Some(model.format.clone())),
        ("architecture", model.architecture.clone()),
        ("parameters", model.parameter_count.map(output::count)),
        ("size", Some(format!("{}{weights}", output::size(model.size_bytes)))),
        ("quantization", model.quantization.clone()),
        ("tensors", tensors(&model.tensor_types)),
        ("layers", number(model.layer_count)),
        ("hidden size", number(model.hidden_size)),
        ("attention heads", model.head_count.map(heads)),
        ("head size", number(model.head_size)),
        ("vocabulary", number(model.vocabulary_size)),
        ("trained context", model.context_length_trained.map(|tokens| format!("{tokens} tokens"))),
        ("tokenizer", model.tokenizer.clone()),
        ("chat template", Some(if model.chat_template { "yes" } else { "no" }.into())),
        ("licence", model.license.clone()),
        ("quality", model.validation.as_ref().map(quality)),
    ]);
    if !model.provenance.is_empty() {
        output::print("\nProvenance");
        let rows: Vec<Vec<String>> = model.provenance.iter().flat_map(|(key, value)| provenance(key, value)).collect();
        output::table(&rows);
    }
    if let Some(memory) = &report.memory {
        print_memory(memory);
    }
}

/// The rows for one key of a model's provenance; a value of several lines, which sums are, has a row for each.
fn provenance(key: &str, value: &str) -> Vec<Vec<String>> {
    let lines = |text: &str| text.lines().map(str::to_owned).collect();
    let (key, lines): (&str, Vec<String>) = match key {
        "record.created_unix_s" => match value.parse() {
            Ok(seconds) => ("record.created", vec![output::date(seconds) + " UTC"]),
            Err(_) => (key, lines(value)),
        },
        CHOICE => (key, serde_json::from_str(value).map_or_else(|_| lines(value), |found: Evidence| found.lines())),
        _ => (key, lines(value)),
    };
    let keys = std::iter::once(key).chain(std::iter::repeat(""));
    keys.zip(lines).map(|(key, line)| vec![key.to_owned(), line]).collect()
}

fn quality(summary: &Summary) -> String {
    format!(
        "{}: perplexity {:+.2} %, mean KL divergence {:.4}, the same likeliest token in {:.1} % of {} positions",
        if summary.passed { "passed" } else { "failed" },
        summary.perplexity_change * 100.0,
        summary.kld_mean,
        summary.top1 * 100.0,
        summary.tokens,
    )
}

fn tensors(types: &[TensorType]) -> Option<String> {
    let one =
        |tensors: &TensorType| format!("{} {} ({})", tensors.count, tensors.name, output::size(tensors.size_bytes));
    (!types.is_empty()).then(|| types.iter().map(one).collect::<Vec<_>>().join(", "))
}

fn print_memory(memory: &Forecast) {
    let on = memory.backend.as_ref().map(|name| format!(" on {name}")).unwrap_or_default();
    let there = match memory.available_bytes {
        0 => String::new(),
        available => format!(" ({}: {} available)", memory.device, output::size(available)),
    };
    output::print("");
    output::print(&output::one_line(&format!("Memory{on}{there}")));
    let unknown = || "unknown".to_owned();
    let size = |bytes: Option<u64>| bytes.map_or_else(unknown, output::size);
    let mut rows = vec![["CONTEXT", "WEIGHTS", "KV CACHE", "COMPUTE", "TOTAL", "FITS"].map(String::from).to_vec()];
    rows.extend(memory.contexts.iter().map(|need: &Need| {
        vec![
            need.context_length.to_string(),
            output::size(need.weights_bytes),
            size(need.kv_cache_bytes),
            size(need.compute_bytes),
            format!("{}{}", if need.estimated { "about " } else { "" }, output::size(need.total_bytes)),
            need.fits.map_or_else(unknown, |fits| if fits { "yes" } else { "no" }.into()),
        ]
    }));
    output::table(&rows);
    if !memory.note.is_empty() {
        output::print(&output::one_line(&memory.note));
    }
}
