//! Rows that break the rules, found before the first step of a run on data that was not prepared.
//! It never leaves a row out in the middle of a run: which rows a step holds stays a pure function, equal on all ranks.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::manifest::BadRow;
use crate::page::decode;
use crate::{Dataset, Error, Fault, Learn, Result};

impl Dataset {
    /// Reads and decodes every row, leaves out those that a run could not learn from, and returns them in their order.
    /// It costs what an epoch's decoding costs; rows of prepared folders were looked at when they were prepared.
    ///
    /// # Errors
    /// More than `max` bad rows, those in the manifests of prepared folders included; damage of a file.
    pub fn leave_out_bad_rows(&mut self, max: u64, learn: &Learn, n_threads: usize) -> Result<Vec<BadRow>> {
        let listed: usize = self.manifests().map(|manifest| manifest.bad_rows.len()).sum();
        let found = if self.is_prepared() { Vec::new() } else { self.bad_rows(learn, n_threads)? };
        if let Some((_, error)) = found.get(usize::try_from(max).unwrap_or(usize::MAX).saturating_sub(listed)) {
            return Err(Error::TooManyBadRows { max, last: error.to_string() });
        }
        if listed as u64 > max {
            return Err(Error::ListedBadRows { max, listed });
        }
        let rows = found.iter().map(|(row, _)| *row).collect();
        self.drop_rows(&rows);
        Ok(found.iter().filter_map(|(_, error)| error.bad_row()).collect())
    }

    /// Every bad row with what is wrong with it, in their order.
    fn bad_rows(&self, learn: &Learn, n_threads: usize) -> Result<Vec<(usize, Error)>> {
        let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = || {
            loop {
                let row = next.fetch_add(1, Ordering::Relaxed);
                if row >= self.len() {
                    return;
                }
                if let (Err(error), Ok(mut found)) = (self.look_at(row, learn), found.lock()) {
                    found.push((row, error));
                }
            }
        };
        thread::scope(|scope| (0..n_threads.max(1)).for_each(|_| drop(scope.spawn(work))));
        let mut found = found.into_inner().unwrap_or_default();
        found.sort_by_key(|(row, _)| *row);
        match found.iter().position(|(_, error)| !matches!(error, Error::Row { .. })) {
            Some(damaged) => Err(found.swap_remove(damaged).1),
            None => Ok(found),
        }
    }

    fn look_at(&self, row: usize, learn: &Learn) -> Result<()> {
        let row = self.row(row)?;
        let learned = learn.template.encode(&row.messages, learn.loss_on, learn.max_seq_len).map(|_| ());
        let fault = decode(&row.image).map(|_| ()).map_err(Fault::from).and(learned);
        fault.map_err(|fault| row.error(fault))
    }
}
