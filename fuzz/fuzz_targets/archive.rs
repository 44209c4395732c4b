//! Any bytes as a `shard_*.tar.gz`: members and their pages.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    data::fuzz::archive(bytes);
});
