//! Any bytes as a manifest.json.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    data::fuzz::manifest(bytes);
});
