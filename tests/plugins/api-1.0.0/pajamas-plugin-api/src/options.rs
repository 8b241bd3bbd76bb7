//! Checks options against what a backend or a recipe says it takes, before any model is touched.

use crate::{Error, OptionKind, OptionSpec, OptionValue, Options, Result};

/// Reads `value` as a user wrote it on a command line, as the type of the option `name`.
///
/// # Errors
/// `InvalidRequest` for an unknown name (with the nearest known one), a wrong type, or a value out of range.
pub fn parse(specs: &[OptionSpec], name: &str, value: &str) -> Result<OptionValue> {
    let spec = find(specs, name)?;
    let parsed = match &spec.kind {
        OptionKind::Bool => match value {
            "true" | "on" | "yes" | "1" => Some(OptionValue::Bool(true)),
            "false" | "off" | "no" | "0" => Some(OptionValue::Bool(false)),
            _ => None,
        },
        OptionKind::Int { .. } => value.parse().ok().map(OptionValue::Int),
        OptionKind::Float { .. } => value.parse().ok().map(OptionValue::Float),
        OptionKind::Text | OptionKind::Choice { .. } => Some(OptionValue::Text(value.into())),
        OptionKind::Unknown => None,
    };
    let parsed = parsed.ok_or_else(|| mismatch(spec, value))?;
    check_value(spec, &parsed)?;
    Ok(parsed)
}

/// Checks every option.
///
/// # Errors
/// As [`parse`].
pub fn check(specs: &[OptionSpec], options: &Options) -> Result<()> {
    options.iter().try_for_each(|(name, value)| check_value(find(specs, name)?, value))
}

fn find<'a>(specs: &'a [OptionSpec], name: &str) -> Result<&'a OptionSpec> {
    specs.iter().find(|spec| spec.name == name).ok_or_else(|| {
        let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        let hint = match nearest(name, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if names.is_empty() => "there are no options".to_owned(),
            None => format!("the options are: {}", names.join(", ")),
        };
        Error::invalid_request(format!("unknown option `{name}`")).with_hint(hint)
    })
}

fn check_value(spec: &OptionSpec, value: &OptionValue) -> Result<()> {
    let fits = match (&spec.kind, value) {
        (OptionKind::Bool, OptionValue::Bool(_)) | (OptionKind::Text, OptionValue::Text(_)) => true,
        (OptionKind::Int { min, max }, OptionValue::Int(value)) => (min..=max).contains(&value),
        (OptionKind::Float { min, max }, OptionValue::Float(value)) => (*min..=*max).contains(value),
        (OptionKind::Choice { words }, OptionValue::Text(value)) => words.contains(value),
        _ => false,
    };
    if fits { Ok(()) } else { Err(mismatch(spec, &value.to_string())) }
}

fn mismatch(spec: &OptionSpec, value: &str) -> Error {
    let expected = match &spec.kind {
        OptionKind::Bool => "true or false".to_owned(),
        OptionKind::Int { min, max } => format!("a whole number from {min} to {max}"),
        OptionKind::Float { min, max } => format!("a number from {min} to {max}"),
        OptionKind::Text => "text".to_owned(),
        OptionKind::Unknown => "a type that this version of pajamas does not know".to_owned(),
        OptionKind::Choice { words } => format!("one of {}", words.join(", ")),
    };
    Error::invalid_request(format!("option `{}` is `{value}`, expected {expected}", spec.name))
}

/// The name among `names` that `wrong` was most likely meant to be.
pub fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    names
        .map(|name| (strsim::jaro_winkler(&wrong, &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs() -> Vec<OptionSpec> {
        vec![
            OptionSpec::new("n_gpu_layers", OptionKind::Int { min: 0, max: 999 }, "999", ""),
            OptionSpec::new("mmap", OptionKind::Bool, "true", ""),
            OptionSpec::new("cache", OptionKind::choice(&["f16", "q8_0"]), "f16", ""),
        ]
    }

    #[test]
    fn values_are_read_by_the_options_type() {
        assert_eq!(parse(&specs(), "n_gpu_layers", "12").unwrap(), OptionValue::Int(12));
        assert_eq!(parse(&specs(), "mmap", "off").unwrap(), OptionValue::Bool(false));
        assert_eq!(parse(&specs(), "cache", "q8_0").unwrap(), OptionValue::Text("q8_0".into()));
    }

    #[test]
    fn wrong_names_types_and_ranges_say_what_was_expected() {
        let error = |name, value| {
            let e = parse(&specs(), name, value).unwrap_err();
            format!("{} / {}", e.message, e.hint.unwrap_or_default())
        };
        assert_eq!(error("n_gpu_layer", "1"), "unknown option `n_gpu_layer` / did you mean `n_gpu_layers`?");
        assert_eq!(error("mmap", "maybe"), "option `mmap` is `maybe`, expected true or false / ");
        assert!(error("n_gpu_layers", "-1").contains("from 0 to 999"));
        assert!(error("cache", "f15").contains("one of f16, q8_0"));
        assert!(error("zzz", "1").contains("the options are: n_gpu_layers"));
    }
}
