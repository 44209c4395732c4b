//! Faults on demand: what the tests of survival cannot do to a process from outside.
//! Without the feature `faults`, which only the tests' copy of the program has, nothing here does anything.
//!
//! A text of them is `KIND[=NUMBER]@RANK:STEP`, with `*` for every step, a `!` behind it for every attempt and not the
//! first alone, and commas between several: `nan@1:7`, `slow=50@1:*`, `decoder_panic=20@0:*!`.

use std::time::Duration;

use model::{Stat, StepSums};

/// Those of one rank in one attempt.
#[derive(Clone, Debug, Default)]
pub struct Faults(Vec<Fault>);

#[derive(Clone, Debug)]
struct Fault {
    kind: String,
    number: u64,
    /// `None`: every step.
    step: Option<u64>,
}

impl Faults {
    /// The faults of `text` that are meant for `rank` in `attempt` (0 is the first).
    ///
    /// # Errors
    /// The part that is no fault.
    pub fn parse(text: &str, rank: u32, attempt: u32) -> Result<Self, String> {
        let mut faults = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (for_rank, always, fault) = parse(part).ok_or_else(|| part.to_owned())?;
            if for_rank == rank && (always || attempt == 0) {
                faults.push(fault);
            }
        }
        Ok(Self(faults))
    }

    /// The number of a fault of `kind` that is to happen at `step` (counted from 1), 0 where it has none.
    #[must_use]
    pub fn at(&self, kind: &str, step: u64) -> Option<u64> {
        if !cfg!(feature = "faults") {
            return None;
        }
        let fault = self.0.iter().find(|fault| fault.kind == kind && fault.step.is_none_or(|at| at == step))?;
        Some(fault.number)
    }

    /// Sleeps for the milliseconds of a fault of `kind` at `step`.
    pub fn sleep_at(&self, kind: &str, step: u64) {
        if let Some(milliseconds) = self.at(kind, step) {
            std::thread::sleep(Duration::from_millis(milliseconds));
        }
    }

    /// What is no number among the sums of a micro-batch: `nan=MICRO_BATCH`, `inf=`, `nan_gradient=`, `inf_gradient=`.
    pub fn in_sums(&self, step: u64, micro_batch: u64, sums: &mut StepSums) {
        for (kind, value) in [("nan", f32::NAN), ("inf", f32::INFINITY)] {
            if self.at(kind, step) == Some(micro_batch) {
                sums.add(Stat::Loss, value.into());
            }
            if self.at(&format!("{kind}_gradient"), step) == Some(micro_batch) {
                sums.add_gradient(0..1, &[value]);
            }
        }
    }

    /// One bit of a number that is not as it was: `gradient=INDEX`, `weight=INDEX`.
    pub fn in_memory(&self, kind: &str, step: u64, numbers: &mut [f32]) {
        if let Some(index) = self.at(kind, step) {
            let number = &mut numbers[index as usize];
            *number = f32::from_bits(number.to_bits() ^ (1 << 20));
        }
    }

    /// In a decoding thread, before the micro-batch with this first position: `decoder_panic=POSITION`,
    /// `decoder_sleep=POSITION` (for ever).
    pub fn in_decoder(&self, first_position: u64) {
        if self.at("decoder_panic", 0).is_some_and(|from| first_position >= from) {
            panic!("a fault on demand, with the secret word canary");
        }
        while self.at("decoder_sleep", 0).is_some_and(|from| first_position >= from) {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

fn parse(part: &str) -> Option<(u32, bool, Fault)> {
    let (what, place) = part.split_once('@')?;
    let (kind, number) = what.split_once('=').unwrap_or((what, "0"));
    let (rank, step) = place.split_once(':')?;
    let always = step.ends_with('!');
    let step = match step.trim_end_matches('!') {
        "*" => None,
        step => Some(step.parse().ok()?),
    };
    let fault = Fault { kind: kind.to_owned(), number: number.parse().ok()?, step };
    Some((rank.parse().ok()?, always, fault))
}

#[cfg(test)]
mod tests;
