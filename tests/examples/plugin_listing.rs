//! How long `pajamas plugins list` takes with ten plugins: cold, when each is asked in a process of its own, and warm, when
//! none of their code runs. `make bench-plugins` runs it.

use pajamas_tests::Home;
use pajamas_tests::hostile::{Hostile, MARKER, Marker};
use std::time::{Duration, Instant};

const PLUGINS: usize = 10;
/// Repetitions, cold and warm.
const COLD: usize = 7;
const WARM: usize = 41;
/// What is promised.
const COLD_MAX: Duration = Duration::from_secs(1);
const WARM_MAX: Duration = Duration::from_millis(20);

fn main() -> std::process::ExitCode {
    let (home, marker) = (Home::with_gguf_cpu(), Marker::new());
    for index in 1..PLUGINS {
        Hostile::new("well").name(&format!("plugin-{index}")).install(&home);
    }
    let list = |arguments: &[&str]| {
        let mut command = home.command([&["plugins", "list"], arguments].concat());
        command.env(MARKER, marker.path());
        let started = Instant::now();
        let output = command.output().expect("starting pajamas");
        let took = started.elapsed();
        assert!(output.status.success(), "{output:?}");
        took
    };
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    // Nothing is known of any, not even a sum.
    let first = || {
        let _ = std::fs::remove_dir_all(home.path().join("cache"));
        list(&[])
    };
    let cold = median((0..COLD).map(|_| first()).collect());
    let rescan = median((0..COLD).map(|_| list(&["--rescan"])).collect());
    let before = marker.runs();
    let warm = median((0..WARM).map(|_| list(&[])).collect());
    let ran = marker.runs() - before;
    let verdict = |good: bool| if good { "ok" } else { "MISSED" };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("`pajamas plugins list`, {PLUGINS} plugins, {cores} cores, medians of {COLD} cold and {WARM} warm ones");
    println!("| | time | promised | |\n|---|---|---|---|");
    let row = |what: &str, took: Duration, most: Duration| {
        println!(
            "| {what} | {:.1} ms | {} ms | {} |",
            took.as_secs_f64() * 1e3,
            most.as_millis(),
            verdict(took < most)
        );
    };
    row("cold", cold, COLD_MAX);
    row("`--rescan`", rescan, COLD_MAX);
    row("warm", warm, WARM_MAX);
    println!("| plugins whose code ran in the warm ones | {ran} | 0 | {} |", verdict(ran == 0));
    match warm < WARM_MAX && cold < COLD_MAX && ran == 0 {
        true => std::process::ExitCode::SUCCESS,
        false => std::process::ExitCode::FAILURE,
    }
}
