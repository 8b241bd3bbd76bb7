//! Progress of loading and of making models.

use serde::{Deserialize, Serialize};

/// Progress of loading or quantizing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProgressUpdate {
    /// What is being done: `converting`, `quantizing`, `loading`.
    pub stage: String,
    /// `0.0..=1.0` of that stage.
    pub fraction: f32,
    /// Detail: the tensor's name, say.
    #[serde(default)]
    pub detail: String,
}

/// Where a plugin reports progress. May be called from any thread, as often as it likes: the host thins it out.
pub struct Progress<'a>(&'a (dyn Fn(&ProgressUpdate) + Sync));

impl<'a> Progress<'a> {
    /// Progress that goes to `report`.
    pub fn new(report: &'a (dyn Fn(&ProgressUpdate) + Sync)) -> Self {
        Self(report)
    }

    /// `fraction` (`0.0..=1.0`) of `stage` is done, `detail` is next.
    pub fn report(&self, stage: &str, fraction: f32, detail: &str) {
        (self.0)(&ProgressUpdate { stage: stage.into(), fraction: fraction.clamp(0.0, 1.0), detail: detail.into() });
    }
}

impl Default for Progress<'_> {
    fn default() -> Self {
        Self(&|_| ())
    }
}
