use proptest::prelude::*;

use super::*;

fn event(kind: &str, step: u64) -> Event {
    Event::of(kind, step, &[("loss", 1.0 / step as f64), ("epoch", step as f64)])
}

fn train(steps: std::ops::RangeInclusive<u64>) -> Vec<Event> {
    steps.map(|step| event("train", step)).collect()
}

/// Kind and step of every point's event in the one file of a folder, in their order.
fn points(dir: &Path) -> Vec<(String, u64)> {
    let files = ours(dir).unwrap();
    assert_eq!(files.len(), 1, "{files:?}");
    let events = read(&files[0]).unwrap();
    assert_eq!(events[0].scalars, [], "it begins with the file's version");
    events[1..].iter().map(|event| (kind(event), event.step)).collect()
}

fn named(kind: &str, steps: std::ops::RangeInclusive<u64>) -> Vec<(String, u64)> {
    steps.map(|step| (kind.to_owned(), step)).collect()
}

#[expect(clippy::disallowed_methods, reason = "damage is done in place")]
fn overwrite(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

/// The check value of the catalogue of checksums, and the first record of RFC 3720's examples (32 zeros).
#[test]
fn the_checksum_is_castagnolis() {
    assert_eq!(frame::crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(frame::crc32c(&[0; 32]), 0x8a91_36aa);
}

#[test]
fn a_repeated_step_is_no_second_point() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = EventFile::open(dir.path(), &[]).unwrap();
    train(1..=5).iter().for_each(|event| file.add(event).unwrap());
    drop(file);
    let mut resumed = EventFile::open(dir.path(), &train(1..=5)).unwrap();
    train(3..=7).iter().for_each(|event| resumed.add(event).unwrap());
    assert_eq!(points(dir.path()), named("train", 1..=7));
}

#[test]
fn points_that_were_missed_are_caught_up_with() {
    let dir = tempfile::tempdir().unwrap();
    drop(EventFile::open(dir.path(), &train(1..=2)).unwrap());
    let journalled = [train(1..=4), vec![event("eval", 2), event("eval", 4)]].concat();
    drop(EventFile::open(dir.path(), &journalled).unwrap());
    let expected = [named("train", 1..=4), named("eval", 2..=2), named("eval", 4..=4)].concat();
    assert_eq!(points(dir.path()), expected);
}

#[test]
fn a_file_of_another_run_is_not_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    drop(EventFile::open(dir.path(), &train(1..=9)).unwrap());
    drop(EventFile::open(dir.path(), &train(1..=2)).unwrap());
    assert_eq!(points(dir.path()), named("train", 1..=2));
}

#[test]
fn a_number_that_is_none_is_no_point() {
    let event = Event::of("train", 1, &[("loss", f64::NAN), ("epoch", 0.5)]);
    assert_eq!(event.scalars, [("train/epoch".to_owned(), 0.5)]);
}

proptest! {
    /// Wherever a file was cut or damaged, opening it again makes it whole, each step once.
    #[test]
    fn any_damage_is_mended_from_the_journal(n in 1_u64..8, at in 0.0..1.0_f64, flip in proptest::option::of(1_u8..=255)) {
        let dir = tempfile::tempdir().unwrap();
        let path = EventFile::open(dir.path(), &train(1..=n)).unwrap().path().to_owned();
        let mut bytes = fs::read(&path).unwrap();
        let at = (at * bytes.len() as f64) as usize;
        match flip {
            Some(flip) => bytes[at] ^= flip,
            None => bytes.truncate(at),
        }
        overwrite(&path, &bytes);
        drop(EventFile::open(dir.path(), &train(1..=n)).unwrap());
        prop_assert_eq!(points(dir.path()), named("train", 1..=n));
    }

    #[test]
    fn events_come_back_as_they_were(
        wall_time in 0.0..1e10_f64,
        step in 0..u64::MAX,
        scalars in proptest::collection::vec(("[a-z/_]{0,300}", any::<f32>().prop_filter("a number", |x| !x.is_nan())), 1..20),
    ) {
        let event = Event { wall_time, step, scalars };
        let framed = frame::frame(&event.encode());
        prop_assert_eq!(events(&framed), (vec![event], framed.len()));
    }

    #[test]
    fn any_bytes_are_events_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Event::decode(&bytes);
        let framed = frame::frame(&bytes);
        prop_assert_eq!(frame::records(&framed), (vec![&bytes[..]], framed.len()));
        let _ = events(&bytes);
    }
}
