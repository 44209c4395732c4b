//! One attempt on all nodes of a run: it begins when all are there, and all come to the same verdict.
//! It starts no worker: what runs on this machine is an attempt like any other.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::mpsc::Sender;

use trainer::Config;

use crate::attempt::{Failure, Verdict};
use crate::cli::LaunchArgs;
use crate::cluster::{self, Ended, Failed, Joint, Nodes, Place, Speaker};
use crate::workers::{Group, Notice};
use crate::{Error, say};

/// This machine and the others, if there are any.
pub struct Together {
    place: Place,
    n_workers: u32,
    nodes: Option<Nodes>,
    /// Of the nodes that have met.
    hosts: Vec<String>,
}

/// Of this machine in one attempt.
pub struct Share {
    pub number: u32,
    pub group: Group,
    pub job_key: [u8; 32],
    pub listen: IpAddr,
    pub speaker: Option<Speaker>,
}

impl Together {
    /// Makes ready to meet the other nodes, if there are any; all must run the same `program`.
    ///
    /// # Errors
    /// An endpoint, interface or key that cannot be used.
    pub fn open(
        args: &LaunchArgs,
        place: Place,
        config: &Config,
        n_workers: u32,
        program: [u8; 32],
    ) -> Result<Self, Error> {
        let nodes = match place.n_nodes {
            1 => None,
            _ => Some(cluster::open(
                &args.nodes,
                &place,
                &cluster::Terms {
                    run_dir: &config.output_dir,
                    program: program.into(),
                    config: blake3::hash(config.fingerprint().as_bytes()),
                    n_workers,
                    meeting_deadline: args.deadlines.for_ranks().rendezvous,
                    patience: args.deadlines.patience,
                },
            )?),
        };
        Ok(Self { place, n_workers, nodes, hosts: Vec::new() })
    }

    /// Node 0 writes what is of the whole run, and speaks for all.
    pub fn is_first(&self) -> bool {
        self.place.node_rank == 0
    }

    /// Waits for the other nodes; none: `stop` said so meanwhile. Their notices arrive at `notify`.
    ///
    /// # Errors
    /// They did not come, or do not belong to this job; no random numbers for a key.
    pub fn begin(
        &mut self,
        number: u32,
        notify: &Sender<Notice>,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Share>, Error> {
        let Some(nodes) = &mut self.nodes else {
            let (group, listen) = (Group::alone(self.n_workers), Ipv4Addr::LOCALHOST.into());
            return Ok(Some(Share { number, group, job_key: cluster::new_key()?, listen, speaker: None }));
        };
        let Some(share) = nodes.begin(number, notify, stop)? else { return Ok(None) };
        let cluster::Share { attempt, group, job_key, listen, hosts } = share;
        if self.place.node_rank == 0 && hosts != self.hosts {
            let n_ranks = group.world_size;
            say(&format!("{} nodes with {n_ranks} ranks have met: {}", hosts.len(), hosts.join(", ")));
        }
        self.hosts = hosts;
        Ok(Some(Share { number: attempt, group, job_key, listen, speaker: nodes.speaker() }))
    }

    /// What the attempt came to on all nodes, from what it came to on this one. Waits for the others to end theirs.
    pub fn judge(&mut self, own: Verdict) -> Verdict {
        let Some(nodes) = &mut self.nodes else { return own };
        let place = self.place.node_rank as usize;
        match nodes.end(ended(&own)) {
            Ok(all) => match (cluster::judge(&all), own) {
                (Joint::Finished, _) => Verdict::Finished,
                (Joint::Stopped { at_boundary }, _) => Verdict::Stopped { at_boundary },
                (Joint::Failed { node, first_step, last_step }, Verdict::Failed { failure, .. }) if node == place => {
                    Verdict::Failed { failure, first_step, last_step }
                }
                (Joint::Failed { node, first_step, last_step }, _) => {
                    let Some(Ended::Failed(failed)) = all.into_iter().nth(node) else { return Verdict::Finished };
                    let Failed { rank, message, exit_code, may_pass, lost_a_peer, .. } = failed;
                    let host = self.hosts.get(node).cloned().unwrap_or_default();
                    let error = Error::OtherNode { node, host, exit_code, message };
                    Verdict::Failed { failure: Failure { rank, error, may_pass, lost_a_peer }, first_step, last_step }
                }
            },
            Err(reason) => without_the_others(own, reason),
        }
    }
}

/// A node is lost, so nobody knows how the attempt ended there.
fn without_the_others(own: Verdict, reason: String) -> Verdict {
    let failed = |rank, first_step, last_step| {
        let failure = Failure { rank, error: Error::Abandoned { reason }, may_pass: true, lost_a_peer: true };
        Verdict::Failed { failure, first_step, last_step }
    };
    match own {
        Verdict::Stopped { .. } => Verdict::Stopped { at_boundary: false },
        Verdict::Failed { failure, first_step, last_step } if failure.may_pass => {
            failed(failure.rank, first_step, last_step)
        }
        // With nothing left to do, the next attempt finds that out together with the node that comes back.
        Verdict::Finished => failed(0, 0, 0),
        fatal => fatal,
    }
}

fn ended(verdict: &Verdict) -> Ended {
    match verdict {
        Verdict::Finished => Ended::Finished,
        Verdict::Stopped { at_boundary } => Ended::Stopped { at_boundary: *at_boundary },
        Verdict::Failed { failure, first_step, last_step } => {
            let Failure { rank, error, may_pass, lost_a_peer } = failure;
            let failed = Failed {
                rank: *rank,
                message: error.to_string(),
                exit_code: error.exit_code(),
                may_pass: *may_pass,
                lost_a_peer: *lost_a_peer,
                first_step: *first_step,
                last_step: *last_step,
            };
            Ended::Failed(failed.bounded())
        }
    }
}
