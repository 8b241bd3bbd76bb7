//! Made-up caches in the layout of Hugging Face's library.

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

struct Cache(tempfile::TempDir);

impl Cache {
    /// A cache with `acme/loom` in it, whose `main` is a snapshot of `files`.
    fn with(files: &[(&str, &str)]) -> Self {
        let cache = Self(tempfile::tempdir().unwrap());
        cache.write("refs/main", COMMIT);
        std::fs::create_dir_all(cache.repo().join("snapshots").join(COMMIT)).unwrap();
        files.iter().for_each(|(name, text)| cache.write(&format!("snapshots/{COMMIT}/{name}"), text));
        cache
    }

    fn repo(&self) -> PathBuf {
        self.0.path().join("models--acme--loom")
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.repo().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[cfg(unix)]
    fn link_to_nothing(&self, name: &str) {
        let path = self.repo().join("snapshots").join(COMMIT).join(name);
        std::os::unix::fs::symlink("../../blobs/gone", path).unwrap();
    }

    fn find(&self, reference: &str) -> Result<Source> {
        find_in(self.0.path(), reference, None)
    }

    /// The error's message and its hint.
    #[track_caller]
    fn fails(&self, reference: &str) -> (String, String) {
        let error = self.find(reference).unwrap_err();
        (error.to_string(), error.hint().unwrap_or_default())
    }
}

fn index(shards: usize) -> String {
    let names: Vec<String> =
        (1..=shards).map(|shard| format!("\"t{shard}\": \"model-{shard:05}-of-{shards:05}.safetensors\"")).collect();
    format!("{{\"weight_map\": {{{}}}}}", names.join(", "))
}

#[test]
fn ids_are_told_from_paths() {
    for id in ["Qwen/Qwen2.5-7B-Instruct", "gpt2", "org/name@main", "a/b@0123abc", "a/b@refs/pr/1"] {
        assert!(is_id(id), "{id}");
    }
    for path in ["./m", "../m", "a/b/c", "/m", "a b", "org/", "org/../x", ""] {
        assert!(!is_id(path), "{path}");
    }
}

#[test]
fn the_cache_is_where_hugging_faces_library_has_it() {
    let with = |set: &[(&str, &str)]| {
        let value = |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        cache_by(value, || Some("/u".into())).unwrap().display().to_string()
    };
    let all = [("HF_HUB_CACHE", "/a"), ("HUGGINGFACE_HUB_CACHE", "/b"), ("HF_HOME", "/c"), ("XDG_CACHE_HOME", "/d")];
    let expected = ["/a", "/b", "/c/hub", "/d/huggingface/hub", "/u/.cache/huggingface/hub"];
    for (first, expected) in expected.into_iter().enumerate() {
        assert_eq!(with(&all[first..]), expected);
    }
    assert_eq!(with(&[("HF_HOME", "~/hf")]), "/u/hf/hub");
    assert_eq!(cache_by(|_| None, || None), None);
}

#[test]
fn a_whole_snapshot_is_found_by_branch_pull_request_and_commit() {
    let cache = Cache::with(&[("config.json", "{}"), ("tokenizer.json", "{}"), ("model.safetensors", "x")]);
    cache.write("refs/refs/pr/1", COMMIT);
    for reference in ["acme/loom", "acme/loom@main", "acme/loom@refs/pr/1", &format!("acme/loom@{COMMIT}")] {
        let source = cache.find(reference).unwrap();
        assert_eq!((source.name.as_str(), source.format.as_str()), ("loom", "huggingface"));
        assert_eq!(source.hub, Some(("acme/loom".into(), COMMIT.into())));
    }
}

#[test]
fn missing_shards_are_named_the_first_ten_of_them() {
    let shards = index(14);
    let mut files = vec![("config.json", "{}"), ("tokenizer.json", "{}"), ("model.safetensors.index.json", &shards)];
    files.push(("model-00002-of-00014.safetensors", "x"));
    let (message, hint) = Cache::with(&files).fails("acme/loom");
    assert!(message.contains("is not complete; missing:\n  model-00001-of-00014.safetensors\n"), "{message}");
    assert!(message.ends_with("  model-00011-of-00014.safetensors\n  and 3 more"), "{message}");
    assert!(!message.contains("model-00002-of"), "{message}");
    assert_eq!(hint, "fetch the rest: `pajamas models pull acme/loom`");
}

#[cfg(unix)]
#[test]
fn a_link_whose_blob_is_gone_is_missing() {
    let shards = index(1);
    let cache = Cache::with(&[("config.json", "{}"), ("model.safetensors.index.json", &shards)]);
    cache.link_to_nothing("model-00001-of-00001.safetensors");
    cache.link_to_nothing("tokenizer.json");
    cache.write("blobs/gone.incomplete", "some");
    let (message, _) = cache.fails("acme/loom");
    assert!(message.contains("(one download was cut short)"), "{message}");
    assert!(message.ends_with("missing:\n  tokenizer.json\n  model-00001-of-00001.safetensors"), "{message}");
    let single = Cache::with(&[("tokenizer.json", "{}")]);
    single.link_to_nothing("config.json");
    single.link_to_nothing("model.safetensors");
    assert!(single.fails("acme/loom").0.ends_with("missing:\n  config.json\n  model.safetensors"));
}

#[test]
fn parts_without_an_index_are_counted_by_their_names() {
    let whole = [("config.json", "{}"), ("tokenizer.json", "{}")];
    let with = |files: &[(&str, &str)]| Cache::with(&[&whole, files].concat());
    let (message, _) = with(&[("model-00002-of-00003.safetensors", "x")]).fails("acme/loom");
    let missing = "missing:\n  model-00001-of-00003.safetensors\n  model-00003-of-00003.safetensors";
    assert!(message.ends_with(missing), "{message}");
    let all = [("model-00001-of-00002.safetensors", "x"), ("model-00002-of-00002.safetensors", "x")];
    with(&all).find("acme/loom").unwrap();
    // What is not read is not missed.
    with(&[("model.safetensors", "x"), ("pytorch_model-00001-of-00002.bin", "x")]).find("acme/loom").unwrap();
    // Names that tell of no parts, or of impossible ones, are names like others.
    for name in ["model-00003-of-00002.safetensors", "model-00000-of-00000.safetensors", "a-00001-of-99999.safetensors"]
    {
        with(&[(name, "x")]).find("acme/loom").unwrap();
    }
    #[cfg(unix)]
    {
        let cache = with(&[("model-00002-of-00002.safetensors", "x")]);
        cache.link_to_nothing("model-00001-of-00002.safetensors");
        assert!(cache.fails("acme/loom").0.ends_with("missing:\n  model-00001-of-00002.safetensors"));
        cache.link_to_nothing("model.safetensors.index.json");
        let (message, _) = cache.fails("acme/loom");
        let missing = "missing:\n  model.safetensors.index.json\n  model-00001-of-00002.safetensors";
        assert!(message.ends_with(missing), "{message}");
    }
}

#[test]
fn parts_of_a_gguf_model_that_are_missing_are_named() {
    let (message, hint) = Cache::with(&[("m-00002-of-00002.gguf", "GGUF....")]).fails("acme/loom");
    assert!(message.ends_with("missing:\n  m-00001-of-00002.gguf"), "{message}");
    assert_eq!(hint, "fetch the rest: `pajamas models pull acme/loom`");
    let (message, _) = Cache::with(&[("big/m-00001-of-00003.gguf", "GGUF....")]).fails("acme/loom");
    assert!(message.ends_with("missing:\n  big/m-00002-of-00003.gguf\n  big/m-00003-of-00003.gguf"), "{message}");
    #[cfg(unix)]
    {
        let cache = Cache::with(&[("m-00001-of-00002.gguf", "GGUF....")]);
        cache.link_to_nothing("m-00002-of-00002.gguf");
        assert!(cache.fails("acme/loom").0.ends_with("missing:\n  m-00002-of-00002.gguf"));
    }
    // Of several, one that is whole can be given.
    let files = [("a-00002-of-00002.gguf", "GGUF...."), ("b.gguf", "GGUF....")];
    let (message, hint) = Cache::with(&files).fails("acme/loom");
    assert!(
        message.contains("a-00001-of-00002.gguf (not complete)\n") && hint.ends_with("b.gguf`"),
        "{message} {hint}"
    );
}

#[test]
fn an_unknown_id_is_held_against_those_that_are_there() {
    let cache = Cache::with(&[]);
    for folder in ["models--acme--Loom-2-Instruct", "models--gpt2", "datasets--acme--lom", "version.txt"] {
        std::fs::create_dir(cache.0.path().join(folder)).unwrap();
    }
    for (wrong, near) in [
        ("acme/lom", "acme/loom"),
        ("ACME/Loom", "acme/loom"),
        ("acne/loom", "acme/loom"),
        ("acme/lom@v2", "acme/loom@v2"),
        ("acme/lom@", "acme/loom"),
        ("acme/loom-2-instruct", "acme/Loom-2-Instruct"),
        ("loom", "acme/loom"),
        ("gpt-2", "gpt2"),
    ] {
        let (message, hint) = cache.fails(wrong);
        assert!(message.contains("it is not in the cache"), "{message}");
        assert!(hint.starts_with(&format!("did you mean `{near}`? `pajamas models pull ")), "{wrong}: {hint}");
    }
    for far in ["acme/weaver", "other/thing"] {
        assert!(cache.fails(far).1.starts_with("fetch it first: "), "{far}");
    }
    assert!(cache.fails("x").1.starts_with("`pajamas models` lists what was made; "));
}

#[test]
fn an_empty_revision_is_none() {
    let cache = Cache::with(&[("config.json", "{}")]);
    let (message, hint) = cache.fails("acme/loom@");
    assert!(message.contains("no revision without a name"), "{message}");
    assert_eq!(hint, "without the `@` it is `main`: `acme/loom`");
    std::fs::remove_dir_all(cache.repo().join("refs")).unwrap();
    let hint = cache.fails("acme/loom@").1;
    assert_eq!(hint, format!("did you mean `acme/loom@{COMMIT}`? `pajamas models pull acme/loom` fetches `main`"));
}

#[test]
fn what_was_never_fetched_is_missing() {
    assert!(Cache::with(&[]).fails("acme/loom").0.ends_with("missing:\n  config.json"));
    let (message, _) = Cache::with(&[("config.json", "{}")]).fails("acme/loom");
    assert!(message.ends_with("missing:\n  tokenizer.json\n  model.safetensors"), "{message}");
    let (message, hint) = Cache::with(&[]).fails("acme/other");
    assert!(
        message.contains("it is not in the cache") && hint.contains("`pajamas models pull acme/other`"),
        "{message} {hint}"
    );
}

#[test]
fn an_unknown_revision_lists_those_that_are_there() {
    let cache = Cache::with(&[]);
    cache.write("refs/refs/pr/1", COMMIT);
    let (message, hint) = cache.fails("acme/loom@mian");
    assert!(message.ends_with(&format!("there are:\n  main\n  refs/pr/1\n  {COMMIT}")), "{message}");
    assert_eq!(hint, "did you mean `acme/loom@main`? `pajamas models pull acme/loom@mian` fetches the other");
    assert!(cache.fails("acme/loom@01234567").1.contains(&format!("did you mean `acme/loom@{COMMIT}`?")));
    assert!(cache.fails("acme/loom@../..").0.contains("not its revision"), "it does not leave the folder");
    cache.write("refs/v2", "fedcba9876543210");
    assert!(cache.fails("acme/loom@v2").0.contains("has no file of it"));
}

#[test]
fn a_snapshot_of_gguf_files_is_the_file_where_there_is_one_and_lists_them_where_there_are_more() {
    let one = Cache::with(&[("loom-q4.gguf", "GGUF...."), ("README.md", "")]).find("acme/loom").unwrap();
    assert_eq!((one.name.as_str(), one.format.as_str()), ("loom-q4", "gguf"));
    let parts =
        [("a-00001-of-00002.gguf", "GGUF...."), ("a-00002-of-00002.gguf", "GGUF....")].map(|(name, text)| (name, text));
    assert_eq!(Cache::with(&parts).find("acme/loom").unwrap().name, "a-00001-of-00002");
    let several = Cache::with(&[("q4.gguf", "GGUF...."), ("big/q8.gguf", "GGUF....")]);
    let (message, hint) = several.fails("acme/loom");
    let path = several.repo().join("snapshots").join(COMMIT);
    assert!(message.contains(&format!("it has 2 GGUF files:\n  {}", path.join("big/q8.gguf").display())), "{message}");
    assert!(hint.contains("give one of them by its path"), "{hint}");
}
