//! MLX model folders: made from Hugging Face folders as `mlx_lm.convert` makes them, and read. Needs no MLX.
//!
//! Making, in the order of the data: [`MlxQuantizer`] opens the source, matches it with its family and a recipe,
//! lays out the files, and streams the tensors through all threads.
//!
//! - `recipes`: what can be made, and how many bits each layer gets
//! - [`families`]: the tensors of each architecture, as a table
//! - `plan`: matches a checkpoint with its family before anything is written
//! - [`affine`]: the arithmetic of affine quantization, bit for bit as MLX does it
//! - [`float_type`]: the float types that tensors are stored in
//! - `layout`: which tensor goes where in which safetensors file
//! - `transfer`, `positioned`: moves the data; writes at positions
//! - `config`, `companions`: `config.json` and the index; the tokenizer's and other files beside them
//! - [`quantizer`]: the stages above as one job
//!
//! Reading, for those who run models:
//!
//! - [`folder`]: [`MlxFolder`], an opened folder
//! - [`quantization`]: how each of its layers is quantized, by `config.json`

pub mod affine;
mod companions;
mod config;
pub mod families;
pub mod float_type;
pub mod folder;
mod layout;
mod plan;
mod positioned;
pub mod quantization;
pub mod quantizer;
mod recipes;
mod transfer;

pub use float_type::FloatType;
pub use folder::MlxFolder;
pub use quantization::{LayerQuantization, Mode, Quantization};
pub use quantizer::MlxQuantizer;
