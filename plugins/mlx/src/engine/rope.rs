//! Rotary position embeddings, with the ways of stretching them to longer contexts.

use mlx_rs::error::Result;
use mlx_rs::{Array, fast};
use pajamas_hf_model::{Rope as Settings, RopeScaling};
use std::f64::consts::PI;

/// A rotation of queries and keys by their position.
#[derive(Debug)]
pub(crate) struct Rope {
    dimensions: i32,
    traditional: bool,
    kind: Kind,
    /// Queries and keys are multiplied by this first (YaRN's attention factor); 1 for none.
    multiplier: f32,
}

#[derive(Debug)]
enum Kind {
    /// Frequencies from a base; positions are multiplied by `scale`.
    Base { base: f32, scale: f32 },
    /// One number for each pair of dimensions, by which positions are divided: the reciprocal of an angular frequency.
    Table(Array),
}

impl Rope {
    /// For heads of `dimensions` values; `factors` say how much more slowly each pair rotates, where they are stored.
    pub(crate) fn new(settings: &Settings, factors: Option<&[f32]>, dimensions: i32, traditional: bool) -> Self {
        let theta = settings.theta;
        let base = |scale: f64| Kind::Base { base: theta as f32, scale: scale as f32 };
        let mut multiplier = 1.0;
        if let Some(factors) = factors {
            let slowed = periods(dimensions, theta).zip(factors).map(|(period, factor)| period as f32 * factor);
            let kind = Kind::Table(array(&slowed.collect::<Vec<f32>>()));
            return Self { dimensions, traditional, kind, multiplier: 1.0 };
        }
        let kind = match &settings.scaling {
            RopeScaling::Linear { factor } => base(1.0 / factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context_length } => {
                let bounds = (*low_freq_factor, *high_freq_factor);
                table(dimensions, theta, |period| llama3(period, *factor, bounds, *original_context_length as f64))
            }
            RopeScaling::Yarn {
                factor,
                original_context_length,
                attention_factor,
                beta_fast,
                beta_slow,
                extrapolation_factor,
            } => {
                multiplier =
                    attention_factor.unwrap_or_else(|| if *factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 });
                let ramp = Ramp::new(
                    f64::from(dimensions),
                    theta,
                    *original_context_length as f64,
                    (beta_fast.unwrap_or(32.0), beta_slow.unwrap_or(1.0)),
                );
                let extrapolation = extrapolation_factor.unwrap_or(1.0);
                let periods = periods(dimensions, theta).enumerate().map(|(pair, period)| {
                    let kept = ramp.kept(pair as f64) * extrapolation;
                    (1.0 / ((1.0 - kept) / (factor * period) + kept / period)) as f32
                });
                Kind::Table(array(&periods.collect::<Vec<f32>>()))
            }
            // What is not supported has been refused.
            RopeScaling::None | RopeScaling::LongRope { .. } | RopeScaling::Other(_) => base(1.0),
        };
        Self { dimensions, traditional, kind, multiplier: multiplier as f32 }
    }

    /// `x` (`[batch, heads, length, head_dim]`) rotated, its first position being `offset`.
    pub(crate) fn forward(&self, x: &Array, offset: i32) -> Result<Array> {
        let scaled;
        let x = if self.multiplier == 1.0 {
            x
        } else {
            scaled = x.multiply(Array::from_f32(self.multiplier).as_dtype(x.dtype())?)?;
            &scaled
        };
        match &self.kind {
            Kind::Base { base, scale } => fast::rope(x, self.dimensions, self.traditional, *base, *scale, offset, None),
            Kind::Table(table) => fast::rope(x, self.dimensions, self.traditional, None, 1.0, offset, table),
        }
    }
}

fn periods(dimensions: i32, theta: f64) -> impl Iterator<Item = f64> {
    (0..dimensions / 2).map(move |pair| theta.powf(f64::from(2 * pair) / f64::from(dimensions)))
}

fn table(dimensions: i32, theta: f64, stretch: impl Fn(f64) -> f64) -> Kind {
    let values: Vec<f32> = periods(dimensions, theta).map(|period| stretch(period) as f32).collect();
    Kind::Table(array(&values))
}

fn array(values: &[f32]) -> Array {
    Array::from_slice(values, &[i32::try_from(values.len()).unwrap_or(i32::MAX)])
}

/// Llama 3's: long wavelengths are stretched by `factor`, short ones kept, those between blended.
fn llama3(period: f64, factor: f64, (low, high): (f64, f64), original_context_length: f64) -> f64 {
    let wavelength = 2.0 * PI * period;
    if wavelength > original_context_length / low {
        period * factor
    } else if wavelength < original_context_length / high {
        period
    } else {
        let smooth = (original_context_length / wavelength - low) / (high - low);
        period / ((1.0 - smooth) / factor + smooth)
    }
}

/// YaRN's ramp over the pairs of dimensions: those before it are kept, those after it stretched.
struct Ramp {
    low: f64,
    high: f64,
}

impl Ramp {
    fn new(dimensions: f64, theta: f64, original_context_length: f64, (fast, slow): (f64, f64)) -> Self {
        let pair =
            |rotations: f64| dimensions * (original_context_length / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln());
        let low = pair(fast).floor().max(0.0);
        let high = pair(slow).ceil().min(dimensions - 1.0);
        // A ramp of no length would divide by zero.
        Self { low, high: if low == high { high + 0.001 } else { high } }
    }

    /// How much of pair `pair` is kept, from 1 to 0.
    fn kept(&self, pair: f64) -> f64 {
        1.0 - ((pair - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}
