//! Workers that die, and a supervisor that does.

use std::time::{Duration, Instant};

use super::rig::{Job, Random, STEPS, signal, slow, try_signal, wait_for};

/// Within it a death is noticed (a process's end is seen at once), and everything of a dead supervisor is gone.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_rank_killed_at_any_step_is_replaced_and_the_bits_are_the_same() {
    let n_seeds = if slow() { 200 } else { 10 };
    for seed in 0..n_seeds {
        let mut random = Random::new(seed);
        let cpus = random.in_range(1..5) as u32;
        let rank = random.in_range(0..u64::from(cpus)) as u32;
        let step = random.in_range(0..STEPS) as usize;
        eprintln!("seed {seed}: rank {rank} of {cpus} is killed after step {step}");
        let job = Job::new();
        let launched = job.launch(cpus, &[]);
        wait_for("the workers", || job.worker(rank).is_some());
        job.wait_for_step(step);
        let is_killed = job.worker(rank).is_some_and(|pid| try_signal("KILL", pid));
        let killed = job.clock();
        let said = launched.must_end(0, &[]);
        // The last step may have been made, and the worker be gone or about to go.
        let lost = job.events("lost");
        assert!(
            !lost.is_empty() || !is_killed || step + 2 > STEPS as usize,
            "the death of rank {rank} is unnoticed:\n{said}"
        );
        for event in lost {
            assert_eq!(event["rank"], rank);
            assert!(event["time"].as_f64().unwrap() - killed < SOON.as_secs_f64());
            for text in [&format!("rank {rank} was killed by SIGKILL (9)"), "memory runs out", "begin again"] {
                assert!(said.contains(text), "{text:?} is not named:\n{said}");
            }
        }
        job.must_equal_r();
    }
}

#[test]
fn a_death_in_a_step_is_told_with_step_and_phase() {
    let job = Job::new();
    let launched = job.launch(2, &[]);
    job.wait_for_step(4);
    signal("KILL", job.worker(1).unwrap());
    let said = launched.must_end(0, &["rank 1 was killed by SIGKILL (9)", " of step "]);
    let lost = &job.events("lost")[0];
    assert!(lost["step"].as_u64().unwrap() >= 4 && lost["phase"].is_string(), "{lost}\n{said}");
    assert_eq!(job.events("restart").len(), 1);
    job.must_equal_r();
}

#[test]
fn without_restarts_a_death_ends_the_job_and_a_rerun_goes_on() {
    let job = Job::new();
    let launched = job.launch(2, &["--max-restarts", "0"]);
    job.wait_for_step(4);
    signal("KILL", job.worker(1).unwrap());
    launched.must_end(5, &["rank 1", "SIGKILL", "of step"]);
    job.must_leave_nothing();
    job.must_end(1, &[], 0);
    job.must_equal_r();
}

#[test]
fn three_restarts_without_a_new_step_end_the_job_with_a_table() {
    let job = Job::new();
    let mut command = job.command("launch");
    command.args(["--cpus", "2", "--patience", "1"]).env("ECG_TRAIN_FAULTS", "slow=1000000@1:5!");
    let said = job.start(&mut command).must_end(5, &["3 restarts made no new step", "ended because", "rank 1 is late"]);
    assert_eq!(job.events("late").len(), 4, "{said}");
    assert!(
        said.lines()
            .any(|line| line.trim_start().starts_with("3        3-4  rank 1 is late in forward/backward of step 5")),
        "{said}"
    );
    assert_eq!(job.events("gave_up").len(), 1);
    job.must_leave_nothing();
    job.must_end(2, &[], 0);
    job.must_equal_r();
}

#[test]
fn workers_die_with_their_supervisor_even_when_they_are_stopped() {
    for stop in [false, true] {
        let job = Job::new();
        let launched = job.launch(3, &[]);
        job.wait_for_step(4);
        if stop {
            signal("STOP", job.worker(1).unwrap());
        }
        signal("KILL", launched.pid());
        let begin = Instant::now();
        wait_for("the end of the workers", || job.processes().is_empty());
        assert!(begin.elapsed() < SOON, "workers lived for {:?}", begin.elapsed());
        drop(launched);
        job.must_end(2, &[], 0);
        job.must_equal_r();
    }
}

#[test]
fn any_number_of_ranks_goes_on_with_the_same_bits() {
    let job = Job::new();
    for (cpus, step) in [(2, 5), (4, 11), (1, 17)] {
        let launched = job.launch(cpus, &[]);
        job.wait_for_step(step);
        signal("TERM", launched.pid());
        launched.must_end(75, &["stopped"]);
    }
    job.must_end(3, &[], 0);
    job.must_equal_r();
}
