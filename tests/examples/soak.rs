//! Runs for long, and says whether memory grows: generations with one model in this process, then models loaded and unloaded,
//! in this process and in workers. `make soak` calls it.
//!
//!     soak RELEASE_FOLDER MODEL [GENERATIONS [LOADS]]

use pajamas::Pajamas;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What memory may grow by after the first tenth, for allocators that take a while to settle: where answers come from one model,
/// and where each loading takes and gives back megabytes.
const GROWTH_MAX_BYTES: [u64; 2] = [1 << 20, 8 << 20];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [release, model, counts @ ..] = arguments.as_slice() else {
        return Err("usage: soak RELEASE_FOLDER MODEL [GENERATIONS [LOADS]]".into());
    };
    let count = |index: usize, default| counts.get(index).map_or(Ok(default), |count| count.parse::<u32>());
    let (generations, loads) = (count(0, 10_000)?, count(1, 200)?);
    let release = Path::new(release).canonicalize()?;
    let home = tempfile::tempdir()?;
    let plugins = home.path().join("plugins");
    std::fs::create_dir(&plugins)?;
    let library = format!("{}gguf_cpu{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    std::fs::copy(release.join(&library), plugins.join(&library))?;
    let worker = release.join(format!("pajamas-worker{}", std::env::consts::EXE_SUFFIX));
    let pajamas = Pajamas::builder().home(home.path()).worker(worker).offline(true).threads(1).build()?;
    let path = PathBuf::from(model).canonicalize()?;

    println!(
        "| what | of them | seconds | resident MiB after a tenth | at the end | most |\n|---|---|---|---|---|---|"
    );
    let mut flat = true;
    for isolated in [false, true] {
        let model = pajamas.load(&path).isolated(isolated).parallel(2).run()?;
        let place = if isolated { "in a worker" } else { "in this process" };
        flat &= watch(&format!("answers {place}"), generations, GROWTH_MAX_BYTES[0], |number| {
            let question = format!("What is {} plus {}?", number % 10, number / 10 % 10);
            let session = (number % 3 == 0).then_some(u64::from(number % 5));
            let generate = model.chat(question).seed(u64::from(number)).max_tokens(24);
            let answer = generate.with(|request| request.session = session).run()?;
            assert!(answer.stats.generated_tokens > 0);
            if isolated { Ok(model.memory_usage()?.1) } else { resident_bytes() }
        })?;
        flat &= watch(&format!("models loaded and unloaded {place}"), loads, GROWTH_MAX_BYTES[1], |number| {
            let model = pajamas.load(&path).isolated(isolated).run()?;
            model.chat("Hi").seed(u64::from(number)).max_tokens(4).run()?;
            drop(model);
            resident_bytes()
        })?;
    }
    if flat { Ok(()) } else { Err("memory grew".into()) }
}

/// Does `step` `count` times; it gives the bytes held after it. Whether those stay flat.
fn watch(
    what: &str,
    count: u32,
    growth_max_bytes: u64,
    mut step: impl FnMut(u32) -> Result<u64, Box<dyn std::error::Error>>,
) -> Result<bool, Box<dyn std::error::Error>> {
    let started = Instant::now();
    let (mut early, mut most, mut last) = (0, 0, 0);
    for number in 0..count {
        last = step(number)?;
        most = most.max(last);
        if number <= count / 10 {
            early = early.max(last);
        }
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let seconds = started.elapsed().as_secs_f64();
    println!("| {what} | {count} | {seconds:.0} | {:.1} | {:.1} | {:.1} |", mib(early), mib(last), mib(most));
    Ok(last <= early + growth_max_bytes)
}

/// Main memory that this process holds.
fn resident_bytes() -> Result<u64, Box<dyn std::error::Error>> {
    let asked =
        std::process::Command::new("ps").args(["-o", "rss=", "-p", &std::process::id().to_string()]).output()?;
    Ok(String::from_utf8(asked.stdout)?.trim().parse::<u64>()? * 1024)
}
