//! Which row stands at which position: a pure function of (seed, epoch, position).
//! It keeps no state that a run would have to save; the only cache is a permutation that can be computed again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::units::Pages;

/// How the rows of an epoch are put in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shuffle {
    /// As they lie in the files.
    FileOrder,
    /// This project's bijection: O(1) a position, no table.
    Own,
    /// `torch.randperm` with seed + epoch, as accelerate's `SeedableRandomSampler`; one table an epoch.
    /// The same as torch's below 2^32 / 20 rows, above which torch draws 64-bit numbers.
    Hf,
}

/// The order of every epoch of a run.
#[derive(Debug)]
pub struct Order {
    n_rows: usize,
    seed: u64,
    shuffle: Shuffle,
    /// Pages whose rows stand together, how many of them, and the size of the micro-batches they are packed into.
    pages: Option<(Pages, usize, usize)>,
    /// The tables of two epochs: at the end of one, the loader is already in the next.
    tables: Mutex<VecDeque<(u64, Arc<[u32]>)>>,
}

impl Order {
    /// An order over rows `0..n_rows`.
    #[must_use]
    pub fn new(n_rows: usize, seed: u64, shuffle: Shuffle) -> Self {
        Self { n_rows, seed, shuffle, pages: None, tables: Mutex::default() }
    }

    /// The project's own order with up to `most` rows of a page together in each micro-batch.
    #[must_use]
    pub fn by_page(self, pages: Pages, most: usize, micro_batch_size: usize) -> Self {
        Self { shuffle: Shuffle::Own, pages: Some((pages, most.max(1), micro_batch_size.max(1))), ..self }
    }

    /// The pages by which rows are brought together, if they are.
    #[must_use]
    pub fn pages(&self) -> Option<&Pages> {
        self.pages.as_ref().map(|(pages, ..)| pages)
    }

    /// Positions in one epoch. Each row stands at exactly one, so the last global batch is simply shorter;
    /// except that `Hf` with several `reference_ranks` replays accelerate's `even_batches`: an incomplete last
    /// round of micro-batches is filled from the start of the same epoch's order.
    #[must_use]
    pub fn epoch_len(&self, micro_batch_size: usize, reference_ranks: usize) -> usize {
        if self.shuffle == Shuffle::Hf && reference_ranks > 1 {
            self.n_rows.next_multiple_of((micro_batch_size * reference_ranks).max(1))
        } else {
            self.n_rows
        }
    }

    /// The row at a position of an epoch; positions beyond the last row begin again with the epoch's first.
    #[must_use]
    pub fn row(&self, epoch: u64, position: usize) -> usize {
        let position = position % self.n_rows.max(1);
        let of_table = |table: Arc<[u32]>| table.get(position).map_or(0, |&row| row as usize);
        match self.shuffle {
            _ if self.pages.is_some() => of_table(self.table(epoch)),
            Shuffle::FileOrder => position,
            Shuffle::Own => feistel(self.n_rows, self.seed, epoch, position),
            Shuffle::Hf => of_table(self.table(epoch)),
        }
    }

    fn table(&self, epoch: u64) -> Arc<[u32]> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, table)) = tables.iter().find(|(at, _)| *at == epoch) {
            return table.clone();
        }
        let table: Arc<[u32]> = match &self.pages {
            Some((pages, most, micro_batch_size)) => pages.order(self.seed, epoch, *most, *micro_batch_size),
            None => randperm(self.n_rows, self.seed.wrapping_add(epoch)),
        }
        .into();
        tables.truncate(1);
        tables.push_front((epoch, table.clone()));
        table
    }
}

/// A keyed Feistel network over a square just large enough, walked until it lands inside `0..n_rows`
/// (Black and Rogaway, "Ciphers with arbitrary finite domains"): at most a few percent of positions need a second walk.
pub(crate) fn feistel(n_rows: usize, seed: u64, epoch: u64, position: usize) -> usize {
    const ROUNDS: u64 = 8;
    let n = n_rows as u64;
    let side = n.saturating_sub(1).isqrt() + 1;
    let key = mix(mix(seed) ^ epoch);
    let mut x = position as u64;
    loop {
        let (mut left, mut right) = (x / side, x % side);
        for round in 0..ROUNDS {
            (left, right) = (right, (left + mix(key ^ mix(right * ROUNDS + round)) % side) % side);
        }
        x = left * side + right;
        if x < n {
            return x as usize;
        }
    }
}

/// The finaliser of splitmix64.
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// `torch.randperm(n, generator=torch.Generator().manual_seed(seed))`; the CPU generator keeps the seed's low 32 bits.
fn randperm(n: usize, seed: u64) -> Vec<u32> {
    let mut random = Mt19937::new(seed as u32);
    let mut table: Vec<u32> = (0..n as u32).collect();
    for i in 0..n.saturating_sub(1) {
        let j = i + random.next_u32() as usize % (n - i);
        table.swap(i, j);
    }
    table
}

/// Matsumoto and Nishimura's generator, seeded by `init_genrand`, as in torch and numpy's `RandomState`.
struct Mt19937 {
    state: [u32; Self::N],
    at: usize,
}

impl Mt19937 {
    const N: usize = 624;
    const M: usize = 397;

    fn new(seed: u32) -> Self {
        let mut state = [seed; Self::N];
        for i in 1..Self::N {
            let previous = state[i - 1];
            state[i] = 1_812_433_253_u32.wrapping_mul(previous ^ (previous >> 30)).wrapping_add(i as u32);
        }
        Self { state, at: 0 }
    }

    /// Twists one word at a time: word i needs words i, i + 1 and i + M, which lie ahead of it or are already new.
    fn next_u32(&mut self) -> u32 {
        let (s, i) = (&mut self.state, self.at);
        self.at = (i + 1) % Self::N;
        let y = (s[i] & 0x8000_0000) | (s[self.at] & 0x7fff_ffff);
        s[i] = s[(i + Self::M) % Self::N] ^ (y >> 1) ^ if y & 1 == 1 { 0x9908_b0df } else { 0 };
        let mut y = s[i];
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }
}

#[cfg(test)]
mod tests;
