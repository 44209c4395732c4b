//! Power cuts on a simulated disk: the real code saves and prunes, every change it makes is recorded, and then the power
//! fails anywhere. What was not synced is there or not, each change for itself, and files are cut anywhere.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, Mutex};

use storage::faults::{self, Op};

use super::*;

/// What happened, in order.
#[derive(Debug, Clone)]
enum Event {
    Create(PathBuf),
    CreateDir(PathBuf),
    Write(PathBuf, Vec<u8>),
    Sync(PathBuf),
    /// It said that it failed: what it should have made durable may be lost, whatever a later sync says.
    FailedSync(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    /// `save` said that this step is durable.
    Saved(u64),
}

/// Where a sync costs nothing: only the order of the changes counts here.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Saves some checkpoints and prunes after each; the change number `fails` is refused.
fn record(keep: usize, fails: Option<usize>) -> Vec<Event> {
    let dir = in_memory();
    let root = dir.path().to_owned();
    let log = Arc::new(Mutex::new(Vec::new()));
    let watched = Arc::clone(&log);
    let at = root.clone();
    let mut n = 0;
    let n = Mutex::new(std::iter::from_fn(move || Some((n, n += 1).0)));
    let watch = faults::watch(&root, move |op| {
        let inside = |path: &Path| path.strip_prefix(&at).unwrap().to_owned();
        let refused = n.lock().unwrap().next() == fails;
        let event = match op {
            Op::Sync(path) if refused => Event::FailedSync(inside(path)),
            _ if refused => return Err(io::ErrorKind::StorageFull.into()),
            Op::Create(path) => Event::Create(inside(path)),
            Op::CreateDir(path) => Event::CreateDir(inside(path)),
            Op::Write(path, bytes) => Event::Write(inside(path), bytes.to_vec()),
            Op::Sync(path) => Event::Sync(inside(path)),
            Op::Rename(from, to) => Event::Rename(inside(from), inside(to)),
            Op::RemoveFile(path) | Op::RemoveDir(path) => Event::Remove(inside(path)),
        };
        watched.lock().unwrap().push(event);
        if refused { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    });
    for step in [5, 10, 15, 20] {
        if save(&root, &state(step), &files(step)).is_ok() {
            log.lock().unwrap().push(Event::Saved(step));
            let _ = prune(&root, keep);
        }
    }
    drop(watch);
    Arc::try_unwrap(log).unwrap().into_inner().unwrap()
}

type Id = usize;

/// A change of a folder's names.
#[derive(Debug, Clone)]
enum Change {
    Link(OsString, Id),
    Move(OsString, OsString, Id),
    Unlink(OsString),
}

/// A file or folder: what is on the disk, and what is not yet, or will never be (`lost`).
#[derive(Debug)]
enum Node {
    File { durable: Vec<u8>, pending: Vec<u8>, lost: bool },
    Folder { durable: BTreeMap<OsString, Id>, pending: Vec<(Change, bool)> },
}

/// A disk that keeps no promise but those of `fsync`.
struct Disk(Vec<Node>);

impl Disk {
    const ROOT: Id = 0;

    fn after(events: &[Event]) -> Self {
        let mut disk = Self(vec![Self::folder()]);
        events.iter().for_each(|event| disk.apply(event));
        disk
    }

    fn folder() -> Node {
        Node::Folder { durable: BTreeMap::new(), pending: Vec::new() }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Create(path) => {
                self.link(path, Node::File { durable: Vec::new(), pending: Vec::new(), lost: false })
            }
            Event::CreateDir(path) => self.link(path, Self::folder()),
            Event::Write(path, bytes) => {
                let id = self.find(path);
                let Node::File { pending, .. } = &mut self.0[id] else { panic!("{path:?} is a folder") };
                pending.clone_from(bytes);
            }
            Event::Sync(path) => {
                let id = self.find(path);
                self.sync(id);
            }
            Event::FailedSync(path) => {
                let id = self.find(path);
                match &mut self.0[id] {
                    Node::File { lost, .. } => *lost = true,
                    Node::Folder { pending, .. } => pending.iter_mut().for_each(|(_, lost)| *lost = true),
                }
            }
            Event::Rename(from, to) => {
                assert_eq!(from.parent(), to.parent(), "a rename stays in its folder");
                let id = self.find(from);
                self.change(from, Change::Move(name(from).to_owned(), name(to).to_owned(), id));
            }
            Event::Remove(path) => self.change(path, Change::Unlink(name(path).to_owned())),
            Event::Saved(_) => {}
        }
    }

    fn sync(&mut self, id: Id) {
        match &mut self.0[id] {
            Node::File { durable, pending, lost } if !*lost => durable.clone_from(pending),
            Node::File { .. } => {}
            Node::Folder { durable, pending } => {
                pending.iter().filter(|(_, lost)| !lost).for_each(|(change, _)| change.make(durable));
                pending.retain(|(_, lost)| *lost);
            }
        }
    }

    fn link(&mut self, path: &Path, node: Node) {
        self.0.push(node);
        self.change(path, Change::Link(name(path).to_owned(), self.0.len() - 1));
    }

    fn change(&mut self, path: &Path, change: Change) {
        let folder = self.find(path.parent().unwrap());
        let Node::Folder { pending, .. } = &mut self.0[folder] else { panic!("{path:?} lies in a file") };
        pending.push((change, false));
    }

    /// What a running program sees under a path.
    fn find(&self, path: &Path) -> Id {
        path.iter().fold(Self::ROOT, |id, name| {
            let Node::Folder { durable, pending } = &self.0[id] else { panic!("{path:?} leads through a file") };
            let mut names = durable.clone();
            pending.iter().for_each(|(change, _)| change.make(&mut names));
            names[name]
        })
    }

    /// Writes into `dir` what a reboot might find.
    fn reboot(&self, id: Id, dir: &Path, random: &mut impl FnMut() -> u64) {
        let Node::Folder { durable, pending } = &self.0[id] else { panic!("not a folder") };
        let mut names = durable.clone();
        for (change, _) in pending {
            if random().is_multiple_of(2) {
                change.make(&mut names);
            }
        }
        for (name, id) in names {
            let path = dir.join(name);
            match &self.0[id] {
                Node::Folder { .. } => {
                    fs::create_dir(&path).unwrap();
                    self.reboot(id, &path, random);
                }
                Node::File { durable, pending, .. } if durable == pending => overwrite(&path, durable),
                Node::File { durable, pending, .. } => match random() % 4 {
                    0 => overwrite(&path, durable),
                    1 => overwrite(&path, pending),
                    2 => overwrite(&path, &vec![0; pending.len()]), // Its length came through, its bytes did not.
                    _ => overwrite(&path, &pending[..random() as usize % (pending.len() + 1)]),
                },
            }
        }
    }
}

impl Change {
    fn make(&self, names: &mut BTreeMap<OsString, Id>) {
        match self {
            Self::Link(name, id) => drop(names.insert(name.clone(), *id)),
            Self::Move(from, to, id) => {
                names.remove(from);
                names.insert(to.clone(), *id);
            }
            Self::Unlink(name) => drop(names.remove(name)),
        }
    }
}

fn name(path: &Path) -> &OsStr {
    path.file_name().unwrap()
}

/// Cuts the power after the first `n` events; what is wrong with what is found then, if anything is.
fn cut(events: &[Event], n: usize, seed: u64) -> Result<(), String> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x >> 33
    };
    let dir = in_memory();
    Disk::after(&events[..n]).reboot(Disk::ROOT, dir.path(), &mut random);
    let saved = events[..n].iter().filter_map(|event| if let Event::Saved(step) = event { Some(*step) } else { None });
    let expected = saved.max();
    let found = newest(dir.path()).unwrap().0;
    if found.as_ref().map(|found| found.state.step) < expected {
        return Err(format!(
            "after event {n} {expected:?} was promised, found {found:?} in {:?}",
            steps_in(dir.path())
        ));
    }
    let Some(found) = found else { return Ok(()) };
    match files(found.state.step).iter().all(|(name, bytes)| found.read(name).unwrap() == *bytes) {
        true => Ok(()),
        false => Err(format!("after event {n} checkpoint {} is believed and is not what was saved", found.state.step)),
    }
}

/// Every change of the disk is refused in turn, and the power cut at random events after it.
#[test]
fn after_any_power_cut_what_was_saved_is_there() {
    let n_cuts = if std::env::var_os("SLOW").is_some() { 500 } else { 15 };
    for keep in [1, 2] {
        for fails in [None].into_iter().chain((0..75).map(Some)) {
            let events = record(keep, fails);
            for i in 0..n_cuts {
                let seed = 1000 * i + fails.map_or(999, |n| n as u64);
                let result = cut(&events, (seed.wrapping_mul(0x9e37_79b9) >> 7) as usize % (events.len() + 1), seed);
                assert!(result.is_ok(), "keep {keep}, {fails:?} refused, seed {seed}: {}", result.unwrap_err());
            }
        }
    }
}

/// The simulation can fail: without any one of the syncs a promise is broken sooner or later.
#[test]
fn without_a_sync_something_is_lost() {
    let events = record(1, None);
    let syncs = |of: &dyn Fn(&Path) -> bool| -> usize {
        let kept: Vec<Event> =
            events.iter().filter(|event| !matches!(event, Event::Sync(path) if of(path))).cloned().collect();
        (0..2000_u64).filter(|&seed| cut(&kept, seed as usize % (kept.len() + 1), seed).is_err()).count()
    };
    assert_eq!(syncs(&|_| false), 0, "with all of them nothing is");
    for (what, of) in [
        ("a file", (|path: &Path| path.extension().is_some_and(|e| e != "unfinished")) as fn(&Path) -> bool),
        ("the folder", |path| path.extension().is_some_and(|e| e == "unfinished")),
        ("the name", |path| path.as_os_str().is_empty()),
    ] {
        assert!(syncs(&of) > 0, "{what}");
    }
}
