//! `pajamas plugins new`: a folder with a complete backend in it; its path is the last line on stdout.

use crate::cli::output;
use crate::config::Config;
use crate::plugins::scaffold::{self, Name};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What `pajamas plugins new` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The backend's name, `acme-npu` say: lower-case letters, digits and hyphens.
    name: String,
    /// The folder to write to, new or empty [default: ./NAME].
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
}

/// What was made.
#[derive(Debug, Serialize)]
struct Made {
    path: PathBuf,
    name: String,
    /// The library's file name on this system.
    library: String,
    /// The commands that build, install and try it, for a shell.
    next: Vec<String>,
}

/// Runs the command.
pub fn execute(args: &Args, common: &crate::cli::Common, config: &Config) -> anyhow::Result<()> {
    let name = Name::parse(&args.name)?;
    let folder = args.path.clone().unwrap_or_else(|| name.as_str().into());
    let path = scaffold::create(&name, &folder)?;
    let next = next(&name, &folder, &config.home.join("plugins"));
    let made = Made { path, name: name.as_str().into(), library: name.library(), next };
    if common.json {
        return output::json(&made);
    }
    output::say(&format!("made {}: a complete backend, for now with a small language model as its engine", made.name));
    output::say("next:");
    made.next.iter().for_each(|command| output::say(&format!("  {command}")));
    output::print(&made.path.display().to_string());
    Ok(())
}

fn next(name: &Name, folder: &Path, plugins: &Path) -> Vec<String> {
    let quoted = |path: &Path| output::quoted(&path.to_string_lossy());
    let (folder, plugins, library) = (quoted(folder), quoted(plugins), name.library());
    let name = name.as_str();
    vec![
        format!("cd {folder}"),
        "cargo build --release".into(),
        format!("mkdir -p {plugins}"),
        format!("cp \"${{CARGO_TARGET_DIR:-target}}/release/{library}\" {plugins}"),
        "pajamas plugins list".into(),
        format!("pajamas quantize tests/corpus.txt --format {name}"),
        format!("pajamas run corpus-q8.{name} --backend {name} --prompt 'The llama'"),
    ]
}
