//! Any bytes as an encoded page.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    data::fuzz::image(bytes);
});
