//! The encoded page of a row, wherever its writer stored it: in the cell, or in a file that the cell names.
//! It never follows a path out of the data set's folder.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path};

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_schema::DataType;

use crate::{Fault, cell};

/// Largest page file read.
const MAX_BYTES: u64 = 256 << 20;

/// The page in the first cell of a column: a struct of bytes and path, plain bytes, a path, or a list of one of them.
pub(crate) fn page(column: &dyn Array, folder: &Path) -> Result<Vec<u8>, Fault> {
    let items = cell::list(column, 0);
    let (bytes, path) = match &items {
        Some(items) if items.len() == 1 => parts(items, 0),
        Some(items) if items.is_empty() => return Err(Fault::NoImage("the list is empty")),
        Some(items) => return Err(Fault::ManyImages(items.len())),
        None => parts(column, 0),
    };
    match (bytes, path) {
        (Some([]), _) => Err(Fault::NoImage("0 bytes")),
        (Some(bytes), _) => Ok(bytes.to_vec()),
        (None, Some(path)) => in_folder(folder, path),
        (None, None) => Err(Fault::NoImage("null")),
    }
}

/// The path in a page's cell.
pub(crate) fn path(column: &dyn Array, i: usize) -> Option<&str> {
    parts(column, i).1
}

fn parts(array: &dyn Array, i: usize) -> (Option<&[u8]>, Option<&str>) {
    match array.data_type() {
        DataType::Struct(_) if array.is_valid(i) => {
            let column = |name| array.as_struct().column_by_name(name);
            (column("bytes").and_then(|c| cell::bytes(c, i)), column("path").and_then(|c| cell::text(c, i)))
        }
        _ => (cell::bytes(array, i), cell::text(array, i)),
    }
}

/// The folder that a file lies in.
pub(crate) fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file in the data set's folder, or in the folder `images` there; never anywhere else.
pub(crate) fn in_folder(folder: &Path, path: &str) -> Result<Vec<u8>, Fault> {
    const ABSENT: Fault = Fault::NoImage("no bytes, and its path leads to no file in the data set's folder");
    let path = Path::new(path);
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(Fault::NoImage("its path leaves the data set's folder"));
    }
    let folder = folder.canonicalize().map_err(|_| ABSENT)?;
    let found = [folder.join(path), folder.join("images").join(path)].into_iter().find_map(|p| p.canonicalize().ok());
    let found = found.filter(|p| p.starts_with(&folder) && p.is_file()).ok_or(ABSENT)?;
    let mut bytes = Vec::new();
    let read = File::open(found).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes));
    read.map_or(Err(ABSENT), |_| Ok(bytes))
}
