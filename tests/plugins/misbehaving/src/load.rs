//! What happens while the loader maps this library, before the host can have called anything.

use crate::fault;
use crate::mode::{Mode, Stage};
use std::io::Write;

#[used]
#[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mod_init_func,mod_init_funcs"))]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".init_array"))]
static CONSTRUCTOR: extern "C" fn() = at_load;

/// Not unwinding: a panic in here ends the process.
extern "C" fn at_load() {
    let mode = Mode::now();
    mark(mode.as_written());
    if mode.is("average-at-load") {
        // Never asked for. The function is used nowhere else, so a test can spoil its name in the file and nothing but
        // the loader will miss it.
        let mut averages = [0.0; 1];
        // SAFETY: there is room for the one value asked for.
        unsafe { libc::getloadavg(averages.as_mut_ptr(), 1) };
    }
    fault::commit(&mode, Stage::Load);
}

/// Appends `word` and this process's id, as one line, to the file that `MISBEHAVE_MARKER` names: proof that code ran.
pub fn mark(word: &str) {
    let mut line = [0; 128];
    let room = line.len();
    let mut rest = line.as_mut_slice();
    let _ = writeln!(rest, "{word} {}", std::process::id());
    let length = room - rest.len();
    // SAFETY: the strings are C strings or have their length beside them; the descriptor is this function's own.
    unsafe {
        let path = libc::getenv(c"MISBEHAVE_MARKER".as_ptr());
        if path.is_null() {
            return;
        }
        let file = libc::open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC, 0o600);
        if file >= 0 {
            libc::write(file, line.as_ptr().cast(), length);
            libc::close(file);
        }
    }
}
