//! Whether NVIDIA's driver, GPUs and libraries are here, and what to do where they are not. Nothing is linked: the driver
//! and the libraries are opened by name, as they are found on the machine that asks.
//!
//! | module | what it holds |
//! |---|---|
//! | [`driver`] | the driver: is it there, new enough, and which GPUs does it give this process |
//! | [`architectures`] | for which GPUs a program's kernels were compiled |
//! | [`libraries`] | where CUDA's libraries lie, if they do |

pub mod architectures;
pub mod driver;
pub mod libraries;

pub use architectures::Architectures;
pub use driver::{Driver, Gpu};

/// What the system's loader said.
fn said(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}
