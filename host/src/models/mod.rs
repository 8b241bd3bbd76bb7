//! Models on disk: [`source`] finds what a reference means, [`mod@format`] tells what is there, [`store`] keeps what was made, [`provenance`] what it tells of its making.

pub mod format;
pub mod provenance;
pub mod source;
pub mod store;
