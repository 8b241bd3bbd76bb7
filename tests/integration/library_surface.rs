//! The library's public surface, listed in docs/reference/library.md: a change of it is seen, and meant.

use std::fmt::Write;
use std::path::Path;
use syn::{Attribute, ImplItem, Item, UseTree, Visibility};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn parsed(file: &Path) -> syn::File {
    syn::parse_file(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn is_hidden(attributes: &[Attribute]) -> bool {
    let hidden = |attribute: &Attribute| {
        attribute.path().is_ident("doc")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|argument| argument == "hidden")
    };
    attributes.iter().any(hidden)
}

/// The names that a `use` brings, as they are seen from outside.
fn names(tree: &UseTree, found: &mut Vec<String>) {
    match tree {
        UseTree::Path(path) => names(&path.tree, found),
        UseTree::Group(group) => group.items.iter().for_each(|tree| names(tree, found)),
        UseTree::Name(name) => found.push(name.ident.to_string()),
        UseTree::Rename(rename) => found.push(rename.rename.to_string()),
        UseTree::Glob(_) => (),
    }
}

fn used(items: &[Item]) -> Vec<String> {
    let mut found = Vec::new();
    for item in items {
        if let Item::Use(item) = item
            && is_public(&item.vis)
        {
            names(&item.tree, &mut found);
        }
    }
    found.sort();
    found
}

/// The signature in one line.
fn signature(function: &syn::ImplItemFn) -> String {
    let mut bare = function.clone();
    bare.attrs.clear();
    bare.block = syn::parse_quote!({});
    let block = syn::ItemImpl { items: vec![ImplItem::Fn(bare)], ..syn::parse_quote!(impl X {}) };
    let file = syn::File { shebang: None, attrs: Vec::new(), items: vec![Item::Impl(block)] };
    let text = prettyplease::unparse(&file);
    let inner = text.trim().trim_start_matches("impl X {").trim_end_matches('}').trim().trim_end_matches("{}").trim();
    let line = inner.split_whitespace().collect::<Vec<_>>().join(" ");
    line.replace("( ", "(").replace(", )", ")").trim_start_matches("pub ").to_owned()
}

fn listing() -> String {
    let lib = parsed(&root().join("host/src/lib.rs"));
    let mut text = String::from(
        "# The Rust library's public surface\n\nMade from the source by `UPDATE_REFERENCE=1 cargo test -p pajamas-tests \
         library_surface`; a test holds it against the source.\nWhat is not here is no promise.\n\n## `pajamas`\n\n",
    );
    let mut exported = used(&lib.items);
    let api = parsed(&root().join("host/src/api/mod.rs")).items;
    exported.extend(used(&api));
    exported.extend(api.iter().filter_map(|item| match item {
        Item::Struct(item) if is_public(&item.vis) => Some(item.ident.to_string()),
        _ => None,
    }));
    exported.sort();
    exported.dedup();
    for name in exported {
        writeln!(text, "- `{name}`").unwrap();
    }
    for item in &lib.items {
        if let Item::Mod(module) = item
            && let Some((_, items)) = module.content.as_ref().filter(|_| is_public(&module.vis))
        {
            writeln!(text, "\n## `pajamas::{}`\n", module.ident).unwrap();
            used(items).iter().for_each(|name| writeln!(text, "- `{name}`").unwrap());
        }
    }
    let mut files: Vec<_> =
        std::fs::read_dir(root().join("host/src/api")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for item in files.iter().flat_map(|file| parsed(file).items) {
        let Item::Impl(block) = item else { continue };
        if block.trait_.is_some() || is_hidden(&block.attrs) {
            continue;
        }
        let syn::Type::Path(path) = block.self_ty.as_ref() else { continue };
        let methods = block.items.iter().filter_map(|item| match item {
            ImplItem::Fn(function) if is_public(&function.vis) && !is_hidden(&function.attrs) => {
                Some(signature(function))
            }
            // What every piece of work has.
            ImplItem::Macro(_) => Some(
                "fn observer(self, observer: &dyn Observer) -> Self`, `fn cancel(self, cancel: CancelToken) -> Self"
                    .into(),
            ),
            _ => None,
        });
        let methods: Vec<String> = methods.collect();
        if !methods.is_empty() {
            writeln!(text, "\n## `{}`\n", path.path.segments.last().unwrap().ident).unwrap();
            methods.iter().for_each(|method| writeln!(text, "- `{method}`").unwrap());
        }
    }
    text
}

#[test]
fn it_is_the_one_that_is_listed() {
    let path = root().join("docs/reference/library.md");
    let listing = listing();
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, &listing).unwrap();
    }
    let listed = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(listed, listing, "`UPDATE_REFERENCE=1 cargo test -p pajamas-tests library_surface` writes it anew");
}
