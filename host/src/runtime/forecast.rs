//! How much memory a model will take at several context lengths, and whether it fits: by the backend's own forecast, or
//! by an estimate of ours where it makes none.

use crate::config::Config;
use crate::error::Error;
use crate::hardware::Hardware;
use crate::models::describe::Description;
use crate::plugins::Candidate;
use crate::worker::remote_model;
use pajamas_plugin_api::{Availability, DeviceClass, ErrorKind, LoadRequest, MemoryUsage};
use serde::Serialize;

/// The context lengths to forecast for, in tokens; the shorter ones only for models that were trained with little more.
const CONTEXTS: [u32; 8] = [512, 1024, 2048, 4096, 8192, 16_384, 32_768, 131_072];
/// The shortest for all other models.
const SHORTEST: u32 = 4096;
/// Bytes of a number in the KV cache, unless the backend is told otherwise.
const KV_VALUE_BYTES: u64 = 2;

/// What a model needs, by context length, and what there is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forecast {
    /// The backend that would run it; none if none can.
    pub backend: Option<String>,
    /// Where the model would be: a device's name, or `memory`, the machine's.
    pub device: String,
    /// What is free there now, in bytes; 0 if unknown.
    pub available_bytes: u64,
    /// What that device has, in bytes; 0 if unknown.
    pub total_bytes: u64,
    /// One for each context length, rising.
    pub contexts: Vec<Need>,
    /// Why these are estimates, or what else a user should know; may be empty.
    pub note: String,
}

/// What a model needs with one context length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Need {
    /// Tokens.
    pub context_length: u32,
    /// Bytes of weights.
    pub weights_bytes: u64,
    /// Bytes of KV cache; none if unknown.
    pub kv_cache_bytes: Option<u64>,
    /// Bytes of compute buffers; none if unknown.
    pub compute_bytes: Option<u64>,
    /// Their sum, as far as they are known.
    pub total_bytes: u64,
    /// Whether this is pajamas' estimate and not the backend's forecast.
    pub estimated: bool,
    /// Whether it fits into what is available now; none if that is unknown.
    pub fits: Option<bool>,
}

impl Need {
    fn forecast(context_length: u32, usage: &MemoryUsage, available_bytes: u64) -> Self {
        let known = |bytes: u64| (bytes > 0).then_some(bytes);
        Self {
            context_length,
            weights_bytes: usage.weights_bytes,
            kv_cache_bytes: known(usage.kv_cache_bytes),
            compute_bytes: known(usage.compute_bytes),
            total_bytes: 0,
            estimated: false,
            fits: None,
        }
        .added_up(available_bytes)
    }

    fn estimate(context_length: u32, description: &Description, weights_bytes: u64, available_bytes: u64) -> Self {
        let kv_values = description.kv_values_per_token;
        Self {
            context_length,
            weights_bytes,
            kv_cache_bytes: kv_values.map(|n| n.saturating_mul(KV_VALUE_BYTES).saturating_mul(context_length.into())),
            compute_bytes: None,
            total_bytes: 0,
            estimated: true,
            fits: None,
        }
        .added_up(available_bytes)
    }

    fn added_up(self, available_bytes: u64) -> Self {
        let parts = [Some(self.weights_bytes), self.kv_cache_bytes, self.compute_bytes];
        let total_bytes = parts.into_iter().flatten().fold(0, u64::saturating_add);
        let fits = (available_bytes > 0).then_some(total_bytes <= available_bytes);
        Self { total_bytes, fits, ..self }
    }
}

/// The context lengths to show for a model trained with `trained` tokens: the usual ones up to that, and that.
fn context_lengths(trained: Option<u64>) -> Vec<u32> {
    let trained = trained.map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX)).filter(|tokens| *tokens > 0);
    let shortest = trained.map_or(SHORTEST, |trained| if trained <= SHORTEST { 0 } else { SHORTEST });
    let in_range = |length: &u32| *length >= shortest && trained.is_none_or(|trained| *length < trained);
    let mut lengths: Vec<u32> = CONTEXTS.into_iter().filter(in_range).collect();
    lengths.extend(trained);
    lengths
}

/// Forecasts what the described model takes on `candidate`, the backend chosen for it; `machine` is this one. None for
/// a model that tells too little of itself.
pub fn forecast(
    description: &Description,
    candidate: Option<&Candidate>,
    machine: &Hardware,
    config: &Config,
) -> Option<Forecast> {
    let place = Place::of(candidate, machine);
    let lengths = context_lengths(description.context_length_trained);
    let mut note = String::new();
    let mut contexts = Vec::new();
    if let Some(candidate) = candidate {
        match by_backend(description, candidate, &lengths, &place, config) {
            Ok(needs) => contexts = needs,
            Err(error) => note = why_estimated(&candidate.name(), &error),
        }
    } else {
        note = "an estimate for the weights as they are: no installed backend runs this".into();
    }
    if contexts.is_empty() {
        let weights = description.weights_bytes?;
        let estimate = |length: &u32| Need::estimate(*length, description, weights, place.available_bytes);
        contexts = lengths.iter().map(estimate).collect();
    }
    Some(Forecast {
        backend: candidate.map(Candidate::name),
        device: place.device,
        available_bytes: place.available_bytes,
        total_bytes: place.total_bytes,
        contexts,
        note,
    })
}

/// Forecasts what the described model takes with a context of `length` tokens. `made` is for a model that is still to be
/// made from the described one: the bytes that its weights will have.
pub fn at(
    description: &Description,
    made: Option<u64>,
    length: u32,
    candidate: &Candidate,
    machine: &Hardware,
    config: &Config,
) -> Option<Forecast> {
    let place = Place::of(Some(candidate), machine);
    let by_backend = match made {
        Some(_) => None,
        None => by_backend(description, candidate, &[length], &place, config).ok(),
    };
    let estimate = |weights| vec![Need::estimate(length, description, weights, place.available_bytes)];
    let contexts = by_backend.or_else(|| Some(estimate(made.or(description.weights_bytes)?)))?;
    Some(Forecast {
        backend: Some(candidate.name()),
        device: place.device,
        available_bytes: place.available_bytes,
        total_bytes: place.total_bytes,
        contexts,
        note: String::new(),
    })
}

fn by_backend(
    description: &Description,
    candidate: &Candidate,
    lengths: &[u32],
    place: &Place,
    config: &Config,
) -> Result<Vec<Need>, Error> {
    let need = |length: &u32| {
        let mut request = LoadRequest::new(&description.path);
        request.context_length = Some(*length);
        request.threads = config.threads;
        let usage = remote_model::forecast(candidate.file()?, &request, config)?;
        Ok(Need::forecast(*length, &usage, place.available_bytes))
    };
    lengths.iter().map(need).collect()
}

fn why_estimated(backend: &str, error: &Error) -> String {
    match error {
        Error::Plugin(error) if error.kind == ErrorKind::Unsupported => {
            format!("an estimate: `{backend}` does not forecast; compute buffers come on top")
        }
        error => format!("an estimate: `{backend}` could not forecast ({error}); compute buffers come on top"),
    }
}

/// Where a model would be.
struct Place {
    device: String,
    available_bytes: u64,
    total_bytes: u64,
}

impl Place {
    /// The first device of `candidate` if it has memory of its own, else the machine's memory.
    fn of(candidate: Option<&Candidate>, machine: &Hardware) -> Self {
        let device = candidate.and_then(|candidate| match &candidate.report.as_ref()?.availability {
            Availability::Available { devices } => devices.first(),
            _ => None,
        });
        match device {
            Some(device) if device.class == DeviceClass::DiscreteGpu && device.memory_total_bytes > 0 => Self {
                device: device.name.clone(),
                available_bytes: device.memory_free_bytes,
                total_bytes: device.memory_total_bytes,
            },
            _ => Self {
                device: "memory".into(),
                available_bytes: machine.memory_available_bytes,
                total_bytes: machine.memory_total_bytes,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_lengths_rise_to_the_trained_one() {
        assert_eq!(context_lengths(Some(2048)), [512, 1024, 2048]);
        assert_eq!(context_lengths(Some(4096)), [512, 1024, 2048, 4096]);
        assert_eq!(context_lengths(Some(40_960)), [4096, 8192, 16_384, 32_768, 40_960]);
        assert_eq!(context_lengths(Some(131_072)), [4096, 8192, 16_384, 32_768, 131_072]);
        assert_eq!(context_lengths(Some(u64::MAX)).last(), Some(&u32::MAX));
        assert_eq!(context_lengths(None), context_lengths(Some(131_072)));
    }

    #[test]
    fn an_estimate_is_the_tensors_and_a_cache_in_half_precision() {
        // Qwen2.5-0.5B: 24 layers, 2 KV heads of 64.
        let model = Description { kv_values_per_token: Some(2 * 24 * 2 * 64), ..Description::default() };
        let need = Need::estimate(4096, &model, 1000, 50 << 20);
        assert_eq!((need.kv_cache_bytes, need.compute_bytes), (Some(48 << 20), None));
        assert_eq!((need.total_bytes, need.estimated, need.fits), ((48 << 20) + 1000, true, Some(true)));
        assert_eq!(Need::estimate(8192, &model, 1000, 50 << 20).fits, Some(false));
        assert_eq!(Need::estimate(4096, &Description::default(), 1000, 0).fits, None);
    }

    #[test]
    fn a_backends_forecast_counts_all_three_parts() {
        let mut usage = MemoryUsage::default();
        (usage.weights_bytes, usage.kv_cache_bytes, usage.compute_bytes) = (100, 20, 3);
        let need = Need::forecast(4096, &usage, 122);
        assert_eq!((need.total_bytes, need.estimated, need.fits), (123, false, Some(false)));
    }
}
