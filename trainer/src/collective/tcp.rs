//! One connection to one peer: messages whose kind, number and length are known before they are read.
//! It never waits without a deadline, and never allocates on a peer's word.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::error::Fault;

/// Longest message of a length that the receiver does not know beforehand, in bytes.
pub(super) const MAX_MESSAGE: usize = 1 << 30;
/// Longest reason that is read of a peer that gives up.
const MAX_REASON: u64 = 1 << 14;
/// For what a peer that gives up has to say.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(500);
/// Memory is taken in steps of this size, as the bytes arrive.
const READ_STEP: usize = 1 << 20;
const MAGIC: u64 = 0x4543_4754_0000_0000;

/// What the ranks do together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Operation {
    /// Meeting before the first operation.
    Rendezvous = 1,
    /// Sum of integers over all ranks.
    AllReduce,
    /// Bytes of every rank to every rank.
    AllGather,
    /// Bytes of rank 0 to every rank.
    Broadcast,
    /// Nobody goes on before all have come.
    Barrier,
    /// Rank 0 gives up, and says why.
    Abort,
    /// Rank 0 found a sum that does not fit.
    Overflow,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rendezvous => "rendezvous",
            Self::AllReduce => "all_reduce",
            Self::AllGather => "all_gather",
            Self::Broadcast => "broadcast",
            Self::Barrier => "barrier",
            Self::Abort => "abort",
            Self::Overflow => "overflow",
        })
    }
}

/// What stands before every message, as five little-endian numbers. Both sides know what it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// [`MAGIC`] and the operation.
    kind: u64,
    /// How many operations there were before this one.
    number: u64,
    /// Which part of the operation.
    part: u64,
    /// Bytes of this message.
    bytes: u64,
    /// Bytes of all parts.
    total: u64,
}

impl Header {
    pub(super) fn new(operation: Operation, number: u64, part: usize, bytes: usize, total: usize) -> Self {
        let [part, bytes, total] = [part, bytes, total].map(|n| n as u64);
        Self { kind: MAGIC | operation as u64, number, part, bytes, total }
    }

    /// A message of one part.
    pub(super) fn whole(operation: Operation, number: u64, bytes: usize) -> Self {
        Self::new(operation, number, 0, bytes, bytes)
    }

    fn is(&self, operation: Operation) -> bool {
        self.kind == MAGIC | operation as u64
    }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, number, part, bytes, total } = self;
        write!(f, "message {kind:x}, number {number}, part {part} of {bytes} of {total} bytes")
    }
}

/// When an operation must be over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Instant);

impl Deadline {
    pub(super) fn after(duration: Duration) -> Self {
        let now = Instant::now();
        Self(now.checked_add(duration).unwrap_or(now + Duration::from_secs(365 * 24 * 3600)))
    }

    pub(super) fn min(self, other: Self) -> Self {
        Self(self.0.min(other.0))
    }

    /// Time left, never zero.
    pub(super) fn left(self) -> Result<Duration, Fault> {
        let left = self.0.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(Fault::Silent) } else { Ok(left) }
    }
}

/// The connection to the rank `rank`.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) rank: usize,
    pub(super) stream: TcpStream,
}

impl Link {
    pub(super) fn new(rank: usize, stream: TcpStream) -> Self {
        Self { rank, stream }
    }

    pub(super) fn send(&self, header: Header, payload: &[u8], deadline: Deadline) -> Result<(), Fault> {
        let Header { kind, number, part, bytes, total } = header;
        let words = [kind, number, part, bytes, total].map(u64::to_le_bytes);
        let sent = write_by(&self.stream, words.as_flattened(), deadline)
            .and_then(|()| write_by(&self.stream, payload, deadline));
        // A peer that has hung up may have said why before.
        sent.map_err(|fault| match (&fault, self.receive_header(Deadline::after(LAST_WORDS))) {
            (Fault::Closed, Err(said @ (Fault::Aborted(_) | Fault::Overflow(_)))) => said,
            _ => fault,
        })
    }

    /// Reads a message that must have exactly this header.
    pub(super) fn receive(&self, expected: Header, payload: &mut [u8], deadline: Deadline) -> Result<(), Fault> {
        let found = self.receive_header(deadline)?;
        if found != expected {
            return Err(Fault::unexpected(expected, found));
        }
        read_by(&self.stream, payload, deadline)
    }

    /// Reads a message of one part and of any length up to [`MAX_MESSAGE`].
    pub(super) fn receive_any(&self, operation: Operation, number: u64, deadline: Deadline) -> Result<Vec<u8>, Fault> {
        let found = self.receive_header(deadline)?;
        let bytes = usize::try_from(found.bytes).unwrap_or(usize::MAX).min(MAX_MESSAGE);
        let expected = Header::whole(operation, number, bytes);
        if found != expected {
            return Err(Fault::unexpected(expected, found));
        }
        let mut payload = Vec::new();
        while payload.len() < bytes {
            let begin = payload.len();
            payload.resize((begin + READ_STEP).min(bytes), 0);
            read_by(&self.stream, &mut payload[begin..], deadline)?;
        }
        Ok(payload)
    }

    fn receive_header(&self, deadline: Deadline) -> Result<Header, Fault> {
        let mut words = [[0; 8]; 5];
        read_by(&self.stream, words.as_flattened_mut(), deadline)?;
        let [kind, number, part, bytes, total] = words.map(u64::from_le_bytes);
        let found = Header { kind, number, part, bytes, total };
        if found.is(Operation::Overflow) {
            return Err(Fault::Overflow(usize::try_from(part).unwrap_or(usize::MAX)));
        }
        if found.is(Operation::Abort) {
            let mut reason = vec![0; bytes.min(MAX_REASON) as usize];
            read_by(&self.stream, &mut reason, deadline)?;
            return Err(Fault::Aborted(String::from_utf8_lossy(&reason).into_owned()));
        }
        Ok(found)
    }
}

/// Why a peer whose turn it is not can be read from.
pub(super) fn why_readable(stream: &TcpStream) -> Fault {
    match stream.peek(&mut [0]) {
        Ok(0) => Fault::Closed,
        Ok(_) => Fault::unexpected("silence", "a message out of turn"),
        Err(error) => error.into(),
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both); // The peer is to notice at once, even if a copy is still open.
    }
}

/// Which of `streams` can be read or are closed; none: `wait` is over.
pub(super) fn readable<'a>(streams: impl Iterator<Item = PollFd<'a>>, wait: Duration) -> io::Result<Vec<usize>> {
    let mut streams: Vec<PollFd<'_>> = streams.collect();
    let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
    match poll(&mut streams, Some(&wait)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(streams.iter().enumerate().filter(|(_, stream)| !stream.revents().is_empty()).map(|(i, _)| i).collect())
}

/// To be watched by [`readable`].
pub(super) fn watched<Fd: std::os::fd::AsFd>(stream: &Fd) -> PollFd<'_> {
    PollFd::new(stream, PollFlags::IN)
}

pub(super) fn read_by(mut stream: &TcpStream, mut buffer: &mut [u8], deadline: Deadline) -> Result<(), Fault> {
    while !buffer.is_empty() {
        stream.set_read_timeout(Some(deadline.left()?))?;
        match stream.read(buffer) {
            Ok(0) => return Err(Fault::Closed),
            Ok(n) => buffer = &mut buffer[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

pub(super) fn write_by(mut stream: &TcpStream, mut buffer: &[u8], deadline: Deadline) -> Result<(), Fault> {
    while !buffer.is_empty() {
        stream.set_write_timeout(Some(deadline.left()?))?;
        match stream.write(buffer) {
            Ok(n) => buffer = &buffer[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
