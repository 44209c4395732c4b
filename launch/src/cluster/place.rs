//! Which node of how many this process is, and who says so: command line, torchrun, MPI, Slurm or Kubernetes.
//! One pure function from options and variables to a [`Place`]; sources that disagree are named, never guessed between.

use std::fmt;
use std::str::FromStr;

use super::{Error, slurm};

/// What the command line says about the nodes; it goes before every variable.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// `--nnodes`
    pub n_nodes: Option<u32>,
    /// `--node-rank`
    pub node_rank: Option<u32>,
}

/// Who started this process and its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// Nobody: one node.
    Alone,
    /// `--nnodes` and `--node-rank`.
    Options,
    /// torchrun's agent.
    Torchrun,
    /// RANK and WORLD_SIZE, set by hand or by an operator such as Kubeflow's.
    Variables,
    /// mpirun of Open MPI.
    OpenMpi,
    /// mpirun_rsh of MVAPICH2.
    Mvapich2,
    /// mpiexec of MPICH or Intel MPI, or `srun --mpi=pmi2`.
    Pmi,
    /// A PMIx launcher, e.g. `srun --mpi=pmix` or prun.
    Pmix,
    /// `srun`.
    Slurm,
    /// An Indexed Job.
    Kubernetes,
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alone => "nobody",
            Self::Options => "--nnodes and --node-rank",
            Self::Torchrun => "torchrun",
            Self::Variables => "RANK and WORLD_SIZE",
            Self::OpenMpi => "Open MPI",
            Self::Mvapich2 => "MVAPICH2",
            Self::Pmi => "PMI",
            Self::Pmix => "PMIx",
            Self::Slurm => "Slurm",
            Self::Kubernetes => "Kubernetes",
        })
    }
}

/// One `launch` process among those of its job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// From 0; node 0 hosts the meetings of the others.
    pub node_rank: u32,
    /// Nodes of the job.
    pub n_nodes: u32,
    /// This one among those on the same machine.
    pub local_rank: u32,
    /// Nodes on this machine.
    pub n_local: u32,
    /// Who says so.
    pub by: Launcher,
}

/// What one source says: rank and number of processes, both in all and on this machine.
#[derive(Debug, Clone, Copy)]
struct Said {
    by: Launcher,
    rank: u32,
    count: Option<u32>,
    /// The variables of `rank` and `count`.
    names: (&'static str, &'static str),
    local: Option<(u32, u32)>,
}

/// Values of variables by name; one that is empty counts as not set.
pub trait Variables: Fn(&str) -> Option<String> {}
impl<F: Fn(&str) -> Option<String>> Variables for F {}

impl Place {
    /// The only node.
    pub const ALONE: Self = Self { node_rank: 0, n_nodes: 1, local_rank: 0, n_local: 1, by: Launcher::Alone };

    /// The place that the command line and the variables give.
    ///
    /// # Errors
    /// They contradict each other, or say too little.
    pub fn find(asked: &Asked, get: &impl Variables) -> Result<Self, Error> {
        if asked.n_nodes == Some(1) {
            return Ok(Self::ALONE);
        }
        let place = match (asked.n_nodes, asked.node_rank) {
            (Some(n_nodes), Some(node_rank)) => Self { node_rank, n_nodes, by: Launcher::Options, ..Self::ALONE },
            (None, _) => match said(get)? {
                None => slurm::require_step(get).map(|()| Self::ALONE)?,
                Some(said) => Self::of(said, said.count.ok_or_else(|| said.no_count())?),
            },
            (Some(n_nodes), None) => match said(get)? {
                None => return Err(Error::NoRank { n_nodes }),
                Some(said) if said.count.is_some_and(|count| count != n_nodes) => {
                    return Err(Error::Conflict { first: format!("--nnodes {n_nodes}"), second: said.to_string() });
                }
                Some(said) => Self::of(said, n_nodes),
            },
        };
        let Self { node_rank, n_nodes, by, .. } = place;
        if node_rank < n_nodes { Ok(place) } else { Err(Error::NoSuchNode { node_rank, n_nodes, by }) }
    }

    fn of(said: Said, n_nodes: u32) -> Self {
        let (local_rank, n_local) = said.local.unwrap_or((0, 1));
        Self { node_rank: said.rank, n_nodes, local_rank, n_local, by: said.by }
    }

    /// Several nodes on one machine are there to be one rank each.
    ///
    /// # Errors
    /// Each of them would start several workers.
    pub fn require_workers(&self, n_workers: u32, option: &'static str) -> Result<(), Error> {
        let Self { by, n_local, .. } = *self;
        if n_local > 1 && n_workers > 1 {
            return Err(Error::TooMany { by, n_local, n_workers, option });
        }
        Ok(())
    }
}

/// The innermost launcher's word. An `mpirun` inside a Slurm job, or torchrun inside anything, is right about its own
/// processes; variables set by hand must agree with whoever started the process.
fn said(get: &impl Variables) -> Result<Option<Said>, Error> {
    if get("TORCHELASTIC_RUN_ID").is_some()
        && let Some(torchrun) =
            numbers(Launcher::Torchrun, ("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE"), get)?
    {
        return Ok(Some(torchrun));
    }
    let by_hand = match get("WORLD_SIZE") {
        Some(_) => numbers(Launcher::Variables, ("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE"), get)?,
        None => None,
    };
    let mut found: Vec<Said> = by_hand.into_iter().chain(mpi(get)?).collect();
    if found.iter().all(|said| said.by == Launcher::Variables) {
        found.extend(slurm::said(get)?.map(Said::from));
        found.extend(numbers(Launcher::Kubernetes, ("JOB_COMPLETION_INDEX", ""), ("", ""), get)?);
    }
    let Some(first) = found.first().copied() else { return Ok(None) };
    for other in &found {
        let same_count = other.count.is_none() || first.count.is_none() || other.count == first.count;
        if other.rank != first.rank || !same_count {
            return Err(Error::Conflict { first: first.to_string(), second: other.to_string() });
        }
    }
    // One that knows the place says nothing of the machine, or not of how many: the others complete it.
    let count = found.iter().find_map(|said| said.count);
    let local = found.iter().find_map(|said| said.local);
    Ok(Some(Said { count, local, ..first }))
}

/// Of every MPI launcher that left its variables.
fn mpi(get: &impl Variables) -> Result<Vec<Said>, Error> {
    let mut found = Vec::new();
    for (by, names, local) in [
        (
            Launcher::OpenMpi,
            ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        ),
        (
            Launcher::Mvapich2,
            ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
            ("MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
        ),
        (Launcher::Pmi, ("PMI_RANK", "PMI_SIZE"), ("MPI_LOCALRANKID", "MPI_LOCALNRANKS")),
        (Launcher::Pmix, ("PMIX_RANK", ""), ("", "")),
    ] {
        found.extend(numbers(by, names, local, get)?);
    }
    // PMIx and Slurm's PMI-2 leave the rest to Slurm's own variables, where these speak of the same processes.
    let (knows_local, knows_count) =
        (found.iter().any(|said| said.local.is_some()), found.iter().any(|said| said.count.is_some()));
    if let (Some(first), false) = (found.first().copied(), knows_local && knows_count)
        && let Some(slurm) = slurm::said(get)?
        && slurm.rank == first.rank
    {
        found.push(slurm.into());
    }
    Ok(found)
}

/// A launcher that says its numbers in variables of these names.
fn numbers(
    by: Launcher,
    names: (&'static str, &'static str),
    local: (&'static str, &'static str),
    get: &impl Variables,
) -> Result<Option<Said>, Error> {
    let Some(rank) = number(names.0, by, get)? else { return Ok(None) };
    let count = number(names.1, by, get)?;
    let local = number(local.0, by, get)?.zip(number(local.1, by, get)?);
    Ok(Some(Said { by, rank, count, names, local }))
}

/// A variable that must be a number, if it is set.
pub(super) fn number<T: FromStr>(name: &'static str, by: Launcher, get: &impl Variables) -> Result<Option<T>, Error> {
    let Some(actual) = get(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let expected = "a number";
    actual.parse().map(Some).map_err(|_| Error::Variable { name, actual, expected, by })
}

impl From<slurm::Task> for Said {
    fn from(task: slurm::Task) -> Self {
        let slurm::Task { rank, count, local_rank, n_local, .. } = task;
        let names = ("SLURM_PROCID", "SLURM_NTASKS");
        Self { by: Launcher::Slurm, rank, count: Some(count), names, local: Some((local_rank, n_local)) }
    }
}

impl Said {
    fn no_count(&self) -> Error {
        let name = if self.names.1.is_empty() { "the number of processes" } else { self.names.1 };
        Error::NoCount { by: self.by, rank: self.rank, name }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, count, names: (rank_name, count_name), .. } = self;
        write!(f, "{rank_name}={rank}")?;
        match count {
            Some(count) if !count_name.is_empty() => write!(f, " {count_name}={count}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
