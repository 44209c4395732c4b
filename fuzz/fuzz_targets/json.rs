//! Any bytes as a conversation in JSON: turns, tokens.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use data::Template;
use libfuzzer_sys::fuzz_target;

static TEMPLATE: LazyLock<Template> = LazyLock::new(|| {
    let base = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/case_a/base"));
    data::fuzz::template(base).expect("the fixture is there")
});

fuzz_target!(|bytes: &[u8]| {
    data::fuzz::json(bytes, &TEMPLATE);
});
