//! A reference to a model → a model that answers: [`open`] decides on which backend and in which format, [`Engine`] is
//! the loaded model, in this process or in a worker. [`forecast`] says how much memory it will take; [`obtain`] finds the
//! model, or fetches it.

pub mod forecast;
pub mod obtain;
pub mod open;

use crate::error::{Error, Result};
use crate::worker::remote_model::RemoteModel;
use pajamas_plugin_api::abi::client::LoadedModel;
use pajamas_plugin_api::{CancelToken, Event, GenerateRequest, GenerateStats, MemoryUsage, ModelInfo};
use std::ops::ControlFlow;

/// A loaded model. Its calls may come from several threads; dropping it unloads the model.
pub enum Engine {
    /// In this process: the fastest way, and a crash of its engine is a crash of this program.
    InProcess(LoadedModel),
    /// In a worker: a crash is an error.
    Isolated(RemoteModel),
}

impl Engine {
    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        match self {
            Self::InProcess(model) => model.info(),
            Self::Isolated(model) => model.info(),
        }
    }

    /// Generates, handing each event to `on_event` until it breaks. Blocks.
    ///
    /// # Errors
    /// The plugin's, when it failed before its first token.
    pub fn generate_stream(
        &self,
        request: &GenerateRequest,
        cancel: &CancelToken,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<GenerateStats> {
        match self {
            Self::InProcess(model) => model.generate_stream(request, cancel, on_event).map_err(Error::from),
            Self::Isolated(model) => model.generate_stream(request, cancel, Some(on_event)),
        }
    }

    /// Generates for the statistics' sake: nothing of the answer is handed over.
    ///
    /// # Errors
    /// As [`Self::generate_stream`].
    pub fn measure(&self, request: &GenerateRequest, cancel: &CancelToken) -> Result<GenerateStats> {
        match self {
            Self::InProcess(model) => {
                model.generate_stream(request, cancel, &mut |_| ControlFlow::Continue(())).map_err(Error::from)
            }
            Self::Isolated(model) => model.generate_stream(request, cancel, None),
        }
    }

    /// As [`Model::tokenize`](pajamas_plugin_api::Model::tokenize).
    ///
    /// # Errors
    /// The plugin's.
    pub fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        match self {
            Self::InProcess(model) => model.tokenize(text, add_special, parse_special).map_err(Error::from),
            Self::Isolated(model) => model.tokenize(text, add_special, parse_special),
        }
    }

    /// As [`Model::detokenize`](pajamas_plugin_api::Model::detokenize).
    ///
    /// # Errors
    /// The plugin's.
    pub fn detokenize(&self, tokens: &[u32]) -> Result<Vec<u8>> {
        match self {
            Self::InProcess(model) => model.detokenize(tokens).map_err(Error::from),
            Self::Isolated(model) => model.detokenize(tokens),
        }
    }

    /// As [`Model::logits`](pajamas_plugin_api::Model::logits).
    ///
    /// # Errors
    /// The plugin's.
    pub fn logits(
        &self,
        tokens: &[u32],
        first_row: usize,
        rows: &mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>,
        cancel: &CancelToken,
    ) -> Result<()> {
        match self {
            Self::InProcess(model) => model.logits(tokens, first_row, rows, cancel).map_err(Error::from),
            Self::Isolated(model) => model.logits(tokens, first_row, rows, cancel),
        }
    }

    /// What the model holds by its backend's account, and the most that its process has held so far, in bytes.
    ///
    /// # Errors
    /// The plugin's.
    pub fn memory_usage(&self) -> Result<(MemoryUsage, u64)> {
        match self {
            Self::InProcess(model) => Ok((model.memory_usage()?, crate::hardware::peak_memory_bytes())),
            Self::Isolated(model) => model.memory_usage(),
        }
    }
}
