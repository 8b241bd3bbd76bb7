//! `pajamas`, the program.

fn main() -> std::process::ExitCode {
    pajamas::cli::main()
}
