//! Makes the bundled model by every method, validates and measures each through the `pajamas` program, and prints the
//! tables of the documentation. `make quality` runs it.
//!
//! ```text
//! quality_table RELEASE_DIR MODEL_DIR
//! ```

use pajamas_plugin_api::HostServices;
use pajamas_plugin_api::abi::client::Plugin;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// As the model's card measures it.
const TEXT: [&str; 4] = ["--tokens", "6144", "--window", "256"];

/// Repetitions of what is timed.
const REPETITIONS: usize = 3;

struct Pajamas {
    release: PathBuf,
    home: PathBuf,
    model: String,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [release, model] = arguments.as_slice() else {
        return Err("usage: quality_table RELEASE_DIR MODEL_DIR".into());
    };
    let home = tempfile::tempdir()?;
    let release = std::path::absolute(release)?;
    let plugins = home.path().join("plugins");
    std::fs::create_dir(&plugins)?;
    // llama.cpp's threads wait in spins: where something else runs as well, one thread is what can be measured again.
    std::fs::write(home.path().join("config.toml"), "threads = 1\n")?;
    for name in ["gguf_cpu", "mlx_quantize"] {
        let file = pajamas_tests::library_name(name);
        std::os::unix::fs::symlink(release.join(&file), plugins.join(&file))?;
    }
    let bundle = release.join("plugins/mlx");
    if bundle.is_dir() {
        std::os::unix::fs::symlink(&bundle, plugins.join("mlx"))?;
    }
    let pajamas = Pajamas { release, home: home.path().into(), model: model.clone() };
    let source_bytes = std::fs::metadata(Path::new(model).join("model.safetensors"))?.len();
    println!(
        "| format, method | bytes | ratio | perplexity | KLD mean | KLD 99 % | top-1 | pp128 tok/s | tg64 tok/s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (format, method) in pajamas.methods()? {
        if format == "mlx" && (!bundle.is_dir() || !["4bit", "8bit"].contains(&method.as_str())) {
            continue;
        }
        println!("{}", pajamas.row(&format, &method, source_bytes)?);
    }
    pajamas.validation_time()
}

impl Pajamas {
    /// Every format and method, by bits per weight.
    fn methods(&self) -> Result<Vec<(String, String)>> {
        let mut methods = Vec::new();
        for name in ["gguf_cpu", "mlx_quantize"] {
            let services = HostServices::new(|_, _, _| (), std::env::temp_dir(), 1);
            // SAFETY: the libraries were built with this program.
            let plugin = unsafe { Plugin::open(&self.release.join(pajamas_tests::library_name(name)), services)? };
            let mut recipes = plugin.recipes()?;
            recipes.sort_by(|a, b| b.bits_per_weight.total_cmp(&a.bits_per_weight));
            methods.extend(recipes.into_iter().map(|recipe| (recipe.format, recipe.name)));
        }
        Ok(methods)
    }

    fn run(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(self.release.join("pajamas"));
        let output = command.env("PAJAMAS_HOME", &self.home).arg("--json").args(arguments).output()?;
        // 3 is a verdict, and what a table is for.
        if !matches!(output.status.code(), Some(0 | 3)) {
            return Err(format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn make(&self, format: &str, method: &str) -> Result<Value> {
        self.run(&["quantize", &self.model, "--format", format, "-m", method, "--no-validate"])
    }

    fn row(&self, format: &str, method: &str, source_bytes: u64) -> Result<String> {
        let made = self.make(format, method)?;
        let path = made["path"].as_str().ok_or("no path")?;
        let report = self.run(&[&["validate", path, "--reference", &self.model], &TEXT[..]].concat())?;
        let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN);
        let bytes = number("/candidate/size_bytes");
        let speed = self.run(&["benchmark", path, "-p", "128", "-n", "64", "-r", "3"])?;
        let rate = |test: &str| {
            let rows = speed["runs"][0]["tests"].as_array().into_iter().flatten();
            rows.filter(|row| row["test"] == test).find_map(|row| row["tokens_per_second"]["mean"].as_f64())
        };
        Ok(format!(
            "| {format} {method} | {bytes} | {:.2} | {:+.2} % | {:.5} | {:.5} | {:.2} % | {:.0} | {:.0} |",
            source_bytes as f64 / bytes,
            number("/comparison/perplexity_change/value") * 100.0,
            number("/comparison/kl_divergence/mean"),
            number("/comparison/kl_divergence/p99"),
            number("/comparison/top1_agreement/value") * 100.0,
            rate("pp128").unwrap_or(f64::NAN),
            rate("tg64").unwrap_or(f64::NAN),
        ))
    }

    /// How much longer both take in lockstep than each alone, taking turns.
    fn validation_time(&self) -> Result<()> {
        let path = |method: &str| -> Result<String> {
            let made = self.make("gguf", method)?;
            // Elsewhere nothing tells what it was made from, so it is measured alone.
            let alone = self.home.join(format!("{method}.gguf"));
            std::fs::copy(made["path"].as_str().ok_or("no path")?, &alone)?;
            Ok(alone.display().to_string())
        };
        let (candidate, reference) = (path("Q4_K_M")?, path("F16")?);
        let text = format!("{}/validation.txt", self.model);
        let common = [&TEXT[..], &["--text", &text]].concat();
        let seconds = |arguments: &[&str]| -> Result<f64> {
            let report = self.run(&[arguments, &common].concat())?;
            Ok(report["elapsed"]["total_ms"].as_f64().ok_or("no time")? / 1e3)
        };
        let mut ratios = Vec::new();
        println!("\n| both in lockstep, s | Q4_K_M alone | F16 alone | ratio |\n|---|---|---|---|");
        for _ in 0..REPETITIONS {
            let both = seconds(&["validate", &candidate, "--reference", &reference])?;
            let (one, other) = (seconds(&["validate", &candidate])?, seconds(&["validate", &reference])?);
            ratios.push(both / (one + other));
            println!("| {both:.2} | {one:.2} | {other:.2} | {:.3} |", both / (one + other));
        }
        ratios.sort_by(f64::total_cmp);
        println!("\nmedian ratio: {:.3}", ratios[ratios.len() / 2]);
        Ok(())
    }
}
