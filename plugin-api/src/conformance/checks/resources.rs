//! What a plugin leaves behind.

#[cfg(unix)]
use super::loaded;
use super::{Finding, Obstacle, TEXT, answer, ensure, greedy, load, with_model};
use crate::conformance::Subject;

/// Loads that are counted, after those that warm up.
const CYCLES: usize = 20;
const WARM_UP: usize = 4;
/// Growth that allocators explain: this many bytes, or a hundredth of the model.
const GROWTH_BYTES: u64 = 512 << 10;

#[cfg(unix)]
pub(crate) fn silent_on_stdout(subject: &Subject) -> Finding {
    use std::io::{Read, Seek, Write};
    use std::os::fd::{AsRawFd, FromRawFd};
    let failed = |what: &'static str| move |error: std::io::Error| Obstacle::Failed(format!("{what}: {error}"));
    let path = subject.cache_dir.join(format!("conformance-stdout-{}", std::process::id()));
    let opened = std::fs::File::options().read(true).write(true).create_new(true).open(&path);
    let mut file = opened.map_err(failed("no file for its stdout"))?;
    let _ = std::fs::remove_file(&path);
    let _ = std::io::stdout().flush();
    // SAFETY: both descriptors are open; the copy is this function's own.
    let before = unsafe {
        let before = libc::dup(libc::STDOUT_FILENO);
        libc::dup2(file.as_raw_fd(), libc::STDOUT_FILENO);
        before
    };
    let worked = work(subject);
    let _ = std::io::stdout().flush();
    // SAFETY: with a null pointer it flushes what C has buffered; the descriptors are open, and `before` ends here.
    unsafe {
        libc::fflush(std::ptr::null_mut());
        libc::dup2(before, libc::STDOUT_FILENO);
        drop(std::fs::File::from_raw_fd(before));
    }
    let mut printed = Vec::new();
    let read = file.rewind().and_then(|()| Read::take(&mut file, 1 << 16).read_to_end(&mut printed));
    read.map_err(failed("its stdout"))?;
    let shown: String = String::from_utf8_lossy(&printed).chars().take(80).collect();
    ensure!(printed.is_empty(), "it printed {shown:?}: stdout is the user's, the host's log takes what is to be said");
    worked
}

#[cfg(not(unix))]
pub(crate) fn silent_on_stdout(_: &Subject) -> Finding {
    Err(Obstacle::Skipped("stdout is looked at on Unix only".into()))
}

/// All that a host does with a plugin, as far as this one goes along.
#[cfg(unix)]
fn work(subject: &Subject) -> Finding {
    let plugin = super::open(subject)?;
    plugin.is_available()?;
    plugin.capabilities()?;
    plugin.recipes()?;
    match loaded(subject) {
        Ok((_, model)) => {
            answer(&model, &greedy(TEXT, 4))?;
            Ok(String::new())
        }
        Err(Obstacle::Skipped(reason)) => Ok(format!("no model was loaded: {reason}")),
        Err(failed) => Err(failed),
    }
}

pub(crate) fn unloads_without_growth(subject: &Subject) -> Finding {
    let (plugin, path) = with_model(subject)?;
    let Some(first) = Held::now() else {
        return Err(Obstacle::Skipped("this system does not tell what a process holds".into()));
    };
    let mut measured = Vec::new();
    for _ in 0..WARM_UP + CYCLES {
        let model = load(&plugin, path, subject)?;
        answer(&model, &greedy(TEXT, 4))?;
        drop(model);
        measured.push(Held::now().unwrap_or(first));
    }
    let measured = &measured[WARM_UP..];
    let mean = |part: &[Held]| part.iter().map(|held| held.bytes).sum::<u64>() / part.len() as u64;
    let growth = mean(&measured[CYCLES - 5..]).saturating_sub(mean(&measured[..5]));
    let size = std::fs::metadata(path).map_or(0, |metadata| if metadata.is_file() { metadata.len() } else { 0 });
    let allowed = GROWTH_BYTES.max(size / 100);
    let kib = |bytes: u64| bytes / 1024;
    ensure!(growth <= allowed, "{CYCLES} loads left {} KiB behind; {} are explained", kib(growth), kib(allowed));
    // Threads that were told to end may still be about it: the least of a few counts.
    let least = |of: fn(&Held) -> usize, part: &[Held]| part.iter().map(of).min().unwrap_or(0);
    for (what, of) in [("threads", (|held| held.threads) as fn(&Held) -> usize), ("open files", |held| held.files)] {
        let (start, end) = (least(of, &measured[..5]), least(of, &measured[CYCLES - 5..]));
        ensure!(end <= start, "there were {start} {what}, and then {end}");
    }
    Ok(format!("{} KiB more after {CYCLES} loads", kib(growth)))
}

/// What this process holds.
#[derive(Clone, Copy)]
struct Held {
    bytes: u64,
    threads: usize,
    files: usize,
}

impl Held {
    #[cfg(target_os = "linux")]
    fn now() -> Option<Self> {
        // Threads that were told to end may still be about it.
        std::thread::sleep(std::time::Duration::from_millis(5));
        // What is free but kept for later is no growth.
        #[cfg(target_env = "gnu")]
        // SAFETY: malloc_trim has no preconditions.
        unsafe {
            libc::malloc_trim(0);
        }
        let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
        let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
        // SAFETY: sysconf has no preconditions.
        let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
        let entries = |path: &str| std::fs::read_dir(path).ok().map(Iterator::count);
        Some(Self { bytes: pages * page, threads: entries("/proc/self/task")?, files: entries("/proc/self/fd")? })
    }

    #[cfg(not(target_os = "linux"))]
    fn now() -> Option<Self> {
        None
    }
}
