//! pajamas as a library: what the `pajamas` binary is made of.
//!
//! A model goes [`models`] → [`pipeline`] → [`validate`] (and [`verify`]), and [`runtime`] opens it; a plugin goes through the stages of [`plugins`]; what may crash runs in a
//! [`worker`].
//!
//! - `config`, `env_vars`: settings and where they come from. `error`: what can go wrong, with hints.
//! - [`benchmark`]: how fast that is. `hardware`: this machine. `doctor`: is the installation sound. `chat`: a model's own
//!   template. `conversation`: what a chat remembers, and its file. `files`: replacing one as a whole. `text`: sizes and
//!   shell words. `cli`: one file per command.

pub mod benchmark;
pub mod chat;
pub mod cli;
pub mod config;
pub mod conversation;
pub mod doctor;
pub mod env_vars;
pub mod error;
pub mod files;
pub mod hardware;
pub mod models;
pub mod pipeline;
pub mod plugins;
pub mod runtime;
pub mod search;
pub mod sweep;
pub mod text;
pub mod users;
pub mod validate;
pub mod verify;
pub mod worker;

pub use error::{Error, Result};
