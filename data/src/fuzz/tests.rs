//! The fuzz targets on mutations of good inputs, briefly: a new seed each time, printed where something fails.
//! `FUZZ_SEED=N FUZZ_ROUNDS=N cargo test --workspace --lib -- fuzz` repeats or prolongs it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::dataset::tests::write_pages;
use crate::fixtures;

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// One to four changes: a bit, a byte of interest, a cut, a piece copied elsewhere, bytes put in or taken out.
fn mutated(good: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..=random.below(4) {
        let (at, other) = (random.below(bytes.len()), random.below(bytes.len()));
        let n = random.below(16).min(bytes.len().saturating_sub(at.max(other)));
        match random.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'/'][random.below(8)],
            2 => bytes.truncate(at),
            3 => bytes.copy_within(other..other + n, at),
            4 => drop(bytes.splice(at..at, (0..n).map(|_| random.next() as u8).collect::<Vec<_>>())),
            _ => drop(bytes.drain(at..at + n)),
        }
    }
    bytes
}

/// `target` on the good inputs, which must pass, and on mutations of them, which must not panic.
#[track_caller]
fn check(rounds: usize, corpus: &[Vec<u8>], target: impl Fn(&[u8]) -> bool) {
    let variable = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = variable("FUZZ_SEED").unwrap_or(clock.as_nanos() as u64);
    let rounds = variable("FUZZ_ROUNDS").map_or(rounds, |n| n as usize);
    assert!(corpus.iter().all(|good| target(good)), "a good input does not pass");
    let mut random = Random(seed);
    for round in 0..rounds {
        let bytes = mutated(&corpus[random.below(corpus.len())], &mut random);
        let result = catch_unwind(AssertUnwindSafe(|| target(&bytes)));
        assert!(result.is_ok(), "FUZZ_SEED={seed}: round {round} panicked, on {} bytes", bytes.len());
    }
}

fn template() -> Template {
    super::template(&fixtures::path("case_a/base")).unwrap()
}

/// A small page of each format.
fn pages() -> Vec<Vec<u8>> {
    let png = crate::page::encode(&[200; 24 * 24 * 3], 24).unwrap();
    let real = fixtures::mini("variants/images/mini/E07507/E07507-101.jpg").map(|path| std::fs::read(path).unwrap());
    [Some(png), real].into_iter().flatten().collect()
}

#[test]
fn pages_of_any_bytes() {
    check(60, &pages(), image);
}

#[test]
fn conversations_of_any_bytes() {
    let corpus: [&[u8]; 4] = [
        br#"[{"from":"human","value":"<image>\nWhy <eos>?"},{"from":"gpt","value":"A \u00e9 \"quoted\" one."}]"#,
        br#"[{"role":"user","content":[{"type":"image"},{"type":"text","text":"q"}]},{"role":"model","content":"a"}]"#,
        br#"[{"question":"q","answer":["x","y"]}]"#,
        br#"{"from":["user","assistant"],"value":["q <start_of_turn>","a"]}"#,
    ];
    let template = template();
    check(1500, &corpus.map(<[u8]>::to_vec), |bytes| json(bytes, &template));
}

/// Archives with a page under a plain name, a long one and one that leads out of the folder; as they are and compressed.
fn archives() -> Vec<Vec<u8>> {
    let page = pages().swap_remove(0);
    let mut tar = tar::Builder::new(Vec::new());
    for name in ["a.png", "mimic/b.png", &format!("{}/c.png", "long/".repeat(40))] {
        let mut header = tar::Header::new_gnu();
        header.set_size(page.len() as u64);
        tar.append_data(&mut header, name, &*page).unwrap();
    }
    let plain = tar.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &plain).unwrap();
    vec![gzip.finish().unwrap(), plain]
}

#[test]
fn archives_of_any_bytes() {
    check(300, &archives(), archive);
}

/// A call that takes this long hangs.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);

#[test]
fn parquet_files_of_any_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let prepared = std::fs::read(prepare(dir.path()).join("part-00000.parquet")).unwrap();
    let (ask, asked) = std::sync::mpsc::channel::<Vec<u8>>();
    let (answer, answered) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let template = template();
        for bytes in asked {
            let _ = answer.send(catch_unwind(AssertUnwindSafe(|| parquet(&bytes, &template))));
        }
    });
    let hangs = std::cell::Cell::new(false);
    check(150, &[prepared], |bytes| {
        if hangs.get() {
            return false;
        }
        ask.send(bytes.to_vec()).unwrap();
        match answered.recv_timeout(DEADLINE) {
            Ok(found) => found.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            // Known of parquet's levels, which a prepared shard has none of unless its schema is what was damaged.
            Err(_) => {
                eprintln!("parquet loops on a damaged file: the rounds that are left are not made");
                hangs.set(true);
                false
            }
        }
    });
}

/// Prepares a small set in `dir`; returns its folder.
fn prepare(dir: &Path) -> std::path::PathBuf {
    let rows = dir.join("rows.parquet");
    write_pages(&rows, &["a", "b", "c"], 2, &vec![pages().swap_remove(0); 3]);
    let options = crate::PrepareOptions {
        sources: crate::Sources {
            files: vec![rows],
            image_folder: None,
            include: String::new(),
            keep_image_marker: false,
        },
        out: dir.join("out"),
        elsewhere: None,
        resize: None,
        learn: None,
        max_bad_rows: 0,
        threads: 1,
        shard_bytes: 1 << 20,
        archives: None,
        pinned: None,
    };
    crate::prepare(&options, &std::sync::atomic::AtomicBool::new(false), &mut |_| {}).unwrap();
    options.out
}

#[test]
fn manifests_of_any_bytes() {
    let dir = tempfile::tempdir().unwrap();
    check(1500, &[std::fs::read(prepare(dir.path()).join("manifest.json")).unwrap()], manifest);
}
