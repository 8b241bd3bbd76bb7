//! Faults that can happen anywhere: a process that ends, hangs, multiplies, or talks out of turn.
//!
//! But for the panic they are plain calls of C's library, because the loader's lock may be held.

use crate::load::mark;
use crate::mode::{Mode, Stage};
use std::hint::black_box;

unsafe extern "C" {
    /// In exception.cpp; ends in `std::terminate`.
    safe fn misbehaving_throw() -> !;
}

/// How long a process lives that was left behind, in seconds.
const GRANDCHILD_S: libc::c_uint = 60;

/// Bytes that a flood has, on each of two streams.
const FLOOD_BYTES: usize = 100_000_000;

/// Lets happen what `mode` wants at `stage`, if it is one of these faults.
pub fn commit(mode: &Mode, stage: Stage) {
    let Some(fault) = mode.fault(stage) else { return };
    match fault {
        // SAFETY: for the compiler there is nothing behind it.
        "exit-0" => unsafe { libc::exit(0) },
        // SAFETY: as above.
        "exit-1" => unsafe { libc::exit(1) },
        "abort" => {
            say(if matches!(stage, Stage::Generate) { "the thread snapped\n" } else { "about to abort\n" });
            // SAFETY: as above.
            unsafe { libc::abort() }
        }
        "panic" => panic!(
            "{}",
            match stage {
                Stage::Load => "no pasture",
                Stage::Constructor => "no shepherd",
                Stage::Probe => "no wool",
                Stage::Model => "no loom",
                Stage::Generate => "no thread",
            }
        ),
        "segv" => touch_nothing(),
        "ill" => run_nonsense(),
        "bus" => touch_a_files_missing_page(),
        "cxx" => misbehaving_throw(),
        "hang" => loop {
            // SAFETY: it has no preconditions.
            unsafe { libc::pause() };
        },
        "spin" => loop {
            std::hint::spin_loop();
        },
        "fork" => leave_a_grandchild(true),
        "child" => leave_a_grandchild(false),
        "flood" => [libc::STDOUT_FILENO, libc::STDERR_FILENO].into_iter().for_each(flood),
        // A frame longer than any may be.
        "garbage" => write_into_pipes(&[0xff; 64]),
        // A frame of one byte, which is no MessagePack.
        "nonsense" => write_into_pipes(&[1, 0, 0, 0, 0xc1]),
        // The beginning of a frame, and then the end: as one that is killed while it writes.
        "cut" => {
            write_into_pipes(&[8, 0, 0, 0, 0x81]);
            // SAFETY: it has no preconditions.
            unsafe { libc::abort() }
        }
        // A mode that only looks like a fault; whoever knows it does it.
        _ => (),
    }
}

fn say(text: &str) {
    // SAFETY: the text lives during the call.
    unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
}

/// A segmentation fault, by writing where no system maps anything. Not to null itself: the compiler knows that one.
fn touch_nothing() {
    // SAFETY: none; ending the process is the purpose.
    unsafe { black_box(std::ptr::without_provenance_mut::<u64>(8)).write_volatile(1) };
}

/// An illegal instruction.
fn run_nonsense() {
    // SAFETY: none; ending the process is the purpose.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!("ud2");
        #[cfg(target_arch = "aarch64")]
        std::arch::asm!("udf #0");
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        libc::raise(libc::SIGILL);
    }
}

/// A bus error, by reading a mapped file where the file has no bytes: as a model's that was truncated after it was mapped.
fn touch_a_files_missing_page() {
    const PAGE: usize = 4096;
    // SAFETY: the file is this function's own; reading the page ends the process, which is the purpose.
    unsafe {
        let file = libc::tmpfile();
        assert!(!file.is_null(), "no temporary file");
        let (protection, sharing) = (libc::PROT_READ, libc::MAP_SHARED);
        let page = libc::mmap(std::ptr::null_mut(), PAGE, protection, sharing, libc::fileno(file), 0);
        assert!(page != libc::MAP_FAILED, "no mapping");
        black_box(page.cast::<u8>().read_volatile());
    }
}

/// A process which holds every descriptor of this one's for a while, in a session, and so a group, of its own if it is to
/// `leave`. Then this one goes on.
fn leave_a_grandchild(leave: bool) {
    // SAFETY: the child calls nothing that needs another thread.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0, "no grandchild");
        if child == 0 {
            if leave {
                libc::setsid();
            }
            mark("grandchild");
            libc::sleep(GRANDCHILD_S);
            libc::_exit(0);
        }
        if !leave {
            // Or it would be gone before it could say that it was there.
            libc::usleep(200_000);
        }
    }
}

fn flood(descriptor: libc::c_int) {
    const LINE: &[u8; 16] = b"baa baa baa baa\n";
    let lines: [[u8; LINE.len()]; 4096] = [*LINE; 4096];
    let mut left = FLOOD_BYTES;
    while left > 0 {
        // SAFETY: there are as many bytes as it says.
        let written = unsafe { libc::write(descriptor, lines.as_ptr().cast(), left.min(size_of_val(&lines))) };
        match usize::try_from(written) {
            Ok(written) => left -= written,
            // Nobody listens any more.
            Err(_) => break,
        }
    }
}

/// Writes `bytes` to every pipe from descriptor 3 on that takes them: one of these is the worker's way to the host.
fn write_into_pipes(bytes: &[u8]) {
    for descriptor in 3..64 {
        // SAFETY: a status of zeroes is valid and lives during the call, as the bytes do. Descriptors need not be open.
        unsafe {
            let mut status: libc::stat = std::mem::zeroed();
            let is_open = libc::fstat(descriptor, &raw mut status) == 0;
            let is_pipe = is_open && status.st_mode & libc::S_IFMT == libc::S_IFIFO;
            if is_pipe && libc::fcntl(descriptor, libc::F_GETFL) & libc::O_ACCMODE != libc::O_RDONLY {
                libc::write(descriptor, bytes.as_ptr().cast(), bytes.len());
            }
        }
    }
}
