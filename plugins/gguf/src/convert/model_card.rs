//! Reads a model's card, the YAML at the head of its README.md, and finds in it what llama.cpp's converter does.

use super::naming;
use super::yaml::{self, Node, get};
use regex::Regex;
use std::io::Read;
use std::path::Path;
use std::sync::LazyLock;

/// How much of the file is read. The largest published cards, with results of many benchmarks, have some 300 KB.
const CARD_BYTES_MAX: usize = 1 << 20;
/// The most base models or data sets: each can take nine keys of the file's header, which has no room for all that fit
/// into a card.
const SOURCES_MAX: usize = 512;

/// What is told of a base model or a data set, in the order of the file.
const SOURCE_FIELDS: [&str; 9] =
    ["name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url"];

/// What a card says. A text that is there but empty is not written, and keeps what the folder is called from its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ModelCard {
    pub(super) name: Option<String>,
    pub(super) author: Option<String>,
    pub(super) version: Option<String>,
    pub(super) organization: Option<String>,
    pub(super) finetune: Option<String>,
    pub(super) basename: Option<String>,
    pub(super) description: Option<String>,
    pub(super) size_label: Option<String>,
    pub(super) license: Option<String>,
    pub(super) license_name: Option<String>,
    pub(super) license_link: Option<String>,
    pub(super) source_url: Option<String>,
    pub(super) source_doi: Option<String>,
    pub(super) source_uuid: Option<String>,
    pub(super) source_repo_url: Option<String>,
    /// None where the card does not mention any; an empty list is written as such.
    pub(super) base_models: Option<Vec<Source>>,
    pub(super) datasets: Option<Vec<Source>>,
    pub(super) tags: Vec<String>,
    pub(super) languages: Vec<String>,
}

/// A base model or a data set: some of [`SOURCE_FIELDS`], in their order.
pub(super) type Source = Vec<(&'static str, String)>;

impl ModelCard {
    /// The card of the model in `dir`; an empty one where there is none or where it cannot be read, which is no reason to
    /// refuse a model. `parameters` tells a size from a context length in names.
    pub(super) fn read(dir: &Path, parameters: u64) -> Self {
        front_matter(&dir.join("README.md")).map(|yaml| Self::parse(&yaml, parameters)).unwrap_or_default()
    }

    fn parse(yaml: &str, parameters: u64) -> Self {
        let Some(Node::Map(card)) = yaml::load(yaml) else { return Self::default() };
        let text = |keys: &[&str]| keys.iter().find_map(|key| get(&card, key)?.text());
        let sources = |keys: &[&str]| keys.iter().find_map(|key| get(&card, key)).map(|node| sources(node, parameters));
        let (base_models, datasets) = (
            sources(&["base_model", "base_models", "base_model_sources"]),
            sources(&["datasets", "dataset", "dataset_sources"]),
        );
        if [&base_models, &datasets].into_iter().flatten().any(|sources| sources.len() > SOURCES_MAX) {
            return Self::default();
        }
        let texts = |keys: &[&str]| keys.iter().filter_map(|key| get(&card, key)).flat_map(Node::texts).collect();
        Self {
            name: text(&["name", "model_name"]),
            author: text(&["author", "model_author", "model_creator"]),
            version: text(&["version", "model_version"]),
            organization: text(&["organization", "model_organization"]),
            finetune: text(&["finetune", "model_finetune"]),
            basename: text(&["basename", "model_basename", "model_type"]),
            description: text(&["description", "model_description"]),
            size_label: text(&["size_label", "model_size_label"]),
            license: match get(&card, "license") {
                Some(Node::List(licenses)) => {
                    Some(licenses.iter().filter_map(Node::scalar).collect::<Vec<_>>().join(","))
                }
                _ => text(&["license"]),
            },
            license_name: text(&["license_name"]),
            license_link: text(&["license_link"]),
            source_url: text(&["url", "model_url"]),
            source_doi: text(&["doi", "model_doi"]),
            source_uuid: text(&["uuid", "model_uuid"]),
            source_repo_url: text(&["repo_url", "model_repo_url"]),
            base_models,
            datasets,
            tags: texts(&["tags", "pipeline_tag"]),
            languages: texts(&["languages", "language"]),
        }
    }
}

fn sources(node: &Node, parameters: u64) -> Vec<Source> {
    let source = |node: &Node| match node {
        Node::Text(id) => named_source(id, parameters),
        Node::Map(entries) => {
            SOURCE_FIELDS.into_iter().filter_map(|field| Some((field, get(entries, field)?.text()?))).collect()
        }
        // Counted all the same.
        _ => Source::new(),
    };
    match node {
        Node::Text(_) => vec![source(node)],
        Node::List(items) => items.iter().map(source).collect(),
        _ => Vec::new(),
    }
}

/// What an id on Hugging Face or an address says of a model.
fn named_source(id: &str, parameters: u64) -> Source {
    static ADDRESS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^https?://huggingface\.co/([^/]+/[^/]+)$").expect("a literal pattern is valid"));
    let is_address = ["http://", "https://", "ssh://"].iter().any(|scheme| id.starts_with(scheme));
    let (named, address) = match (is_address, ADDRESS.captures(id)) {
        (true, Some(parts)) => (parts.get(1).map(|id| id.as_str()), Some(id.to_owned())),
        (true, None) => (None, Some(id.to_owned())),
        (false, _) => (Some(id), None),
    };
    let parts = named.map(|id| naming::parse(id, parameters)).unwrap_or_default();
    let address = address
        .or_else(|| Some(format!("https://huggingface.co/{}/{}", parts.organization.as_ref()?, parts.name.as_ref()?)));
    let title = |name: &Option<String>| name.as_deref().map(naming::title);
    let fields = [
        ("name", title(&parts.name)),
        ("version", parts.version),
        ("organization", title(&parts.organization)),
        ("repo_url", address),
    ];
    fields.into_iter().filter_map(|(field, text)| Some((field, text?))).collect()
}

/// The lines between the first line and the next that is `---` too, as YAML.
fn front_matter(path: &Path) -> Option<String> {
    // Opening a pipe would wait for somebody to write into it.
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(CARD_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).ok()?;
    let whole = bytes.len() <= CARD_BYTES_MAX;
    bytes.truncate(CARD_BYTES_MAX);
    front_matter_of(&bytes, whole)
}

/// `whole` is whether there is nothing behind `bytes`.
fn front_matter_of(bytes: &[u8], whole: bool) -> Option<String> {
    let chunk = bytes.utf8_chunks().next()?;
    let whole = whole && chunk.valid().len() == bytes.len();
    let text = chunk.valid().replace("\r\n", "\n");
    // What Python takes for the end of a line.
    let ends =
        |letter| matches!(letter, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = text.split(ends);
    if lines.next() != Some("---") {
        return None;
    }
    let (mut yaml, mut ended) = (String::new(), false);
    for line in lines {
        if line == "---" {
            ended = true;
            break;
        }
        yaml.push_str(line);
        yaml.push('\n');
    }
    if !ended && !whole {
        return None;
    }
    // Norwegian is no negation, and some cards are indented with tabs.
    Some(yaml.replace("- no\n", "- \"no\"\n").replace('\t', "  "))
}

#[cfg(test)]
mod tests {
    use super::super::yaml::DEPTH_MAX;
    use super::*;

    fn card(yaml: &str) -> ModelCard {
        ModelCard::parse(yaml, 0)
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn the_head_lies_between_two_lines_of_dashes() {
        let of = |text: &str| front_matter_of(text.as_bytes(), true);
        assert_eq!(of("---\na: 1\n---\nb: 2\n"), some("a: 1\n"));
        assert_eq!(of("---\r\na: 1\r\n---\r\n"), some("a: 1\n"));
        assert_eq!(of("---\na: 1"), some("a: 1\n"));
        assert_eq!(of("---\n- no\n-\tx\n---"), some("- \"no\"\n-  x\n"));
        assert_eq!(of("---\n---\n"), some(""));
        for text in ["", "# Loom\n", "--- \na: 1\n---\n", "\u{feff}---\na: 1\n---\n", "\n---\na: 1\n---\n"] {
            assert_eq!(of(text), None, "{text:?}");
        }
        // Where the file goes on, or is no text, the end must have been seen.
        assert_eq!(front_matter_of(b"---\na: 1\n", false), None);
        assert_eq!(front_matter_of(b"---\na: 1\n---\n", false), some("a: 1\n"));
        assert_eq!(front_matter_of(b"---\na: 1\n---\n\xff", true), some("a: 1\n"));
        assert_eq!(front_matter_of(b"---\na: \xff\n---\n", true), None);
    }

    #[test]
    fn files_that_are_no_card_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("README.md");
        let read = || ModelCard::read(dir.path(), 0);
        assert_eq!(read(), ModelCard::default());
        std::fs::create_dir(&path).unwrap();
        assert_eq!(read(), ModelCard::default());
        std::fs::remove_dir(&path).unwrap();
        std::fs::write(&path, "---\nlicense: mit\n---\n").unwrap();
        assert_eq!(read().license, some("mit"));
        let long = |lines: usize| format!("---\nlicense: mit\n{}---\n", "# a comment of 24 bytes\n".repeat(lines));
        std::fs::write(&path, long(1000)).unwrap();
        assert_eq!(read().license, some("mit"));
        std::fs::write(&path, long(CARD_BYTES_MAX / 24 + 1)).unwrap();
        assert_eq!(read(), ModelCard::default());
    }

    #[test]
    fn the_first_key_that_says_something_counts() {
        let read =
            card("model_name: b\nname: a\nmodel_creator: d\nmodel_author: c\nmodel_type: e\nurl:\nmodel_url: f\n");
        assert_eq!((read.name, read.author), (some("a"), some("c")));
        assert_eq!((read.basename, read.source_url), (some("e"), some("f")));
        let read = card("license: [mit, apache-2.0]\nversion: ''\nmodel_version: 2\nfinetune: no\nsize_label: [7B]\n");
        assert_eq!((read.license, read.version), (some("mit,apache-2.0"), some("")));
        assert_eq!((read.finetune, read.size_label), (some(""), None));
        assert_eq!(card("version: 1.0").version, some("1.0"));
        assert_eq!(card("license: mit\nlicense: other").license, some("other"));
    }

    #[test]
    fn texts_stand_alone_or_in_lists() {
        let read = card("tags: a\npipeline_tag: b\nlanguages: [c]\nlanguage: [d, e]\n");
        assert_eq!((read.tags, read.languages), (strings(&["a", "b"]), strings(&["c", "d", "e"])));
        let read = card("tags:\npipeline_tag: b\nlanguage: no\nlanguages: {a: b}\n");
        assert_eq!((read.tags, read.languages), (strings(&["b"]), strings(&[])));
    }

    #[test]
    fn sources_are_ids_addresses_or_described() {
        let read =
            card("base_model: acme/loom-v2\nbase_models: [x]\ndataset: [https://huggingface.co/acme/threads, 7]\n");
        let loom = vec![
            ("name", "Loom v2".to_owned()),
            ("version", "v2".to_owned()),
            ("organization", "Acme".to_owned()),
            ("repo_url", "https://huggingface.co/acme/loom-v2".to_owned()),
        ];
        assert_eq!(read.base_models, Some(vec![loom]));
        let threads = vec![
            ("name", "Threads".to_owned()),
            ("organization", "Acme".to_owned()),
            ("repo_url", "https://huggingface.co/acme/threads".to_owned()),
        ];
        assert_eq!(read.datasets, Some(vec![threads, Source::new()]));
        let read = card("base_model:\nbase_models: [x]\ndatasets: [{url: b, name: a, other: c, version:}]\n");
        assert_eq!(read.base_models, Some(Vec::new()));
        assert_eq!(read.datasets, Some(vec![vec![("name", "a".to_owned()), ("url", "b".to_owned())]]));
        assert_eq!(card("license: mit").base_models, None);
        assert_eq!(card(&format!("datasets: [{}]", "a/b,".repeat(SOURCES_MAX + 1))), ModelCard::default());
    }

    #[test]
    fn aliases_and_merges_are_followed() {
        let read = card(
            "a: &a {name: x, doi: y}\nb: &b [p, q]\ntags: *b\nbase_model: [*a, {<<: *a, doi: z}, {<<: [{url: v}, *a]}]\n",
        );
        assert_eq!(read.tags, strings(&["p", "q"]));
        let source =
            |fields: &[(&'static str, &str)]| fields.iter().map(|(key, text)| (*key, (*text).into())).collect();
        let expected: Vec<Source> = vec![
            source(&[("name", "x"), ("doi", "y")]),
            source(&[("name", "x"), ("doi", "z")]),
            source(&[("name", "x"), ("url", "v"), ("doi", "y")]),
        ];
        assert_eq!(read.base_models, Some(expected));
    }

    #[test]
    fn what_is_not_valid_or_too_much_is_no_card() {
        let laughs: String = (1..30).map(|level| format!("a{level}: &a{level} [*a{0}, *a{0}]\n", level - 1)).collect();
        let chain: String = (1..5000).map(|level| format!("- &a{level} [*a{}]\n", level - 1)).collect();
        for yaml in [
            "license: [mit",
            "license: mit\n  name: x: y",
            "- license: mit",
            "mit",
            "",
            "license: *mit",
            "a: &a [*a]\nlicense: mit",
            "license: !!python/object:os.system mit",
            "license: !other mit",
            "? [license]\n: mit",
            "license: mit\n...\nlicense: mit\n",
            "<<: mit\nlicense: mit",
            &format!("license: mit\na: {}{}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX)),
            &format!("license: mit\na: {}", "[".repeat(500_000)),
            &format!("license: mit\na: {}", "{a: ".repeat(200_000)),
            &format!("license: mit\na: {}x", "- ".repeat(500_000)),
            &format!(
                "license: mit\na:\n{}",
                (0..1000).map(|depth| format!("{}- a:\n", " ".repeat(depth))).collect::<String>()
            ),
            &format!("license: mit\na0: &a0 x\n{laughs}"),
            &format!("license: mit\na: &a0 x\nb:\n{chain}"),
            &format!("license: mit\na: &a {}\nbase_model: [{}]", "x".repeat(500_000), "*a,".repeat(100)),
            &format!("license: mit\na: {}", "&a ".repeat(300_000)),
            &format!("license: mit\na: [{}]", "~,".repeat(500_000)),
            &format!("{}license: mit", "? ".repeat(500_000)),
            "\0",
            "%",
            "%YAML 3.0\n--- a",
            "---\n---",
            "a: |9\n",
            "!<",
            "&",
            "*",
            "\"\\x",
            "'",
            "@",
            "`",
            "a: \u{1}",
        ] {
            let name: String = yaml.chars().take(60).collect();
            assert_eq!(card(yaml), ModelCard::default(), "{name}");
        }
    }
}
