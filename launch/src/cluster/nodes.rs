//! The meeting of the nodes, and what they tell each other afterwards: a word a beat, all in lockstep through node 0.
//! Every node hears the same words at the same beat, so all come to the same conclusions, and nobody leads.
//! It never waits without a deadline: a node that is silent is lost, and the others meet again.
//!
//! The meeting is the one of the ranks (`trainer::collective`): challenge and response with the job key, bounded frames.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use trainer::collective::{self, Identity, Meeting, Ranks, RanksSpec};

use super::door::{Door, Key, Open};
use super::ended::Ended;
use super::{Error, Place};
use crate::workers::{Group, Notice};

/// Between two words, and two attempts to reach node 0.
const BEAT: Duration = Duration::from_millis(200);
/// How often requests to stop are looked at while others are waited for.
const TICK: Duration = Duration::from_millis(50);

/// What a node is told of the meetings.
pub struct Spec {
    pub place: Place,
    pub door: Door,
    /// Of this machine, for people.
    pub host: String,
    /// Workers of this node.
    pub n_workers: u32,
    /// Must be equal on all nodes.
    pub identity: Identity,
    /// How long nodes wait for each other.
    pub meeting_deadline: Duration,
    /// A node that is silent for so long is lost.
    pub silence: Duration,
}

/// This node's side of all meetings of the job.
pub struct Nodes {
    spec: Arc<Spec>,
    /// Of node 0.
    host: Option<(TcpListener, Open)>,
    /// While all nodes are there.
    met: Option<Met>,
}

/// The nodes that are there.
struct Met {
    hosts: Vec<String>,
    group: Group,
    /// Of node 0, as this node sees it.
    root: IpAddr,
    key: Key,
    state: Arc<Mutex<State>>,
    heard: Receiver<Heard>,
}

/// Where the ranks of an attempt run and what they need to meet.
pub struct Share {
    pub attempt: u32,
    pub group: Group,
    pub job_key: Key,
    /// Where rank 0 listens.
    pub listen: IpAddr,
    /// Nodes, by name.
    pub hosts: Vec<String>,
}

/// What the nodes tell each other when they meet.
#[derive(Serialize, Deserialize)]
struct About {
    host: String,
    n_workers: u32,
    /// The attempt that this node would make next.
    attempt: u32,
    /// Of node 0: of this meeting alone.
    salt: [u8; 32],
}

/// What a node says at each beat.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Word {
    attempt: u32,
    /// Of node 0: where rank 0 listens.
    port: Option<u16>,
    /// How its group ended; none: it is still there.
    ended: Option<Ended>,
}

/// Between the thread of the beats and the supervisor.
#[derive(Default)]
struct State {
    word: Word,
    /// Who has to hear of the other nodes while a group runs.
    attempt: Option<Sender<Notice>>,
}

enum Heard {
    /// The groups of all nodes have ended this attempt, so.
    Ended(u32, Vec<Ended>),
    Lost(String),
}

impl Nodes {
    /// Node 0 listens on `addr` from now on.
    ///
    /// # Errors
    /// The address is taken or not of this machine, or the run folder does not take the note for the others.
    pub fn new(spec: Spec, addr: Option<SocketAddr>) -> Result<Self, Error> {
        let host = match addr {
            None => None,
            Some(addr) => {
                let listener = collective::listen(addr).map_err(|error| Error::Listen(in_words_of_nodes(&error)))?;
                let addr = listener.local_addr().map_err(Error::Interfaces)?;
                Some((listener, spec.door.open(addr)?))
            }
        };
        Ok(Self { spec: Arc::new(spec), host, met: None })
    }

    /// The share of this node in the attempt after `attempt - 1` others; meets the other nodes first where that is
    /// necessary. None: `stop` said so meanwhile. What concerns the group arrives at `notify` until [`Nodes::end`].
    ///
    /// # Errors
    /// The others did not come, or are of another job.
    pub fn begin(
        &mut self,
        attempt: u32,
        notify: &Sender<Notice>,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Share>, Error> {
        let mut attempt = attempt;
        if self.met.is_none() {
            let (told, meeting) = mpsc::channel();
            let host = match &self.host {
                Some((listener, open)) => Some((listener.try_clone().map_err(Error::Interfaces)?, open.key)),
                None => None,
            };
            let spec = self.spec.clone();
            thread::spawn(move || {
                let _ = told.send(meet(&spec, host, attempt)); // Somebody may have asked to stop meanwhile.
            });
            let found = loop {
                match meeting.recv_timeout(TICK) {
                    Ok(found) => break found?,
                    Err(RecvTimeoutError::Timeout) if !stop() => {}
                    Err(_) => return Ok(None),
                }
            };
            attempt = found.attempt;
            self.met = Some(found.begin(&self.spec));
        }
        let Some(met) = &self.met else { return Ok(None) };
        {
            let mut state = lock(&met.state);
            state.word = Word { attempt, ..Word::default() };
            state.attempt = Some(notify.clone());
        }
        Ok(Some(Share {
            attempt,
            group: met.group,
            job_key: blake3::keyed_hash(&met.key, format!("ranks of attempt {attempt}").as_bytes()).into(),
            listen: met.root,
            hosts: met.hosts.clone(),
        }))
    }

    /// What node 0 says to the others once rank 0 listens.
    pub fn speaker(&self) -> Option<Speaker> {
        self.met.as_ref().map(|met| Speaker(met.state.clone()))
    }

    /// Says how this node's group ended and waits until all have; returns how each did.
    ///
    /// # Errors
    /// Why another node is lost; the next attempt begins with a meeting.
    pub fn end(&mut self, ended: Ended) -> Result<Vec<Ended>, String> {
        let Some(met) = &self.met else { return Err("the nodes have not met".to_owned()) };
        let attempt = {
            let mut state = lock(&met.state);
            state.word.ended = Some(ended);
            state.attempt = None;
            state.word.attempt
        };
        let lost = loop {
            match met.heard.recv() {
                Ok(Heard::Ended(of, all)) if of == attempt => return Ok(all),
                Ok(Heard::Ended(..)) => {} // Of an earlier attempt, said more than once.
                Ok(Heard::Lost(reason)) => break reason,
                Err(_) => break "the nodes are no longer heard".to_owned(),
            }
        };
        self.met = None;
        Err(lost)
    }
}

/// Tells the other nodes where rank 0 listens.
pub struct Speaker(Arc<Mutex<State>>);

impl Speaker {
    pub fn listening(&self, port: u16) {
        lock(&self.0).word.port = Some(port);
    }
}

/// Nodes that have just met.
struct Found {
    ranks: Ranks,
    about: Vec<About>,
    attempt: u32,
    root: IpAddr,
    key: Key,
}

impl Found {
    /// Begins the beats.
    fn begin(self, spec: &Spec) -> Met {
        let Self { ranks, about, root, key, .. } = self;
        let n_workers = |about: &[About]| about.iter().map(|about| about.n_workers).sum();
        let own = spec.place.node_rank as usize;
        let group = Group {
            first_rank: n_workers(&about[..own]),
            n_workers: spec.n_workers,
            world_size: n_workers(&about),
            first_local_rank: spec.place.local_rank,
            local_world_size: spec.n_workers.max(spec.place.n_local),
        };
        let key = blake3::keyed_hash(&key, &about[0].salt).into();
        let hosts: Vec<String> = about.into_iter().map(|about| about.host).collect();
        let state = Arc::new(Mutex::new(State::default()));
        let (tell, heard) = mpsc::channel();
        let beats = Beats {
            ranks,
            hosts: hosts.clone(),
            root,
            state: Arc::downgrade(&state),
            tell,
            told_port: None,
            abandoned: None,
        };
        thread::spawn(move || beats.run());
        Met { hosts, group, root, key, state, heard }
    }
}

/// Meets the other nodes within the deadline.
fn meet(spec: &Spec, host: Option<(TcpListener, Key)>, attempt: u32) -> Result<Found, Error> {
    let begin = Instant::now();
    let left = || spec.meeting_deadline.saturating_sub(begin.elapsed());
    let mut last = format!("nothing in {}", spec.door.place());
    loop {
        let (meeting, key, root) = match &host {
            Some((listener, key)) => {
                let listener = listener.try_clone().map_err(Error::Interfaces)?;
                let ip = listener.local_addr().map_err(Error::Interfaces)?.ip();
                let ip = if ip.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { ip };
                (Some(Meeting::Host(listener)), *key, ip)
            }
            None => match spec.door.look() {
                Ok(Some((key, addr))) => (Some(Meeting::Try(addr)), key, addr.ip()),
                Ok(None) => (None, [0; 32], Ipv4Addr::LOCALHOST.into()),
                // A name may resolve a little later: pods and machines come up in any order.
                Err(Error::NoSuchHost { host, source }) => {
                    last = format!("{host}: {source}");
                    (None, [0; 32], Ipv4Addr::LOCALHOST.into())
                }
                Err(error) => return Err(error),
            },
        };
        if let Some(meeting) = meeting {
            match connect(spec, meeting, key, left()).and_then(|ranks| introduce(spec, ranks, attempt)) {
                Ok((ranks, about)) => {
                    let attempt = about.iter().map(|about| about.attempt).max().unwrap_or(attempt);
                    return Ok(Found { ranks, about, attempt, root, key });
                }
                Err(error @ collective::Error::Refused { .. }) => {
                    return Err(Error::Refused(in_words_of_nodes(&error)));
                }
                Err(error) => last = in_words_of_nodes(&error),
            }
        }
        if left().is_zero() {
            let Place { node_rank, n_nodes, .. } = spec.place;
            return Err(Error::NotMet { node_rank, n_nodes, waited: spec.meeting_deadline, last });
        }
        thread::sleep(BEAT.min(left()));
    }
}

fn connect(spec: &Spec, meeting: Meeting, key: Key, left: Duration) -> Result<Ranks, collective::Error> {
    Ranks::connect(RanksSpec {
        rank: spec.place.node_rank as usize,
        world_size: spec.place.n_nodes as usize,
        meeting,
        key,
        identity: spec.identity,
        rendezvous_deadline: left,
        operation_deadline: spec.silence,
    })
}

/// Every node says who it is.
fn introduce(spec: &Spec, mut ranks: Ranks, attempt: u32) -> Result<(Ranks, Vec<About>), collective::Error> {
    let salt = super::door::new_key().unwrap_or_default(); // It only keeps apart what the key has let in.
    let about = About { host: spec.host.clone(), n_workers: spec.n_workers, attempt, salt };
    let told = ranks.all_gather_bytes(&serde_json::to_vec(&about).unwrap_or_default())?;
    let about: Option<Vec<About>> = told.iter().map(|bytes| serde_json::from_slice(bytes).ok()).collect();
    let reason = "a node speaks another version's language".to_owned();
    about.map(|about| (ranks, about)).ok_or(collective::Error::Refused { reason })
}

/// The thread that says this node's word and hears the others'.
struct Beats {
    ranks: Ranks,
    hosts: Vec<String>,
    root: IpAddr,
    /// Gone with the supervisor's use for the others.
    state: Weak<Mutex<State>>,
    tell: Sender<Heard>,
    /// Attempt whose endpoint, or end elsewhere, has been passed on.
    told_port: Option<u32>,
    abandoned: Option<u32>,
}

impl Beats {
    fn run(mut self) {
        let lost = loop {
            thread::sleep(BEAT);
            let Some(word) = self.state.upgrade().map(|state| lock(&state).word.clone()) else { return };
            let words = match self.ranks.all_gather_bytes(&serde_json::to_vec(&word).unwrap_or_default()) {
                Ok(told) => told.iter().map(|bytes| serde_json::from_slice(bytes).ok()).collect::<Option<Vec<Word>>>(),
                Err(error) => break self.describe(&error),
            };
            let Some(words) = words else { break "a node speaks another version's language".to_owned() };
            self.pass_on(word.attempt, &words);
            let here = words.into_iter().filter(|said| said.attempt == word.attempt);
            let all: Vec<Ended> = here.filter_map(|said| said.ended).collect();
            if all.len() == self.hosts.len() {
                let _ = self.tell.send(Heard::Ended(word.attempt, all)); // Nobody may listen any more.
            }
        };
        self.notify(Notice::Abandon(lost.clone()));
        let _ = self.tell.send(Heard::Lost(lost));
    }

    /// Tells the running group what concerns it.
    fn pass_on(&mut self, attempt: u32, words: &[Word]) {
        let own = self.ranks.rank();
        if let Some(port) =
            words[0].port.filter(|_| own > 0 && words[0].attempt == attempt && self.told_port != Some(attempt))
        {
            self.told_port = Some(attempt);
            self.notify(Notice::Endpoint(SocketAddr::new(self.root, port)));
        }
        let gone = |(node, word): &(usize, &Word)| {
            *node != own && word.attempt == attempt && word.ended.as_ref().is_some_and(Ended::ends_all)
        };
        if self.abandoned != Some(attempt)
            && let Some((node, word)) = words.iter().enumerate().find(gone)
        {
            self.abandoned = Some(attempt);
            let ended = word.ended.as_ref().map(ToString::to_string).unwrap_or_default();
            self.notify(Notice::Abandon(format!("node {node} ({}): {ended}", self.hosts[node])));
        }
    }

    fn notify(&self, notice: Notice) {
        let attempt = self.state.upgrade().and_then(|state| lock(&state).attempt.clone());
        if let Some(attempt) = attempt {
            let _ = attempt.send(notice); // The attempt may just have ended.
        }
    }

    /// Who is lost, by name.
    fn describe(&self, error: &collective::Error) -> String {
        let name = |node: usize| format!("node {node} ({})", self.hosts.get(node).map_or("?", String::as_str));
        match error {
            collective::Error::Lost { rank, fault, .. } => format!("{} is lost: {fault}", name(*rank)),
            collective::Error::Late { ranks, waited, .. } => {
                let names: Vec<String> = ranks.iter().map(|&node| name(node)).collect();
                format!("{} was not heard of for {waited:?}", names.join(", "))
            }
            error => in_words_of_nodes(error),
        }
    }
}

/// The collective speaks of ranks; here its ranks are nodes.
fn in_words_of_nodes(error: &collective::Error) -> String {
    error.to_string().replace("rank", "node")
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
