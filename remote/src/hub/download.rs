//! Bytes from the hub to a file that is what its hash says, or no file.
//! It never begins again what a broken connection has already brought.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;

use super::http::{Failure, TRIES, pause};
use super::listing::{self, RemoteFile};
use super::{Error, Result, Wanted};

/// Files at a time.
const THREADS: usize = 4;

/// What hears of bytes.
type Progress<'a> = &'a (dyn Fn(i64) + Sync);

/// Every file of `wanted` in the cache, verified; the first failure ends the rest at their next file.
pub(super) fn all(wanted: &Wanted, progress: Progress) -> Result<()> {
    let state = Mutex::new((wanted.files.iter(), Ok(())));
    let next = || {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.1.is_ok() { state.0.next() } else { None }
    };
    thread::scope(|scope| {
        for _ in 0..THREADS.min(wanted.files.len()) {
            scope.spawn(|| {
                while let Some(file) = next() {
                    if let Err(error) = one(wanted, file, progress) {
                        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                        if state.1.is_ok() {
                            state.1 = Err(error);
                        }
                    }
                }
            });
        }
    });
    state.into_inner().unwrap_or_else(PoisonError::into_inner).1
}

pub(super) fn one(wanted: &Wanted, file: &RemoteFile, progress: Progress) -> Result<()> {
    let cache = &wanted.cache;
    let _lock = cache.lock(file)?;
    let (blob, partial) = (cache.blob(file), cache.partial(file));
    if blob.exists() {
        if cache.is_good(file, &blob)? {
            return Ok(());
        }
        fs::remove_file(&blob).map_err(Error::file(&blob, "remove"))?;
    }
    if wanted.offline.is_some() {
        return Err(wrong(wanted, file, "its bytes in the cache are not what its hash says"));
    }
    loop {
        let resumed = cache.partial_bytes(file) > 0;
        download(wanted, file, progress)?;
        if cache.is_good(file, &partial)? {
            return Ok(storage::publish_written(&partial, &blob)?);
        }
        fs::remove_file(&partial).map_err(Error::file(&partial, "remove"))?;
        // What an earlier process left may have been of another origin; what came now in one piece was wrong.
        if !resumed {
            return Err(wrong(wanted, file, "the bytes that came are not what the hub's hash says"));
        }
        progress(-file.size.cast_signed());
    }
}

fn wrong(wanted: &Wanted, file: &RemoteFile, reason: &str) -> Error {
    Error::Wrong { id: Box::new(wanted.id.clone()), file: file.path.clone(), reason: reason.to_owned() }
}

/// Until the file has its size; gives up after [`TRIES`] tries in a row that bring nothing.
fn download(wanted: &Wanted, file: &RemoteFile, progress: Progress) -> Result<()> {
    let client = &wanted.client;
    let url = listing::address(client, &wanted.id, &wanted.commit, &file.path);
    let path = wanted.cache.partial(file);
    let mut partial = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::file(&path, "open"))?;
    let (mut have, mut tries) = (wanted.cache.partial_bytes(file), 0);
    if have > file.size {
        have = restart(&partial, have, progress).map_err(Error::file(&path, "empty"))?;
    }
    while have < file.size {
        let before = have;
        let attempt = client.get(&url, have);
        let failure = match attempt {
            Ok(response) => {
                let resumes = response.status() == 206 && range_begins(response.headers(), have);
                if !resumes && have > 0 {
                    have = restart(&partial, have, progress).map_err(Error::file(&path, "empty"))?;
                }
                // Whoever does not begin where we are begins at the start, or not at all.
                if resumes || response.status() == 200 {
                    let reader = response.into_body().into_with_config().limit(u64::MAX).reader();
                    let (n, failure) = copy(reader.take(file.size - have), &mut partial, progress);
                    have += n;
                    failure.map_or(Ok(None), |f| f.map(Some)).map_err(Error::file(&path, "write"))?
                } else {
                    Some(Failure::Connection("it offers another part than the one asked for".to_owned()))
                }
            }
            Err(failure) => Some(failure),
        };
        if have == file.size {
            break;
        }
        let failure = failure.unwrap_or(Failure::Connection("the connection ended early".to_owned()));
        tries = if have > before { 0 } else { tries + 1 };
        if !failure.may_pass() || tries >= TRIES {
            return Err(listing::error(client, &wanted.id, &file.path, failure));
        }
        pause(tries);
    }
    Ok(())
}

/// Bytes written, and what ended them early: the connection (`Ok`) or this disk (`Err`).
fn copy(mut from: impl Read, to: &mut File, progress: Progress) -> (u64, Option<io::Result<Failure>>) {
    let (mut buffer, mut n) = (vec![0; 1 << 18], 0);
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return (n, None),
            Ok(read) => {
                if let Err(error) = to.write_all(&buffer[..read]) {
                    return (n, Some(Err(error)));
                }
                n += read as u64;
                progress(read as i64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (n, Some(Ok(Failure::Connection(error.kind().to_string())))),
        }
    }
}

fn restart(partial: &File, have: u64, progress: Progress) -> io::Result<u64> {
    partial.set_len(0)?;
    progress(-have.cast_signed());
    Ok(0)
}

/// `Content-Range: bytes FROM-...`.
fn range_begins(headers: &ureq::http::HeaderMap, from: u64) -> bool {
    let range = headers.get("content-range").and_then(|value| value.to_str().ok());
    range
        .and_then(|range| range.strip_prefix("bytes ")?.split_once('-'))
        .is_some_and(|(first, _)| first == from.to_string())
}
