//! Running a model on MLX.
//!
//! | module | what it holds |
//! |---|---|
//! | `architecture` | a model's shapes and switches, from its config.json |
//! | `weights` | its tensors, on their way into layers |
//! | `network`, `linear`, `rope` | the transformer |
//! | `cache` | keys and values of one sequence |
//! | `sampling` | choosing tokens inside the graph |
//! | `generate` | the loops over tokens: prompt, answer, rows of logits |
//! | `thread` | the one thread that all of this happens on, and how callers talk to it |

pub(crate) mod architecture;
pub(crate) mod cache;
pub(crate) mod generate;
mod linear;
mod network;
mod pool;
mod rope;
mod sampling;
pub(crate) mod thread;
pub(crate) mod weights;

#[cfg(test)]
mod tests;

use pajamas_plugin_api::{Error, ErrorKind};

/// An error of MLX's as one of the contract's.
pub(crate) fn error(error: mlx_rs::error::Exception) -> Error {
    of_text(error.what())
}

/// MLX's errors are texts alone.
fn of_text(text: &str) -> Error {
    let kind =
        if ["malloc]", "out of memory", "Unable to allocate", "Insufficient Memory"].iter().any(|s| text.contains(s)) {
            ErrorKind::OutOfMemory
        } else {
            ErrorKind::Other
        };
    Error::new(kind, format!("MLX: {text}"))
}
