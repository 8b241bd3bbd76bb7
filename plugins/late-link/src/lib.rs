//! Functions of shared libraries that a plugin opens by itself, for code that was compiled to be linked to them.
//!
//! A plugin that is linked to a driver's library cannot even be loaded where there is no driver, and so cannot say what is
//! missing. [`late_functions!`] defines functions of the library's names inside of the plugin; each jumps to wherever
//! [`bind`] found the real one. The code that calls them, llama.cpp's, is compiled as ever and knows nothing of it.
//!
//! Every argument and result passes through untouched, whatever their types: such a function is one jump.

use std::sync::atomic::{AtomicPtr, Ordering};

#[doc(hidden)]
pub use std::{arch::global_asm, concat, stringify, sync::atomic};

/// A function of a library that is opened later: its name, and where it is.
pub type Late = (&'static str, &'static AtomicPtr<()>);

/// Defines the functions named, visible to what is linked into the same library and to nobody else, in a module with a table
/// of them, `FUNCTIONS`, for [`bind`]:
///
/// ```text
/// pajamas_late_link::late_functions! {
///     /// The Vulkan loader's.
///     mod vulkan { vkGetInstanceProcAddr }
/// }
/// // … pajamas_late_link::bind(vulkan::FUNCTIONS, &library)
/// ```
///
/// To call one before it is bound ends the process. Linux on x86-64 and AArch64.
#[macro_export]
macro_rules! late_functions {
    ($(#[$doc:meta])* mod $module:ident { $($name:ident),+ $(,)? }) => {
        $(#[$doc])*
        mod $module {
            use $crate::atomic::AtomicPtr;

            $(
                #[allow(non_upper_case_globals)]
                static $name: AtomicPtr<()> = AtomicPtr::new($crate::unbound as fn() -> ! as *mut ());

                #[cfg(target_arch = "x86_64")]
                $crate::global_asm!(
                    ".text",
                    ".p2align 4",
                    $crate::concat!(".globl ", $crate::stringify!($name)),
                    $crate::concat!(".hidden ", $crate::stringify!($name)),
                    $crate::concat!(".type ", $crate::stringify!($name), ",@function"),
                    $crate::concat!($crate::stringify!($name), ":"),
                    "jmp qword ptr [rip + {place}]",
                    place = sym $name,
                );
                #[cfg(target_arch = "aarch64")]
                $crate::global_asm!(
                    ".text",
                    ".p2align 4",
                    $crate::concat!(".globl ", $crate::stringify!($name)),
                    $crate::concat!(".hidden ", $crate::stringify!($name)),
                    $crate::concat!(".type ", $crate::stringify!($name), ",%function"),
                    $crate::concat!($crate::stringify!($name), ":"),
                    // The register that linkers use for the same purpose.
                    "adrp x16, {place}",
                    "ldr x16, [x16, :lo12:{place}]",
                    "br x16",
                    place = sym $name,
                );
            )+

            /// All of them.
            pub(super) static FUNCTIONS: &[$crate::Late] = &[$(($crate::stringify!($name), &$name)),+];
        }
    };
}

/// Lets `functions` be those of `library`, which must stay open as long as they may be called. Callable from any thread.
///
/// # Errors
/// The name of the first that the library has not; none is then bound.
pub fn bind(functions: &[Late], library: &libloading::Library) -> Result<(), &'static str> {
    let mut found = Vec::with_capacity(functions.len());
    for (name, _) in functions {
        // SAFETY: the address is only kept; nothing is called, and nothing is assumed of the type.
        let address = unsafe { library.get::<*mut ()>(name.as_bytes()) };
        found.push(*address.map_err(|_| *name)?);
    }
    for ((_, place), address) in functions.iter().zip(found) {
        place.store(address, Ordering::Release);
    }
    Ok(())
}

/// Where a function leads that was never bound.
#[doc(hidden)]
pub fn unbound() -> ! {
    eprintln!("a function of a library that was not found was called");
    std::process::abort()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    late_functions! {
        /// Of libm, under names that nothing here is linked with.
        mod maths { j1, ldexp }
    }

    unsafe extern "C" {
        fn ldexp(x: f64, exponent: i32) -> f64;
        fn j1(x: f64) -> f64;
    }

    #[test]
    fn a_bound_function_is_the_librarys_and_a_missing_one_is_named() {
        // SAFETY: the system's own library of mathematics.
        let library = unsafe { libloading::Library::new("libm.so.6") }.expect("every Linux has it");
        let place = AtomicPtr::new(std::ptr::null_mut());
        let place: &'static AtomicPtr<()> = Box::leak(Box::new(place));
        assert_eq!(bind(&[("cos", place), ("no_such_function", place)], &library), Err("no_such_function"));
        assert!(place.load(Ordering::Acquire).is_null(), "all or none");
        bind(maths::FUNCTIONS, &library).expect("both are there");
        std::mem::forget(library);
        // SAFETY: both are bound to the functions that are declared.
        let (shifted, bessel) = unsafe { (ldexp(1.5, 4), j1(0.0)) };
        assert_eq!(shifted, 24.0);
        assert_eq!(bessel, 0.0);
    }
}
