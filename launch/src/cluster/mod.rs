//! Several `launch` processes that train one run together: who they are, where they meet, what they tell each other.
//! It never starts a process.
//!
//! A *node* is one `launch` process, as torchrun counts them: usually one on each machine, with a worker for each of its
//! devices; one for each rank where a launcher such as `mpirun` starts them so.

mod door;
mod ended;
mod error;
mod interface;
mod nodes;
mod place;
mod slurm;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use trainer::collective::Identity;

pub use door::{new_key, parse_hex};
pub use ended::{Ended, Failed, Joint, judge};
pub use error::Error;
pub use interface::{Endpoint, names as interfaces};
pub use nodes::{Nodes, Share, Speaker};
pub use place::{Asked, Launcher, Place};

use crate::cli::NodeArgs;
use door::Door;
use interface::Wish;

/// No node is lost before that: a supervisor has little to do and answers at once.
const SILENCE: Duration = Duration::from_secs(30);

/// What must be equal on all nodes, and how long they wait for each other.
pub struct Terms<'a> {
    pub run_dir: &'a Path,
    pub program: blake3::Hash,
    pub config: blake3::Hash,
    pub n_workers: u32,
    pub meeting_deadline: Duration,
    /// Of one rank; nodes are not waited for longer.
    pub patience: Duration,
}

/// A variable of this process; one that is empty counts as not set.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// This process among the nodes of its job.
///
/// # Errors
/// Options and variables contradict each other, or say too little.
pub fn place(args: &NodeArgs) -> Result<Place, Error> {
    Place::find(&Asked { n_nodes: args.nnodes, node_rank: args.node_rank }, &variable)
}

/// Makes ready to meet the other nodes; node 0 listens from now on.
///
/// # Errors
/// An endpoint, interface or key that cannot be used.
pub fn open(args: &NodeArgs, place: &Place, terms: &Terms<'_>) -> Result<Nodes, Error> {
    let (n_nodes, node_rank) = (place.n_nodes, place.node_rank);
    let door = Door {
        key: key(args)?,
        endpoint: endpoint(args)?,
        job: args.rdzv_id.clone().unwrap_or_else(|| job(&variable)),
        run_dir: terms.run_dir.to_owned(),
    };
    let addr = listens_on(args, place)?;
    let where_to = addr.map_or_else(|| door.place(), |addr| addr.to_string());
    crate::say(&format!("node {node_rank} of {n_nodes} ({}): meeting the others at {where_to}", place.by));
    let nothing = blake3::hash(b""); // Rows, base and checkpoint are compared by the ranks, which open them.
    let identity =
        Identity { program: terms.program, config: terms.config, rows: nothing, base: nothing, start: nothing };
    let spec = nodes::Spec {
        place: place.clone(),
        door,
        host: host(),
        n_workers: terms.n_workers,
        identity,
        meeting_deadline: terms.meeting_deadline,
        silence: SILENCE.min(terms.patience),
    };
    Nodes::new(spec, addr)
}

/// Where node 0 listens; none for the other nodes.
///
/// # Errors
/// An endpoint or interface that cannot be used.
pub fn listens_on(args: &NodeArgs, place: &Place) -> Result<Option<SocketAddr>, Error> {
    if place.node_rank > 0 {
        return Ok(None);
    }
    let (endpoint, others) = (endpoint(args)?, slurm::other_hosts(&variable));
    let (interface, all_here) = (args.rdzv_interface.as_deref(), place.n_local == place.n_nodes);
    interface::choose(&Wish { interface, endpoint: endpoint.as_ref(), all_here, others: &others }).map(Some)
}

fn key(args: &NodeArgs) -> Result<Option<door::Key>, Error> {
    if let Some(file) = &args.job_key_file {
        return door::read_key(file).map(Some);
    }
    match variable("ECG_TRAIN_JOB_KEY") {
        None => Ok(None),
        Some(text) => parse_hex(&text).map(Some).ok_or(Error::NoKeyInVariable),
    }
}

fn endpoint(args: &NodeArgs) -> Result<Option<Endpoint>, Error> {
    let Some(host) = variable("MASTER_ADDR").filter(|_| args.rdzv_endpoint.is_none()) else {
        return Ok(args.rdzv_endpoint.clone());
    };
    let port: Option<u16> = place::number("MASTER_PORT", Launcher::Variables, &variable)?;
    // torchrun's agent listens on the port itself.
    let taken = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let port = port.unwrap_or(interface::DEFAULT_PORT);
    Ok(Some(Endpoint { host, port: if taken { port.checked_add(1).unwrap_or(port - 1) } else { port } }))
}

/// Names this start of the job as its launcher does; the same on all nodes.
fn job(get: &impl place::Variables) -> String {
    let names = ["TORCHELASTIC_RUN_ID", "PMIX_NAMESPACE", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"];
    let parts: Vec<String> = names.iter().filter_map(|name| get(name)).collect();
    parts.join(".")
}

/// This machine's name, as the scheduler or the system has it.
fn host() -> String {
    let system = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
    variable("SLURMD_NODENAME").or_else(system).unwrap_or_else(|| "?".to_owned())
}
