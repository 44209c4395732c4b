use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;

use super::*;
use crate::manifest::{Origin, Shard};
use crate::store::Ranges;
use crate::{Dataset, Order, Shuffle, Sources};

const SHARDS: usize = 4000;
const ROWS_A_SHARD: u64 = 300;

/// A folder that exists in its manifest alone, and counts what is read of it.
#[derive(Debug)]
struct Counted {
    manifest: Vec<u8>,
    opened: AtomicUsize,
    read: AtomicU64,
}

#[derive(Debug)]
struct File(Bytes);

impl Ranges for File {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        Ok(self.0.slice(offset as usize..offset as usize + length))
    }
}

impl Store for Counted {
    fn size(&self, path: &Path) -> io::Result<u64> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("json") if path.ends_with("manifest.json") => Ok(self.manifest.len() as u64),
            Some("parquet") => Ok(500_000_000),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn Ranges>> {
        assert!(path.ends_with("manifest.json"), "{} is not needed to open the folder", path.display());
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.read.fetch_add(self.manifest.len() as u64, Ordering::Relaxed);
        Ok(Arc::new(File(self.manifest.clone().into())))
    }
}

fn of_full_size() -> Manifest {
    let source = Origin {
        kind: "parquet".into(),
        paths: vec!["ecg".into()],
        include: String::new(),
        revision: None,
        fingerprint: "0".repeat(64),
    };
    let shard = |i| Shard {
        file: format!("part-{i:05}.parquet"),
        rows: ROWS_A_SHARD,
        bytes: 500_000_000,
        blake3: "0".repeat(64),
        footer_bytes: 10_000,
        footer_blake3: "0".repeat(64),
    };
    let shards: Vec<Shard> = (0..SHARDS).map(shard).collect();
    let mut manifest = Manifest::new(source, StoredPages::Original, true);
    (manifest.rows, manifest.shards) = (SHARDS as u64 * ROWS_A_SHARD, shards);
    manifest
}

#[test]
fn opening_1_200_000_rows_reads_the_manifest_and_nothing_else() {
    let manifest = of_full_size().to_json();
    let size = manifest.len() as u64;
    let store = Arc::new(Counted { manifest, opened: AtomicUsize::new(0), read: AtomicU64::new(0) });
    let sources = Sources {
        files: vec![PathBuf::from("prepared")],
        image_folder: None,
        include: String::new(),
        keep_image_marker: false,
    };
    let began = std::time::Instant::now();
    let data = Dataset::open_in(store.clone(), &sources).unwrap();
    let opened = began.elapsed();
    assert_eq!(data.len(), 1_200_000);
    assert_eq!((store.opened.load(Ordering::Relaxed), store.read.load(Ordering::Relaxed)), (1, size));
    assert!(size < 2_000_000, "{size} bytes of manifest");
    // Any position of any epoch is found without looking at those before it.
    let began = std::time::Instant::now();
    let order = Order::new(data.len(), 42, Shuffle::Own);
    let rows: Vec<usize> = (0..192).map(|i| order.row(7, 1_100_000 + i)).collect();
    assert!(rows.iter().all(|&row| row < data.len()));
    eprintln!("opening 1,200,000 rows took {opened:?}, the first batch of a resume in epoch 7 {:?}", began.elapsed());
}
