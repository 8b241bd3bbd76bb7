//! `pajamas-worker`: does for pajamas, in a process of its own, what may crash.

use std::process::ExitCode;

fn main() -> ExitCode {
    // For `pajamas doctor`, which compares versions.
    if std::env::args().nth(1).is_some_and(|arg| arg == "--version") {
        println!("pajamas-worker {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    match pajamas::worker::server::serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", pajamas::worker::server::describe(&error));
            ExitCode::from(2)
        }
    }
}
