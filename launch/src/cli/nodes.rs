//! The options of `launch` for several machines, under torchrun's names.

use std::path::PathBuf;

use clap::Args;

use crate::cluster::Endpoint;

/// Which of several `launch` processes this one is and where they meet.
#[derive(Debug, Default, Args)]
pub struct NodeArgs {
    /// Machines, each with its own `launch` [default: what Slurm, mpirun, torchrun or a pod's variables say]; 1: this one alone, whatever they say
    #[arg(long, env = "PET_NNODES", hide_env = true, value_name = "N", value_parser = parse_nnodes)]
    pub nnodes: Option<u32>,
    /// This machine among them, from 0
    #[arg(long, env = "PET_NODE_RANK", hide_env = true, value_name = "R", requires = "nnodes")]
    pub node_rank: Option<u32>,
    /// Where node 0 is met [default: MASTER_ADDR:MASTER_PORT, or told through output_dir]
    #[arg(long, env = "PET_RDZV_ENDPOINT", hide_env = true, value_name = "HOST:PORT", value_parser = Endpoint::parse)]
    pub rdzv_endpoint: Option<Endpoint>,
    /// Network interface (or address) on which node 0 listens [default: the one that faces the others]
    #[arg(long, value_name = "NAME")]
    pub rdzv_interface: Option<String>,
    /// Name of this start of the job; what another one left in output_dir is not taken for it
    #[arg(long, env = "PET_RDZV_ID", hide_env = true, value_name = "ID")]
    pub rdzv_id: Option<String>,
    /// File with the key of the job, 64 hexadecimal digits, mode 600 [default: ECG_TRAIN_JOB_KEY, or one that node 0 leaves in output_dir]
    #[arg(long, value_name = "FILE")]
    pub job_key_file: Option<PathBuf>,
}

/// A number; torchrun's `N:N` is the same.
fn parse_nnodes(text: &str) -> Result<u32, String> {
    let (min, max) = text.split_once(':').unwrap_or((text, text));
    if min != max {
        return Err("a range of nodes is not supported; give one number (a node that is lost is waited for)".to_owned());
    }
    min.parse().ok().filter(|n| (1..=10_000).contains(n)).ok_or_else(|| "give a number from 1 to 10000".to_owned())
}
