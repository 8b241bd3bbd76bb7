//! What every piece of work has: the installation it belongs to, who is told how it goes, and what stops it.

use super::Pajamas;
use crate::config::Config;
use crate::error::Result;
use crate::models::source::Source;
use crate::plugins::Candidate;
use crate::runtime::obtain::{Obtain, Purpose};
use crate::runtime::open::{Observer, Unobserved};
use crate::validate::Host;
use pajamas_plugin_api::CancelToken;
use std::sync::Arc;

pub(super) struct Call<'a> {
    pub pajamas: &'a Pajamas,
    pub observer: &'a dyn Observer,
    pub cancel: CancelToken,
}

impl<'a> Call<'a> {
    pub fn new(pajamas: &'a Pajamas) -> Self {
        Self { pajamas, observer: &Unobserved, cancel: CancelToken::never() }
    }

    /// The settings and the plugins; asking them takes a moment.
    pub fn begin(&self) -> (Config, Arc<[Candidate]>) {
        (self.pajamas.config().clone(), self.pajamas.candidates())
    }

    /// The model that `reference` means, fetched where it must be.
    pub fn source(&self, reference: &str, purpose: Purpose<'_>, host: &Host<'_>) -> Result<Source> {
        let (candidates, config) = (host.candidates, host.config);
        Obtain { purpose, candidates, config, observer: self.observer, cancel: &self.cancel }.source(reference)
    }
}

/// The methods that every piece of work has, for a struct with a field `call`.
macro_rules! call_methods {
    ($lifetime:lifetime) => {
        /// Who is told how it goes. Without one, only what is wrong is said, as the result.
        pub fn observer(mut self, observer: &$lifetime dyn crate::runtime::open::Observer) -> Self {
            self.call.observer = observer;
            self
        }

        /// What stops it; it then ends with [`Error::Interrupted`](crate::Error::Interrupted).
        pub fn cancel(mut self, cancel: pajamas_plugin_api::CancelToken) -> Self {
            self.call.cancel = cancel;
            self
        }
    };
}
pub(super) use call_methods;
