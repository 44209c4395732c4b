//! What the ranks do together: exact sums, and bytes for everybody, over TCP through rank 0; long sums of GPUs over NCCL.
//! It never returns different results on different ranks, never waits without a deadline, and after a failure never goes on.

mod error;
mod gpu;
mod nccl;
mod rendezvous;
mod tcp;

use std::mem;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

pub use error::{Error, Fault};
use model::engine::nvidia::Search;
use nccl::Nccl;
use rayon::prelude::*;
pub use tcp::Operation;
use tcp::{Deadline, Header, LAST_WORDS, Link, MAX_MESSAGE};

/// Elements that are summed at once: memory stays flat, however long the buffer is.
const CHUNK: usize = 1 << 16;
/// Sums of fewer numbers stay on TCP, GPUs or not.
pub const LONG: usize = 1 << 16;

/// How a rank finds the others.
pub struct RanksSpec {
    /// This rank, from 0.
    pub rank: usize,
    /// Ranks of the job.
    pub world_size: usize,
    /// Rank 0 has a listener, the others know its address.
    pub meeting: Meeting,
    /// Known to the ranks of this job only.
    pub key: [u8; 32],
    /// Must be equal on all ranks.
    pub identity: Identity,
    /// Until all ranks have met.
    pub rendezvous_deadline: Duration,
    /// Until an operation is over on rank 0, from when it begins there. The others wait twice as long,
    /// so that rank 0, which knows who is late, is the first to speak.
    pub operation_deadline: Duration,
}

/// Everything that must be equal on all ranks before the first step, each thing by its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The running program.
    pub program: blake3::Hash,
    /// Every key that determines numbers.
    pub config: blake3::Hash,
    /// The data set.
    pub rows: blake3::Hash,
    /// The base model.
    pub base: blake3::Hash,
    /// The step before the first one, with its weights and moments.
    pub start: blake3::Hash,
}

impl Identity {
    fn parts(&self) -> [(&'static str, blake3::Hash); N_PARTS] {
        let Self { program, config, rows, base, start } = *self;
        [("program", program), ("config", config), ("data", rows), ("base", base), ("checkpoint", start)]
    }
}

/// Of an [`Identity`].
const N_PARTS: usize = 5;

impl RanksSpec {
    fn addr(&self) -> SocketAddr {
        match &self.meeting {
            Meeting::Host(listener) => listener.local_addr().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0))),
            Meeting::Join(addr) | Meeting::Try(addr) => *addr,
        }
    }
}

/// Where the ranks meet.
pub enum Meeting {
    /// Of rank 0, see [`listen`]. It is closed when all have come.
    Host(TcpListener),
    /// Of all others: the address of that listener. It may come later than this rank.
    Join(SocketAddr),
    /// As [`Meeting::Join`], for a caller that looks for another address when nobody of this job is at this one.
    Try(SocketAddr),
}

/// The listener of rank 0; port 0 takes a free one, which `local_addr()` then names.
///
/// # Errors
/// The port is taken, or the address is not of this machine.
pub fn listen(addr: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(addr).map_err(|source| Error::Listen { addr, source })
}

/// This rank's place among the ranks. All ranks must call the same operations in the same order.
///
/// After an error the connections are closed, so that the others fail too, and every further call is [`Error::Poisoned`].
#[derive(Debug)]
pub struct Ranks {
    rank: usize,
    world_size: usize,
    deadline: Duration,
    number: u64,
    links: Links,
    /// Between GPUs of NVIDIA's: the road of long sums.
    nccl: Option<Nccl>,
}

#[derive(Debug)]
enum Links {
    Alone,
    /// Of rank 0: to ranks 1, 2, ...
    Root(Vec<Link>),
    /// Of all others: to rank 0.
    Leaf(Link),
    Failed,
}

/// One operation under way.
struct Call {
    operation: Operation,
    number: u64,
    deadline: Deadline,
    waited: Duration,
}

impl Ranks {
    /// A job of one rank: every operation is trivial.
    #[must_use]
    pub fn alone() -> Self {
        Self { rank: 0, world_size: 1, deadline: Duration::MAX, number: 0, links: Links::Alone, nccl: None }
    }

    /// Meets the other ranks.
    ///
    /// # Errors
    /// A rank is missing at the deadline, or was started with another world size, config or data; or two say they are the same.
    pub fn connect(spec: RanksSpec) -> Result<Self, Error> {
        let RanksSpec { rank, world_size, operation_deadline: deadline, .. } = spec;
        if rank >= world_size || (rank == 0) != matches!(spec.meeting, Meeting::Host(_)) {
            let reason =
                format!("rank {rank} of {world_size}: rank 0 listens and the others, below {world_size}, join");
            return Err(Error::Refused { reason });
        }
        let mut links = rendezvous::meet(&spec)?;
        let links = match rank {
            0 if world_size == 1 => Links::Alone,
            0 => Links::Root(links),
            _ => Links::Leaf(links.remove(0)),
        };
        Ok(Self { rank, world_size, deadline, number: 0, links, nccl: None })
    }

    /// This rank, from 0.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Ranks of the job.
    #[must_use]
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// Replaces each element by its sum over all ranks, exactly: the order of addition cannot matter.
    ///
    /// # Errors
    /// [`Error::Overflow`] on all ranks if a sum does not fit; or a rank was lost or is late.
    pub fn all_reduce_i64(&mut self, values: &mut [i64]) -> Result<(), Error> {
        if values.len() >= LONG
            && let Some(nccl) = self.nccl.take()
        {
            let done = self.reduce_over(&nccl, values)?;
            self.nccl = Some(nccl);
            if done {
                return Ok(());
            }
        }
        self.operate(Operation::AllReduce, |links, call| match links {
            Links::Root(links) => reduce_as_root(links, call, values),
            Links::Leaf(root) => reduce_as_leaf(root, call, values),
            Links::Alone | Links::Failed => Ok(()),
        })
    }

    /// From here on long sums go over NCCL; all ranks have device `index` of their own. A job of one rank needs none.
    ///
    /// # Errors
    /// A rank has no NCCL, which all of them hear; or a rank was lost or is late.
    pub fn use_nccl(&mut self, search: &Search, index: usize) -> Result<(), Error> {
        if self.world_size == 1 {
            return Ok(());
        }
        let opened = nccl::Library::open(search, index);
        let mine = opened.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let heard = self.all_gather_bytes(mine.as_bytes())?;
        let missing = (0..).zip(&heard).find(|(_, reason)| !reason.is_empty());
        if let Some((rank, reason)) = missing {
            return Err(Error::Refused { reason: format!("rank {rank}: {}", String::from_utf8_lossy(reason)) });
        }
        let library = opened?;
        let mut id = if self.rank == 0 { library.unique_id()?.to_vec() } else { Vec::new() };
        self.broadcast(&mut id)?;
        let (rank, world_size) = (self.rank, self.world_size);
        self.nccl = Some(self.operate(Operation::Rendezvous, |links, call| {
            let nccl = library.join(&id, rank, world_size, &|| call.watch(links))?;
            gather(links, call, &[])?;
            Ok(nccl)
        })?);
        Ok(())
    }

    /// Over NCCL, which wraps: so the ranks first tell each other how large their numbers are. False: a sum may not fit,
    /// and nothing has been done. As this comes over TCP, a rank that does not come is known before NCCL waits for it.
    fn reduce_over(&mut self, nccl: &Nccl, values: &mut [i64]) -> Result<bool, Error> {
        let largest = values.par_iter().map(|value| value.unsigned_abs()).max().unwrap_or(0);
        let told = self.all_gather_bytes(&[(values.len() as u64).to_le_bytes(), largest.to_le_bytes()].concat())?;
        let word = |bytes: &[u8], at: usize| {
            bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map(u64::from_le_bytes)
        };
        if let Some(rank) = (0..told.len()).find(|&rank| word(&told[rank], 0) != Some(values.len() as u64)) {
            let fault = Fault::unexpected(format!("a sum of {} numbers", values.len()), "one of another length");
            return Err(Error::Lost { rank, operation: Operation::AllReduce, fault });
        }
        let bound: u128 = told.iter().map(|told| u128::from(word(told, 8).unwrap_or(u64::MAX))).sum();
        if bound > i64::MAX as u128 {
            return Ok(false);
        }
        self.operate(Operation::AllReduce, |links, call| {
            nccl.all_reduce(values, &|| call.watch(links))?;
            gather(links, call, &[])
        })?;
        Ok(true)
    }

    /// The bytes of every rank, by rank.
    ///
    /// # Errors
    /// A rank was lost or is late, or they are more than 1 GiB.
    pub fn all_gather_bytes(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        self.operate(Operation::AllGather, |links, call| gather(links, call, bytes))
    }

    /// Replaces `bytes` by those of rank 0.
    ///
    /// # Errors
    /// A rank was lost or is late, or they are more than 1 GiB.
    pub fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<(), Error> {
        self.operate(Operation::Broadcast, |links, call| match links {
            Links::Root(links) => call.send_to_all(links, bytes),
            Links::Leaf(root) => {
                *bytes = call.at(root, root.receive_any(call.operation, call.number, call.deadline))?;
                Ok(())
            }
            Links::Alone | Links::Failed => Ok(()),
        })
    }

    /// Returns when all ranks have called it.
    ///
    /// # Errors
    /// A rank was lost or is late.
    pub fn barrier(&mut self) -> Result<(), Error> {
        self.operate(Operation::Barrier, |links, call| gather(links, call, &[])).map(drop)
    }

    fn operate<T>(
        &mut self,
        operation: Operation,
        run: impl FnOnce(&mut Links, &Call) -> Result<T, Error>,
    ) -> Result<T, Error> {
        // Taken out: whatever happens, after an error nothing is left to go on with.
        let mut links = mem::replace(&mut self.links, Links::Failed);
        if matches!(links, Links::Failed) {
            return Err(Error::Poisoned);
        }
        let waited = if self.rank == 0 { self.deadline } else { self.deadline.saturating_mul(2) };
        let call = Call { operation, number: self.number, deadline: Deadline::after(waited), waited };
        let result = run(&mut links, &call);
        match (&result, &links) {
            (Ok(_), _) => {
                self.number += 1;
                self.links = links;
            }
            (Err(error), Links::Root(links)) => call.abort(links, error),
            (Err(_), _) => {}
        }
        result
    }
}

fn reduce_as_leaf(root: &Link, call: &Call, values: &mut [i64]) -> Result<(), Error> {
    let total = mem::size_of_val(values);
    for (part, chunk) in values.chunks_mut(CHUNK).enumerate() {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(chunk);
        let header = Header::new(call.operation, call.number, part, bytes.len(), total);
        call.at(root, root.send(header, bytes, call.deadline))?;
        call.at(root, root.receive(header, bytes, call.deadline))?;
    }
    Ok(())
}

fn reduce_as_root(links: &[Link], call: &Call, values: &mut [i64]) -> Result<(), Error> {
    let total = mem::size_of_val(values);
    let mut addends = vec![0_i64; values.len().min(CHUNK)];
    for (part, chunk) in values.chunks_mut(CHUNK).enumerate() {
        let addends = &mut addends[..chunk.len()];
        let header = Header::new(call.operation, call.number, part, mem::size_of_val(chunk), total);
        // Wider than any sum of ranks: whether the result fits does not depend on who comes first.
        let mut sums: Vec<i128> = chunk.iter().copied().map(i128::from).collect();
        call.each_as_it_comes(links, |link| {
            link.receive(header, bytemuck::cast_slice_mut(addends), call.deadline)?;
            for (sum, &addend) in sums.iter_mut().zip(addends.iter()) {
                *sum += i128::from(addend);
            }
            Ok(())
        })?;
        for (i, (value, sum)) in chunk.iter_mut().zip(sums).enumerate() {
            *value = i64::try_from(sum).map_err(|_| Error::Overflow { element: part * CHUNK + i })?;
        }
        for link in links {
            call.at(link, link.send(header, bytemuck::cast_slice(chunk), call.deadline))?;
        }
    }
    Ok(())
}

fn gather(links: &mut Links, call: &Call, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    match links {
        Links::Alone | Links::Failed => Ok(vec![bytes.to_vec()]),
        Links::Root(links) => {
            let mut parts = vec![bytes.to_vec(); links.len() + 1];
            call.each_as_it_comes(links, |link| {
                parts[link.rank] = link.receive_any(call.operation, call.number, call.deadline)?;
                Ok(())
            })?;
            call.send_to_all(links, &join(&parts))?;
            Ok(parts)
        }
        Links::Leaf(root) => {
            call.require_bounded(bytes)?;
            let header = Header::whole(call.operation, call.number, bytes.len());
            call.at(root, root.send(header, bytes, call.deadline))?;
            let joined = call.at(root, root.receive_any(call.operation, call.number, call.deadline))?;
            call.at(root, split(&joined).ok_or_else(|| Fault::unexpected("parts with their lengths", "something else")))
        }
    }
}

/// Each part behind its length.
fn join(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.iter().flat_map(|part| [&(part.len() as u64).to_le_bytes(), part.as_slice()].concat()).collect()
}

fn split(mut joined: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut parts = Vec::new();
    while let Some((length, rest)) = joined.split_first_chunk() {
        let (part, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        parts.push(part.to_vec());
        joined = rest;
    }
    joined.is_empty().then_some(parts)
}

impl Call {
    /// The error that a fault on this link is.
    fn at<T>(&self, link: &Link, result: Result<T, Fault>) -> Result<T, Error> {
        let (rank, operation) = (link.rank, self.operation);
        result.map_err(|fault| match fault {
            Fault::Aborted(reason) => Error::Aborted { operation, reason },
            Fault::Overflow(element) => Error::Overflow { element },
            Fault::Silent => Error::Late { ranks: vec![rank], operation, waited: self.waited },
            fault => Error::Lost { rank, operation, fault },
        })
    }

    /// Calls `receive` once for each peer, in the order in which they come. A peer that goes is noticed at once,
    /// whoever is being waited for.
    fn each_as_it_comes(
        &self,
        links: &[Link],
        mut receive: impl FnMut(&Link) -> Result<(), Fault>,
    ) -> Result<(), Error> {
        let mut waiting = vec![true; links.len()];
        while waiting.contains(&true) {
            let Ok(left) = self.deadline.left() else {
                let ranks =
                    links.iter().zip(&waiting).filter(|(_, waiting)| **waiting).map(|(link, _)| link.rank).collect();
                return Err(Error::Late { ranks, operation: self.operation, waited: self.waited });
            };
            let readable = tcp::readable(links.iter().map(|link| tcp::watched(&link.stream)), left);
            for i in self.at(&links[0], readable.map_err(Fault::from))? {
                let heard = if waiting[i] { receive(&links[i]) } else { Err(tcp::why_readable(&links[i].stream)) };
                self.at(&links[i], heard)?;
                waiting[i] = false;
            }
        }
        Ok(())
    }

    /// While something else than a link is waited for: the deadline holds, nobody is gone, and rank 0 has not given up.
    fn watch(&self, links: &Links) -> Result<(), Error> {
        let (all, is_root) = match links {
            Links::Root(links) => (links.as_slice(), true),
            Links::Leaf(root) => (std::slice::from_ref(root), false),
            Links::Alone | Links::Failed => return Ok(()),
        };
        let readable = tcp::readable(all.iter().map(|link| tcp::watched(&link.stream)), Duration::ZERO);
        for i in self.at(&all[0], readable.map_err(Fault::from))? {
            // Rank 0 has nothing to say before all are done but that it gave up; another rank may be done before it.
            match tcp::why_readable(&all[i].stream) {
                Fault::Unexpected { .. } if is_root => {}
                Fault::Unexpected { .. } => {
                    self.at(&all[i], all[i].receive_any(self.operation, self.number, self.deadline))?;
                }
                fault => return self.at(&all[i], Err(fault)),
            }
        }
        match self.deadline.left() {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Stuck { operation: self.operation, waited: self.waited }),
        }
    }

    fn send_to_all(&self, links: &[Link], bytes: &[u8]) -> Result<(), Error> {
        self.require_bounded(bytes)?;
        let header = Header::whole(self.operation, self.number, bytes.len());
        links.iter().try_for_each(|link| self.at(link, link.send(header, bytes, self.deadline)))
    }

    fn require_bounded(&self, bytes: &[u8]) -> Result<(), Error> {
        if bytes.len() > MAX_MESSAGE {
            return Err(Error::TooLong { operation: self.operation, bytes: bytes.len(), bound: MAX_MESSAGE });
        }
        Ok(())
    }

    /// Tells every peer that still listens why it is over.
    fn abort(&self, links: &[Link], error: &Error) {
        let reason = error.to_string();
        for link in links {
            let deadline = Deadline::after(LAST_WORDS);
            let _ = match error {
                Error::Overflow { element } => {
                    link.send(Header::new(Operation::Overflow, self.number, *element, 0, 0), &[], deadline)
                }
                _ => link.send(Header::whole(Operation::Abort, self.number, reason.len()), reason.as_bytes(), deadline),
            };
        }
    }
}

#[cfg(test)]
mod tests;
