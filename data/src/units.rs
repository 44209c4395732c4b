//! Rows that show one page stand together: units of a page's rows, and micro-batches packed with whole units.
//! A pure function of what it is given; no row is lost or doubled.

use std::collections::VecDeque;

use crate::order::{feistel, mix};

/// Units that may wait for a micro-batch with enough room before one of them is cut.
const WAITING: usize = 64;

/// Which rows show the same page.
#[derive(Debug)]
pub struct Pages {
    /// Rows, those of a page together.
    rows: Vec<u32>,
    /// Where each page's rows end in `rows`.
    ends: Vec<u32>,
    /// The page of each row.
    of: Vec<u32>,
}

impl Pages {
    /// From the key of each row's page; rows with equal keys show the same page.
    #[must_use]
    pub fn new<K: Ord>(keys: &[K]) -> Self {
        let mut rows: Vec<u32> = (0..keys.len() as u32).collect();
        rows.sort_unstable_by_key(|&row| (&keys[row as usize], row));
        let same = |a: &u32, b: &u32| keys[*a as usize] == keys[*b as usize];
        let ends = rows.chunk_by(same).scan(0, |end, page| {
            *end += page.len() as u32;
            Some(*end)
        });
        let ends: Vec<u32> = ends.collect();
        let mut of = vec![0; rows.len()];
        let mut start = 0;
        for (page, &end) in ends.iter().enumerate() {
            rows[start..end as usize].iter().for_each(|&row| of[row as usize] = page as u32);
            start = end as usize;
        }
        Self { rows, ends, of }
    }

    /// Whether two rows show the same page.
    #[must_use]
    pub fn same(&self, a: usize, b: usize) -> bool {
        self.of[a] == self.of[b]
    }

    /// Rows by position of an epoch: each page's rows in units of at most `most`, other ones each epoch, the units in a
    /// random order and packed into micro-batches.
    pub(crate) fn order(&self, seed: u64, epoch: u64, most: usize, micro_batch_size: usize) -> Vec<u32> {
        let key = mix(mix(seed) ^ epoch);
        let mut rows = self.rows.clone();
        let mut units = Vec::with_capacity(self.ends.len());
        let mut start = 0;
        for &end in &self.ends {
            let page = &mut rows[start as usize..end as usize];
            for i in (1..page.len()).rev() {
                page.swap(i, (mix(key ^ mix(u64::from(page[i]))) % (i as u64 + 1)) as usize);
            }
            units.extend((start..end).step_by(most).map(|first| first..end.min(first + most as u32)));
            start = end;
        }
        let shuffled = (0..units.len()).map(|at| units[feistel(units.len(), seed, epoch, at)].clone());
        pack(shuffled.map(|unit| &rows[unit.start as usize..unit.end as usize]), micro_batch_size)
    }
}

/// Rows of `units`, so that no unit lies in two micro-batches where that can be avoided: what does not fit into the room
/// that is left waits for the next micro-batch, and is cut only when nothing that waits fits.
pub fn pack<'a, T: Copy + 'a>(units: impl Iterator<Item = &'a [T]>, micro_batch_size: usize) -> Vec<T> {
    let mut units = units.fuse();
    let mut waiting: VecDeque<&[T]> = VecDeque::new();
    let mut packed = Vec::with_capacity(units.size_hint().0);
    loop {
        let room = micro_batch_size - packed.len() % micro_batch_size;
        let fitting = waiting.iter().position(|unit| unit.len() <= room);
        let unit = match fitting.and_then(|at| waiting.remove(at)) {
            Some(unit) => unit,
            None => match units.next() {
                Some(unit) if unit.len() <= room => unit,
                Some(unit) if waiting.len() < WAITING && unit.len() <= micro_batch_size => {
                    waiting.push_back(unit);
                    continue;
                }
                late => {
                    waiting.extend(late);
                    let Some(first) = waiting.pop_front() else { return packed };
                    let (now, later) = first.split_at(room.min(first.len()));
                    if !later.is_empty() {
                        waiting.push_front(later);
                    }
                    now
                }
            },
        };
        packed.extend_from_slice(unit);
    }
}

#[cfg(test)]
mod tests;
