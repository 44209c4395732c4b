use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::fixtures;

proptest! {
    /// The search finds what comparing with every hash finds.
    #[test]
    fn the_index_finds_what_a_scan_finds(
        mut hashes in prop::collection::vec(any::<[u64; 4]>().prop_map(PageHash), 1..40),
        flips in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::btree_set(0..256_usize, 0..26)), 0..20),
    ) {
        for (of, bits) in flips {
            let mut near = *of.get(&hashes);
            bits.iter().for_each(|bit| near.0[bit / 64] ^= 1 << (bit % 64));
            hashes.push(near);
        }
        let index = NearPages::new(hashes.clone());
        for &hash in &hashes {
            let mut found: Vec<usize> = index.near(hash).into_iter().map(|(i, _)| i).collect();
            found.sort_unstable();
            let expected: Vec<usize> = (0..hashes.len()).filter(|&i| hash.distance(hashes[i]) <= PageHash::NEAR).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn stored_hashes_are_read_back(hash in any::<[u64; 4]>().prop_map(PageHash)) {
        prop_assert_eq!(PageHash::from_bytes(hash.to_bytes()), hash);
    }
}

/// Every distinct page of the real rows, with its record.
fn real_pages() -> Option<BTreeMap<Vec<u8>, String>> {
    let mut pages = BTreeMap::new();
    for split in ["train", "test"] {
        let sources = crate::Sources {
            files: vec![fixtures::mini(split)?],
            image_folder: None,
            include: String::new(),
            keep_image_marker: false,
        };
        let data = crate::Dataset::open(&sources).unwrap();
        for row in (0..data.len()).map(|i| data.row(i).unwrap()) {
            let record = row.id.split('-').nth(2).unwrap().to_owned(); // mini-train-E07507-101
            pages.insert(row.image.clone(), record);
        }
    }
    Some(pages)
}

/// The figures in the documentation of [`PageHash`]: printed with `--nocapture`.
#[test]
fn pages_of_different_recordings_are_not_near() {
    let Some(pages) = real_pages() else { return };
    let hashes: Vec<(&String, PageHash)> =
        pages.iter().map(|(bytes, record)| (record, PageHash::of(bytes).unwrap())).collect();
    let mut distances = Vec::new();
    for (i, (record, hash)) in hashes.iter().enumerate() {
        distances
            .extend(hashes[..i].iter().filter(|(other, _)| other != record).map(|(_, other)| hash.distance(*other)));
    }
    distances.sort_unstable();
    let near = distances.iter().filter(|&&d| d <= PageHash::NEAR).count();
    eprintln!("{} pairs: nearest {}, 0.1 % {}", distances.len(), distances[0], distances[distances.len() / 1000]);
    assert_eq!(near, 0, "false positives of {} pairs; nearest {:?}", distances.len(), &distances[..5]);
    assert!(distances[0] > 2 * PageHash::NEAR, "nearest {:?}", &distances[..5]);
}

/// The same page at another size is near itself: scaled by nearest pixel, which is the roughest way there is.
#[test]
fn a_resized_page_is_near_itself() {
    let Some(pages) = real_pages() else { return };
    for bytes in pages.keys().step_by(4) {
        let hash = PageHash::of(bytes).unwrap();
        for side in [896, 448, 336] {
            let bytes = decode(bytes).unwrap().resize(side);
            let resized = Pixels { width: side, height: side, channels: 3, bytes };
            let distance = hash.distance(PageHash::of_pixels(&resized));
            assert!(distance <= PageHash::NEAR, "at {side} pixels {distance} bits away");
        }
    }
}

#[test]
fn a_blank_page_has_a_hash_and_a_broken_one_an_error() {
    let blank = Pixels { width: 40, height: 30, channels: 1, bytes: vec![255; 1200] };
    let blank = PageHash::of_pixels(&blank);
    assert_eq!(blank.distance(blank), 0);
    assert_eq!(PageHash::of(b"no page"), Err(PageError::Format));
}
