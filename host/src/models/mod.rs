//! Models on disk: [`source`] finds what a reference means, [`mod@format`] tells what is there, [`store`] keeps what was made.

pub mod format;
pub mod source;
pub mod store;
