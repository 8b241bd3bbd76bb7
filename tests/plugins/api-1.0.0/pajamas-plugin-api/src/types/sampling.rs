//! How the next token is chosen.

use serde::{Deserialize, Serialize};

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampling {
    /// 0 takes the likeliest token always; above, the softmax temperature.
    pub temperature: f32,
    /// Keep this many likeliest tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the likeliest tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this fraction as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Divide positive logits of recent tokens by this and multiply negative ones; 1 changes nothing.
    pub repeat_penalty: f32,
    /// How many recent tokens the penalty looks at.
    pub repeat_last_n: u32,
    /// Seed of the random numbers; none takes one from the system.
    pub seed: Option<u64>,
}

impl Sampling {
    /// The fields, by name.
    pub const FIELDS: [&'static str; 7] =
        ["temperature", "top_k", "top_p", "min_p", "repeat_penalty", "repeat_last_n", "seed"];

    /// Always the likeliest token. Every backend honours this.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, ..Self::default() }
    }

    /// The defaults, with those fields neutral that a backend which honours only `honoured` would refuse.
    pub fn default_for(honoured: &[String]) -> Self {
        let has = |name: &str| honoured.iter().any(|known| known == name);
        let (all, neutral) = (Self::default(), Self::greedy());
        Self {
            temperature: if has("temperature") { all.temperature } else { neutral.temperature },
            top_k: if has("top_k") { all.top_k } else { neutral.top_k },
            top_p: if has("top_p") { all.top_p } else { neutral.top_p },
            ..all
        }
    }

    /// The fields that have an effect, by name. A temperature of 0 or 1 has none: it leaves a backend its own way.
    pub fn effective(&self) -> impl Iterator<Item = &'static str> {
        let effects = [
            self.temperature != 0.0 && self.temperature != 1.0,
            self.top_k != 0,
            self.top_p < 1.0,
            self.min_p > 0.0,
            self.repeat_penalty != 1.0,
            false, // repeat_last_n: only with repeat_penalty
            self.seed.is_some(),
        ];
        Self::FIELDS.into_iter().zip(effects).filter_map(|(name, effect)| effect.then_some(name))
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.7, top_k: 40, top_p: 0.9, min_p: 0.0, repeat_penalty: 1.0, repeat_last_n: 64, seed: None }
    }
}
