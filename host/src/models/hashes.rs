//! SHA-256 sums of a model's files, written as `sha256sum` writes them: its own, but for a GGUF file that pajamas made.

use super::provenance;
use super::source::Source;
use crate::error::{Error, Result};
use pajamas_plugin_api::CancelToken;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Bytes read at a time.
const BUFFER_BYTES: usize = 1 << 20;
/// Characters of a sum.
pub const SUM_CHARS: usize = 64;
/// Endings of the files in a folder that make the model.
const ENDINGS: [&str; 4] = ["safetensors", "json", "model", "jinja"];

/// The other half of some tokenizers.
const MERGES: &str = "merges.txt";

/// The sums of some files, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums(Vec<(String, String)>);

impl Sums {
    /// Sums that are not known yet; as text they are as long as the real ones.
    pub fn unknown(files: &[PathBuf]) -> Self {
        Self(files.iter().map(|file| (file_name(file), "0".repeat(SUM_CHARS))).collect())
    }

    /// The sums of `files`; `progress` gets the bytes that were read. A file in Hugging Face's cache that is named for its
    /// sum is taken at its word where it is `trusted`. In a GGUF file that pajamas made, the result of validating it counts as
    /// zeroes: it is not what another model is made of.
    ///
    /// # Errors
    /// `Interrupted`; when a file cannot be read.
    pub fn of(files: &[PathBuf], trusted: bool, progress: &mut dyn FnMut(u64), cancel: &CancelToken) -> Result<Self> {
        let sums = files.iter().map(|file| {
            let sum = match named_for_its_sum(file).filter(|_| trusted) {
                Some(sum) => sum,
                None => {
                    // What Hugging Face's cache names for its sum is summed up whole, and never written to.
                    let is_named = named_for_its_sum(file).is_some();
                    let blanks = if is_named { Vec::new() } else { provenance::validation_room(file) };
                    sum_without(file, &blanks, progress, cancel)?
                }
            };
            Ok((file_name(file), sum))
        });
        sums.collect::<Result<_>>().map(Self)
    }

    /// Every file name with its sum.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, sum)| (name.as_str(), sum.as_str()))
    }

    /// A line for each file.
    pub fn text(&self) -> String {
        self.iter().map(|(name, sum)| format!("{sum}  {name}")).collect::<Vec<_>>().join("\n")
    }

    /// Reads what [`Sums::text`] wrote; none for anything else, and for sums that were never filled in.
    pub fn parse(text: &str) -> Option<Self> {
        let line = |line: &str| {
            let (sum, name) = line.split_once("  ")?;
            let known = is_sum(sum) && sum.bytes().any(|digit| digit != b'0');
            (known && !name.is_empty() && !name.contains(['/', '\\'])).then(|| (name.to_owned(), sum.to_owned()))
        };
        let sums: Option<Vec<_>> = text.lines().map(line).collect();
        sums.filter(|sums| !sums.is_empty()).map(Self)
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_sum(text: &str) -> bool {
    text.len() == SUM_CHARS && text.bytes().all(|digit| digit.is_ascii_hexdigit() && !digit.is_ascii_uppercase())
}

/// The files that make the model `source`, by name.
///
/// # Errors
/// When the folder cannot be read.
pub fn files_of(source: &Source) -> Result<Vec<PathBuf>> {
    if !source.path.is_dir() {
        return Ok(vec![source.path.clone()]);
    }
    let listing = std::fs::read_dir(&source.path).map_err(Error::io("reading", &source.path))?;
    let mut files: Vec<PathBuf> = listing.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| {
        let hidden = file_name(file).starts_with('.');
        let wanted = file.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known))
            || file_name(file) == MERGES;
        wanted && !hidden && file.is_file() && file_name(file) != provenance::FILE
    });
    files.sort();
    Ok(files)
}

/// The sum that a file in Hugging Face's cache has for a name: a link to `blobs/<SHA-256>`, as for all large files.
fn named_for_its_sum(path: &Path) -> Option<String> {
    let target = std::fs::read_link(path).ok()?;
    let in_blobs = target.parent().and_then(Path::file_name).is_some_and(|folder| folder == "blobs");
    Some(file_name(&target)).filter(|name| in_blobs && is_sum(name))
}

/// The sum of what `path` holds, with zeroes in the ranges `blanks`.
///
/// # Errors
/// `Interrupted`; when it cannot be read.
pub fn sum_without(
    path: &Path,
    blanks: &[Range<u64>],
    progress: &mut dyn FnMut(u64),
    cancel: &CancelToken,
) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("opening", path))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut position = 0_u64;
    loop {
        if cancel.is_cancelled() {
            return Err(Error::Interrupted);
        }
        let count = file.read(&mut buffer).map_err(Error::io("reading", path))?;
        if count == 0 {
            break;
        }
        for blank in blanks {
            let inside = |at: u64| (at.saturating_sub(position) as usize).min(count);
            buffer[inside(blank.start)..inside(blank.end)].fill(0);
        }
        digest.update(&buffer[..count]);
        position += count as u64;
        progress(count as u64);
    }
    Ok(digest.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_sha256sum_and_survive_as_text() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("b.json", "{}"), ("a.safetensors", "abc"), ("readme.md", "x"), (".c.json", "{}")] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let source = Source { path: dir.path().to_owned(), format: "huggingface".into(), name: "m".into(), hub: None };
        let files = files_of(&source).unwrap();
        let mut read = 0;
        let sums = Sums::of(&files, true, &mut |bytes| read += bytes, &CancelToken::never()).unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a.safetensors\n\
                        44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a  b.json";
        assert_eq!((sums.text().as_str(), read), (expected, 5));
        assert_eq!(Sums::parse(expected), Some(sums));
        let unknown = Sums::unknown(&files).text();
        assert_eq!((unknown.len(), Sums::parse(&unknown)), (expected.len(), None));
        for other in ["", "abc  x", &expected.replace("b.json", "../b.json"), &expected.to_uppercase()] {
            assert_eq!(Sums::parse(other), None, "{other}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_into_the_hubs_cache_names_its_sum() {
        let dir = tempfile::tempdir().unwrap();
        let sum = "ab".repeat(32);
        std::fs::create_dir_all(dir.path().join("blobs")).unwrap();
        std::fs::write(dir.path().join("blobs").join(&sum), "weights").unwrap();
        let link = dir.path().join("model.safetensors");
        std::os::unix::fs::symlink(format!("blobs/{sum}"), &link).unwrap();
        let sums =
            |trusted| Sums::of(std::slice::from_ref(&link), trusted, &mut |_| (), &CancelToken::never()).unwrap();
        assert_eq!(sums(true).iter().collect::<Vec<_>>(), [("model.safetensors", sum.as_str())]);
        assert_ne!(sums(false), sums(true));
    }
}
