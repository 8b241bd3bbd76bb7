//! The worker: a process of its own for what may crash, hang or abort. One protocol, both ends of it.

pub mod client;
pub mod protocol;
pub mod server;
