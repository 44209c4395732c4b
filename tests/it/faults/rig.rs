//! The rig of every fault: the real program on rows that every clone can make, 30 steps, against the journal R of an
//! undisturbed run on one worker.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use trainer::journal::Line;

use crate::journey::{Run, draw};

/// 60 rows, twice, in steps of 4 micro-batches of one row: up to four ranks have work.
const RECIPE: [&str; 6] = [
    "data.shuffle=true",
    "lora.dropout=0.1",
    "train.global_batch_size=4",
    "train.micro_batch_size=1",
    "train.epochs=2.0",
    "checkpoint.every_steps=3",
];
/// Of the recipe.
pub const STEPS: u64 = 30;
/// Far longer than anything here should take, far shorter than anybody waits.
pub const DEADLINE: Duration = Duration::from_secs(120);
/// Between two looks at what is waited for.
const TICK: Duration = Duration::from_millis(5);
/// Marks every process of a job: workers inherit it, whoever their parent is by then.
const MARK: &str = "ECG_TRAIN_TEST_JOB";

/// A run folder of its own over the shared rows and base.
pub struct Job {
    run: Run,
    mark: String,
}

/// What an undisturbed run leaves: every journal line but its speed, and the last adapter.
#[derive(Debug, PartialEq)]
struct Bits {
    lines: Vec<Line>,
    adapter: blake3::Hash,
}

impl Job {
    /// A job that has not begun.
    pub fn new() -> Self {
        static N_JOBS: AtomicU32 = AtomicU32::new(0);
        let mark = format!("{}-{}", std::process::id(), N_JOBS.fetch_add(1, Ordering::Relaxed));
        let Ground { base, rows } = ground();
        Self { run: Run::of(base, rows, tempfile::tempdir().unwrap()), mark }
    }

    /// A file beside the config (`config.toml`) or in the run folder (`run/...`).
    pub fn path(&self, name: &str) -> PathBuf {
        self.run.path(name).into()
    }

    /// The folder of its rows, which it shares with all other jobs.
    pub fn rows(&self) -> &'static Path {
        &ground().rows
    }

    /// The folder of its base, likewise.
    pub fn base(&self) -> &'static Path {
        &ground().base
    }

    /// The program with the recipe, `command` being `launch` or `worker`; marked, so that its processes are found.
    pub fn command(&self, command: &str) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_ecg-train-under-test"));
        program.args([command, "--config", &self.run.path("config.toml")]).env(MARK, &self.mark);
        for change in RECIPE {
            program.args(["--set", change]);
        }
        program
    }

    /// `launch --cpus N` in the background, with further arguments.
    pub fn launch(&self, cpus: u32, args: &[&str]) -> Launched<'_> {
        let mut command = self.command("launch");
        command.args(["--cpus", &cpus.to_string()]).args(args);
        self.start(&mut command)
    }

    /// Any command of this job, in the background.
    pub fn start(&self, command: &mut Command) -> Launched<'_> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        Launched { child: Some(child), job: self }
    }

    /// Runs `launch` to its end, which must be `code`; returns what it said.
    #[track_caller]
    pub fn must_end(&self, cpus: u32, args: &[&str], code: i32) -> String {
        self.launch(cpus, args).must_end(code, &[])
    }

    /// Every process of this job that lives, by its mark.
    pub fn processes(&self) -> Vec<u32> {
        let marked = format!("{MARK}={}", self.mark);
        let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
        let ours = |pid: &u32| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|&byte| byte == 0).any(|variable| variable == marked.as_bytes())
        };
        pids.filter(ours).collect()
    }

    /// The process of a rank that lives now.
    pub fn worker(&self, rank: u32) -> Option<u32> {
        let wanted = format!("RANK={rank}");
        self.processes().into_iter().find(|pid| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|&byte| byte == 0).any(|variable| variable == wanted.as_bytes())
        })
    }

    /// Steps in the journal.
    pub fn steps(&self) -> usize {
        fs::read_to_string(self.path("run/journal.jsonl")).unwrap_or_default().lines().count()
    }

    /// Waits until the journal has `step`.
    #[track_caller]
    pub fn wait_for_step(&self, step: usize) {
        wait_for(&format!("step {step}"), || self.steps() >= step);
    }

    /// The lines of `events.jsonl` of one kind.
    pub fn events(&self, kind: &str) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.path("run/events.jsonl")).unwrap_or_default();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let events = whole.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        events.filter(|event| event["event"] == kind).collect()
    }

    /// Now, as `events.jsonl` counts.
    pub fn clock(&self) -> f64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
    }

    /// Step of the newest checkpoint; 0 for none.
    pub fn newest_checkpoint(&self) -> usize {
        let names = fs::read_dir(self.path("run")).unwrap().flatten().map(|entry| entry.file_name());
        names.filter_map(|name| name.to_str()?.strip_prefix("checkpoint-")?.parse().ok()).max().unwrap_or(0)
    }

    /// (U): the journal is R bit for bit, each step once; so is the last adapter; no process and no temporary file of
    /// the job is left.
    #[track_caller]
    pub fn must_equal_r(&self) {
        assert_eq!(self.bits(), *reference(), "the journal or the adapter differs from R");
        self.must_leave_nothing();
    }

    /// No process of the job lives, and nothing unfinished lies in its folder.
    #[track_caller]
    pub fn must_leave_nothing(&self) {
        assert_eq!(self.processes(), Vec::<u32>::new(), "processes outlive the job");
        let mut unfinished = Vec::new();
        for_each_file(&self.path("run"), &mut |path| {
            if path.to_string_lossy().contains("unfinished") {
                unfinished.push(path.to_owned());
            }
        });
        assert_eq!(unfinished, Vec::<PathBuf>::new(), "temporary files are left");
    }

    fn kill(&self) {
        for pid in self.processes() {
            try_signal("KILL", pid);
        }
    }

    fn bits(&self) -> Bits {
        let (lines, adapter) = self.run.bits(STEPS);
        Bits { lines, adapter }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // After a failed assertion, too, nothing may go on in the background.
        self.kill();
    }
}

/// A command in the background.
pub struct Launched<'a> {
    child: Option<Child>,
    job: &'a Job,
}

impl Launched<'_> {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Waits for its end; a launch that hangs fails the test. Returns its exit code and what it said.
    #[track_caller]
    pub fn end(mut self) -> (Option<i32>, String) {
        let mut child = self.child.take().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let said = thread::spawn(move || {
            let mut said = Vec::new();
            std::io::Read::read_to_end(&mut stderr, &mut said).unwrap();
            String::from_utf8_lossy(&said).into_owned()
        });
        let begin = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if begin.elapsed() > DEADLINE {
                self.job.kill();
                panic!("it hangs; it said:\n{}", said.join().unwrap());
            }
            thread::sleep(TICK);
        }
        (child.wait().unwrap().code(), said.join().unwrap())
    }

    /// Waits for its end, which must have `code` and a message with each text of `named`; returns the message.
    #[track_caller]
    pub fn must_end(self, code: i32, named: &[&str]) -> String {
        let (found, said) = self.end();
        assert_eq!(found, Some(code), "it said:\n{said}");
        for text in named {
            assert!(said.contains(text), "{text:?} is not named:\n{said}");
        }
        said
    }
}

impl Drop for Launched<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Signals a process that must be there.
#[track_caller]
pub fn signal(name: &str, pid: u32) {
    assert!(try_signal(name, pid), "no process {pid}");
}

/// Whether a process was there to be signalled.
pub fn try_signal(name: &str, pid: u32) -> bool {
    let output = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).output().unwrap();
    output.status.success()
}

/// Waits until something is so.
#[track_caller]
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < DEADLINE, "waited in vain for {what}");
        thread::sleep(TICK);
    }
}

/// Calls `see` for every file and folder below `dir`.
pub fn for_each_file(dir: &Path, see: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        see(&entry.path());
        for_each_file(&entry.path(), see);
    }
}

/// Random numbers of a test, by its seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number of `range` (splitmix64).
    pub fn in_range(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        range.start + (z ^ (z >> 31)) % (range.end - range.start)
    }
}

/// Whether the slow tests are to run.
pub fn slow() -> bool {
    std::env::var_os("SLOW").is_some_and(|value| value == "1")
}

/// A synthetic base and its rows.
struct Ground {
    base: PathBuf,
    rows: PathBuf,
}

/// Made once a test process, where the build keeps its own files; those of processes that are gone are removed.
fn ground() -> &'static Ground {
    static GROUND: OnceLock<Ground> = OnceLock::new();
    GROUND.get_or_init(|| {
        let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults");
        for entry in fs::read_dir(&all).into_iter().flatten().flatten() {
            if !Path::new("/proc").join(entry.file_name()).exists() {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let dir = all.join(std::process::id().to_string());
        fs::create_dir_all(&dir).unwrap();
        let (base, rows) = draw(&dir);
        Ground { base, rows }
    })
}

/// R: of an undisturbed run on one worker, made once a test process.
fn reference() -> &'static Bits {
    static REFERENCE: OnceLock<Bits> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let calm = Job::new();
        calm.must_end(1, &[], 0);
        let bits = calm.bits();
        assert_eq!(bits.lines.len() as u64, STEPS);
        bits
    })
}
