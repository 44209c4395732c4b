//! Where ranks and nodes would meet, and the interface that NCCL is told to use. It listens for a moment and sends nothing.

use std::net::{Ipv4Addr, SocketAddr};

use trainer::collective;

use super::{Finding, Subject};
use crate::cluster;

/// The variable by which NCCL is told its interfaces.
const NCCL: &str = "NCCL_SOCKET_IFNAME";

/// Addresses that can be listened on, and names that exist.
pub(super) fn check(subject: &mut Subject) -> Vec<Finding> {
    let args = subject.args;
    let place = match cluster::place(&args.nodes) {
        Ok(place) => place,
        Err(error) => return vec![Finding::error(error)],
    };
    let mut found = vec![match place.n_nodes {
        1 => listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), "ranks meet on 127.0.0.1, at any free port".to_owned()),
        n_nodes => match cluster::listens_on(&args.nodes, &place) {
            Ok(Some(addr)) => listen(addr, format!("node 0 of {n_nodes} ({}) listens on {addr}", place.by)),
            Ok(None) => Finding::ok(format!("node {} of {n_nodes} ({}), met by node 0", place.node_rank, place.by)),
            Err(error) => Finding::error(error),
        },
    }];
    let asked = std::env::var(NCCL).ok().filter(|asked| args.gpus.is_some() && !asked.is_empty());
    if let Some(asked) = asked {
        found.push(interface(&asked, &cluster::interfaces()));
    }
    subject.n_nodes = place.n_nodes;
    found
}

fn listen(addr: SocketAddr, what: String) -> Finding {
    match collective::listen(addr) {
        Ok(_) => Finding::ok(what),
        Err(error) => Finding::error(trainer::Error::from(error)),
    }
}

/// NCCL's rules: prefixes with commas between them; `=` before all asks for whole names, `^` for all others.
fn interface(asked: &str, names: &[String]) -> Finding {
    let (not, rest) = asked.strip_prefix('^').map_or((false, asked), |rest| (true, rest));
    let (whole, rest) = rest.strip_prefix('=').map_or((false, rest), |rest| (true, rest));
    let is_asked = |name: &str| rest.split(',').any(|part| if whole { name == part } else { name.starts_with(part) });
    let usable: Vec<&str> = names.iter().map(String::as_str).filter(|name| is_asked(name) != not).collect();
    match usable.is_empty() {
        false => Finding::ok(format!("NCCL may use {}", usable.join(", "))).at(NCCL),
        true => Finding::warning(
            format!("no interface of this machine matches {asked}; it has {}", names.join(", ")),
            "correct it, or NCCL ends the run when ranks meet",
        )
        .at(NCCL),
    }
}

#[cfg(test)]
mod tests;
