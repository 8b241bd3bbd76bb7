//! `pajamas completions`: what a shell needs to complete the command line.

use super::output;
use clap::CommandFactory;
use clap_complete::Shell;
use std::io::Write;

/// How to switch them on.
const EXAMPLES: &str = "\
bash: echo 'source <(pajamas completions bash)' >> ~/.bashrc
zsh:  pajamas completions zsh > ~/.zfunc/_pajamas   (`fpath+=~/.zfunc` before `compinit`)
fish: pajamas completions fish > ~/.config/fish/completions/pajamas.fish";

/// What `pajamas completions` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The shell to write for.
    shell: Shell,
}

/// Runs the command.
pub fn execute(args: &Args) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "pajamas", &mut script);
    let mut stdout = std::io::stdout();
    if let Err(error) = stdout.write_all(&script).and_then(|()| stdout.flush()) {
        output::gone(&error);
    }
    Ok(())
}
