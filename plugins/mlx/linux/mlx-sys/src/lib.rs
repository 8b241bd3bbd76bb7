//! mlx-c's functions and types, and on Linux what its headers leave out.

#![allow(non_upper_case_globals)]
#![allow(non_camel_case_types)]
#![allow(non_snake_case)]
#![allow(clippy::all)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

#[cfg(target_arch = "x86_64")]
pub use half::*;

/// mlx-c declares its half-precision functions only where the C compiler has the types, which x86-64's has not.
/// MLX reads an item's or array's memory without converting it, so the functions for `uint16_t` give the same bits.
#[cfg(target_arch = "x86_64")]
mod half {
    use super::*;

    #[repr(transparent)]
    #[derive(Debug, Default, Clone, Copy)]
    pub struct float16_t(pub u16);
    pub type bfloat16_t = u16;

    pub unsafe fn mlx_array_item_float16(result: *mut float16_t, array: mlx_array) -> std::ffi::c_int {
        unsafe { mlx_array_item_uint16(result.cast(), array) }
    }

    pub unsafe fn mlx_array_item_bfloat16(result: *mut bfloat16_t, array: mlx_array) -> std::ffi::c_int {
        unsafe { mlx_array_item_uint16(result, array) }
    }

    pub unsafe fn mlx_array_data_float16(array: mlx_array) -> *const float16_t {
        unsafe { mlx_array_data_uint16(array).cast() }
    }

    pub unsafe fn mlx_array_data_bfloat16(array: mlx_array) -> *const bfloat16_t {
        unsafe { mlx_array_data_uint16(array) }
    }
}

/// Apple's clock, from which mlx-rs seeds its default random state: any number that differs from run to run will do.
#[no_mangle]
pub extern "C" fn mach_approximate_time() -> u64 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64)
}
