//! A plugin's manifest, as its section holds it: what is accepted can be compared with a host.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pajamas_fuzz as _;
use pajamas_plugin_api::manifest::{MAGIC, Manifest, SIZE_BYTES_MAX};
use pajamas_plugin_api::version::{API_VERSION, incompatibility};

fuzz_target!(|input: &[u8]| {
    match Manifest::parse(input) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(manifest) => {
            assert!(input.starts_with(MAGIC) && input.len() <= SIZE_BYTES_MAX);
            let host = API_VERSION.parse().expect("a version");
            let refused = incompatibility(&host, &manifest.api_version, &manifest.minimum_host_api).is_some();
            assert!(refused || manifest.api_version.major == host.major);
            let words = manifest.formats.iter().chain(&manifest.cpu_features);
            words.for_each(|word| assert!(!word.is_empty() && word.trim() == word && !word.contains(',')));
        }
    }
});
