//! The library's public surface, listed in docs/reference/library.md: a change of it is seen, and meant.

use std::fmt::Write;
use std::path::{Path, PathBuf};
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

/// What a `use` brings: the path of each item, and its name as it is seen from outside.
fn names(tree: &UseTree, path: &[String], found: &mut Vec<(Vec<String>, String)>) {
    let with = |ident: &syn::Ident| [path, &[ident.to_string()]].concat();
    match tree {
        UseTree::Path(inner) => names(&inner.tree, &with(&inner.ident), found),
        UseTree::Group(group) => group.items.iter().for_each(|tree| names(tree, path, found)),
        UseTree::Name(name) => found.push((with(&name.ident), name.ident.to_string())),
        UseTree::Rename(rename) => found.push((with(&rename.ident), rename.rename.to_string())),
        UseTree::Glob(_) => (),
    }
}

fn used(items: &[Item]) -> Vec<(Vec<String>, String)> {
    let mut found = Vec::new();
    for item in items {
        if let Item::Use(item) = item
            && is_public(&item.vis)
        {
            names(&item.tree, &[], &mut found);
        }
    }
    found
}

/// The files that may define what lies at a module's path, the likeliest first.
fn files_of(module: &[String]) -> Vec<PathBuf> {
    let (base, rest) = match module {
        [first, rest @ ..] if first == "pajamas_plugin_api" => (root().join("plugin-api/src"), rest),
        [first, rest @ ..] if first == "crate" => (root().join("host/src"), rest),
        rest => (root().join("host/src"), rest),
    };
    let folder = rest.iter().fold(base, |folder, name| folder.join(name));
    let mut files = vec![folder.with_extension("rs"), folder.join("mod.rs"), folder.join("lib.rs")];
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> =
            std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
        entries.sort();
        folders.extend(entries.iter().filter(|path| path.is_dir()).cloned());
        files.extend(entries.into_iter().filter(|path| path.extension().is_some_and(|own| own == "rs")));
    }
    files.retain(|file| file.is_file());
    files
}

/// What is promised of an item beside its methods: a struct's public fields, an enum's variants, a trait's methods.
fn parts(path: &[String]) -> String {
    let (name, module) = path.split_last().unwrap();
    let text = |tokens: &dyn quote::ToTokens| {
        tokens.to_token_stream().to_string().replace(' ', "").replace(',', ", ").replace("'static", "'static ")
    };
    let field = |field: &syn::Field| {
        let shown = is_public(&field.vis) && !is_hidden(&field.attrs);
        shown.then(|| {
            format!("`{}: {}`", field.ident.as_ref().map_or_else(String::new, ToString::to_string), text(&field.ty))
        })
    };
    let variant = |variant: &syn::Variant| {
        let names = variant
            .fields
            .iter()
            .map(|field| field.ident.as_ref().map_or_else(|| text(&field.ty), ToString::to_string));
        let names = names.collect::<Vec<_>>().join(", ");
        match &variant.fields {
            syn::Fields::Named(_) => format!("`{} {{ {names} }}`", variant.ident),
            syn::Fields::Unnamed(_) => format!("`{}({names})`", variant.ident),
            syn::Fields::Unit => format!("`{}`", variant.ident),
        }
    };
    for item in files_of(module).iter().flat_map(|file| parsed(file).items) {
        let parts: Vec<String> = match &item {
            Item::Struct(item) if is_public(&item.vis) && item.ident == name => {
                item.fields.iter().filter_map(field).collect()
            }
            Item::Enum(item) if is_public(&item.vis) && item.ident == name => {
                item.variants.iter().map(variant).collect()
            }
            Item::Trait(item) if is_public(&item.vis) && item.ident == name => {
                let methods = item.items.iter().filter_map(|item| match item {
                    syn::TraitItem::Fn(function) => {
                        let syn::TraitItemFn { sig, .. } = function.clone();
                        let bare = syn::ImplItemFn {
                            attrs: Vec::new(),
                            vis: Visibility::Inherited,
                            defaultness: None,
                            sig,
                            block: syn::parse_quote!({}),
                        };
                        Some(format!("`{}`", signature(&bare)))
                    }
                    _ => None,
                });
                methods.collect()
            }
            Item::Type(item) if is_public(&item.vis) && item.ident == name => Vec::new(),
            _ => continue,
        };
        return if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
    }
    panic!("`{}` is exported and not found in the source", path.join("::"));
}

fn list(exported: &[(Vec<String>, String)], text: &mut String) {
    let mut lines: Vec<String> = exported.iter().map(|(path, name)| format!("- `{name}`{}\n", parts(path))).collect();
    lines.sort();
    lines.dedup();
    *text += &lines.concat();
}

/// The methods that the macro of `api/call.rs` gives to every piece of work.
fn call_methods() -> Vec<String> {
    let source = std::fs::read_to_string(root().join("host/src/api/call.rs")).unwrap();
    let body = source.split("macro_rules! call_methods").nth(1).unwrap();
    let lines = body.lines().filter_map(|line| line.trim().strip_prefix("pub ")).filter(|line| line.starts_with("fn "));
    lines.map(|line| line.trim_end_matches(" {").replace("$lifetime ", "").replace("mut self", "self")).collect()
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
    line.replace("( ", "(").replace(", )", ")").replace("(mut self", "(self").trim_start_matches("pub ").to_owned()
}

/// The public methods of a type, and the traits that are implemented for it by hand.
fn implementations(path: &[String]) -> Vec<String> {
    let (own, module) = path.split_last().unwrap();
    let mut lines = Vec::new();
    // In the files of the module, and where `api/mod.rs` is one of several.
    let mut files = files_of(module);
    files.sort();
    files.dedup();
    for item in files.iter().flat_map(|file| parsed(file).items) {
        let Item::Impl(block) = item else { continue };
        let syn::Type::Path(of) = block.self_ty.as_ref() else { continue };
        if is_hidden(&block.attrs) || of.path.segments.last().is_none_or(|last| last.ident != own) {
            continue;
        }
        if let Some((_, implemented, _)) = &block.trait_ {
            let implemented = quote::ToTokens::to_token_stream(implemented).to_string().replace(' ', "");
            lines.push(format!("impl {implemented}"));
            continue;
        }
        for item in &block.items {
            match item {
                ImplItem::Fn(function) if is_public(&function.vis) && !is_hidden(&function.attrs) => {
                    lines.push(signature(function));
                }
                ImplItem::Macro(_) => lines.extend(call_methods()),
                _ => (),
            }
        }
    }
    lines
}

fn listing() -> String {
    let lib = parsed(&root().join("host/src/lib.rs"));
    let mut text = String::from(
        "# The Rust library's public surface\n\nMade from the source by `UPDATE_REFERENCE=1 cargo test -p pajamas-tests \
         library_surface`; a test holds it against the source.\nWhat is not here is no promise.\n\n## `pajamas`\n\n",
    );
    let mut exported = used(&lib.items);
    let api = parsed(&root().join("host/src/api/mod.rs")).items;
    let in_api = |path: Vec<String>| [vec!["api".to_owned()], path].concat();
    exported.extend(used(&api).into_iter().map(|(path, name)| (in_api(path), name)));
    exported.extend(api.iter().filter_map(|item| match item {
        Item::Struct(item) if is_public(&item.vis) => {
            Some((in_api(vec![item.ident.to_string()]), item.ident.to_string()))
        }
        _ => None,
    }));
    list(&exported, &mut text);
    let mut types = exported;
    for item in &lib.items {
        if let Item::Mod(module) = item
            && let Some((_, items)) = module.content.as_ref().filter(|_| is_public(&module.vis))
        {
            writeln!(text, "\n## `pajamas::{}`\n", module.ident).unwrap();
            list(&used(items), &mut text);
            types.extend(used(items).into_iter().map(|(path, name)| (path, format!("{}::{name}", module.ident))));
        }
    }
    types.sort_by(|(_, one), (_, other)| one.cmp(other));
    types.dedup();
    for (path, name) in &types {
        let lines = implementations(path);
        if !lines.is_empty() {
            writeln!(text, "\n## `{name}`\n").unwrap();
            lines.iter().for_each(|line| writeln!(text, "- `{line}`").unwrap());
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
    let changed = listed.lines().zip(listing.lines()).find(|(listed, now)| listed != now);
    assert!(
        listed == listing,
        "`UPDATE_REFERENCE=1 cargo test -p pajamas-tests library_surface` writes it anew; first (listed, now): {changed:?}"
    );
}
