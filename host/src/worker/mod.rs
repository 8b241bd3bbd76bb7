//! The worker: a process of its own for what may crash, hang or abort. One protocol, both ends of it: `client` and
//! `remote_model` are the host's, `server` and `serving` the worker's.

pub mod client;
pub mod protocol;
pub mod remote_model;
pub mod server;
mod serving;
