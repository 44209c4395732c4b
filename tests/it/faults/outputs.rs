//! Outputs that cannot be written: those for eyes are done without, the journal is not.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use super::rig::Job;

/// Any of our commands through a shell that first does something to its own streams or limits.
fn after(first: &str, program: &Command) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", &format!("{first}; exec \"$0\" \"$@\"")]).arg(program.get_program()).args(program.get_args());
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// Fault 25: stdout closed, stderr and the logs of both ranks on a full disk.
#[test]
fn a_run_that_nobody_can_hear_is_not_affected() {
    let job = Job::new();
    fs::create_dir_all(job.path("run/logs")).unwrap();
    for rank in 0..2 {
        symlink("/dev/full", job.path(&format!("run/logs/rank-{rank}.log"))).unwrap();
    }
    let mut program = job.command("launch");
    program.args(["--cpus", "2"]);
    let (code, _) = job.start(&mut after("exec >&- 2>/dev/full", &program)).end();
    assert_eq!(code, Some(0));
    job.must_equal_r();
}

/// The disk takes no more journal: the run ends at once, and nothing of the journal is lost or torn.
#[test]
fn a_journal_that_cannot_be_written_ends_the_run() {
    let job = Job::new();
    job.must_end(1, &["--set", "checkpoint.every_steps=10"], 0);
    let length = fs::metadata(job.path("run/journal.jsonl")).unwrap().len();

    // No file may be longer than this; a checkpoint's are, but the first of them is only due after the journal is full.
    let job = Job::new();
    let mut program = job.command("launch");
    program.args(["--cpus", "2", "--set", "checkpoint.every_steps=20"]);
    let limited = format!("trap '' XFSZ; ulimit -f {}", length / 2 / 1024);
    job.start(&mut after(&limited, &program)).must_end(6, &["journal.jsonl", "cannot append to it"]);
    let n_steps = job.steps();
    assert!((5..20).contains(&n_steps), "{n_steps} steps");
    assert!(fs::read(job.path("run/journal.jsonl")).unwrap().ends_with(b"\n"), "no torn line is left");
    job.must_end(2, &[], 0);
    job.must_equal_r();
}
