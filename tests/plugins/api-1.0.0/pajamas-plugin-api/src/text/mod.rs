//! The text that every backend shares: joining bytes to characters, stop sequences, timing, finish reasons, sampling.

pub mod prompt;
pub mod sampler;
pub mod sink;
pub mod stop;
pub mod utf8;
