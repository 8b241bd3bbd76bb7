/// What the examples of the documentation run with: an installation of its own with the CPU backend, as it was built last,
/// and the bundled model. Each of them includes this file in a line that readers do not see.
struct Installed {
    pajamas: pajamas::Pajamas,
    model: std::path::PathBuf,
    _home: tempfile::TempDir,
}

impl Installed {
    fn new() -> Self {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let target = root.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()));
        let worker = format!("pajamas-worker{}", std::env::consts::EXE_SUFFIX);
        // An example is not told which profile it is tested with.
        let age = |folder: &std::path::PathBuf| folder.join(&worker).metadata().and_then(|it| it.modified()).ok();
        let built = ["release", "debug"].map(|profile| target.join(profile)).into_iter().max_by_key(age).unwrap();
        let home = tempfile::tempdir().unwrap();
        let plugins = home.path().join("plugins");
        std::fs::create_dir(&plugins).unwrap();
        let library = format!("{}gguf_cpu{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
        std::fs::copy(built.join(&library), plugins.join(&library)).expect("`make test` builds the CPU backend");
        let pajamas = pajamas::Pajamas::builder().home(home.path()).worker(built.join(worker)).offline(true).build().unwrap();
        Self { pajamas, model: root.join("tests/fixtures/pajama-tiny"), _home: home }
    }
}
