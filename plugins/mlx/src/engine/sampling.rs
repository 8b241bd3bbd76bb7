//! Choosing tokens inside the graph, so that the next step can begin before the last one's token is known here.

use mlx_rs::error::Result;
use mlx_rs::ops::indexing::{TryIndexOp, argmax_axis, put_along_axis, take_along_axis};
use mlx_rs::{Array, ops, random};
use pajamas_plugin_api::Sampling;

/// Does what the plugin API's `Sampler` does, in the same order (repeat penalty, top-k, top-p, min-p, temperature), with
/// MLX's random numbers.
pub(crate) struct GraphSampler {
    settings: Sampling,
    key: Array,
    /// The tokens that the penalty looks at, `[n]` u32; none while there are none.
    recent: Option<Array>,
}

impl GraphSampler {
    /// A sampler for an answer to `prompt`.
    pub(crate) fn new(settings: &Sampling, prompt: &[u32]) -> Result<Self> {
        let seed = settings.seed.unwrap_or_else(seed_from_system);
        let keep = prompt.len().min(settings.repeat_last_n as usize);
        let recent = penalizes(settings).then(|| &prompt[prompt.len() - keep..]).filter(|recent| !recent.is_empty());
        let recent = recent.map(|ids| Array::from_slice(ids, &[i32::try_from(ids.len()).unwrap_or(i32::MAX)]));
        Ok(Self { settings: settings.clone(), key: random::key(seed)?, recent })
    }

    /// The next token, `[1]` u32, for `logits` (`[1, vocabulary]`, f32). Nothing is evaluated yet.
    pub(crate) fn choose(&mut self, logits: &Array) -> Result<Array> {
        let logits = self.penalized(logits)?;
        let token =
            if self.settings.temperature <= 0.0 { argmax_axis(&logits, -1, false)? } else { self.drawn(&logits)? };
        if penalizes(&self.settings) {
            let all = match self.recent.take() {
                Some(recent) => ops::concatenate(&[&recent, &token], 0)?,
                None => token.clone(),
            };
            let surplus = all.dim(0) - i32::try_from(self.settings.repeat_last_n).unwrap_or(i32::MAX);
            self.recent = Some(if surplus > 0 { all.try_index(surplus..)? } else { all });
        }
        Ok(token)
    }

    fn penalized(&self, logits: &Array) -> Result<Array> {
        let Some(recent) = &self.recent else { return Ok(logits.clone()) };
        let recent = recent.expand_dims(0)?;
        let held = take_along_axis(logits, &recent, -1)?;
        let penalty = Array::from_f32(self.settings.repeat_penalty);
        let lowered = ops::select(held.gt(Array::from_f32(0.0))?, held.divide(&penalty)?, held.multiply(&penalty)?)?;
        put_along_axis(logits, &recent, &lowered, -1)
    }

    fn drawn(&mut self, logits: &Array) -> Result<Array> {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.settings;
        let keep = i32::try_from(top_k).unwrap_or(i32::MAX);
        let (mut ids, mut values) = (None, logits.clone());
        if keep > 0 && keep < logits.dim(-1) {
            let best = ops::argpartition_axis(logits.negative()?, keep - 1, -1)?.try_index((.., ..keep))?;
            values = take_along_axis(&values, &best, -1)?;
            ids = Some(best);
        }
        if top_p < 1.0 || min_p > 0.0 {
            let order = ops::argsort_axis(values.negative()?, -1)?;
            values = take_along_axis(&values, &order, -1)?;
            ids = Some(match ids {
                Some(ids) => take_along_axis(&ids, &order, -1)?,
                None => order,
            });
            let probabilities = ops::softmax_axis(&values, -1, true)?;
            // Of those before each one; the first is kept whatever the limits are.
            let before = probabilities.cumsum(-1, false, false)?;
            let likely = probabilities.ge(probabilities.try_index((.., ..1))?.multiply(Array::from_f32(min_p))?)?;
            let kept = before.lt(Array::from_f32(top_p.max(f32::MIN_POSITIVE)))?.logical_and(likely)?;
            values = ops::select(kept, &values, Array::from_f32(f32::NEG_INFINITY))?;
        }
        let keys = random::split(&self.key, 2)?;
        self.key = keys.0;
        let choice = random::categorical(values.divide(Array::from_f32(temperature))?, -1, None, &keys.1)?;
        match ids {
            Some(ids) => take_along_axis(&ids, choice.expand_dims(-1)?, -1)?.reshape(&[1]),
            None => Ok(choice),
        }
    }
}

fn penalizes(settings: &Sampling) -> bool {
    settings.repeat_penalty != 1.0 && settings.repeat_penalty > 0.0 && settings.repeat_last_n > 0
}

fn seed_from_system() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}
