//! `pajamas-worker`: does for pajamas, in a process of its own, what may crash.

use std::process::ExitCode;

fn main() -> ExitCode {
    match pajamas::worker::server::serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", pajamas::worker::server::describe(&error));
            ExitCode::from(2)
        }
    }
}
