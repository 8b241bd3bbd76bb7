//! A safetensors file of a claimed size: whatever is accepted has every tensor inside of it, side by side.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pajamas_fuzz::{accepted, claimed_size, path};
use pajamas_hf_model::HfModel;
use pajamas_plugin_api::ErrorKind;

fuzz_target!(|input: &[u8]| {
    let Some((claimed, file)) = claimed_size(input) else { return };
    check(file, file.len() as u64);
    // The file may be larger than what is here of it, for data is not read.
    if claimed > file.len() as u64 {
        check(file, claimed);
    }
});

fn check(file: &[u8], file_bytes: u64) {
    let read = HfModel::safetensors_places(file, file_bytes, path());
    if file_bytes > file.len() as u64 && read.as_ref().is_err_and(|error| error.kind == ErrorKind::Io) {
        return; // There is no more of it.
    }
    let Some(mut places) = accepted(read) else { return };
    places.sort_by_key(|(_, place)| (place.start, place.end));
    let mut end = places.first().map_or(file_bytes, |(_, place)| place.start);
    assert!(end >= 8, "data begins in the header");
    for (name, place) in places {
        assert_eq!(place.start, end, "`{name}` does not follow the one before it");
        end = place.end;
    }
    assert_eq!(end, file_bytes, "bytes are left over");
}
