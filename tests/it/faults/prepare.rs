//! What stops a preparation: a signal, a kill, a full disk. The same command goes on behind the last finished shard, and
//! ends in the files of one that nothing disturbed. Archives are streamed: memory does not grow with them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::rig::{Random, try_signal, wait_for};
use super::saves::SmallDisk;

/// Pixels of a page, a side; noise, so that a page takes about their number of bytes.
const SIDE: u32 = 128;

/// `n_rows` rows of ECGInstruct's layout: a JSON, and archives `shard_1.tar`, ... with a page for each.
pub fn draw(folder: &Path, n_rows: usize, n_archives: usize) {
    let archive = |i: usize| tar::Builder::new(File::create(folder.join(format!("shard_{}.tar", i + 1))).unwrap());
    let mut archives: Vec<_> = (0..n_archives).map(archive).collect();
    let mut rows = Vec::new();
    for row in 0..n_rows {
        let mut random = Random::new(row as u64);
        let mut page = synth::draw(None, SIDE);
        page.iter_mut().for_each(|byte| *byte = random.in_range(0..256) as u8);
        let png = synth::png(&page).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(png.len() as u64);
        header.set_mode(0o644);
        archives[row * n_archives / n_rows].append_data(&mut header, format!("{row}.png"), &png[..]).unwrap();
        let turns = serde_json::json!([{"from": "human", "value": "<image>\n?"}, {"from": "gpt", "value": "!"}]);
        rows.push(serde_json::json!({"id": row.to_string(), "image": format!("{row}.png"), "conversations": turns}));
    }
    archives.iter_mut().for_each(|archive| archive.finish().unwrap());
    storage::publish_file(&folder.join("rows.json"), serde_json::Value::from(rows).to_string().as_bytes()).unwrap();
}

fn start(source: &Path, out: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ecg-train-under-test"));
    command.args(["prepare", "--shard-size", "200KB", "--threads", "2", "--source"]).arg(source).arg("--out").arg(out);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for the end, which must have `code`; returns what it said.
#[track_caller]
fn must_end(child: Child, code: Option<i32>) -> String {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), code, "{said}");
    said
}

fn shards(out: &Path) -> usize {
    let names = fs::read_dir(out).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with("part-")).count()
}

/// Every file by name and hash; nothing unfinished may be among them.
#[track_caller]
pub fn files(out: &Path) -> BTreeMap<PathBuf, blake3::Hash> {
    let all = fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path());
    let all: BTreeMap<_, _> =
        all.map(|path| (path.file_name().unwrap().into(), blake3::hash(&fs::read(&path).unwrap()))).collect();
    assert!(all.keys().all(|name: &PathBuf| !name.to_string_lossy().contains("unfinished")), "{:?}", all.keys());
    all
}

#[test]
fn a_preparation_that_is_stopped_or_killed_goes_on_to_the_same_files() {
    let dir = tempfile::tempdir().unwrap();
    let (source, calm) = (dir.path().join("source"), dir.path().join("calm"));
    fs::create_dir(&source).unwrap();
    draw(&source, 120, 1);
    must_end(start(&source, &calm), Some(0));
    let expected = files(&calm);
    assert!(shards(&calm) >= 20, "{} shards", shards(&calm));
    let mut random = Random::new(9);
    for name in ["INT", "TERM", "KILL", "KILL", "KILL"] {
        let out = dir.path().join(format!("{name}-{}", random.in_range(0..1 << 40)));
        let mut n_stops = 0;
        for _ in 0..2 {
            let wanted = shards(&out) + random.in_range(1..8) as usize;
            let child = start(&source, &out);
            wait_for("some shards", || shards(&out) >= wanted || out.join("manifest.json").exists());
            try_signal(name, child.id()); // It may have ended by now.
            let output = child.wait_with_output().unwrap();
            let code = output.status.code();
            let stopped = if name == "KILL" { code.is_none() } else { code == Some(75) };
            assert!(stopped || code == Some(0), "{name}: {code:?} {}", String::from_utf8_lossy(&output.stderr));
            n_stops += usize::from(stopped);
        }
        assert!(n_stops > 0, "{name}: it was never disturbed");
        must_end(start(&source, &out), Some(0));
        assert_eq!(files(&out), expected, "{name}");
    }
}

#[test]
fn a_full_disk_ends_a_preparation_and_a_rerun_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    draw(&source, 60, 1);
    let Some(disk) = SmallDisk::new(dir.path().join("disk"), 16 << 10) else { return };
    disk.fill_up_to(1500);
    let out = dir.path().join("disk/out");
    let said = must_end(start(&source, &out), Some(6));
    assert!(said.contains("disk/out"), "{said}");
    assert!((1..15).contains(&shards(&out)), "{} shards", shards(&out));
    disk.free();
    must_end(start(&source, &out), Some(0));
    must_end(start(&source, &dir.path().join("calm")), Some(0));
    assert_eq!(files(&out), files(&dir.path().join("calm")));
}

/// Largest memory of a process until it ended, in kB.
fn peak_memory(mut child: Child) -> u64 {
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
        peak = peak.max(now.unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(child.wait().unwrap().success());
    peak
}

#[test]
fn memory_does_not_grow_with_an_archive() {
    let dir = tempfile::tempdir().unwrap();
    let peak = |n_rows: usize| {
        let source = dir.path().join(format!("source-{n_rows}"));
        fs::create_dir(&source).unwrap();
        draw(&source, n_rows, 1);
        let bytes = fs::metadata(source.join("shard_1.tar")).unwrap().len();
        (peak_memory(start(&source, &dir.path().join(format!("out-{n_rows}")))), bytes)
    };
    let ((small, _), (large, bytes)) = (peak(60), peak(900));
    let grown = large.saturating_sub(small);
    assert!(
        grown * 1024 < bytes / 4,
        "{small} kB for 60 rows, {large} kB for 900: an archive of {bytes} bytes is held"
    );
}
