use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::{Cache, HASH, Key};

const BLOCK: usize = 1000;
const ENTRY: u64 = (HASH + BLOCK) as u64;

fn key(block: u64) -> Key {
    Key::new("s3://bucket/part", "v1", block)
}

fn block(n: u64) -> Vec<u8> {
    vec![n as u8; BLOCK]
}

/// Blocks and whatever else, but the ledger.
fn files(cache: &Cache) -> Vec<PathBuf> {
    let folders = fs::read_dir(&cache.folder).unwrap().flatten().filter(|entry| entry.path().is_dir());
    folders.flat_map(|folder| fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.path())).collect()
}

fn bytes(cache: &Cache) -> u64 {
    files(cache).iter().filter_map(|path| fs::metadata(path).ok()).map(|meta| meta.len()).sum()
}

#[test]
fn what_was_kept_is_found_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path().to_owned(), 100 * ENTRY);
    cache.put(&key(1), &block(1));
    assert_eq!(cache.get(&key(1), BLOCK).unwrap(), block(1));
    for other in [key(2), Key::new("s3://bucket/part", "v2", 1), Key::new("s3://bucket/other", "v1", 1)] {
        assert!(cache.get(&other, BLOCK).is_none());
    }
    assert_eq!(Cache::new(dir.path().to_owned(), 0).get(&key(1), BLOCK).unwrap(), block(1), "another process");
}

#[test]
fn a_damaged_torn_or_misnamed_block_is_no_block_and_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path().to_owned(), 100 * ENTRY);
    let damages: [fn(&mut Vec<u8>); 5] = [
        |bytes| bytes[HASH + 500] ^= 1,
        |bytes| bytes[3] ^= 1,
        |bytes| bytes.truncate(HASH + 500),
        |bytes| bytes.clear(),
        |bytes| bytes.extend([7; 5000]),
    ];
    for damage in damages {
        cache.put(&key(1), &block(1));
        let mut bytes = fs::read(cache.path(&key(1))).unwrap();
        damage(&mut bytes);
        storage::publish_file(&cache.path(&key(1)), &bytes).unwrap();
        assert!(cache.get(&key(1), BLOCK).is_none());
        assert!(!cache.path(&key(1)).exists());
    }
    cache.put(&key(1), &block(1));
    fs::create_dir_all(cache.path(&key(2)).parent().unwrap()).unwrap();
    fs::copy(cache.path(&key(1)), cache.path(&key(2))).unwrap();
    assert!(cache.get(&key(2), BLOCK).is_none(), "another block's bytes");
}

#[test]
fn it_is_never_larger_than_its_limit_and_keeps_what_was_used_last() {
    let dir = tempfile::tempdir().unwrap();
    let limit = 10 * ENTRY + 5;
    let cache = Cache::new(dir.path().to_owned(), limit);
    for n in 0..40 {
        cache.put(&key(n), &block(n));
        assert!(bytes(&cache) <= limit, "after block {n}: {}", bytes(&cache));
        assert!(cache.get(&key(0), BLOCK).is_some(), "block 0 was used just now, and is gone after block {n}");
    }
    // A smaller limit holds from the next block on, whatever the ledger says; rests of killed processes go, too.
    let rest = cache.path(&key(0)).with_file_name(".unfinished-1-0-0");
    storage::publish_file(&rest, &block(9)).unwrap();
    let smaller = Cache::new(dir.path().to_owned(), 3 * ENTRY);
    smaller.put(&key(99), &block(99));
    assert!(bytes(&smaller) <= 3 * ENTRY && smaller.get(&key(99), BLOCK).is_some());
    assert!(!rest.exists());
    smaller.put(&key(100), &vec![0; 4000]);
    assert!(smaller.get(&key(100), 4000).is_none(), "larger than the whole cache");
}

#[test]
fn many_at_once_share_it_within_its_limit_and_read_whole_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let limit = 12 * ENTRY;
    let (over, broken) = (AtomicBool::new(false), AtomicBool::new(false));
    // One cache each, as processes have: they share nothing but the folder.
    thread::scope(|scope| {
        for thread in 0..6_u64 {
            let broken = &broken;
            let cache = Cache::new(dir.path().to_owned(), limit);
            scope.spawn(move || {
                for i in 0..150 {
                    let n = (i * 7 + thread * 13) % 40;
                    match cache.get(&key(n), BLOCK) {
                        Some(found) if found != block(n) => broken.store(true, Ordering::Relaxed),
                        Some(_) => {}
                        None => cache.put(&key(n), &block(n)),
                    }
                }
            });
        }
        let cache = Cache::new(dir.path().to_owned(), limit);
        for _ in 0..50 {
            let found = bytes(&cache);
            // A listing sees blocks come and go: only one entry a thread may be counted beside the one that replaced it.
            if found > limit + 6 * ENTRY {
                over.store(true, Ordering::Relaxed);
            }
            thread::yield_now();
        }
    });
    assert!(!over.into_inner() && !broken.into_inner());
    let cache = Cache::new(dir.path().to_owned(), limit);
    assert!(bytes(&cache) <= limit, "{} bytes", bytes(&cache));
    assert!(files(&cache).iter().all(|path| !super::is_unfinished(path)));
}

#[test]
fn without_a_place_to_write_it_is_done_without() {
    let cache = Cache::new("/proc/no-such-place".into(), 100 * ENTRY);
    cache.put(&key(1), &block(1));
    assert!(cache.get(&key(1), BLOCK).is_none());
}
