//! Reads a model's name as llama.cpp's converter does: `Qwen2.5-7B-Instruct` has a base name, a size and a fine-tune.

use regex::Regex;
use std::collections::HashSet;
use std::sync::LazyLock;

/// The parts of a model's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct NameParts {
    pub(super) name: Option<String>,
    pub(super) organization: Option<String>,
    pub(super) basename: Option<String>,
    pub(super) finetune: Option<String>,
    pub(super) version: Option<String>,
    pub(super) size_label: Option<String>,
}

/// What a piece of a name, between two hyphens, can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Basename,
    SizeLabel,
    Finetune,
    Version,
    Type,
}

fn pattern(text: &str) -> Regex {
    Regex::new(&format!("^(?i:{text})$")).expect("a literal pattern is valid")
}

static VERSION: LazyLock<Regex> = LazyLock::new(|| pattern(r"(v|iter)?\d+([.]\d+)*"));
static TYPE: LazyLock<Regex> = LazyLock::new(|| pattern(r"i?q\d(_\w)*|b?fp?(16|32)"));
static SIZE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(([A]|\d+[x])?\d+([._]\d+)?[KMBT][\d]?|small|mini|medium|large|x?xl)"));
static FINETUNE: LazyLock<Regex> = LazyLock::new(|| pattern(r"chat|instruct|vision|lora"));
static KEPT_WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^(v\d+(?:\.\d+)*|\d.*)$").expect("a valid pattern"));

/// Splits a model's id (`org/name` or `name`); `parameters` tells a size from a context length.
pub(super) fn parse(id: &str, parameters: u64) -> NameParts {
    if id.contains(' ') {
        // A sentence, not an id.
        return NameParts { name: Some(id.to_owned()), ..NameParts::default() };
    }
    let (organization, full) = match id.split_once('/') {
        Some((organization, name)) => (Some(organization).filter(|name| !name.starts_with('.')), name),
        None => (None, id),
    };
    let mut pieces: Vec<(String, Vec<Role>)> = Vec::new();
    for (index, piece) in full.split('-').filter(|piece| !piece.is_empty()).enumerate() {
        pieces.push(annotate(piece, index, parameters));
    }
    drop_words_beside_numbers(&mut pieces);
    find_basename(&mut pieces);

    let joined = |role: Role, unless: Option<Role>| {
        let (mut names, mut sizes) = (Vec::new(), HashSet::new());
        for (name, roles) in &pieces {
            let wanted = roles.contains(&role) && !unless.is_some_and(|unless| roles.contains(&unless));
            if wanted && (role != Role::SizeLabel || sizes.insert(name)) {
                names.push(name.as_str());
            }
        }
        if names.is_empty() { None } else { Some(names.join("-")) }
    };
    let mut parts = NameParts {
        name: Some(full.to_owned()),
        organization: organization.map(str::to_owned),
        basename: joined(Role::Basename, None),
        finetune: joined(Role::Finetune, None),
        version: joined(Role::Version, Some(Role::Basename)),
        size_label: joined(Role::SizeLabel, None),
    };
    if parts.size_label.is_none() && parts.finetune.is_none() && parts.version.is_none() {
        // One word could be anything.
        parts.basename = None;
    }
    parts
}

fn annotate(piece: &str, index: usize, parameters: u64) -> (String, Vec<Role>) {
    if VERSION.is_match(piece) {
        return (piece.to_owned(), vec![Role::Version]);
    }
    if TYPE.is_match(piece) {
        return (piece.to_uppercase(), vec![Role::Type]);
    }
    if index > 0 && SIZE.is_match(piece) {
        return annotate_size(piece, parameters);
    }
    if index > 0 && FINETUNE.is_match(piece) {
        return (piece.to_owned(), vec![Role::Finetune]);
    }
    (piece.to_owned(), Vec::new())
}

/// The value of a decimal digit of any script: names are matched by Unicode's digits, as in Python.
fn digit(letter: char) -> Option<u32> {
    static DIGIT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\d$").expect("a literal pattern is valid"));
    let is_digit = |letter: char| DIGIT.is_match(letter.encode_utf8(&mut [0; 4]));
    if letter.is_ascii() || !is_digit(letter) {
        return letter.to_digit(10);
    }
    // Each script has its ten in a row, from zero on; some rows follow upon each other.
    let before = (1..).take_while(|back| char::from_u32(letter as u32 - back).is_some_and(is_digit)).count();
    Some(before as u32 % 10)
}

/// What Python calls a letter, which [`char::is_alphabetic`] is wider than.
fn is_letter(letter: char) -> bool {
    static LETTER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\p{L}$").expect("a literal pattern is valid"));
    if letter.is_ascii() { letter.is_ascii_alphabetic() } else { LETTER.is_match(letter.encode_utf8(&mut [0; 4])) }
}

/// Normalises a size, and recognises those that can only be a context length.
fn annotate_size(piece: &str, parameters: u64) -> (String, Vec<Role>) {
    let mut letters: Vec<char> = piece.replace('_', ".").chars().collect();
    let count = letters.len();
    // `7b1` means 7.1B.
    if count > 2 && digit(letters[count - 1]).is_some() {
        let (unit, digit) = (letters[count - 2], letters[count - 1]);
        letters.splice(count - 2.., ['.', digit, unit]);
    }
    let count = letters.len();
    let unit = letters[count - 1];
    if count > 1 && digit(letters[count - 2]).is_some() && "kmbt".contains(unit) {
        letters[count - 1] = unit.to_ascii_uppercase();
    }
    // The sign for Kelvin is a K too where case does not count, and no unit below: Python takes it for thousandths.
    let exponent = "KMBT".find(letters[count - 1]).map_or(-1, |position| position as i32 + 1);
    let ascii = |letter: &char| digit(*letter).and_then(|value| char::from_digit(value, 10)).unwrap_or(*letter);
    let number: Option<f64> = letters[..count - 1].iter().map(ascii).collect::<String>().parse().ok();
    if let (Some(number), true) = (number, parameters != 0) {
        let stated = number * 1000_f64.powi(exponent);
        if (stated - parameters as f64).abs() > (7 * parameters / 8) as f64 {
            let unit = letters[count - 1].to_lowercase();
            letters.truncate(count - 1);
            letters.extend(unit);
            return (letters.into_iter().collect(), vec![Role::Finetune]);
        }
    }
    (letters.into_iter().collect(), vec![Role::SizeLabel])
}

/// `mini` is no size beside `7B`.
fn drop_words_beside_numbers(pieces: &mut [(String, Vec<Role>)]) {
    let is_size = |roles: &[Role]| roles.contains(&Role::SizeLabel);
    if pieces.iter().any(|(name, roles)| is_size(roles) && name.contains(|letter| digit(letter).is_some())) {
        for (name, roles) in pieces.iter_mut() {
            if name.chars().all(is_letter) {
                roles.retain(|role| *role != Role::SizeLabel);
            }
        }
    }
}

/// The base name is the words at the start, with the versions between them; what is left over is the fine-tune.
fn find_basename(pieces: &mut [(String, Vec<Role>)]) {
    let mut at_start = true;
    for (name, roles) in pieces.iter_mut() {
        let word = roles.is_empty() && name.starts_with(is_letter);
        if at_start && (word || roles.contains(&Role::Version)) {
            roles.push(Role::Basename);
        } else {
            at_start = false;
            if roles.is_empty() {
                roles.push(Role::Finetune);
            }
        }
    }
    // A version at the end is not part of it.
    for (_, roles) in pieces.iter_mut().rev() {
        if !(roles.contains(&Role::Basename) && roles.len() > 1) {
            break;
        }
        roles.retain(|role| *role != Role::Basename);
    }
}

/// `rand-llama-3M` as a title: `Rand Llama 3M`. Words that have capitals, versions and numbers stay as they are.
pub(super) fn title(name: &str) -> String {
    let word = |word: &str| {
        let lower = word.chars().any(char::is_lowercase) && !word.chars().any(char::is_uppercase);
        if !lower || KEPT_WORD.is_match(word) {
            return word.to_owned();
        }
        let mut inside = false;
        word.chars()
            .map(|letter| {
                // Letters of scripts without capitals end a word.
                let cased = letter.is_lowercase() || letter.is_uppercase();
                let first = cased && !inside;
                inside = cased;
                if first { capital(letter) } else { letter.to_string() }
            })
            .collect()
    };
    // Python takes separators of records for spaces as well.
    let is_space = |letter: char| letter.is_whitespace() || matches!(letter, '\x1c'..='\x1f');
    let words = name.split(|letter| letter == '-' || is_space(letter)).filter(|piece| !piece.is_empty());
    words.map(word).collect::<Vec<_>>().join(" ")
}

/// A letter at the start of a word, where `ß` becomes `Ss`.
fn capital(letter: char) -> String {
    let mut upper = letter.to_uppercase();
    upper.next().into_iter().chain(upper.flat_map(char::to_lowercase)).collect()
}

/// A count of parameters in two digits or more: `3.5M`, `7.6B`, `494M`.
pub(super) fn size_label(parameters: u64) -> String {
    let parameters = parameters as f64;
    let (scaled, unit) = [(1e12, 1e-12, "T"), (1e9, 1e-9, "B"), (1e6, 1e-6, "M")]
        .into_iter()
        .find(|(limit, _, _)| parameters > *limit)
        .map_or((parameters * 1e-3, "K"), |(_, factor, unit)| (parameters * factor, unit));
    let whole = scaled.round_ties_even();
    let digits = if whole < 1.0 { 0 } else { format!("{whole:.0}").len() };
    format!("{scaled:.*}{unit}", 2_usize.saturating_sub(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fall_into_parts() {
        let some = |text: &str| Some(text.to_owned());
        let parts = parse("Qwen/Qwen2.5-7B-Instruct", 7_600_000_000);
        assert_eq!(parts.organization, some("Qwen"));
        assert_eq!(parts.basename, some("Qwen2.5"));
        assert_eq!(parts.size_label, some("7B"));
        assert_eq!(parts.finetune, some("Instruct"));
        let parts = parse("rand-mistral-v0.3", 9_300_000);
        assert_eq!((parts.basename, parts.version), (some("rand-mistral"), some("v0.3")));
        assert_eq!(parse("pajama-tiny", 3_500_000).basename, None);
        assert_eq!(parse("model-7B-128k", 7_000_000_000).finetune, some("128k"));
    }

    #[test]
    fn sizes_in_digits_of_other_scripts_are_read_as_python_does() {
        let size = |id: &str, parameters| {
            let parts = parse(id, parameters);
            (parts.size_label.unwrap_or_default(), parts.finetune.unwrap_or_default())
        };
        let is = |size: &str, finetune: &str| (size.to_owned(), finetune.to_owned());
        for (id, parameters, expected) in [
            ("model-7B\u{663}", 0, is("7.\u{663}B", "")),
            ("model-7B\u{663}", 7_300_000_000, is("7.\u{663}B", "")),
            ("model-7B\u{663}", 7_000_000, is("", "7.\u{663}b")),
            ("model-7\u{212a}", 0, is("7\u{212a}", "")),
            ("model-7\u{212a}", 7000, is("", "7k")),
            ("model-\u{1d7df}b", 7_000_000_000, is("\u{1d7df}B", "")),
            ("model-\u{1d7df}b", 1_000_000, is("", "\u{1d7df}b")),
        ] {
            assert_eq!(size(id, parameters), expected, "{id} {parameters}");
        }
    }

    #[test]
    fn titles_and_sizes() {
        assert_eq!(title("pajama-tiny"), "Pajama Tiny");
        assert_eq!(title("rand-mistral-v0.3"), "Rand Mistral v0.3");
        assert_eq!(title("Qwen2.5-7B-Instruct"), "Qwen2.5 7B Instruct");
        assert_eq!(title("ßx-x日本y-it's"), "Ssx X日本Y It'S");
        assert_eq!(size_label(3_475_712), "3.5M");
        assert_eq!(size_label(7_615_616_512), "7.6B");
        assert_eq!(size_label(494_032_768), "494M");
    }
}
