//! Models on disk: [`source`] finds what a reference means, [`store`] keeps what was made.

pub mod source;
pub mod store;
