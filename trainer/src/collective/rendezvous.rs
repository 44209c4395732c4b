//! The meeting of the ranks: rank 0 listens, the others connect, each side proves that it knows the job key.
//! It never lets a stranger in, wait for a stranger, or take a stranger's word for a length.
//!
//! Rank 0 sends a challenge, the other rank a hello with who it is, rank 0 a verdict when all are there or one is wrong.
//! Hello and verdict carry keyed blake3 hashes over the nonces of both sides; the key itself never travels.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use super::error::{Error, Fault};
use super::tcp::{Deadline, Link, Operation, read_by, readable, watched, why_readable, write_by};
use super::{Meeting, N_PARTS, RanksSpec};

/// Of the protocol; another number, another protocol.
const MAGIC: [u8; 8] = *b"ECGTRN02";
/// For the few bytes of a hello; whoever takes longer is dropped.
const HELLO_TIME: Duration = Duration::from_secs(5);
/// Between two attempts to reach rank 0, and two looks at those who came.
const TICK: Duration = Duration::from_millis(10);
/// Clients that may be in the middle of their hello; more are dropped.
const MAX_GUESTS: usize = 256;
const MAX_REASON: usize = 2000;
/// Begins the reason of a verdict that is no refusal: rank 0 may be back soon.
const GIVEN_UP: char = '\u{18}';
/// 32-byte parts of a hello: rank and world size, the identity, nonce and proof.
const HELLO: usize = 3 + N_PARTS;

/// Who a rank says it is, and the proof that it knows the key.
struct Hello {
    rank: u64,
    world_size: u64,
    identity: [[u8; 32]; N_PARTS],
    nonce: [u8; 32],
    proof: [u8; 32],
}

impl Hello {
    fn new(spec: &RanksSpec, challenge: &[u8; 32]) -> Result<Self, Fault> {
        let (rank, world_size) = (spec.rank as u64, spec.world_size as u64);
        let identity = spec.identity.parts().map(|(_, hash)| *hash.as_bytes());
        let unproven = Self { rank, world_size, identity, nonce: nonce()?, proof: [0; 32] };
        Ok(Self { proof: unproven.proof_for(&spec.key, challenge), ..unproven })
    }

    fn proof_for(&self, key: &[u8; 32], challenge: &[u8; 32]) -> [u8; 32] {
        let [unproven @ .., _] = self.to_wire();
        keyed(key, &[b"hello", challenge, unproven.as_flattened()])
    }

    fn to_wire(&self) -> [[u8; 32]; HELLO] {
        let mut who = [0; 32];
        who[..8].copy_from_slice(&self.rank.to_le_bytes());
        who[8..16].copy_from_slice(&self.world_size.to_le_bytes());
        let [a, b, c, d, e] = self.identity;
        [who, a, b, c, d, e, self.nonce, self.proof]
    }

    fn from_wire([who, identity @ .., nonce, proof]: [[u8; 32]; HELLO]) -> Self {
        let numbers = who.as_chunks().0;
        let [rank, world_size] = [0, 1].map(|i| u64::from_le_bytes(numbers[i]));
        Self { rank, world_size, identity, nonce, proof }
    }

    /// Of a verdict for this rank; no reason: welcome.
    fn verdict_proof(&self, key: &[u8; 32], reason: &[u8]) -> [u8; 32] {
        keyed(key, &[b"verdict", &self.nonce, &self.proof, reason])
    }
}

fn keyed(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

fn nonce() -> Result<[u8; 32], Fault> {
    let mut nonce = [0; 32];
    rustix::rand::getrandom(&mut nonce[..], rustix::rand::GetRandomFlags::empty()).map_err(std::io::Error::from)?;
    Ok(nonce)
}

/// The connections of this rank: of rank 0 to all others in order, of another rank to rank 0.
pub(super) fn meet(spec: &RanksSpec) -> Result<Vec<Link>, Error> {
    let deadline = Deadline::after(spec.rendezvous_deadline);
    match &spec.meeting {
        Meeting::Host(listener) => host(listener, spec, deadline),
        Meeting::Join(addr) => Ok(vec![join(*addr, spec, deadline, false)?]),
        Meeting::Try(addr) => Ok(vec![join(*addr, spec, deadline, true)?]),
    }
}

/// A client that proved to know the key, and has not been told the verdict.
struct Guest {
    hello: Hello,
    stream: TcpStream,
}

impl Guest {
    fn tell(&self, key: &[u8; 32], verdict: Result<(), &Error>) -> Result<(), Fault> {
        let reason = match verdict {
            Ok(()) => String::new(),
            Err(Error::Refused { reason }) => reason.clone(),
            Err(error) => format!("{GIVEN_UP}{error}"),
        };
        let reason = &reason[..reason.floor_char_boundary(MAX_REASON)];
        let deadline = Deadline::after(HELLO_TIME);
        let proof = self.hello.verdict_proof(key, reason.as_bytes());
        let verdict = [&proof, (reason.len() as u64).to_le_bytes().as_slice(), reason.as_bytes()].concat();
        write_by(&self.stream, &verdict, deadline)
    }
}

fn host(listener: &TcpListener, spec: &RanksSpec, deadline: Deadline) -> Result<Vec<Link>, Error> {
    let mut guests: Vec<Option<Guest>> = (1..spec.world_size).map(|_| None).collect();
    match gather(listener, spec, deadline, &mut guests) {
        Ok(()) => {}
        Err(error) => {
            for guest in guests.iter().flatten() {
                let _ = guest.tell(&spec.key, Err(&error)); // The error itself is what counts.
            }
            return Err(error);
        }
    }
    let welcome = |(rank, guest): (usize, Guest)| match guest.tell(&spec.key, Ok(())) {
        Ok(()) => Ok(Link::new(rank, guest.stream)),
        Err(fault) => Err(Error::Lost { rank, operation: Operation::Rendezvous, fault }),
    };
    (1..).zip(guests.into_iter().flatten()).map(welcome).collect()
}

/// Fills `guests`, of ranks 1, 2, ..., or says why that is not possible.
fn gather(
    listener: &TcpListener,
    spec: &RanksSpec,
    deadline: Deadline,
    guests: &mut [Option<Guest>],
) -> Result<(), Error> {
    let failed = |source| Error::Listen { addr: spec.addr(), source };
    listener.set_nonblocking(true).map_err(failed)?;
    let (sender, arrivals) = mpsc::channel();
    let in_hello = Arc::new(());
    while guests.iter().any(Option::is_none) {
        let Ok(left) = deadline.left() else {
            let missing = (1..).zip(guests.iter()).filter(|(_, guest)| guest.is_none()).map(|(rank, _)| rank).collect();
            return Err(Error::Missing { missing, world_size: spec.world_size, waited: spec.rendezvous_deadline });
        };
        // A client that cannot be accepted is not the job's trouble; the deadline is.
        if let Ok((stream, _)) = listener.accept()
            && Arc::strong_count(&in_hello) <= MAX_GUESTS
        {
            receive_hello(
                stream,
                spec.key,
                Deadline::after(HELLO_TIME).min(deadline),
                sender.clone(),
                in_hello.clone(),
            );
        }
        take_in(&arrivals, spec, guests)?;
        let seated: Vec<(usize, &Guest)> =
            (1..).zip(guests.iter()).filter_map(|(r, g)| Some((r, g.as_ref()?))).collect();
        let fds = std::iter::once(watched(listener)).chain(seated.iter().map(|(_, guest)| watched(&guest.stream)));
        let spoke = readable(fds, left.min(TICK)).map_err(failed)?;
        if let Some(&spoke) = spoke.iter().find(|&&i| i > 0) {
            let (rank, guest) = seated[spoke - 1];
            let fault = why_readable(&guest.stream);
            return Err(Error::Lost { rank, operation: Operation::Rendezvous, fault });
        }
    }
    Ok(())
}

/// Reads one client's hello on a thread of its own, so that a silent one keeps nobody waiting.
fn receive_hello(stream: TcpStream, key: [u8; 32], deadline: Deadline, arrivals: Sender<Guest>, in_hello: Arc<()>) {
    thread::spawn(move || {
        let receive = || -> Result<Guest, Fault> {
            stream.set_nonblocking(false)?;
            stream.set_nodelay(true)?;
            let challenge = nonce()?;
            write_by(&stream, &[MAGIC.as_slice(), &challenge].concat(), deadline)?;
            let mut wire = [[0; 32]; HELLO];
            read_by(&stream, wire.as_flattened_mut(), deadline)?;
            let hello = Hello::from_wire(wire);
            require_equal(hello.proof, hello.proof_for(&key, &challenge))?;
            Ok(Guest { hello, stream })
        };
        match receive() {
            Ok(guest) => drop(arrivals.send(guest)),
            Err(fault) => tracing::debug!(%fault, "a client of the rendezvous was dropped"),
        }
        drop(in_hello);
    });
}

/// Gives the guests that have arrived their seats; one that does not fit ends the rendezvous.
fn take_in(arrivals: &Receiver<Guest>, spec: &RanksSpec, guests: &mut [Option<Guest>]) -> Result<(), Error> {
    while let Ok(guest) = arrivals.try_recv() {
        let Hello { rank, world_size, identity, .. } = guest.hello;
        let ours = spec.world_size;
        let seat = usize::try_from(rank).ok().and_then(|rank| guests.get_mut(rank.checked_sub(1)?));
        let reason = if world_size != ours as u64 {
            format!("rank {rank} was started as one of {world_size} ranks, rank 0 as one of {ours}")
        } else if let Some(differences) = differences(rank, identity, spec) {
            differences
        } else {
            match seat {
                None => format!("there is no rank {rank} among {ours} ranks"),
                Some(Some(_)) => format!("there are two processes that say they are rank {rank}"),
                Some(seat) => {
                    *seat = Some(guest);
                    continue;
                }
            }
        };
        let error = Error::Refused { reason };
        let _ = guest.tell(&spec.key, Err(&error)); // The error itself is what counts.
        return Err(error);
    }
    Ok(())
}

/// What of the identities differs, with both hashes.
fn differences(rank: u64, theirs: [[u8; 32]; N_PARTS], spec: &RanksSpec) -> Option<String> {
    let pairs = spec.identity.parts().into_iter().zip(theirs.map(blake3::Hash::from));
    let said: Vec<String> = pairs
        .filter(|((_, ours), theirs)| ours != theirs)
        .map(|((name, ours), theirs)| format!("rank {rank} has {name} {theirs}, rank 0 has {ours}"))
        .collect();
    (!said.is_empty()).then(|| said.join("; "))
}

fn join(addr: SocketAddr, spec: &RanksSpec, deadline: Deadline, once: bool) -> Result<Link, Error> {
    let mut last = "none was made".to_owned();
    while deadline.left().is_ok() {
        match attempt(addr, spec, deadline) {
            Ok((stream, reason)) if reason.is_empty() => return Ok(Link::new(0, stream)),
            Ok((_, reason)) => {
                return Err(match reason.strip_prefix(GIVEN_UP) {
                    Some(reason) => Error::Aborted { operation: Operation::Rendezvous, reason: reason.to_owned() },
                    None => Error::Refused { reason },
                });
            }
            Err(fault) => last = fault.to_string(),
        }
        if once {
            break;
        }
        thread::sleep(TICK.min(deadline.left().unwrap_or_default()));
    }
    Err(Error::NoHost { rank: spec.rank, addr, waited: spec.rendezvous_deadline, last })
}

/// One connection, up to the verdict of a rank 0 that knows the key: empty if this rank is welcome.
fn attempt(addr: SocketAddr, spec: &RanksSpec, deadline: Deadline) -> Result<(TcpStream, String), Fault> {
    let soon = Deadline::after(HELLO_TIME).min(deadline);
    let stream = TcpStream::connect_timeout(&addr, soon.left()?)?;
    stream.set_nodelay(true)?;
    let (mut magic, mut challenge) = ([0; 8], [0; 32]);
    read_by(&stream, &mut magic, soon)?;
    if magic != MAGIC {
        return Err(Fault::unexpected("rank 0 of this version", "something else on its port"));
    }
    read_by(&stream, &mut challenge, soon)?;
    let hello = Hello::new(spec, &challenge)?;
    write_by(&stream, hello.to_wire().as_flattened(), soon)?;
    let (mut proof, mut length) = ([0; 32], [0; 8]);
    read_by(&stream, &mut proof, deadline)?;
    read_by(&stream, &mut length, deadline)?;
    let mut reason = vec![0; usize::try_from(u64::from_le_bytes(length)).unwrap_or(MAX_REASON).min(MAX_REASON)];
    read_by(&stream, &mut reason, deadline)?;
    require_equal(proof, hello.verdict_proof(&spec.key, &reason))?;
    Ok((stream, String::from_utf8_lossy(&reason).into_owned()))
}

/// Compares in constant time.
fn require_equal(found: [u8; 32], expected: [u8; 32]) -> Result<(), Fault> {
    if blake3::Hash::from(found) == blake3::Hash::from(expected) {
        return Ok(());
    }
    Err(Fault::unexpected("a process with the key of this job", "a stranger"))
}
