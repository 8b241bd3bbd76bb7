//! All that the author of a pajamas backend depends on.
//!
//! Implement [`Backend`] and [`Model`] (and [`Quantizer`], if the backend makes models), name them in
//! [`export_plugin!`], build a cdylib, and drop it into `~/.pajamas/plugins`.
//!
//! - `backend`: the traits. `types`: their data. `error`, `cancel`, `host_services`: what they lean on.
//! - `text`: what every backend shares, in [`TokenSink`], [`Sampler`] and [`Prompt::tokens`]. [`Slots`]: which session's
//!   tokens lie in which part of a KV cache.
//! - `options`: typed load options, checked before a model is loaded.
//! - [`version`], [`manifest`]: what a plugin says of itself, and who takes whom.
//! - [`abi`]: the binary interface, both sides of it; [`abi::client`] is what a host uses.

// abi_stable's derives expand to impls that this lint names; they are sound and not ours to change.
#![allow(non_local_definitions)]

pub mod abi;
mod backend;
mod cancel;
mod error;
mod export;
mod host_services;
pub mod manifest;
pub mod options;
mod slots;
mod text;
mod tracing_bridge;
mod types;
pub mod version;

pub use backend::{Backend, Model, Quantizer};
pub use cancel::CancelToken;
pub use error::{Error, ErrorKind, Result};
pub use host_services::{HostServices, LogLevel, host};
pub use slots::Slots;
pub use text::prompt::check_ids;
pub use text::sampler::{Sampler, log_probabilities};
pub use text::sink::TokenSink;
pub use text::stop::{StopMatch, StopMatcher};
pub use text::utf8::Utf8Joiner;
pub use types::*;
pub use version::{API_VERSION, TARGET};

#[doc(hidden)]
pub use abi_stable as __abi_stable;
