//! Fetching a model.

use super::call::{Call, call_methods};
use crate::error::Result;
use crate::models::hub::download;
use crate::runtime::obtain::{Obtain, Purpose};
use std::path::PathBuf;

/// What is to be fetched; [`Pajamas::pull`](super::Pajamas::pull) begins it.
#[must_use = "nothing is fetched before `run`"]
pub struct Pull<'a> {
    call: Call<'a>,
    wanted: download::Pull,
}

impl<'a> Pull<'a> {
    pub(super) fn new(call: Call<'a>, reference: String) -> Self {
        Self { call, wanted: download::Pull { reference, file: None } }
    }

    call_methods!('a);

    /// Of a repository of several GGUF files, this one, with all its parts.
    pub fn file(mut self, name: impl Into<String>) -> Self {
        self.wanted.file = Some(name.into());
        self
    }

    /// Fetches it, and gives its file or folder.
    ///
    /// # Errors
    /// When the hub does not have it or cannot be reached, or there is no room.
    pub fn run(self) -> Result<PathBuf> {
        let Call { pajamas, observer, cancel } = self.call;
        let obtain =
            Obtain { purpose: Purpose::Any, candidates: &[], config: pajamas.config(), observer, cancel: &cancel };
        obtain.pull(&self.wanted).map(|pulled| pulled.source.path)
    }
}
