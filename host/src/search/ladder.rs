//! What can be made of a source, by size: the methods that are worth trying, and steps between two of them.

use crate::error::{Error, Result};
use crate::models::source::Source;
use crate::pipeline::{self, QuantizeOptions};
use crate::search::Trial;
use crate::validate::Host;
use pajamas_plugin_api::{CancelToken, ErrorKind, TensorReport};
use std::collections::BTreeMap;

/// Methods for any model. The others of llama.cpp's are for models that were trained for them, or worse than one of these
/// that is as small.
const METHODS: [&str; 11] =
    ["Q2_K", "Q3_K_S", "Q3_K_M", "IQ4_XS", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0", "BF16"];
/// Those that need an importance matrix, and are worth trying with one.
const WITH_IMPORTANCE: [&str; 8] = ["IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "IQ3_M"];
/// The one that quantizes nothing.
const UNQUANTIZED: &str = "BF16";
/// The option that gives single tensors another type.
const TENSOR_TYPES: &str = "tensor_types";
/// Options that give weights their importance: an importance matrix, or a text to make one of. Those of the latter begin with
/// its name.
pub const IMATRIX: &str = "imatrix";
pub const CALIBRATION: &str = "calibration";

/// One that can be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Rung {
    /// The method.
    pub method: String,
    /// What the option `tensor_types` says; empty for nothing.
    pub tensor_types: String,
    /// Bytes that the artifact will have.
    pub size_bytes: u64,
    tensors: Vec<TensorReport>,
}

impl Rung {
    /// How to make it, beside what `options` say already.
    pub fn options(&self, options: &QuantizeOptions) -> QuantizeOptions {
        let mut options = QuantizeOptions { method: Some(self.method.clone()), ..options.clone() };
        if self.method.eq_ignore_ascii_case(UNQUANTIZED) {
            options.options.retain(|option, _| !is_of_importance(option));
        }
        if !self.tensor_types.is_empty() {
            options.options.insert(TENSOR_TYPES.into(), self.tensor_types.clone());
        }
        options
    }

    /// For people.
    pub fn name(&self) -> String {
        name(&self.method, &self.tensor_types)
    }

    /// Whether `trial` was this one.
    pub fn is(&self, trial: &Trial) -> bool {
        (&self.method, &self.tensor_types) == (&trial.method, &trial.tensor_types)
    }
}

/// Whether `options` make weights differ in importance.
pub fn has_importance(options: &QuantizeOptions) -> bool {
    options.options.keys().any(|option| is_of_importance(option))
}

/// Whether `option` says how important the weights are, which means nothing where none is quantized.
fn is_of_importance(option: &str) -> bool {
    option == IMATRIX || option.starts_with(CALIBRATION)
}

/// A method, with types of tensors that differ from its own, for people.
pub fn name(method: &str, tensor_types: &str) -> String {
    if tensor_types.is_empty() {
        return method.to_owned();
    }
    // Patterns as they are made here, without what makes them patterns.
    let types = tensor_types.replace("\\.", "").replace('^', "").replace('=', " ").replace(';', ", ");
    format!("{method} with {types}")
}

/// The methods worth trying, by the size of what they make of `source`, rising.
///
/// # Errors
/// `Refused` where the quantizer forecasts no sizes; those of a dry run.
pub fn methods(source: &Source, options: &QuantizeOptions, host: &Host<'_>, cancel: &CancelToken) -> Result<Vec<Rung>> {
    if !pipeline::can_dry_run(source, options, host.candidates, host.config)? {
        return Err(Error::Refused {
            message: "the quantizer of this format does not say how large a model will be, so none can be searched for"
                .into(),
            hint: "name a method with `-m`, or search among GGUF's: `--format gguf`".into(),
        });
    }
    let (format, _) = pipeline::method(source, options, host.candidates, host.config)?;
    let with_importance = has_importance(options);
    let worth = |name: &str| {
        let listed = |names: &[&str]| names.iter().any(|listed| listed.eq_ignore_ascii_case(name));
        format != "gguf" || listed(&METHODS) || (with_importance && listed(&WITH_IMPORTANCE))
    };
    let (mut rungs, mut refusal) = (Vec::new(), None);
    for name in pipeline::methods_of(source, &format, host.candidates).into_iter().filter(|name| worth(name)) {
        cancel.check()?;
        let rung = Rung { method: name, tensor_types: String::new(), size_bytes: 0, tensors: Vec::new() };
        match weighed(&rung, source, options, host, cancel) {
            // Not of this model, or not with these options: BF16 has no types of tensors that could be changed.
            Err(Error::Plugin(error)) if error.kind == ErrorKind::Unsupported => {
                refusal.get_or_insert(error);
            }
            weighed => rungs.push(weighed?),
        }
    }
    if let (true, Some(refusal)) = (rungs.is_empty(), refusal) {
        return Err(Error::Plugin(refusal));
    }
    rungs.sort_by_key(|rung| rung.size_bytes);
    // Of a source in BF16, what is as large as it is no step.
    rungs.dedup_by_key(|rung| rung.size_bytes);
    Ok(rungs)
}

/// Steps from `low` to `high`: `low` with the tensors of one kind after the other (all layers' `ffn_down`, …) as they are in
/// `high`, those that cost the fewest bytes first. Rising, without `low` and `high` themselves.
///
/// # Errors
/// Those of a dry run.
pub fn between(
    low: &Rung,
    high: &Rung,
    source: &Source,
    options: &QuantizeOptions,
    host: &Host<'_>,
    cancel: &CancelToken,
) -> Result<Vec<Rung>> {
    // What a user fixed is not changed.
    if options.options.contains_key(TENSOR_TYPES) || low.tensors.is_empty() {
        return Ok(Vec::new());
    }
    let mut rungs = Vec::new();
    let (mut types, mut before) = (String::new(), low.size_bytes);
    for (kind, output_type) in upgrades(&low.tensors, &high.tensors) {
        cancel.check()?;
        let comma = if types.is_empty() { "" } else { ";" };
        let tensor_types = format!("{types}{comma}{kind}={output_type}");
        let rung = Rung { method: low.method.clone(), tensor_types, size_bytes: 0, tensors: Vec::new() };
        let rung = weighed(&rung, source, options, host, cancel)?;
        // One that goes too far, because its type is not that of all its tensors in `high`, is left out of those to come.
        if (before + 1..high.size_bytes).contains(&rung.size_bytes) {
            (types, before) = (rung.tensor_types.clone(), rung.size_bytes);
            rungs.push(rung);
        }
    }
    Ok(rungs)
}

/// The kinds of tensors that are larger in `high`, with the type that most of them have there, the cheapest first. As a
/// pattern, a kind is its name between dots.
fn upgrades(low: &[TensorReport], high: &[TensorReport]) -> Vec<(String, String)> {
    let before: BTreeMap<&str, u64> = low.iter().map(|tensor| (tensor.name.as_str(), tensor.output_bytes)).collect();
    let mut kinds: BTreeMap<String, (u64, BTreeMap<&str, usize>)> = BTreeMap::new();
    for tensor in high {
        let more = tensor.output_bytes.saturating_sub(before.get(tensor.name.as_str()).copied().unwrap_or(u64::MAX));
        if more > 0 {
            let kind = kinds.entry(kind(&tensor.name)).or_default();
            kind.0 += more;
            *kind.1.entry(&tensor.output_type).or_default() += 1;
        }
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, (bytes, _))| *bytes);
    let raised = kinds.into_iter().filter_map(|(kind, (_, types))| {
        let (commonest, _) = types.into_iter().max_by_key(|(_, count)| *count)?;
        Some((kind, commonest.to_owned()))
    });
    raised.collect()
}

/// `blk.3.ffn_down.weight` as `\.ffn_down\.` and `output.weight` as `^output\.`, because others have these in their names.
fn kind(name: &str) -> String {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    match name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((_, kind)) => format!(r"\.{kind}\."),
        None => format!(r"^{name}\."),
    }
}

/// `rung` with its size, by a dry run.
fn weighed(
    rung: &Rung,
    source: &Source,
    options: &QuantizeOptions,
    host: &Host<'_>,
    cancel: &CancelToken,
) -> Result<Rung> {
    let forecast = pipeline::dry_run(source, &rung.options(options), host.candidates, host.config, cancel)?.report;
    Ok(Rung { size_bytes: forecast.output_bytes, tensors: forecast.tensors, ..rung.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, output_type: &str, output_bytes: u64) -> TensorReport {
        let mut tensor = TensorReport::default();
        (tensor.name, tensor.output_type, tensor.output_bytes) = (name.into(), output_type.into(), output_bytes);
        tensor
    }

    #[test]
    fn kinds_of_tensors_are_raised_the_cheapest_first() {
        let low = [
            tensor("blk.0.ffn_down.weight", "Q4_K", 100),
            tensor("blk.1.ffn_down.weight", "Q4_K", 100),
            tensor("blk.0.attn_v.weight", "Q4_K", 10),
            tensor("output.weight", "Q6_K", 50),
            tensor("output_norm.weight", "F32", 4),
        ];
        let high = [
            tensor("blk.0.ffn_down.weight", "Q6_K", 150),
            tensor("blk.1.ffn_down.weight", "Q6_K", 150),
            tensor("blk.0.attn_v.weight", "Q5_K", 12),
            tensor("output.weight", "Q8_0", 60),
            tensor("output_norm.weight", "F32", 4),
        ];
        let raised = upgrades(&low, &high);
        let expected = [(r"\.attn_v\.", "Q5_K"), (r"^output\.", "Q8_0"), (r"\.ffn_down\.", "Q6_K")];
        assert_eq!(raised, expected.map(|(kind, raised)| (kind.to_owned(), raised.to_owned())));
    }
}
