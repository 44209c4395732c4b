//! What a disk can do to a checkpoint, and a kill at each of its system calls.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::rig::{Job, STEPS, for_each_file, slow, wait_for};
use super::strace::{CALLS, changes, has};

/// Of a checkpoint of this recipe.
const FILES: [&str; 6] = [
    "adapter_config.json",
    "adapter_model.safetensors",
    "base_hashes.json",
    "manifest.json",
    "optimizer.safetensors",
    "trainer_state.json",
];

/// A finished run whose last checkpoint is gone: one more save is to come, of step 30, with 27 and 24 there before it.
/// Its journal has all lines, so the last three steps must be repeated to the bit.
fn one_save_to_come() -> Job {
    let job = Job::new();
    job.must_end(1, &["--set", "checkpoint.keep=3"], 0);
    fs::remove_dir_all(job.path("run/checkpoint-30")).unwrap();
    job
}

/// A copy of a run folder, in a job of its own.
fn copy(from: &Job) -> Job {
    let job = Job::new();
    let root = from.path("run");
    fs::create_dir(job.path("run")).unwrap();
    for_each_file(&root, &mut |path| {
        let to = job.path("run").join(path.strip_prefix(&root).unwrap());
        let made = if path.is_dir() { fs::create_dir(&to) } else { fs::copy(path, &to).map(drop) };
        made.unwrap();
    });
    job
}

/// One worker by hand under strace, with further arguments for it. Only one process and nothing between us and it.
fn worker_under_strace(job: &Job, strace: &[String]) -> Command {
    let program = job.command("worker");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(job.path("strace.log")).args(strace).arg("--").arg(program.get_program());
    command.args(program.get_args());
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.envs([("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1")]);
    command
}

/// Everything that the save of checkpoint-30 and the pruning after it touch, as strace's `-P`.
fn touched(job: &Job) -> Vec<String> {
    let names = [".checkpoint-30.unfinished", "checkpoint-30", "checkpoint-24", ".checkpoint-24.unfinished", "."];
    let dirs = names.iter().map(|name| job.path("run").join(name).components().collect::<PathBuf>());
    let files = |dir: PathBuf| FILES.iter().map(|file| dir.join(file)).chain([dir.clone()]).collect::<Vec<_>>();
    dirs.flat_map(files).flat_map(|path| ["-P".to_owned(), path.display().to_string()]).collect()
}

/// Fault 3. With SLOW=1 at every system call of a save, else at some of each kind.
#[test]
fn a_kill_at_any_system_call_of_a_save_leaves_the_old_checkpoint_or_the_new_one() {
    if !has("strace", "it kills at a system call") {
        return;
    }
    let before = one_save_to_come();
    let calm = copy(&before);
    let args = |job: &Job, more: &[String]| -> Vec<String> {
        [&["-e".to_owned(), format!("trace={CALLS}")], more, &touched(job)[..]].concat()
    };
    calm.start(&mut keep_two(worker_under_strace(&calm, &args(&calm, &[])))).must_end(0, &[]);
    let all = changes(&calm.path("strace.log"));
    let n_of = |names: &[&str]| all.iter().filter(|(name, _)| names.contains(&name.as_str())).count();
    assert!(n_of(&["fsync"]) >= 13 && n_of(&["write"]) == 6, "{all:?}");
    assert!(n_of(&["rename", "renameat", "renameat2"]) == 2 && n_of(&["unlink", "unlinkat", "rmdir"]) >= 6, "{all:?}");

    let every = if slow() { 1 } else { 4 };
    for (name, when) in all.iter().step_by(every) {
        let job = copy(&before);
        let kill = ["-e".to_owned(), format!("inject={name}:signal=KILL:when={when}")];
        let (code, said) = job.start(&mut keep_two(worker_under_strace(&job, &args(&job, &kill)))).end();
        assert_ne!(code, Some(0), "{name} {when}: was not killed: {said}");
        let found = trainer::checkpoint::newest(&job.path("run")).unwrap();
        let step = found.0.map(|found| found.state.step);
        assert!(step == Some(27) || step == Some(30), "{name} {when}: {step:?}, {:?}", found.1);
        assert!(found.1.is_empty(), "{name} {when}: a half checkpoint is visible: {:?}", found.1);
        job.must_end(1, &[], 0);
        job.must_equal_r();
    }
}

fn keep_two(mut command: Command) -> Command {
    command.args(["--set", "checkpoint.keep=2"]);
    command
}

/// Fault 9: the sync of one file of checkpoint-6 fails, once.
#[test]
fn a_failed_sync_costs_that_checkpoint_and_nothing_else() {
    if !has("strace", "it makes a sync fail") {
        return;
    }
    let job = Job::new();
    let file = job.path("run/.checkpoint-6.unfinished/optimizer.safetensors");
    let fail = ["-P", &file.display().to_string(), "-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=1"];
    let said = job
        .start(&mut worker_under_strace(&job, &fail.map(str::to_owned)))
        .must_end(0, &["checkpoint-6 was not saved", "optimizer.safetensors: fsync failed", "training goes on"]);
    assert!(!said.contains("checkpoint-9 was not saved"), "{said}");
    let log = fs::read_to_string(job.path("strace.log")).unwrap();
    assert_eq!(log.matches("fsync(").count(), 1, "a failed sync is not repeated on the same file:\n{log}");
    job.must_equal_r();
}

/// A disk of its own that is unmounted when dropped; `None`, with a reason, where that needs more rights than there are.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    pub fn new(at: PathBuf, kib: u32) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "ecg-train-test"]).arg(&at);
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self(at)),
            _ => {
                eprintln!("skipped: a small disk cannot be mounted here (it needs root)");
                None
            }
        }
    }

    /// Writes until only `kib` are free.
    pub fn fill_up_to(&self, kib: u64) {
        let free = storage::free_bytes(&self.0).unwrap();
        let mut ballast = File::create(self.0.join("ballast")).unwrap();
        ballast.write_all(&vec![1; (free.saturating_sub(kib * 1024)) as usize]).unwrap();
    }

    pub fn free(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// Fault 8, on a real disk that fills up in the middle of a run and stays full.
#[test]
fn a_full_disk_ends_the_run_after_some_saves_and_loses_nothing() {
    let job = Job::new();
    let Some(disk) = SmallDisk::new(job.path("run"), 8 * 1024) else { return };
    let launched = job.launch(2, &[]);
    wait_for("a checkpoint", || job.path("run/checkpoint-3").exists());
    disk.fill_up_to(96); // The journal still has room.
    let said = launched.must_end(6, &["was not saved (1 in a row", "was not saved (3 in a row)", "MB are free"]);
    let kept = trainer::checkpoint::newest(&job.path("run")).unwrap();
    let step = kept.0.unwrap_or_else(|| panic!("no checkpoint is left: {said}")).state.step;
    assert!(step >= 3 && kept.1.is_empty(), "{step} {:?}", kept.1);
    // Still full: that is said before any step is made.
    let n_steps = job.steps();
    job.launch(2, &[]).must_end(6, &["a checkpoint takes", "MB are free"]);
    assert_eq!(job.steps(), n_steps);
    disk.free();
    job.must_end(2, &[], 0);
    job.must_equal_r();
}

/// Fault 11: whatever is wrong with the newest checkpoint, an older one is used, and the reason is said.
#[test]
fn a_damaged_checkpoint_is_named_and_an_older_one_used() {
    let whole = Job::new();
    whole.must_end(1, &["--set", "checkpoint.keep=3"], 0);
    let damage = |file: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let job = copy(&whole);
        let path = job.path("run/checkpoint-30").join(file);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        storage::publish_file(&path, &bytes).unwrap();
        job.launch(1, &[]).must_end(0, &["checkpoint-30", file, "an older checkpoint is used", "from checkpoint-27"]);
        job.must_equal_r();
    };
    damage("adapter_model.safetensors", &|bytes| *bytes.last_mut().unwrap() ^= 1);
    damage("optimizer.safetensors", &|bytes| bytes[4000] ^= 128);
    damage("trainer_state.json", &|bytes| bytes.truncate(20));
    damage("manifest.json", &|bytes| bytes.clear());

    let job = copy(&whole);
    fs::remove_file(job.path("run/checkpoint-30/optimizer.safetensors")).unwrap();
    // What a program without our care would leave: a higher number, and half of its files.
    fs::create_dir(job.path("run/checkpoint-99")).unwrap();
    fs::copy(
        job.path("run/checkpoint-27/adapter_model.safetensors"),
        job.path("run/checkpoint-99/adapter_model.safetensors"),
    )
    .unwrap();
    fs::create_dir(job.path("run/.checkpoint-33.unfinished")).unwrap();
    let named = ["checkpoint-99: manifest.json", "checkpoint-30: optimizer.safetensors", "from checkpoint-27"];
    job.launch(2, &[]).must_end(0, &named);
    job.must_equal_r();
}

/// Fault 22: file times in reverse, and a clock that jumps ten years back.
#[test]
fn the_order_of_checkpoints_is_by_step_whatever_clocks_say() {
    let job = one_save_to_come();
    for (days, step) in [(0, 24), (100, 27)] {
        let time = SystemTime::now() - Duration::from_secs(86_400 * days);
        for_each_file(&job.path(&format!("run/checkpoint-{step}")), &mut |file| {
            File::open(file).unwrap().set_modified(time).unwrap();
        });
        File::open(job.path(&format!("run/checkpoint-{step}"))).unwrap().set_modified(time).unwrap();
    }
    job.launch(1, &[]).must_end(0, &["from checkpoint-27"]);
    job.must_equal_r();

    if !has("faketime", "it turns the clock back") {
        return;
    }
    let job = one_save_to_come();
    let program = job.command("launch");
    let mut command = Command::new("faketime");
    command.args(["-f", "-3650d"]).arg(program.get_program()).args(program.get_args()).args(["--cpus", "2"]);
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("DONT_FAKE_MONOTONIC", "1");
    job.start(&mut command).must_end(0, &["from checkpoint-27"]);
    assert_eq!(job.steps() as u64, STEPS);
    job.must_equal_r();
}
