//! README and docs: every link leads somewhere, every command in a `sh` block works, and what is quoted from the program is there.

use pajamas_tests::{Home, Run, fixture};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn files_below(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let hidden = path.file_name().unwrap().as_encoded_bytes().starts_with(b".");
        if path.is_dir() && !hidden && !path.ends_with("target") {
            files_below(&path, extension, found);
        } else if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
}

/// README, the pages of the book, and the template's.
fn pages() -> Vec<PathBuf> {
    let root = root();
    let others = ["README.md", "plugin-template/README.md", "host/python/README.md", "tests/oracle/README.md"];
    let mut pages: Vec<PathBuf> = others.iter().map(|page| root.join(page)).collect();
    files_below(&root.join("docs"), "md", &mut pages);
    pages
}

/// The lines outside of blocks of code, and the blocks by language.
fn cut(text: &str) -> (Vec<&str>, Vec<(&str, Vec<&str>)>) {
    let (mut prose, mut blocks, mut open) = (Vec::new(), Vec::new(), None::<(&str, Vec<&str>)>);
    for line in text.lines() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(language)) => open = Some((language.trim(), Vec::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some((_, lines)), None) => lines.push(line),
            (None, None) => prose.push(line),
        }
    }
    assert!(open.is_none(), "a block of code without an end");
    (prose, blocks)
}

/// As GitHub and mdBook name a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>().replace(' ', "-")
}

fn anchors(page: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(page).unwrap();
    let headings = cut(&text).0.into_iter().filter_map(|line| line.strip_prefix('#'));
    headings.map(|heading| anchor(heading.trim_start_matches('#'))).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut checked = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for target in
            cut(&text).0.iter().flat_map(|line| line.split("](").skip(1)).filter_map(|rest| rest.split(')').next())
        {
            if target.starts_with("http") {
                continue;
            }
            let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(path.exists(), "{}: `{target}` is not there", page.display());
            if !fragment.is_empty() {
                assert!(anchors(&path).iter().any(|own| own == fragment), "{}: no heading `{target}`", page.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 40, "{checked}");
}

#[test]
fn the_book_has_every_page() {
    let docs = root().join("docs");
    let summary = std::fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let mut pages = Vec::new();
    files_below(&docs, "md", &mut pages);
    for page in pages {
        let name = page.strip_prefix(&docs).unwrap().display().to_string();
        assert!(name == "SUMMARY.md" || summary.contains(&format!("({name})")), "`{name}` is not in SUMMARY.md");
    }
}

/// Runs the lines of the page's `sh` blocks, in the order of the page.
fn run_commands(page: &str) {
    let home = Home::with_gguf_cpu();
    home.install("mlx_quantize");
    // Where a reader would be: in the source folder, as far as the commands see it.
    let place = tempfile::tempdir().unwrap();
    let fixtures = place.path().join("tests/fixtures");
    std::fs::create_dir_all(&fixtures).unwrap();
    pajamas_tests::copy_tree(&fixture("pajama-tiny"), &fixtures.join("pajama-tiny"));
    let text = std::fs::read_to_string(root().join(page)).unwrap();
    let (_, blocks) = cut(&text);
    let lines = blocks.iter().filter(|(language, _)| *language == "sh").flat_map(|(_, lines)| lines);
    let commands: Vec<&&str> = lines.filter(|line| !line.trim().is_empty()).collect();
    assert!(!commands.is_empty(), "{page} has no commands");
    for command in commands {
        let program = home.command::<&str>([]);
        let mut shell = Command::new("sh");
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let folder = Path::new(program.get_program()).parent().unwrap();
        let path = std::env::join_paths(
            std::iter::once(folder.to_owned()).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
        );
        shell.env("PATH", path.unwrap()).current_dir(place.path()).args(["-c", command]);
        let run = Run::from(shell.stdin(std::process::Stdio::null()).output().unwrap());
        // The doctor may find fault with a machine that tests.
        let expected: &[_] = if command.contains("pajamas doctor") { &[Some(0), Some(1)] } else { &[Some(0)] };
        assert!(expected.contains(&run.code), "{page}: `{command}`: {run:#?}");
    }
}

/// The pages whose `sh` blocks are run here; a block that is only to be read is one of `shell` or `text`.
const RUN: [&str; 4] = ["README.md", "docs/quick-start.md", "docs/quantizing.md", "docs/running.md"];

#[test]
fn the_readmes_commands_work() {
    run_commands(RUN[0]);
}

#[test]
fn the_quick_starts_commands_work() {
    run_commands(RUN[1]);
}

#[test]
fn the_quantizing_guides_commands_work() {
    run_commands(RUN[2]);
}

#[test]
fn the_running_guides_commands_work() {
    run_commands(RUN[3]);
}

#[test]
fn no_page_has_commands_that_nobody_runs() {
    for page in pages() {
        let name = page.strip_prefix(root()).unwrap().display().to_string();
        let text = std::fs::read_to_string(&page).unwrap();
        let has_commands = cut(&text).1.iter().any(|(language, _)| *language == "sh");
        assert!(!has_commands || RUN.contains(&name.as_str()), "{name} has a block of `sh`, and is not in `RUN`");
    }
}

#[test]
fn every_make_target_that_is_named_exists() {
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    let mut named = BTreeMap::new();
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        let (prose, blocks) = cut(&text);
        // In prose only what is marked as code; the word is a usual one.
        let marked =
            prose.iter().flat_map(|line| line.split('`').skip(1).step_by(2).map(str::to_owned)).collect::<Vec<_>>();
        let code = blocks.iter().flat_map(|(_, lines)| lines).map(|line| (*line).to_owned());
        for line in marked.into_iter().chain(code) {
            let words: Vec<&str> = line.split_whitespace().skip_while(|word| word.contains('=')).collect();
            if let ["make", target, ..] = words.as_slice()
                && target.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
                && target.len() > 1
            {
                named.insert((*target).to_owned(), page.clone());
            }
        }
    }
    assert!(named.len() > 10, "{named:?}");
    for (target, page) in named {
        // A pattern's targets end in what varies.
        let target = target.strip_prefix("cpu-level-").map_or(target.clone(), |_| "cpu-level-%".into());
        assert!(makefile.contains(&format!("\n{target}:")), "{}: there is no `make {target}`", page.display());
    }
}

/// The string literals of code that is no test's, those in macros included.
struct Texts(Vec<String>);

impl Texts {
    fn tokens(&mut self, tokens: proc_macro2::TokenStream) {
        for token in tokens {
            match token {
                proc_macro2::TokenTree::Group(group) => self.tokens(group.stream()),
                proc_macro2::TokenTree::Literal(literal) => {
                    if let syn::Lit::Str(text) = syn::Lit::new(literal) {
                        self.0.push(text.value());
                    }
                }
                _ => (),
            }
        }
    }
}

impl<'ast> syn::visit::Visit<'ast> for Texts {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let is_test = |attribute: &syn::Attribute| {
            attribute.path().is_ident("cfg") && quote::ToTokens::to_token_stream(attribute).to_string().contains("test")
        };
        if !module.attrs.iter().any(is_test) {
            syn::visit::visit_item_mod(self, module);
        }
    }

    fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
        self.0.push(text.value());
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
    }

    // Documentation is one; `#[error("…")]` is a message.
    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if let (true, syn::Meta::List(list)) = (attribute.path().is_ident("error"), &attribute.meta) {
            self.tokens(list.tokens.clone());
        }
    }
}

#[test]
fn the_messages_of_the_troubleshooting_page_are_the_programs() {
    let root = root();
    let mut sources = Vec::new();
    for folder in ["host/src", "plugin-api/src", "plugins"] {
        files_below(&root.join(folder), "rs", &mut sources);
    }
    // What the program can say: texts in the code itself, not in its comments and tests.
    let mut texts = Texts(Vec::new());
    for file in &sources {
        syn::visit::visit_file(&mut texts, &syn::parse_file(&std::fs::read_to_string(file).unwrap()).unwrap());
    }
    let page = std::fs::read_to_string(root.join("docs/troubleshooting.md")).unwrap();
    let mut checked = 0;
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let message = row.trim_start_matches("| ").split(" | ").next().unwrap();
        let message = message.split(" (").next().unwrap().trim_matches(['`', ' ']);
        let parts =
            message.split('…').map(|part| part.trim_matches(['`', ' ', ':', ','])).filter(|part| part.len() > 3);
        let parts: Vec<&str> = parts.collect();
        let has_all = |text: &String| parts.iter().all(|part| text.contains(part));
        assert!(texts.0.iter().any(has_all), "no message has all of {parts:?}");
        checked += 1;
    }
    assert!(checked > 15, "{checked}");
}
