//! A new plugin's folder: the template under a name of its own, beside it the plugin API that it is built with.

use crate::error::{Error, Result};
use include_dir::{Dir, include_dir};
use std::path::{Path, PathBuf};

/// The files of `plugin-template/` beside its folders.
const TEMPLATE: [(&str, &str); 5] = [
    (".gitignore", include_str!("../../../plugin-template/.gitignore")),
    ("Cargo.lock", include_str!("../../../plugin-template/Cargo.lock")),
    ("Cargo.toml", include_str!("../../../plugin-template/Cargo.toml")),
    ("README.md", include_str!("../../../plugin-template/README.md")),
    ("rustfmt.toml", include_str!("../../../plugin-template/rustfmt.toml")),
];
/// The folders of `plugin-template/`: not the whole of it, because cargo builds into a folder there too.
const TEMPLATE_FOLDERS: [(&str, Dir<'_>); 2] = [
    ("src", include_dir!("$CARGO_MANIFEST_DIR/../plugin-template/src")),
    ("tests", include_dir!("$CARGO_MANIFEST_DIR/../plugin-template/tests")),
];
/// The files of `plugin-api/` beside its sources, and its licences.
const API: [(&str, &str); 4] = [
    ("Cargo.toml", include_str!("../../../plugin-api/Cargo.toml")),
    ("LICENSE-APACHE", include_str!("../../../LICENSE-APACHE")),
    ("LICENSE-MIT", include_str!("../../../LICENSE-MIT")),
    ("build.rs", include_str!("../../../plugin-api/build.rs")),
];
const API_SOURCES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../plugin-api/src");

/// The folder that the plugin API is written to, inside the new plugin's.
const API_FOLDER: &str = "pajamas-plugin-api";
/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// What cannot be a crate, or is a format that pajamas or the template knows already.
const RESERVED: &str = "gguf gguf-cpu gguf-cuda gguf-metal gguf-rocm gguf-vulkan huggingface mlx mlx-cuda mlx-quantize \
                        txt pajamas pajamas-plugin-api alloc core proc-macro std test \
                        abstract as async await become box break const continue crate do dyn else enum extern false \
                        final fn for gen if impl in let loop macro match mod move mut override priv pub ref return \
                        self static struct super trait true try type typeof unsafe unsized use virtual where while \
                        yield";

/// A plugin's name: lower-case letters, digits and single hyphens, a letter first. One that exists can be a crate, a
/// backend, a format and a file extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// Takes `text` as a name.
    ///
    /// # Errors
    /// When it is none, with the nearest that would be one.
    pub fn parse(text: &str) -> Result<Self> {
        let message = if RESERVED.split_whitespace().any(|word| word == text) {
            format!("`{text}` cannot be a plugin's name: it means something else already")
        } else if plain(text).as_deref() == Some(text) {
            return Ok(Self(text.into()));
        } else {
            format!(
                "`{text}` cannot be a plugin's name: it takes lower-case letters, digits and hyphens, a letter first"
            )
        };
        let near = match plain(text) {
            Some(near) if RESERVED.split_whitespace().any(|word| word == near) => format!("{near}-backend"),
            near => near.unwrap_or_else(|| "acme-npu".into()),
        };
        Err(Error::Usage { message, hint: format!("for example `pajamas plugins new {near}`") })
    }

    /// As the crate, the backend, the format and the extension have it: `acme-npu`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As Rust's modules and libraries have it: `acme_npu`.
    pub fn snake(&self) -> String {
        self.0.replace('-', "_")
    }

    /// As Rust's types have it: `AcmeNpu`.
    pub fn pascal(&self) -> String {
        let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
        self.0.split('-').map(capital).collect()
    }

    /// The file name of the library that cargo builds on this system: `libacme_npu.so`.
    pub fn library(&self) -> String {
        format!("{}{}{}", std::env::consts::DLL_PREFIX, self.snake(), std::env::consts::DLL_SUFFIX)
    }
}

/// `text` with everything but a name's characters taken out; none if nothing is left.
fn plain(text: &str) -> Option<String> {
    let text = text.to_lowercase();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let joined = words.collect::<Vec<_>>().join("-");
    let name = joined.trim_start_matches(|c: char| !c.is_ascii_lowercase());
    let name = name[..name.len().min(NAME_BYTES_MAX)].trim_end_matches('-');
    (!name.is_empty()).then(|| name.to_owned())
}

/// Writes the plugin `name` into `folder`, which must be new or empty, in a folder that exists, and gives its full path.
///
/// # Errors
/// When there is something already, or writing fails. Then nothing is left behind.
pub fn create(name: &Name, folder: &Path) -> Result<PathBuf> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    let (is_new, is_taken) = match std::fs::read_dir(folder) {
        Ok(mut entries) => (false, entries.next().is_some()),
        Err(error) if error.kind() == NotFound => (true, false),
        Err(error) if error.kind() == NotADirectory => (false, true),
        Err(error) => return Err(Error::io("opening", folder)(error)),
    };
    if is_taken {
        let hint = "`--path` names another folder to write to, new or empty".into();
        return Err(Error::Invalid { path: folder.into(), message: "there is something here already".into(), hint });
    }
    if is_new {
        std::fs::create_dir(folder).map_err(Error::io("creating", folder))?;
    }
    let written = folder.canonicalize().map_err(Error::io("opening", folder)).and_then(|folder| {
        for (path, text) in files(name) {
            let path = folder.join(path);
            let parent = path.parent().unwrap_or(&folder);
            std::fs::create_dir_all(parent).map_err(Error::io("creating", parent))?;
            std::fs::write(&path, text).map_err(Error::io("writing", &path))?;
        }
        Ok(folder)
    });
    if written.is_err() {
        // Before it was new or empty, so what has these names is ours. What cannot be removed stays.
        for (path, _) in files(name) {
            let top = folder.join(path.components().next().map_or(Path::new(""), |part| Path::new(part.as_os_str())));
            let _ = std::fs::remove_dir_all(&top).or_else(|_| std::fs::remove_file(&top));
        }
        if is_new {
            let _ = std::fs::remove_dir(folder);
        }
    }
    written
}

/// Every file of the plugin `name`: where it goes, and its text.
fn files(name: &Name) -> Vec<(PathBuf, String)> {
    let own = TEMPLATE.map(|(path, text)| (PathBuf::from(path), text));
    let own = own.into_iter().chain(TEMPLATE_FOLDERS.iter().flat_map(|(path, dir)| texts(Path::new(path), dir)));
    let api = API.map(|(path, text)| (PathBuf::from(path), text));
    let api = api.into_iter().chain(texts(Path::new("src"), &API_SOURCES));
    own.map(|(path, text)| (path, renamed(text, name)))
        .chain(api.map(|(path, text)| (Path::new(API_FOLDER).join(path), text.to_owned())))
        .collect()
}

/// The files of an embedded folder, below `path`.
fn texts<'a>(path: &Path, dir: &Dir<'a>) -> Vec<(PathBuf, &'a str)> {
    let files = dir.files().map(|file| (path.join(file.path()), file.contents_utf8().unwrap_or_default()));
    files.chain(dir.dirs().flat_map(|dir| texts(path, dir))).collect()
}

/// The template's text with the name in place of the template's own, in each of its spellings.
fn renamed(text: &str, name: &Name) -> String {
    text.replace("path = \"../plugin-api\"", &format!("path = \"{API_FOLDER}\""))
        .replace("Ngram", &name.pascal())
        .replace("ngram::", &format!("{}::", name.snake()))
        .replace("libngram", &format!("lib{}", name.snake()))
        .replace("ngram.dll", &format!("{}.dll", name.snake()))
        .replace("ngram", name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn names_are_lower_case_with_single_hyphens_and_the_nearest_one_is_suggested() {
        for text in ["acme", "acme-npu", "a", "npu2", "x-1"] {
            assert_eq!(Name::parse(text).unwrap().as_str(), text);
        }
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        for (text, near) in [
            ("Acme NPU", "acme-npu"),
            ("acme_npu", "acme-npu"),
            ("-acme--npu-", "acme-npu"),
            ("3d", "d"),
            ("../evil", "evil"),
            ("gguf", "gguf-backend"),
            ("Type", "type-backend"),
            ("睡衣", "acme-npu"),
            ("", "acme-npu"),
            (&long, &long[1..]),
        ] {
            let error = Name::parse(text).unwrap_err();
            assert_eq!(error.hint().unwrap(), format!("for example `pajamas plugins new {near}`"), "{text}");
            Name::parse(near).unwrap();
        }
    }

    #[test]
    fn every_spelling_of_the_name_is_replaced() {
        let name = Name::parse("acme-npu2").unwrap();
        assert_eq!((name.snake().as_str(), name.pascal().as_str()), ("acme_npu2", "AcmeNpu2"));
        let text = "ngram Ngram NgramModel ngram::Ngram libngram.so ngram.dll x.ngram n-gram";
        let expected =
            "acme-npu2 AcmeNpu2 AcmeNpu2Model acme_npu2::AcmeNpu2 libacme_npu2.so acme_npu2.dll x.acme-npu2 n-gram";
        assert_eq!(renamed(text, &name), expected);
    }

    #[test]
    fn nothing_is_left_of_a_failure_and_nothing_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let (name, folder) = (Name::parse("acme").unwrap(), dir.path().join("acme"));
        let error = create(&name, &dir.path().join("none/acme")).unwrap_err();
        assert!(error.to_string().starts_with("creating "), "{error}");
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(create(&name, &folder).unwrap(), folder.canonicalize().unwrap());
        let before = on_disk(&folder);
        assert!(create(&name, &folder).unwrap_err().to_string().contains("something here already"));
        assert!(create(&name, &folder.join("Cargo.toml")).unwrap_err().to_string().contains("something here already"));
        assert_eq!(on_disk(&folder), before);
    }

    /// What is embedded must be what lies in the repository; this fails until a new file there is embedded too.
    #[test]
    fn the_template_and_the_api_are_those_of_the_repository() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let dir = tempfile::tempdir().unwrap();
        let made = create(&Name::parse("ngram").unwrap(), &dir.path().join("ngram")).unwrap();
        let mut template = on_disk(&repository.join("plugin-template"));
        let manifest = template.get_mut(Path::new("Cargo.toml")).unwrap();
        *manifest = manifest.replace("../plugin-api", API_FOLDER);
        let mut own = on_disk(&made);
        own.retain(|path, _| !path.starts_with(API_FOLDER));
        assert_eq!(own, template);
        let mut api = on_disk(&repository.join("plugin-api"));
        for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
            api.insert(licence.into(), std::fs::read_to_string(repository.join(licence)).unwrap());
        }
        assert_eq!(on_disk(&made.join(API_FOLDER)), api);
    }

    /// Every file below `folder` but for what cargo builds.
    fn on_disk(folder: &Path) -> BTreeMap<PathBuf, String> {
        let mut files = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for path in std::fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                    folders.push(path);
                } else if path.is_file() {
                    files.insert(path.strip_prefix(folder).unwrap().into(), std::fs::read_to_string(&path).unwrap());
                }
            }
        }
        files
    }
}
