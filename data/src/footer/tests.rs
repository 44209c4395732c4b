use proptest::prelude::*;

use super::*;
use crate::fixtures;

/// The footer of a file.
fn footer(file: &[u8]) -> &[u8] {
    let end = file.len() - 8;
    let length = u32::from_le_bytes(file[end..end + 4].try_into().unwrap()) as usize;
    &file[end - length..end]
}

#[test]
fn footers_of_real_files_pass() {
    let mut n = 0;
    for folder in ["train", "variants", "faults"] {
        let Some(folder) = fixtures::mini(folder) else { return };
        for entry in
            std::fs::read_dir(folder).unwrap().flatten().filter(|e| e.path().extension() == Some("parquet".as_ref()))
        {
            let bytes = std::fs::read(entry.path()).unwrap();
            assert_eq!(fault(footer(&bytes)), None, "{}", entry.path().display());
            n += 1;
        }
    }
    assert!(n > 10, "{n} files");
}

#[test]
fn lists_of_nothing_are_refused() {
    // Field 1, a list of 2^31 - 1 booleans; the same in a list; a map of booleans; and what a fuzzer found.
    let huge = [0xff, 0xff, 0xff, 0xff, 0x07];
    let list = [&[0x19, 0xf1][..], &huge, &[0]].concat();
    let nested = [&[0x19, 0x19, 0xf1][..], &huge, &[0]].concat();
    let map = [&[0x1b][..], &huge, &[0x12, 0]].concat();
    let found = [
        0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x21, 0x11, 0x93, 0x91, 0xcb, 0xcb, 0x91, 0x91, 0x91, 0x21,
        0x11,
    ];
    for bytes in [&list[..], &nested, &map, &found] {
        assert!(fault(bytes).is_some(), "{bytes:?}");
    }
    assert_eq!(fault(&[0x15, 0x02, 0]), None); // Field 1, a number.
}

/// A structure where a text is expected: the library takes its bytes for the text, and what is text here for fields.
#[test]
fn a_footer_that_keeps_the_library_busy_is_given_up() {
    let mut text = [b'x'; 23].to_vec();
    text.extend([0x99, 0xf9, 0xff, 0xff, 0xff, 0xff, 0x07]);
    (0..11).for_each(|_| text.extend([0xf1, 0xff, 0xff, 0xff, 0xff, 0x07]));
    text.resize(100, 0);
    let footer = [&[0x6c, 0x18, 100][..], &text, &[0, 0]].concat();
    assert_eq!(fault(&footer), None);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("busy.parquet");
    let length = (footer.len() as u32).to_le_bytes();
    storage::publish_file(&file, &[b"PAR1", &footer[..], &length, b"PAR1"].concat()).unwrap();
    let sources = crate::Sources { files: vec![file], ..crate::Sources::default() };
    let refused = crate::Dataset::open(&sources).unwrap_err().to_string();
    assert!(refused.contains("busy.parquet") && refused.contains("longer than any real one"), "{refused}");
}

proptest! {
    /// As many steps as bytes: otherwise this would not end.
    #[test]
    fn any_bytes_come_to_an_end(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0x19), Just(0xf1), Just(0xff), Just(0x1c)], 0..400)) {
        let _ = fault(&bytes);
    }
}
