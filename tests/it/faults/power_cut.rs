//! Power cuts on a real ext4, with SLOW=1 and root: the file system is shut down as if the power had failed, what had not
//! reached its disk is gone, and its own journal is replayed at the next mount.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::rig::{Job, slow, wait_for};

/// EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH, as xfstests does it: at once, without writing anything more.
const SHUT_DOWN: &str =
    "import fcntl, os, struct, sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

fn succeeds(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

/// An ext4 in a file, mounted where the run folder is.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    fn new(job: &Job) -> Option<Self> {
        let disk = Self { image: job.path("disk.img"), at: job.path("run") };
        fs::create_dir_all(&disk.at).unwrap();
        fs::File::create(&disk.image).unwrap().set_len(64 << 20).unwrap();
        let made = succeeds("mkfs.ext4", &["-q", &disk.image.display().to_string()]);
        (made && disk.mount()).then_some(disk)
    }

    fn mount(&self) -> bool {
        succeeds("mount", &["-o", "loop", &self.image.display().to_string(), &self.at.display().to_string()])
    }

    fn unmount(&self) -> bool {
        succeeds("umount", &[&self.at.display().to_string()])
    }

    fn power_cut(&self) {
        assert!(succeeds("python3", &["-c", SHUT_DOWN, &self.at.display().to_string()]));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = succeeds("umount", &["-l", &self.at.display().to_string()]);
    }
}

/// Steps of the checkpoints that are visible, in order.
fn visible(job: &Job) -> Vec<u64> {
    let names = fs::read_dir(job.path("run")).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut steps: Vec<u64> =
        names.filter_map(|name| name.to_str()?.strip_prefix("checkpoint-")?.parse().ok()).collect();
    steps.sort_unstable();
    steps
}

/// Fault 10.
#[test]
fn after_a_power_cut_what_was_saved_is_there_and_verifies() {
    if !slow() {
        eprintln!("skipped: power cuts on a real file system are for SLOW=1 (they need root, ext4 and python3)");
        return;
    }
    for seed in 0..12_u64 {
        let job = Job::new();
        let Some(disk) = Disk::new(&job) else {
            eprintln!("skipped: no ext4 can be mounted from a file here (it needs root)");
            return;
        };
        let launched = job.launch(2, &["--set", "checkpoint.keep=1", "--set", "checkpoint.every_steps=2"]);
        job.wait_for_step(3 + seed as usize);
        thread::sleep(Duration::from_millis(7 * seed));
        // An older one is removed only after the newer one was acknowledged, so of two the older one surely was.
        let acknowledged = visible(&job).first().copied().unwrap_or(0);
        disk.power_cut();
        let (code, said) = launched.end();
        assert_ne!(code, Some(0), "{said}");
        wait_for("the end of all processes", || job.processes().is_empty());
        assert!(disk.unmount() && disk.mount());
        let (found, damaged) = trainer::checkpoint::newest(&job.path("run")).unwrap();
        let step = found.map_or(0, |found| found.state.step);
        eprintln!("seed {seed}: {acknowledged} was acknowledged, {step} is there");
        assert!(step >= acknowledged, "seed {seed}: {acknowledged} was acknowledged, {step} is there: {damaged:?}");
        assert!(damaged.is_empty(), "seed {seed}: {damaged:?}");
        job.must_end(1, &[], 0);
        job.must_equal_r();
    }
}
