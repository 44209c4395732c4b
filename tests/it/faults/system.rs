//! What the system does to a worker: it ends one for want of memory, and cannot end another. Both need root and cgroups.

use std::fs;
use std::path::{Path, PathBuf};

use super::rig::{Job, slow, wait_for};

/// A control group of this test alone, gone with this.
struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// In the hierarchy that has a controller, where that is of one of these versions; none, said aloud, where there is no such.
    fn new(controller: &str, versions: &[&str]) -> Option<Self> {
        let made = versions.iter().find_map(|version| Self::of_version(version, controller));
        if made.is_none() {
            eprintln!(
                "skipped: no control group for {controller} here (it needs root and cgroup {})",
                versions.join(" or ")
            );
        }
        made
    }

    fn of_version(version: &str, controller: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/mounts").ok()?;
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let root = mounts.find_map(|mount| {
            let [_, dir, kind, options, ..] = mount[..] else { return None };
            let dir = Path::new(dir);
            let has_it = match version {
                "v1" => kind == "cgroup" && options.split(',').any(|option| option == controller),
                _ => kind == "cgroup2" && tell(&dir.join("cgroup.subtree_control"), &format!("+{controller}")).is_ok(),
            };
            has_it.then(|| dir.to_owned())
        })?;
        let dir = root.join(format!("ecg-train-test-{}", std::process::id()));
        fs::create_dir(&dir).ok()?;
        Some(Self { dir })
    }

    /// Sets the first of these files that there is.
    #[track_caller]
    fn set(&self, files: &[&str], value: &str) {
        let file = files.iter().map(|file| self.dir.join(file)).find(|path| path.exists());
        tell(&file.expect("the group has such a file"), value).unwrap();
    }

    #[track_caller]
    fn take(&self, pid: u32) {
        self.set(&["cgroup.procs"], &pid.to_string());
    }

    /// Processes of it that the system has ended for want of memory.
    fn n_killed(&self) -> u64 {
        let texts = ["memory.events", "memory.oom_control"].map(|file| fs::read_to_string(self.dir.join(file)));
        let mut lines = texts.iter().flatten().flat_map(|text| text.lines());
        lines.find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap()
    }
}

#[expect(clippy::disallowed_methods, reason = "a control file of the kernel takes what is written into it")]
fn tell(control: &Path, value: &str) -> std::io::Result<()> {
    fs::write(control, value)
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.dir.join("freezer.state").exists() {
            let _ = tell(&self.dir.join("freezer.state"), "THAWED");
        }
        wait_for("the end of what the group held", || {
            fs::read_to_string(self.dir.join("cgroup.procs")).is_ok_and(|pids| pids.is_empty())
        });
        let _ = fs::remove_dir(&self.dir);
    }
}

#[test]
fn a_rank_that_the_system_ends_for_want_of_memory_is_replaced() {
    let Some(group) = Cgroup::new("memory", &["v1", "v2"]) else { return };
    group.set(&["memory.limit_in_bytes", "memory.max"], "256K");
    let job = Job::new();
    let launched = job.launch(2, &[]);
    // Before it has opened its base, for which the group has no room: what a process has already stays its own.
    wait_for("the worker", || job.worker(1).is_some());
    group.take(job.worker(1).unwrap());
    launched.must_end(0, &["rank 1 was killed by SIGKILL (9)", "memory runs out", "begin again"]);
    assert_eq!(group.n_killed(), 1);
    job.must_equal_r();
}

/// As a call to a file server that is gone: the process takes no signal, not even the one that kills.
#[test]
fn a_worker_that_cannot_be_ended_is_left_to_the_system_and_a_rerun_goes_on() {
    if !slow() {
        eprintln!("skipped: it waits for a minute (SLOW=1)");
        return;
    }
    let Some(group) = Cgroup::new("freezer", &["v1"]) else { return };
    let job = Job::new();
    let launched = job.launch(2, &["--patience", "2"]);
    job.wait_for_step(4);
    let frozen = job.worker(1).unwrap();
    group.take(frozen);
    group.set(&["freezer.state"], "FROZEN");
    launched.must_end(5, &["rank 1 is late in ", "ranks [1] were killed and do not end"]);
    assert_eq!(job.processes(), [frozen], "the others are gone");
    drop(group);
    wait_for("its end", || job.processes().is_empty());
    job.must_end(2, &[], 0);
    job.must_equal_r();
}
