//! What a run survives: a killed worker ends all of them at once and nothing hangs; a stop leaves a checkpoint; the
//! same command goes on to the same bits.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::journey::Run;

const SETTINGS: [&str; 4] =
    ["data.shuffle=true", "lora.dropout=0.1", "train.global_batch_size=4", "checkpoint.every_steps=3"];
/// 60 rows in steps of 4.
const STEPS: u64 = 15;
/// Far longer than anything here should take, far shorter than anybody waits.
const DEADLINE: Duration = Duration::from_secs(60);

/// A launch in the background.
struct Launched(Child);

impl Launched {
    fn new(run: &Run) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ecg-train-under-test"));
        command.args(["launch", "--cpus", "2", "--config", &run.path("config.toml")]);
        for change in SETTINGS {
            command.args(["--set", change]);
        }
        Self(command.stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Process ids of the workers.
    fn workers(&self) -> Vec<u32> {
        let parent = |pid: u32| -> Option<u32> {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
        };
        let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
        pids.filter(|&pid| parent(pid) == Some(self.0.id())).collect()
    }

    /// Exit code and messages; a launch that hangs fails the test.
    fn end(mut self) -> (Option<i32>, String) {
        let start = Instant::now();
        while self.0.try_wait().unwrap().is_none() {
            if start.elapsed() > DEADLINE {
                let _ = self.0.kill();
                panic!("the launch hangs");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let output = self.0.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn wait_for_step(run: &Run, step: usize) {
    let start = Instant::now();
    let lines = || fs::read_to_string(run.path("run/journal.jsonl")).unwrap_or_default().lines().count();
    while lines() < step {
        assert!(start.elapsed() < DEADLINE, "no step {step}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(name: &str, pid: u32) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

/// Undisturbed, and disturbed by `disturb` after a step, then run again: the same bits. Returns how it had ended.
fn check(disturb: impl Fn(&Launched)) -> (Option<i32>, String) {
    let (calm, disturbed) = (Run::synthetic(), Run::synthetic());
    calm.must_launch(1, &SETTINGS);
    let launched = Launched::new(&disturbed);
    wait_for_step(&disturbed, 4);
    let workers = launched.workers();
    assert_eq!(workers.len(), 2);
    disturb(&launched);
    let ended = launched.end();
    for pid in workers {
        assert!(!fs::exists(format!("/proc/{pid}")).unwrap(), "worker {pid} outlived its launch");
    }
    disturbed.must_launch(1, &SETTINGS);
    assert_eq!(calm.bits(STEPS), disturbed.bits(STEPS));
    ended
}

#[test]
fn a_killed_worker_ends_all_and_a_rerun_gives_the_same_bits() {
    let (code, told) = check(|launched| signal("KILL", *launched.workers().last().unwrap()));
    assert_eq!(code, Some(5), "{told}");
    assert!(told.contains("rank") && told.contains("SIGKILL"), "{told}");
}

#[test]
fn a_stop_leaves_a_checkpoint_and_a_rerun_gives_the_same_bits() {
    let (code, told) = check(|launched| signal("TERM", launched.0.id()));
    assert_eq!(code, Some(75), "{told}");
}
