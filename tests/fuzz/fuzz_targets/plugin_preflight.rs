//! A plugin's file: whatever the bytes, reading its manifest ends with one, or with a reason.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pajamas::plugins::preflight::{manifest_of, needed_by};
use pajamas_fuzz as _;

fuzz_target!(|input: &[u8]| {
    if let Err(refusal) = manifest_of(input, input.len() as u64) {
        assert!(!refusal.reason.is_empty() && !refusal.reason.contains('\0'), "{refusal:?}");
    }
    for name in needed_by(input).unwrap_or_default() {
        assert!(name.len() <= input.len() * 3, "{name}");
    }
});
