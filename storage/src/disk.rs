//! The system calls that change a disk, each in one place. With the feature `faults`, tests see every one of them before
//! it is made, and may forbid it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

#[cfg(any(test, feature = "faults"))]
use crate::faults::before;

/// A change of the disk that is about to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// A new, empty file.
    Create(&'a Path),
    /// All bytes of a file.
    Write(&'a Path, &'a [u8]),
    /// The bytes of a file, or the names in a folder, onto the disk.
    Sync(&'a Path),
    /// From, to.
    Rename(&'a Path, &'a Path),
    /// A new folder.
    CreateDir(&'a Path),
    /// A file's name.
    RemoveFile(&'a Path),
    /// An empty folder.
    RemoveDir(&'a Path),
}

#[cfg(not(any(test, feature = "faults")))]
fn before(_: Op) -> io::Result<()> {
    Ok(())
}

pub(crate) fn create(path: &Path) -> io::Result<File> {
    before(Op::Create(path))?;
    File::create(path)
}

/// A file that is not there yet, readable by this user alone.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    before(Op::Create(path))?;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

pub(crate) fn write(file: &mut File, path: &Path, bytes: &[u8]) -> io::Result<()> {
    before(Op::Write(path, bytes))?;
    file.write_all(bytes)
}

pub(crate) fn sync_file(file: &File, path: &Path) -> io::Result<()> {
    before(Op::Sync(path))?;
    file.sync_all()
}

/// Of a file or a folder that is not open.
pub(crate) fn sync(path: &Path) -> io::Result<()> {
    before(Op::Sync(path))?;
    File::open(path)?.sync_all()
}

#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    before(Op::Rename(from, to))?;
    fs::rename(from, to)
}

pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    before(Op::CreateDir(path))?;
    fs::create_dir(path)
}

pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    before(Op::RemoveFile(path))?;
    fs::remove_file(path)
}

/// A file, or a folder with everything in it; a link is removed and not followed.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return remove_file(path);
    }
    for entry in fs::read_dir(path)? {
        remove(&entry?.path())?;
    }
    before(Op::RemoveDir(path))?;
    fs::remove_dir(path)
}

pub(crate) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(dir)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}
