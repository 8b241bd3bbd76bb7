//! The data of the contract. All of it is serde data, encoded self-describingly at the boundary, so that a field
//! added in a later minor version is ignored by older readers and defaulted by newer ones.
//!
//! Structs that an author builds whole are `#[non_exhaustive]` and have constructors; the others are to be completed
//! with `..Default::default()` or `..Type::new(…)`, so that a new field breaks nobody's source.

mod availability;
mod generation;
mod model;
mod option_spec;
mod progress;
mod quantize;
mod sampling;

pub use availability::*;
pub use generation::*;
pub use model::*;
pub use option_spec::*;
pub use progress::*;
pub use quantize::*;
pub use sampling::*;
