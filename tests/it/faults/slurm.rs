//! The job scripts on a real Slurm of two nodes on this machine: needs root and Debian's slurm-wlm and munge. A minute,
//! so only with SLOW=1.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::rig::{Job, signal, slow, wait_for};

const RIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/slurm_two_nodes.sh");
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/jobs");

/// A running Slurm, gone with this.
struct Slurm {
    dir: tempfile::TempDir,
}

impl Slurm {
    /// None, said aloud, where it cannot be.
    fn start() -> Option<Self> {
        let installed = ["slurmctld", "slurmd", "munged"].iter().all(|name| {
            Command::new("sh").args(["-c", &format!("command -v {name}")]).output().is_ok_and(|o| o.status.success())
        });
        if !slow()
            || !installed
            || fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m)).ok() != Some(0)
        {
            eprintln!("skipped: the job scripts on a real Slurm need SLOW=1, root, slurm-wlm and munge");
            return None;
        }
        let slurm = Self { dir: tempfile::tempdir().unwrap() };
        let started = Command::new(RIG).arg("start").arg(slurm.dir.path()).output().unwrap();
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        Some(slurm)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, program: &str, args: &[&str]) -> Output {
        Command::new(program).args(args).env("SLURM_CONF", self.path("slurm.conf")).output().unwrap()
    }

    /// Submits a script for the tiny run of `job`, whose rank 0 takes `slow` more milliseconds for a micro-batch, so that
    /// there is something to disturb; returns the number of the Slurm job.
    fn submit(&self, script: &str, job: &Job, slow: u32, args: &[&str]) -> String {
        let launch = job.command("launch");
        // launch --config C and the recipe
        let words: Vec<String> = launch.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let mut command = Command::new("sbatch");
        command
            .args(["--parsable", "--cpus-per-task=1"])
            .args(args)
            .arg(format!("--output={}", self.path("job.log").display()));
        command.arg(Path::new(SCRIPTS).join(script)).env("SLURM_CONF", self.path("slurm.conf"));
        command.envs(launch.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("ECG_TRAIN", launch.get_program()).env("CONFIG", &words[2]).env("DEVICES", "--cpus 1");
        command.env("OPTIONS", format!("{} --patience 5 --grace 20", words[3..].join(" ")));
        command.env("ECG_TRAIN_FAULTS", format!("slow={slow}@0:*"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// State of a Slurm job, e.g. RUNNING.
    fn state(&self, id: &str) -> String {
        let output = self.run("scontrol", &["--oneliner", "show", "job", id]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_whitespace().find_map(|word| word.strip_prefix("JobState=").map(str::to_owned)).unwrap_or_default()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("job.log")).unwrap_or_default()
    }

    #[track_caller]
    fn must_complete(&self, id: &str) {
        wait_for("the end of the job", || ["COMPLETED", "FAILED", "CANCELLED"].contains(&self.state(id).as_str()));
        assert_eq!(self.state(id), "COMPLETED", "{}", self.log());
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        let _ = self.run("scancel", &["--user=root", "--signal=KILL", "--full"]);
        let _ = Command::new(RIG).arg("stop").arg(self.dir.path()).output();
    }
}

#[test]
fn job_scripts_survive_the_preemption_signal_a_requeue_and_a_lost_daemon() {
    let Some(slurm) = Slurm::start() else { return };

    let job = Job::new();
    let id = slurm.submit("slurm-one-node.sbatch", &job, 300, &[]);
    job.wait_for_step(4);
    assert!(slurm.run("scancel", &["--signal=USR1", &id]).status.success());
    wait_for("the requeue", || slurm.log().contains("queues again"));
    slurm.must_complete(&id);
    job.must_equal_r();

    let job = Job::new();
    // Slow enough that the controller misses the daemon (9 s and a ping) before the run is over.
    let id = slurm.submit("slurm-several-nodes.sbatch", &job, 1000, &["--nodes=2", "--open-mode=truncate"]);
    job.wait_for_step(4);
    assert!(slurm.log().contains("2 nodes with 2 ranks have met: n1, n2"), "{}", slurm.log());
    let daemon = fs::read_to_string(slurm.path("n2.pid")).unwrap().trim().parse().unwrap();
    signal("KILL", daemon);
    wait_for("the requeue", || slurm.state(&id) == "PENDING");
    assert!(job.steps() < 30, "it ended before its node was lost");
    assert!(slurm.run("slurmd", &["-N", "n2"]).status.success());
    slurm.must_complete(&id);
    job.must_equal_r();
}

#[test]
fn job_scripts_are_clean() {
    if Command::new("shellcheck").arg("--version").output().is_err() {
        eprintln!("skipped: no shellcheck (Debian: apt-get install shellcheck)");
        return;
    }
    let scripts = ["slurm-one-node.sbatch", "slurm-several-nodes.sbatch"].map(|name| Path::new(SCRIPTS).join(name));
    let output = Command::new("shellcheck").args(scripts).arg(RIG).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
