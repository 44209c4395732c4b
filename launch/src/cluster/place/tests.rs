use super::*;

/// Variables as one line of `NAME=value`.
fn variables(line: &str) -> impl Variables {
    let pairs: Vec<(String, String)> =
        line.split_whitespace().filter_map(|pair| pair.split_once('=')).map(|(n, v)| (n.into(), v.into())).collect();
    move |name: &str| pairs.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone())
}

fn find(asked: (Option<u32>, Option<u32>), line: &str) -> Result<Place, Error> {
    Place::find(&Asked { n_nodes: asked.0, node_rank: asked.1 }, &variables(line))
}

/// Node and nodes, the same on this machine.
#[track_caller]
fn check(line: &str, by: Launcher, [node_rank, n_nodes, local_rank, n_local]: [u32; 4]) {
    assert_eq!(find((None, None), line).unwrap(), Place { node_rank, n_nodes, local_rank, n_local, by }, "{line}");
}

#[track_caller]
fn check_refused(asked: (Option<u32>, Option<u32>), line: &str, parts: &[&str]) {
    let told = find(asked, line).expect_err(line).to_string();
    assert!(parts.iter().all(|part| told.contains(part)), "{line}: {told}");
}

/// As a task of `srun -N2 --ntasks-per-node=1` sees it (Slurm 22.05).
const SRUN: &str = "SLURM_JOB_ID=7 SLURM_JOB_NUM_NODES=2 SLURM_JOB_NODELIST=n[1-2] SLURM_NNODES=2 SLURM_NTASKS=2 \
    SLURM_PROCID=1 SLURM_LOCALID=0 SLURM_NODEID=1 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NUM_NODES=2 \
    SLURM_STEP_NODELIST=n[1-2] SLURM_STEP_TASKS_PER_NODE=1(x2) SLURM_TASKS_PER_NODE=1(x2)";
/// As the batch script of such a job sees it, before any `srun`.
const SBATCH: &str = "SLURM_JOB_ID=7 SLURM_JOB_NUM_NODES=2 SLURM_JOB_NODELIST=n[1-2] SLURM_NNODES=2 SLURM_NTASKS=2 \
    SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_TASKS_PER_NODE=1(x2)";
/// As a process of `mpirun -np 2` sees it (Open MPI 4.1, which is also a PMIx launcher).
const MPIRUN: &str = "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=1 \
    OMPI_COMM_WORLD_LOCAL_SIZE=2 OMPI_COMM_WORLD_NODE_RANK=1 PMIX_RANK=1 PMIX_NAMESPACE=1801322497";
/// As a worker of `torchrun --nnodes 2 --nproc-per-node 4` sees it.
const TORCHRUN: &str = "TORCHELASTIC_RUN_ID=none RANK=5 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=4 GROUP_RANK=1 \
    MASTER_ADDR=gpu1 MASTER_PORT=29500";

#[test]
fn every_launcher_is_understood() {
    check("", Launcher::Alone, [0, 1, 0, 1]);
    check("PATH=/bin WORLD_SIZE=16 MASTER_ADDR=gpu1", Launcher::Alone, [0, 1, 0, 1]); // A script's export, no place.
    check(SRUN, Launcher::Slurm, [1, 2, 0, 1]);
    let one_a_rank = "SLURM_STEP_ID=0 SLURM_PROCID=11 SLURM_LOCALID=3 SLURM_NODEID=1 SLURM_NTASKS=12 \
        SLURM_STEP_TASKS_PER_NODE=8,4";
    check(one_a_rank, Launcher::Slurm, [11, 12, 3, 4]);
    check(MPIRUN, Launcher::OpenMpi, [1, 2, 1, 2]);
    check(TORCHRUN, Launcher::Torchrun, [5, 8, 1, 4]);
    check("RANK=1 WORLD_SIZE=2 MASTER_ADDR=job-0 MASTER_PORT=23456", Launcher::Variables, [1, 2, 0, 1]);
    let mvapich2 =
        "MV2_COMM_WORLD_RANK=3 MV2_COMM_WORLD_SIZE=4 MV2_COMM_WORLD_LOCAL_RANK=1 MV2_COMM_WORLD_LOCAL_SIZE=2";
    check(mvapich2, Launcher::Mvapich2, [3, 4, 1, 2]);
    let hydra = "PMI_RANK=3 PMI_SIZE=4 PMI_FD=9 MPI_LOCALRANKID=1 MPI_LOCALNRANKS=2";
    check(hydra, Launcher::Pmi, [3, 4, 1, 2]);
}

#[test]
fn one_launcher_inside_another_is_right_about_its_processes() {
    check(&format!("{SBATCH} {MPIRUN}"), Launcher::OpenMpi, [1, 2, 1, 2]);
    check(&format!("{SRUN} {TORCHRUN}"), Launcher::Torchrun, [5, 8, 1, 4]);
    check(&format!("JOB_COMPLETION_INDEX=1 {TORCHRUN}"), Launcher::Torchrun, [5, 8, 1, 4]);
    check(&format!("JOB_COMPLETION_INDEX=0 {MPIRUN}"), Launcher::OpenMpi, [1, 2, 1, 2]);
}

#[test]
fn slurm_completes_what_its_plugins_leave_out() {
    check(&format!("{SRUN} PMIX_RANK=1"), Launcher::Pmix, [1, 2, 0, 1]); // srun --mpi=pmix
    let pmi2 = "SLURM_STEP_ID=0 SLURM_PROCID=3 SLURM_LOCALID=1 SLURM_NODEID=1 SLURM_STEP_NUM_TASKS=4 \
        SLURM_STEP_TASKS_PER_NODE=2(x2) PMI_RANK=3 PMI_SIZE=4";
    check(pmi2, Launcher::Pmi, [3, 4, 1, 2]); // srun --mpi=pmi2
    check(&format!("{SRUN} RANK=1 WORLD_SIZE=2"), Launcher::Variables, [1, 2, 0, 1]); // export RANK=$SLURM_PROCID
}

#[test]
fn options_go_before_variables() {
    for line in ["", SRUN, MPIRUN, TORCHRUN, "RANK=0 WORLD_SIZE=4", "SLURM_PROCID=x SLURM_STEP_ID=0"] {
        let place = find((Some(3), Some(2)), line).unwrap();
        assert_eq!((place.node_rank, place.n_nodes, place.by), (2, 3, Launcher::Options), "{line}");
        assert_eq!(find((Some(1), None), line).unwrap(), Place::ALONE, "{line}");
    }
    // A pod knows its index, the command line how many there are.
    let pod = find((Some(4), None), "JOB_COMPLETION_INDEX=3").unwrap();
    assert_eq!((pod.node_rank, pod.n_nodes, pod.by), (3, 4, Launcher::Kubernetes));
    assert_eq!(find((Some(2), None), SRUN).unwrap().node_rank, 1);
}

#[test]
fn sources_that_contradict_each_other_are_named() {
    let both = ["RANK=0", "SLURM_PROCID=1"];
    check_refused((None, None), &format!("{SRUN} RANK=0 WORLD_SIZE=2"), &both);
    check_refused((None, None), &format!("{SRUN} RANK=1 WORLD_SIZE=16"), &["WORLD_SIZE=16", "SLURM_NTASKS=2"]);
    check_refused((None, None), &format!("{MPIRUN} RANK=0 WORLD_SIZE=2"), &["RANK=0", "OMPI_COMM_WORLD_RANK=1"]);
    check_refused((None, None), "JOB_COMPLETION_INDEX=1 RANK=0 WORLD_SIZE=2", &["JOB_COMPLETION_INDEX=1", "RANK=0"]);
    check_refused((None, None), &format!("{MPIRUN} PMI_RANK=0 PMI_SIZE=2"), &["PMI_RANK=0", "OMPI_COMM_WORLD_RANK=1"]);
    check_refused((Some(3), None), SRUN, &["--nnodes 3", "SLURM_NTASKS=2"]);
}

#[test]
fn what_is_not_enough_says_what_is_missing() {
    check_refused((Some(2), None), "", &["--node-rank", "0 to 1"]);
    check_refused((Some(2), Some(2)), "", &["node 2 does not exist among 2"]);
    check_refused((None, None), "RANK=2 WORLD_SIZE=2", &["node 2 does not exist among 2", "RANK and WORLD_SIZE"]);
    check_refused((None, None), "JOB_COMPLETION_INDEX=1", &["Kubernetes", "--nnodes"]);
    check_refused((None, None), "PMIX_RANK=1", &["PMIx", "--nnodes"]);
    check_refused((None, None), "PMI_RANK=1", &["PMI_SIZE is not set"]);
    check_refused((None, None), "RANK=-1 WORLD_SIZE=2", &["RANK", "\"-1\"", "a number", "--nnodes 1"]);
    check_refused((None, None), SBATCH, &["srun ecg-train launch", "2 nodes", "--nnodes 1"]);
    check("SLURM_JOB_ID=7 SLURM_JOB_NUM_NODES=1 SLURM_PROCID=0 SLURM_NTASKS=8", Launcher::Alone, [0, 1, 0, 1]);
}

#[test]
fn several_nodes_on_one_machine_have_one_worker_each() {
    let place = find((None, None), MPIRUN).unwrap();
    assert!(place.require_workers(1, "--gpus").is_ok());
    let told = place.require_workers(8, "--gpus").unwrap_err().to_string();
    assert!(told.contains("2 processes on this machine") && told.contains("--gpus 1"), "{told}");
    assert!(find((None, None), SRUN).unwrap().require_workers(8, "--gpus").is_ok());
}
