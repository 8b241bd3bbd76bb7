//! `pajamas man`: the manual pages.

use super::output;
use crate::error::Error;
use clap::CommandFactory;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What `pajamas man` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder to write all pages to, one for each command [default: the main page, to stdout].
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Runs the command.
pub fn execute(args: &Args, common: &super::Common) -> anyhow::Result<()> {
    let Some(dir) = &args.output else { return main_page() };
    let pages = write_all(dir)?;
    if common.json {
        return output::json(&pages);
    }
    pages.iter().for_each(|page| output::print(&page.display().to_string()));
    Ok(())
}

fn main_page() -> anyhow::Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(super::Cli::command()).render(&mut page)?;
    let mut stdout = std::io::stdout();
    if let Err(error) = stdout.write_all(&page).and_then(|()| stdout.flush()) {
        output::gone(&error);
    }
    Ok(())
}

/// Writes the pages into `dir`, which is made if it is not there, and gives their paths, sorted.
fn write_all(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    std::fs::create_dir_all(dir).map_err(Error::io("creating", dir))?;
    clap_mangen::generate_to(super::Cli::command(), dir).map_err(Error::io("writing", dir))?;
    let listing = std::fs::read_dir(dir).map_err(Error::io("reading", dir))?;
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("pajamas") && name.ends_with(".1")
    };
    let mut pages: Vec<PathBuf> = listing.flatten().map(|entry| entry.path()).filter(is_ours).collect();
    pages.sort();
    Ok(pages)
}
