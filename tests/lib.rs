//! What the integration tests share: a home of their own, the built programs and plugins, fixtures, and made-up models.
//!
//! The programs and plugins must be built before (`make test` does it): they are found beside the test executable.

// A test that cannot go on panics: that is how tests fail.
#![allow(clippy::missing_panics_doc)]

#[cfg(unix)]
pub mod hostile;

use pajamas_plugin_api::abi::client::{LoadedModel, Plugin};
use pajamas_plugin_api::{CancelToken, HostServices, LoadRequest, OptionValue};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A home folder of a test's own, gone when dropped.
pub struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    /// A home with no plugin in it.
    #[expect(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Self {
        let home = Self { dir: tempfile::tempdir().expect("a temporary folder") };
        std::fs::create_dir(home.plugins()).expect("the plugin folder");
        // llama.cpp's threads busy-wait: with several, tests beside other work take minutes instead of seconds.
        // Most tests make models for other reasons than their quality.
        // Nor is each home the first use of a backend on this machine.
        let settings = "threads = 1\nvalidate = false\ncheck_backends = false\n";
        std::fs::write(home.path().join("config.toml"), settings).expect("the config file");
        home
    }

    /// A home with gguf-cpu in it.
    pub fn with_gguf_cpu() -> Self {
        let home = Self::new();
        home.install("gguf_cpu");
        home
    }

    /// Copies the built plugin library `name` into the plugin folder.
    pub fn install(&self, name: &str) {
        let file = library_name(name);
        std::fs::copy(built(&file), self.plugins().join(file)).expect("copying the plugin");
    }

    /// A home with gguf-cpu and the plugin library `name` in it; none, and a line in the output that says so, where that was
    /// not built: it is not part of the default build, `make TARGET` makes it.
    pub fn with_gguf_cpu_and(name: &str, target: &str) -> Option<Self> {
        if !build_dir().join(library_name(name)).is_file() {
            not_run(&format!("`make {target}` was not"));
            return None;
        }
        let home = Self::with_gguf_cpu();
        home.install(name);
        Some(home)
    }

    /// Copies the built bundle folder of the MLX backend into the plugin folder. False, and a line in the output that
    /// says so, where it was not built: it is not part of the default build.
    pub fn install_mlx(&self) -> bool {
        let Some(bundle) = mlx_bundle() else { return false };
        copy_tree(&bundle, &self.plugins().join("mlx"));
        true
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Its plugin folder.
    pub fn plugins(&self) -> PathBuf {
        self.path().join("plugins")
    }

    /// Every file and folder in `dir` below it, hidden ones too, sorted; empty if there is no such folder.
    pub fn listing(&self, dir: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path().join(dir)) else { return Vec::new() };
        let mut names: Vec<_> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// `pajamas` with this home and nothing else of the environment's that it would read.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(built(&format!("pajamas{}", std::env::consts::EXE_SUFFIX)));
        for name in [
            "PAJAMAS_PLUGIN_PATH",
            "PAJAMAS_WORKER",
            "PAJAMAS_BACKEND",
            "HF_HUB_CACHE",
            "HUGGINGFACE_HUB_CACHE",
            "HF_ENDPOINT",
            "HF_TOKEN",
            "HF_HUB_OFFLINE",
            "RUST_LOG",
        ] {
            command.env_remove(name);
        }
        command.env("PAJAMAS_HOME", self.path()).env("HF_HOME", self.path().join("huggingface"));
        // No test asks a real hub.
        command.env("HF_HUB_OFFLINE", "1");
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Runs `pajamas` to its end.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        Run::from(self.command(args).output().expect("starting pajamas"))
    }

    /// Quantizes pajama-tiny by `method` into this home's `out` folder and returns the file.
    pub fn quantized(&self, method: &str) -> PathBuf {
        let out = self.path().join("out");
        let run = self.run([
            "quantize".as_ref(),
            pajama_tiny().as_os_str(),
            "-m".as_ref(),
            method.as_ref(),
            "-o".as_ref(),
            out.as_os_str(),
        ]);
        run.succeeded();
        PathBuf::from(run.stdout.trim())
    }
}

/// What a program printed, and how it ended.
#[derive(Debug)]
pub struct Run {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said besides.
    pub stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("UTF-8 on stdout"),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Run {
    /// Asserts that it ended well.
    #[track_caller]
    pub fn succeeded(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Asserts that it failed with exit code 1, one error line that contains `error`, and one hint with `hint`.
    #[track_caller]
    pub fn failed_with(&self, error: &str, hint: &str) {
        self.ended_with(1, error, hint);
    }

    /// The same with exit code 2: what was typed is no way to use the command.
    #[track_caller]
    pub fn misused(&self, error: &str, hint: &str) {
        self.ended_with(2, error, hint);
    }

    #[track_caller]
    fn ended_with(&self, code: i32, error: &str, hint: &str) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert_eq!(self.stdout, "", "data on stdout of a failure");
        let lines: Vec<&str> = self.stderr.lines().collect();
        let errors: Vec<&&str> = lines.iter().filter(|line| line.starts_with("error: ")).collect();
        let hints: Vec<&&str> = lines.iter().filter(|line| line.starts_with("hint: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(error), "wanted the error `{error}`: {self:#?}");
        assert!(hints.len() == 1 && hints[0].contains(hint), "wanted the hint `{hint}`: {self:#?}");
    }

    /// What it printed, as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        self.succeeded();
        serde_json::from_str(&self.stdout).expect("JSON on stdout")
    }
}

/// Asserts that `value` is what `docs/reference/json/NAME.schema.json` promises.
#[track_caller]
pub fn assert_schema(name: &str, value: &serde_json::Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/json").join(format!("{name}.schema.json"));
    let text = std::fs::read_to_string(&path).expect("the schema");
    let schema = serde_json::from_str(&text).expect("JSON in the schema");
    let validator = jsonschema::validator_for(&schema).expect("a JSON schema");
    let errors: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "not as {}: {errors:#?}\n{value:#}", path.display());
}

/// The folder that cargo built into.
pub fn build_dir() -> PathBuf {
    let executable = std::env::current_exe().expect("the test's own path");
    executable.ancestors().nth(2).expect("target/profile/deps/test").to_owned()
}

/// The program or library `file`, which must have been built.
pub fn built(file: &str) -> PathBuf {
    let path = build_dir().join(file);
    assert!(path.is_file(), "`{}` is not built: run `make test`", path.display());
    path
}

/// The built library `name`.
pub fn built_library(name: &str) -> PathBuf {
    built(&library_name(name))
}

/// The file name of the library `name` on this system.
pub fn library_name(name: &str) -> String {
    format!("{}{name}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
}

/// The built bundle folder of the MLX backend; none, and a line in the output that says so, where it was not built.
pub fn mlx_bundle() -> Option<PathBuf> {
    let bundle = build_dir().join("plugins/mlx");
    if bundle.is_dir() {
        return Some(bundle);
    }
    not_run("`make plugin-mlx` was not");
    None
}

/// Says that this test, or a part of it, does not run here, and why.
pub fn not_run(why: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    // Not captured, so that a run shows what it left out.
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("not run, because {why}: {test}\n"));
}

/// Copies the folder `from`, with all that is in it, to `to`.
pub fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the copy's folder");
    for entry in std::fs::read_dir(from).expect("the folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copying a file");
        }
    }
}

/// The fixture folder `name`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The fixture model, a Hugging Face folder.
pub fn pajama_tiny() -> PathBuf {
    fixture("pajama-tiny")
}

/// The folder of tiny models with random weights, one for each family that can be converted.
pub fn families() -> PathBuf {
    fixture("families")
}

/// The golden file `name`.
pub fn golden(name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(fixture("golden").join(name)).expect("the golden file");
    serde_json::from_str(&text).expect("JSON in the golden file")
}

/// Copies a folder of plain files.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the copy's folder");
    for entry in std::fs::read_dir(from).expect("the folder").flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copying a file");
    }
}

/// Loads the plugin `library` into this process.
pub fn plugin(library: &Path) -> Plugin {
    // SAFETY: the library was built with this test.
    unsafe { Plugin::open(library, HostServices::new(|_, _, _| (), std::env::temp_dir(), 1)) }.expect("the plugin")
}

/// Loads `model` on `plugin` with an F32 KV cache and no flash attention: as exact as it gets.
pub fn load_exact(plugin: &Plugin, model: &Path) -> LoadedModel {
    let mut request = LoadRequest::new(model);
    request.context_length = Some(512);
    for (name, value) in [("cache_type_k", "f32"), ("cache_type_v", "f32"), ("flash_attention", "off")] {
        request.options.set(name, OptionValue::Text(value.into()));
    }
    plugin.load_model(&request, &|_| (), &CancelToken::never()).expect("the model loads")
}

/// The index of the greatest value.
pub fn argmax(row: &[f32]) -> u32 {
    let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    u32::try_from(best.expect("a row of logits").0).expect("a token id")
}

/// Token ids in a golden file.
pub fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().expect("ids").iter().map(|id| u32::try_from(id.as_u64().expect("an id")).expect("an id")).collect()
}

/// Perplexity of `tokens` in windows of `window`, each token but a window's first scored.
pub fn perplexity(model: &LoadedModel, tokens: &[u32], window: usize) -> f64 {
    let (mut sum, mut count) = (0.0, 0_u32);
    for chunk in tokens.chunks_exact(window) {
        let mut score = |position: usize, row: &[f32]| {
            if let Some(next) = chunk.get(position + 1) {
                let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let total: f64 = row.iter().map(|&logit| f64::from(logit - best).exp()).sum();
                sum += total.ln() - f64::from(row[*next as usize] - best);
                count += 1;
            }
            ControlFlow::Continue(())
        };
        model.logits(chunk, 0, &mut score, &CancelToken::never()).expect("logits");
    }
    (sum / f64::from(count)).exp()
}

/// The likeliest token at each position of `answer`, given `prompt` and those of the answer before it.
pub fn teacher_forced(model: &LoadedModel, prompt: &[u32], answer: &[u32]) -> Vec<u32> {
    let tokens = [prompt, &answer[..answer.len() - 1]].concat();
    let mut chosen = Vec::new();
    let mut choose = |_: usize, row: &[f32]| {
        chosen.push(argmax(row));
        ControlFlow::Continue(())
    };
    model.logits(&tokens, prompt.len() - 1, &mut choose, &CancelToken::never()).expect("logits");
    chosen
}

/// Writes a Hugging Face folder with pajama-tiny's shapes and `layers` layers: large enough to interrupt.
pub fn make_deep_model(dir: &Path, layers: usize) {
    copy_folder(&pajama_tiny(), dir);
    let config_path = dir.join("config.json");
    let mut config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&config_path).expect("config.json")).expect("JSON");
    config["num_hidden_layers"] = layers.into();
    std::fs::write(&config_path, config.to_string()).expect("config.json");
    let bytes = std::fs::read(pajama_tiny().join("model.safetensors")).expect("the weights");
    let tiny = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut tensors = Vec::new();
    for (name, view) in tiny.tensors() {
        match name.strip_prefix("model.layers.0.") {
            Some(rest) => tensors.extend((0..layers).map(|n| (format!("model.layers.{n}.{rest}"), view.clone()))),
            None if name.starts_with("model.layers.") => (),
            None => tensors.push((name, view)),
        }
    }
    safetensors::serialize_to_file(tensors, None, &dir.join("model.safetensors")).expect("writing the weights");
}
