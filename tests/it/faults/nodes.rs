//! Several nodes on this machine: each is a `launch` of its own, and all see one run folder.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use super::rig::{Job, Launched, STEPS, signal, wait_for};

/// Met through the run folder, on loopback; a node that is silent for ten seconds is lost.
const HERE: [&str; 4] = ["--rdzv-interface", "lo", "--patience", "10"];

/// The `launch` of one node with `cpus` workers.
fn node<'a>(job: &'a Job, n_nodes: u32, node_rank: u32, cpus: u32, args: &[&str]) -> Launched<'a> {
    let mut command = job.command("launch");
    command.args([
        "--cpus",
        &cpus.to_string(),
        "--nnodes",
        &n_nodes.to_string(),
        "--node-rank",
        &node_rank.to_string(),
    ]);
    job.start(command.args(HERE).args(args))
}

/// Two nodes of different size.
fn two(job: &Job) -> [Launched<'_>; 2] {
    [node(job, 2, 0, 1, &[]), node(job, 2, 1, 2, &[])]
}

fn both_end([first, second]: [Launched<'_>; 2], code: i32) -> [String; 2] {
    std::thread::scope(|scope| {
        let second = scope.spawn(|| second.must_end(code, &[]));
        [first.must_end(code, &[]), second.join().unwrap()]
    })
}

#[test]
fn nodes_of_any_size_give_the_same_bits_and_one_run_folder() {
    let job = Job::new();
    let [told, other] = both_end(two(&job), 0);
    assert!(told.contains("2 nodes with 3 ranks have met"), "{told}");
    assert!(!other.contains("files in"), "one node speaks for all: {other}");
    job.must_equal_r();
    for rank in 0..3 {
        assert!(job.path(&format!("run/logs/rank-{rank}.log")).exists(), "rank {rank}");
    }
    assert!(!job.path("run/.rendezvous").exists(), "the job key is left behind");
}

#[test]
fn a_worker_lost_on_one_node_begins_the_next_attempt_on_all() {
    let job = Job::new();
    let nodes = two(&job);
    job.wait_for_step(4);
    signal("KILL", job.worker(2).unwrap());
    let [told, _] = both_end(nodes, 0);
    assert!(told.contains("node 1") && told.contains("rank 2") && told.contains("SIGKILL"), "{told}");
    job.must_equal_r();
}

#[test]
fn a_node_that_is_lost_is_waited_for() {
    let job = Job::new();
    let [first, second] = two(&job);
    job.wait_for_step(4);
    signal("KILL", second.pid());
    second.end();
    let restarts = || job.events("restart").len();
    wait_for("the loss to be noticed", || restarts() == 1);
    let again = node(&job, 2, 1, 1, &[]);
    let [told, _] = both_end([first, again], 0);
    assert!(told.contains("node 1") && told.contains("is lost"), "{told}");
    job.must_equal_r();
}

#[test]
fn node_0_may_be_lost_as_well() {
    let job = Job::new();
    let [first, second] = two(&job);
    job.wait_for_step(4);
    signal("KILL", first.pid());
    first.end();
    let again = node(&job, 2, 0, 1, &[]);
    both_end([again, second], 0);
    job.must_equal_r();
}

#[test]
fn a_request_to_one_node_stops_all_after_one_checkpoint() {
    let job = Job::new();
    let nodes = two(&job);
    job.wait_for_step(4);
    signal("USR1", nodes[1].pid());
    both_end(nodes, 75);
    assert_eq!(job.newest_checkpoint(), job.steps(), "the checkpoint is of the last step");
    both_end(two(&job), 0);
    job.must_equal_r();
}

#[test]
fn nodes_of_different_configs_are_refused_before_any_step() {
    let job = Job::new();
    let nodes = [node(&job, 2, 0, 1, &[]), node(&job, 2, 1, 1, &["--set", "seed=7"])];
    for told in both_end(nodes, 2) {
        let hashes = told.split_whitespace().filter(|word| word.trim_matches([',', ';']).len() == 64).count();
        assert!(told.contains("node 1 has config") && told.contains("node 0 has") && hashes == 2, "{told}");
    }
    assert_eq!(job.steps(), 0);
}

#[test]
fn a_node_that_does_not_come_is_named_and_two_of_one_rank_are_refused() {
    let job = Job::new();
    node(&job, 2, 0, 1, &["--rdzv-timeout", "1"]).must_end(5, &["[1] of 2 did not come", "node 0 of 2"]);
    let alone = node(&job, 2, 1, 1, &["--rdzv-timeout", "1"]);
    alone.must_end(5, &["node 1 of 2", ".rendezvous", "output_dir"]);
    let twins = [node(&job, 3, 0, 1, &[]), node(&job, 3, 1, 1, &[])];
    node(&job, 3, 1, 1, &[]).must_end(2, &["two processes that say they are node 1"]);
    both_end(twins, 2);
}

/// A port that nobody has now.
fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

#[test]
fn strangers_at_the_endpoint_are_dropped() {
    let job = Job::new();
    let port = free_port();
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    let endpoint = ["--rdzv-endpoint", &addr.to_string()];
    let first = node(&job, 2, 0, 1, &endpoint);
    let connect = || TcpStream::connect(addr);
    wait_for("node 0 to listen", || connect().is_ok());
    let silent = connect().unwrap();
    let mut garbage = connect().unwrap();
    garbage.write_all(&[0xff; 4096]).unwrap();
    garbage.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut rest = Vec::new();
    assert!(garbage.read_to_end(&mut rest).is_err() || rest.len() < 100, "a stranger is told nothing");
    both_end([first, node(&job, 2, 1, 1, &endpoint)], 0);
    drop(silent);
    job.must_equal_r();
}

/// Two ranks, each a `launch` of its own with the variables that a launcher gives it.
fn check_launcher(first: &str, second: &str, args: &[&str]) {
    let job = Job::new();
    let start = |variables: &str| {
        let mut command = job.command("launch");
        command.args(["--cpus", "1", "--set", "train.max_steps=3"]).args(HERE).args(args);
        for variable in variables.split_whitespace() {
            let (name, value) = variable.split_once('=').unwrap();
            command.env(name, value);
        }
        job.start(&mut command)
    };
    let nodes = [start(first), start(second)];
    both_end(nodes, 0);
    assert_eq!(job.steps(), 3);
    let log = fs::read_to_string(job.path("run/logs/rank-1.log")).unwrap();
    assert!(log.contains("rank 1 of 2"), "{log}");
}

/// Of a rank, as `NAME=value` words.
type Variables<'a> = &'a dyn Fn(u32) -> String;

#[test]
fn ranks_started_by_other_launchers_find_each_other() {
    // As Open MPI 4.1, Slurm 22.05, MPICH's hydra, an Indexed Job and a script by hand set them; more in launch/src/cluster.
    let open_mpi = |rank| {
        format!(
            "OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_SIZE=2 PMIX_NAMESPACE=99 OMPI_COMM_WORLD_RANK={rank} OMPI_COMM_WORLD_LOCAL_RANK={rank} PMIX_RANK={rank}"
        )
    };
    let slurm = |rank| {
        format!(
            "SLURM_JOB_ID=7 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 SLURM_NTASKS=2 SLURM_STEP_TASKS_PER_NODE=2 SLURM_NODEID=0 SLURM_PROCID={rank} SLURM_LOCALID={rank}"
        )
    };
    let hydra = |rank| format!("PMI_SIZE=2 MPI_LOCALNRANKS=2 PMI_RANK={rank} MPI_LOCALRANKID={rank}");
    let pod = |rank| format!("JOB_COMPLETION_INDEX={rank}");
    let port = free_port();
    let by_hand = |rank| format!("WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT={port} RANK={rank}");
    let launchers: [(Variables<'_>, &[&str]); 5] =
        [(&open_mpi, &[]), (&slurm, &[]), (&hydra, &[]), (&pod, &["--nnodes", "2"]), (&by_hand, &[])];
    for (variables, args) in launchers {
        check_launcher(&variables(0), &variables(1), args);
    }
}

#[test]
fn a_real_mpirun_starts_one_rank_a_process() {
    if Command::new("mpirun").arg("--version").output().is_err() {
        eprintln!("skipped: no mpirun (Debian: apt-get install openmpi-bin)");
        return;
    }
    let job = Job::new();
    let launch = job.command("launch");
    let mut command = Command::new("mpirun");
    command.args(["--allow-run-as-root", "--oversubscribe", "--mca", "plm", "isolated", "-np", "2"]);
    command.arg(launch.get_program()).args(launch.get_args()).args(["--cpus", "1"]);
    command.envs(launch.get_envs().filter_map(|(name, value)| Some((name, value?))));
    job.start(&mut command).must_end(0, &["2 nodes with 2 ranks have met"]);
    job.must_equal_r();
    assert_eq!(job.steps() as u64, STEPS);
}

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/jobs/kubernetes-indexed-job.yaml");

#[test]
fn the_kubernetes_manifest_says_what_the_program_understands() {
    let text = fs::read_to_string(MANIFEST).unwrap();
    let args = text.lines().filter_map(|line| line.trim().strip_prefix("- --"));
    let args: Vec<String> = args.map(|arg| format!("--{}", arg.replace("gpus=", "cpus="))).collect();
    assert!(args.len() >= 5, "{args:?}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ecg-train-under-test"));
    let output = command.arg("launch").args(&args).env("JOB_COMPLETION_INDEX", "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("/run-data/medgemma.toml: "),
        "all that is wrong is that this machine has no such file: {said}"
    );
    assert!(text.contains("name: ECG_TRAIN_JOB_KEY"));
}

#[test]
fn the_kubernetes_manifest_fits_the_schemas_of_kubernetes() {
    if Command::new("kubernetes-validate").arg("--version").output().is_err() {
        eprintln!("skipped: no kubernetes-validate (pip install kubernetes-validate)");
        return;
    }
    let output = Command::new("kubernetes-validate").args(["--strict", MANIFEST]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
