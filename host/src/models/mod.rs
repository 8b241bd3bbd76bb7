//! Models on disk: [`source`] finds what a reference means, [`hub`] does in Hugging Face's cache, [`mod@format`] tells what
//! is there, [`describe`] all about it, [`store`] keeps what was made, [`provenance`] what it tells of its making, with
//! the sums of [`hashes`].

pub mod describe;
pub mod format;
pub mod hashes;
pub mod hub;
pub mod provenance;
pub mod safetensors;
pub mod source;
pub mod store;
