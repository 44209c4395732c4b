//! Who is examined: a synthetic patient and the four attributes that the questions ask for.
//! Attributes are drawn independently, so that no answer ever tells anything about another question.

use crate::random::Random;

/// Ventricular rate, in three ranges that do not touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rate {
    /// 38 to 55 beats a minute.
    Slow,
    /// 64 to 94 beats a minute.
    Normal,
    /// 106 to 150 beats a minute.
    Fast,
}

/// Electrical axis of the frontal plane, in three ranges that do not touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Axis {
    /// -80 to -40 degrees.
    Left,
    /// 5 to 80 degrees.
    Normal,
    /// 105 to 150 degrees.
    Right,
}

/// What is true of one patient, and so of every page of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patient {
    /// How fast the heart beats.
    pub rate: Rate,
    /// Fibrillation waves instead of P waves, and irregular beats.
    pub atrial_fibrillation: bool,
    /// Where the electrical axis points.
    pub axis: Axis,
    /// Raised ST segments in V1 to V4.
    pub st_elevation: bool,
}

impl Patient {
    /// The patient `index` of `seed`: each attribute uniform over its values and independent of the others.
    #[must_use]
    pub fn new(seed: u64, index: u64) -> Self {
        let mut random = Random::new(seed, "patient", index);
        Self {
            rate: [Rate::Slow, Rate::Normal, Rate::Fast][random.below(3)],
            atrial_fibrillation: random.below(2) == 1,
            axis: [Axis::Left, Axis::Normal, Axis::Right][random.below(3)],
            st_elevation: random.below(2) == 1,
        }
    }
}
