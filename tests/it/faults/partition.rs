//! Two nodes in network namespaces, and the link between them: needs root and Debian's iproute2.

use std::process::Command;
use std::thread;
use std::time::Duration;

use super::rig::{Job, Launched, wait_for};

/// Two namespaces with a link between them, gone with this.
struct Namespaces {
    names: [String; 2],
}

fn ip(args: &[&str]) -> bool {
    Command::new("ip").args(args).output().is_ok_and(|output| output.status.success())
}

impl Namespaces {
    /// None, said aloud, where that is not possible.
    fn new() -> Option<Self> {
        let pid = std::process::id();
        let names = ["a", "b"].map(|end| format!("ecg-{pid}-{end}"));
        let [a, b] = &names;
        let made = Self { names: names.clone() };
        let works = ip(&["netns", "add", a])
            && ip(&["netns", "add", b])
            && ip(&["-n", a, "link", "add", "veth", "type", "veth", "peer", "name", "veth", "netns", b])
            && ip(&["-n", a, "address", "add", "10.77.0.1/24", "dev", "veth"])
            && ip(&["-n", b, "address", "add", "10.77.0.2/24", "dev", "veth"])
            && names.iter().all(|name| ip(&["-n", name, "link", "set", "lo", "up"]) && made.link(name, "up"));
        if !works {
            eprintln!("skipped: no network namespaces here (they need root and iproute2)");
        }
        works.then_some(made)
    }

    fn link(&self, name: &str, state: &str) -> bool {
        ip(&["-n", name, "link", "set", "veth", state])
    }

    /// The `launch` of a node in its namespace.
    fn node<'a>(&self, job: &'a Job, node_rank: usize) -> Launched<'a> {
        let launch = job.command("launch");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[node_rank]]).arg(launch.get_program()).args(launch.get_args());
        command.args(["--cpus", "1", "--nnodes", "2", "--node-rank", &node_rank.to_string(), "--patience", "5"]);
        command.args(["--rdzv-endpoint", "10.77.0.1:29500"]);
        command.envs(launch.get_envs().filter_map(|(name, value)| Some((name, value?))));
        // Rank 1 comes late to the sum of step 6, so that the link breaks while rank 0 waits in it.
        command.env("ECG_TRAIN_FAULTS", "slow=3000@1:6");
        job.start(&mut command)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            ip(&["netns", "delete", name]);
        }
    }
}

#[test]
fn a_partition_in_the_middle_of_an_all_reduce_is_noticed_and_heals_to_the_same_bits() {
    let Some(namespaces) = Namespaces::new() else { return };
    let job = Job::new();
    let nodes = [0, 1].map(|node_rank| namespaces.node(&job, node_rank));
    job.wait_for_step(5);
    thread::sleep(Duration::from_secs(1)); // Far longer than rank 0 computes, far shorter than rank 1 sleeps.
    assert!(namespaces.link(&namespaces.names[0], "down"));
    // TCP alone would not notice for many minutes; each side ends its ranks by its own deadline.
    wait_for("node 0 to notice", || !job.events("restart").is_empty());
    wait_for("node 1 to notice", || job.worker(1).is_none());
    assert!(job.worker(0).is_none());
    assert!(namespaces.link(&namespaces.names[0], "up"));
    let late = job.events("late").into_iter().chain(job.events("failed")).find(|event| event["rank"] == 0);
    let late = late.expect("rank 0 says how it ended");
    assert_eq!((late["step"].as_u64(), late["phase"].as_str()), (Some(6), Some("all_reduce")), "{late}");
    let [first, second] = nodes;
    first.must_end(0, &["node 1", "2 nodes with 2 ranks have met"]);
    second.must_end(0, &[]);
    job.must_equal_r();
}
