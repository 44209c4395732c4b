//! Memory of matrices, used again instead of given back to the system: a step needs the same sizes as the one before,
//! and fresh pages cost as much as the work done on them. Never more is held than was in use at once.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Numbers below which the system's allocator is as good.
const SMALL: usize = 1 << 12;

/// A run of numbers. When dropped, its memory serves the next one of about its size.
#[derive(Debug)]
pub struct Buffer {
    /// At least `len` numbers.
    memory: Vec<f32>,
    len: usize,
}

impl Buffer {
    /// `n` numbers of no particular value, to be written before they are read.
    pub fn stale(n: usize) -> Self {
        if n < SMALL {
            return Self { memory: vec![0.0; n], len: n };
        }
        let class = class(n);
        let found = pool(|pool| pool.take(class));
        Self { memory: found.unwrap_or_else(|| vec![0.0; class]), len: n }
    }

    pub fn zeros(n: usize) -> Self {
        let mut new = Self::stale(n);
        new.fill(0.0);
        new
    }
}

impl From<Vec<f32>> for Buffer {
    fn from(memory: Vec<f32>) -> Self {
        let len = memory.len();
        if len >= SMALL {
            pool(|pool| pool.in_use += len);
        }
        Self { memory, len }
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.memory[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[..self.len]
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        let mut new = Self::stale(self.len);
        new.copy_from_slice(self);
        new
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.memory.len() >= SMALL {
            let memory = std::mem::take(&mut self.memory);
            pool(|pool| pool.give(memory));
        }
    }
}

/// Sizes that share memory: an eighth of a power of two apart.
fn class(n: usize) -> usize {
    n.next_multiple_of((n.next_power_of_two() / 16).max(1))
}

/// Memory that nobody uses now, by its size; all sizes in numbers.
struct Pool {
    free: BTreeMap<usize, Vec<Vec<f32>>>,
    in_use: usize,
    most_in_use: usize,
    held: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { free: BTreeMap::new(), in_use: 0, most_in_use: 0, held: 0 });

fn pool<R>(f: impl FnOnce(&mut Pool) -> R) -> R {
    f(&mut POOL.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Pool {
    fn take(&mut self, class: usize) -> Option<Vec<f32>> {
        self.in_use += class;
        let found = self.free.get_mut(&class).and_then(Vec::pop);
        if found.is_some() {
            self.held -= class;
        }
        self.most_in_use = self.most_in_use.max(self.in_use);
        self.shrink();
        found
    }

    fn give(&mut self, memory: Vec<f32>) {
        let n = memory.len();
        self.in_use = self.in_use.saturating_sub(n);
        if n == class(n) {
            self.held += n;
            self.free.entry(n).or_default().push(memory);
            self.shrink();
        }
    }

    /// Gives back to the system what is more than was ever in use at once, the smallest sizes first.
    fn shrink(&mut self) {
        while self.held > 0 && self.in_use + self.held > self.most_in_use {
            let Some(mut entry) = self.free.first_entry() else { return };
            match entry.get_mut().pop() {
                Some(memory) => self.held -= memory.len(),
                None => drop(entry.remove()),
            }
        }
    }
}

#[cfg(test)]
mod tests;
