//! A merge that is killed at any system call: no half export is ever visible, and a rerun ends in the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::rig::{for_each_file, slow};
use super::saves::SmallDisk;
use super::strace::{CALLS, changes, has};
use crate::journey::Run;

/// What a merge does besides: parts of files, whole copies, locks.
const MORE_CALLS: &str = "pwrite64,copy_file_range,ftruncate,fchmod,flock,openat";

/// A trained adapter, and folders to merge it into.
struct Merges {
    run: Run,
}

impl Merges {
    fn new() -> Self {
        let run = Run::synthetic();
        run.must_launch(1, &["train.max_steps=2"]);
        Self { run }
    }

    /// The command; `into` is a folder of its own, in which `out` is made.
    fn command(&self, into: &str, wrapper: &[String]) -> Command {
        fs::create_dir_all(self.run.path(into)).unwrap();
        let program = env!("CARGO_BIN_EXE_ecg-train-under-test").to_owned();
        let words = [wrapper, std::slice::from_ref(&program)].concat();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("merge").args(["--shard-size", "300KB"]).env("RAYON_NUM_THREADS", "1");
        command.args(["--base", &self.run.path("base"), "--adapter", &self.run.path("run/checkpoint-2")]);
        command.args(["--out", &self.out(into).display().to_string()]);
        command
    }

    fn out(&self, into: &str) -> PathBuf {
        self.run.path(&format!("{into}/out")).into()
    }

    fn unfinished(&self, into: &str) -> PathBuf {
        Path::new(&self.run.path(into)).join(".out.unfinished")
    }

    /// Under strace with further arguments, watching these files of the unfinished folder; without a name the folder itself.
    fn traced(&self, into: &str, more: &[String], names: &[String]) -> Output {
        let files = names.iter().map(|name| self.unfinished(into).join(name).components().collect::<PathBuf>());
        let paths = files.flat_map(|path| ["-P".to_owned(), path.display().to_string()]);
        let log = self.run.path("strace.log");
        let trace = format!("trace={CALLS},{MORE_CALLS}");
        let wrapper = ["strace", "-f", "-qq", "-o", &log, "-e", &trace].map(str::to_owned);
        let wrapper: Vec<String> = wrapper.into_iter().chain(more.iter().cloned()).chain(paths).collect();
        self.command(into, &wrapper).output().unwrap()
    }
}

/// Every file of a folder by name.
fn contents(dir: &Path) -> BTreeMap<String, blake3::Hash> {
    let mut contents = BTreeMap::new();
    for_each_file(dir, &mut |path| {
        let name = path.strip_prefix(dir).unwrap().display().to_string();
        contents.insert(name, blake3::hash(&fs::read(path).unwrap()));
    });
    contents
}

/// Fault 27. With SLOW=1 at every system call of a merge, else at some of each part of it.
#[test]
fn a_kill_at_any_system_call_of_a_merge_leaves_nothing_or_all() {
    if !has("strace", "it kills at a system call") {
        return;
    }
    let merges = Merges::new();
    assert!(merges.command("calm", &[]).status().unwrap().success());
    let expected = contents(&merges.out("calm"));
    let files: Vec<String> = expected
        .keys()
        .cloned()
        .chain(["", ".merge_progress.json", "..merge_progress.json.unfinished"].map(str::to_owned))
        .collect();
    assert!(files.iter().filter(|name| name.starts_with("model-0")).count() >= 4, "{files:?}");

    assert!(merges.traced("traced", &[], &files).status.success());
    let all = changes(Path::new(&merges.run.path("strace.log")));
    let n_of = |name: &str| all.iter().filter(|(call, _)| call == name).count();
    assert!(n_of("pwrite64") >= 60 && n_of("fsync") >= files.len() && n_of("rename") >= 1, "{all:?}");

    let mut resumed = 0;
    for (i, (name, when)) in all.iter().enumerate().step_by(if slow() { 1 } else { 13 }) {
        let into = format!("killed-{i}");
        let kill = ["-e".to_owned(), format!("inject={name}:signal=KILL:when={when}")];
        let killed = merges.traced(&into, &kill, &files);
        assert!(!killed.status.success(), "{name} {when}: was not killed");
        let out = merges.out(&into);
        if !out.exists() {
            let again = merges.command(&into, &[]).output().unwrap();
            let said = String::from_utf8_lossy(&again.stderr);
            assert!(again.status.success(), "{name} {when}: {said}");
            resumed += usize::from(said.contains("finished by an earlier attempt"));
        }
        assert_eq!(contents(&out), expected, "{name} {when}");
        assert_eq!(fs::read_dir(out.parent().unwrap()).unwrap().count(), 1, "{name} {when}: something is left beside");
        fs::remove_dir_all(out.parent().unwrap()).unwrap();
    }
    assert!(resumed >= 3, "only {resumed} reruns found a finished file");
}

/// What is finished is believed only after a look: a shard that was damaged since is made again, another adapter begins anew.
#[test]
fn a_merge_goes_on_only_with_what_it_would_make() {
    if !has("strace", "it kills at a system call") {
        return;
    }
    let merges = Merges::new();
    assert!(merges.command("calm", &[]).status().unwrap().success());
    let expected = contents(&merges.out("calm"));
    let third = expected.keys().filter(|name| name.starts_with("model-0")).nth(2).unwrap().clone();
    let begun = |into: &str| {
        let kill = ["-e".to_owned(), "inject=openat:signal=KILL:when=1".to_owned()];
        assert!(!merges.traced(into, &kill, std::slice::from_ref(&third)).status.success());
        merges.unfinished(into)
    };
    let finish = |into: &str| {
        let again = merges.command(into, &[]).output().unwrap();
        assert_eq!(contents(&merges.out(into)), expected, "{into}");
        String::from_utf8_lossy(&again.stderr).into_owned()
    };
    begun("kept");
    assert!(finish("kept").contains("(2 finished by an earlier attempt)"));

    let first = begun("damaged").join(expected.keys().find(|name| name.starts_with("model-0")).unwrap());
    let mut bytes = fs::read(&first).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    storage::publish_file(&first, &bytes).unwrap();
    assert!(finish("damaged").contains("(1 finished by an earlier attempt)"));

    let progress = begun("foreign").join(".merge_progress.json");
    let text = fs::read_to_string(&progress).unwrap();
    storage::publish_file(&progress, text.replacen("\"plan\":\"", "\"plan\":\"0", 1).as_bytes()).unwrap();
    assert!(!finish("foreign").contains("finished by an earlier attempt"));
}

#[test]
fn a_disk_that_is_too_small_is_said_before_anything_is_written() {
    let merges = Merges::new();
    let Some(_disk) = SmallDisk::new(merges.run.path("small").into(), 1024) else { return };
    let output = merges.command("small", &[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(said.contains("2 MB are to be written, 1 MB are free"), "{said}");
    assert_eq!(fs::read_dir(merges.run.path("small")).unwrap().count(), 0, "nothing is left");
}
