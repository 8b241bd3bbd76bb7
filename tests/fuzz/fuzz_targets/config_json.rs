//! `config.json`: what its accessors give can be computed with.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pajamas_fuzz::{accepted, path};
use pajamas_hf_model::{Config, RopeScaling};

/// What GGUF holds in 32 bits.
const COUNTS: std::ops::RangeInclusive<u64> = 1..=u32::MAX as u64;

fuzz_target!(|input: &[u8]| {
    let Some(config) = accepted(Config::parse(input.to_vec(), path())) else { return };
    let _ = (config.raw(), config.dtype(), config.tied_embeddings(), config.has_head_dim());
    let _ = (config.flag("attention_bias"), config.float("final_logit_softcapping"));
    let _ = (config.local_rope_theta(), config.partial_rotary_factor());
    let architecture = accepted(config.architecture());
    assert!(architecture.is_none_or(|_| config.raw().is_object()));
    let counts = [
        config.layers(),
        config.hidden_size(),
        config.intermediate_size(),
        config.attention_heads(),
        config.key_value_heads(),
        config.head_dim(),
        config.context_length(),
        config.vocabulary_size(),
    ];
    for count in counts.into_iter().filter_map(accepted) {
        assert!(COUNTS.contains(&count), "{count} where a positive number of 32 bits is promised");
    }
    assert!(accepted(config.rms_norm_epsilon()).is_none_or(|epsilon| epsilon > 0.0 && epsilon.is_finite()));
    let Some(rope) = accepted(config.rope()) else { return };
    assert!(rope.theta.is_finite());
    let positive = |factor: f64| assert!(factor.is_finite() && factor > 0.0, "a factor of {factor}");
    match rope.scaling {
        RopeScaling::None | RopeScaling::Other(_) => {}
        RopeScaling::Linear { factor } => positive(factor),
        RopeScaling::Yarn { factor, original_context_length, .. } => {
            positive(factor);
            assert!(COUNTS.contains(&original_context_length), "a context of {original_context_length}");
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context_length } => {
            [factor, low_freq_factor, high_freq_factor].into_iter().for_each(positive);
            assert!(COUNTS.contains(&original_context_length), "a context of {original_context_length}");
        }
        RopeScaling::LongRope { short_factors, long_factors, original_context_length } => {
            short_factors.into_iter().chain(long_factors).for_each(positive);
            assert!(COUNTS.contains(&original_context_length), "a context of {original_context_length}");
        }
    }
});
