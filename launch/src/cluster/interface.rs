//! Where node 0 listens: one address of one interface, never all of them unless that is asked for.
//! It sends nothing: which interface faces a host is the routing table's word.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use super::Error;

/// Of `--rdzv-endpoint` without one: torchrun's.
pub const DEFAULT_PORT: u16 = 29500;
/// No host has this address (RFC 5737); the route to it is the route to everywhere.
const ELSEWHERE: &str = "198.51.100.1";

/// A name or address with a port, as `--rdzv-endpoint` or MASTER_ADDR and MASTER_PORT give it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}

impl Endpoint {
    /// Reads `HOST`, `HOST:PORT`, `[IPV6]` or `[IPV6]:PORT`.
    ///
    /// # Errors
    /// It is none of these.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no HOST:PORT such as gpu1:29500 or [fd00::1]:29500");
        let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((host, port))) => (host, port.strip_prefix(':').or(port.is_empty().then_some(""))),
            Some(None) => return Err(wrong()),
            None => text.split_once(':').map_or((text, Some("")), |(host, port)| (host, Some(port))),
        };
        let port = match port.ok_or_else(wrong)? {
            "" if !text.ends_with(':') => DEFAULT_PORT,
            port => port.parse().map_err(|_| wrong())?,
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-._:%".contains(c);
        if host.is_empty() || !host.chars().all(is_name) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port })
    }

    /// The addresses of its host, with its port.
    ///
    /// # Errors
    /// The name does not resolve.
    pub fn resolve(&self) -> Result<Vec<SocketAddr>, Error> {
        let failed = |source| Error::NoSuchHost { host: self.host.clone(), source };
        let found: Vec<SocketAddr> = (self.host.as_str(), self.port).to_socket_addrs().map_err(failed)?.collect();
        if found.is_empty() {
            return Err(failed(io::Error::from(io::ErrorKind::NotFound)));
        }
        Ok(found)
    }
}

/// What decides where node 0 listens.
pub struct Wish<'a> {
    /// `--rdzv-interface`: a name or an address.
    pub interface: Option<&'a str>,
    pub endpoint: Option<&'a Endpoint>,
    /// All nodes are on this machine.
    pub all_here: bool,
    /// Machines that must be able to reach this one, where they are known.
    pub others: &'a [String],
}

/// The address to listen on; port 0 is any free one.
///
/// # Errors
/// The interface does not exist, or the endpoint is on another machine.
pub fn choose(wish: &Wish<'_>) -> Result<SocketAddr, Error> {
    let port = wish.endpoint.map_or(0, |endpoint| endpoint.port);
    let here = if_addrs::get_if_addrs().map_err(Error::Interfaces)?;
    if let Some(name) = wish.interface {
        let by_name = || here.iter().filter(|i| i.name == name).map(|i| i.ip()).min_by_key(|ip| ip.is_ipv6());
        let ip = name.parse().ok().or_else(by_name).ok_or_else(|| {
            let mut names: Vec<String> = here.iter().map(|i| format!("{} ({})", i.name, i.ip())).collect();
            names.dedup();
            Error::NoInterface { name: name.to_owned(), names: names.join(", ") }
        })?;
        return Ok(SocketAddr::new(ip, port));
    }
    if let Some(endpoint) = wish.endpoint {
        let found = endpoint.resolve()?;
        let is_here = |ip: IpAddr| ip.is_loopback() || here.iter().any(|i| i.ip() == ip);
        let local = || found.iter().filter(|addr| is_here(addr.ip()));
        let is_address = endpoint.host.parse::<IpAddr>().is_ok() || endpoint.host == "localhost";
        // Many systems give their own name a loopback address, which no other machine could reach.
        let usable = local().find(|addr| !addr.ip().is_loopback() || is_address || wish.all_here);
        match usable {
            Some(addr) => return Ok(*addr),
            None if local().next().is_none() => {
                return Err(Error::NotHere { host: endpoint.host.clone(), ip: found[0].ip() });
            }
            None => {}
        }
    }
    if wish.all_here {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    let faces = |host: &str| facing(host).ok().filter(|ip| !ip.is_loopback());
    let ip = wish.others.iter().take(3).find_map(|host| faces(host)).or_else(|| faces(ELSEWHERE));
    let any = || here.iter().map(|i| i.ip()).filter(|ip| !ip.is_loopback()).min_by_key(IpAddr::is_ipv6);
    let ip = ip.or_else(any).unwrap_or(Ipv4Addr::LOCALHOST.into());
    Ok(SocketAddr::new(ip, port))
}

/// The network interfaces of this machine.
pub fn names() -> Vec<String> {
    let mut names: Vec<String> =
        if_addrs::get_if_addrs().unwrap_or_default().into_iter().map(|interface| interface.name).collect();
    names.dedup();
    names
}

/// This machine's address on the way to `host`. Connecting a datagram socket sends nothing.
fn facing(host: &str) -> io::Result<IpAddr> {
    let to = (host, 9).to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests;
