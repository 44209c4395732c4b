//! What is asked about a page, and every answer there is.
//! It knows the words, not the tokens, and never looks at a signal or a page.

use crate::patient::Patient;

/// A question about one attribute of the patient; the answer can be read off the page and off nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// Slow, normal or fast.
    Rate,
    /// Atrial fibrillation or P waves.
    AtrialFibrillation,
    /// Left, normal or right.
    Axis,
    /// Anterior ST elevation or none.
    StElevation,
}

impl Question {
    /// All four, in the order of the demo's table.
    pub const ALL: [Self; 4] = [Self::Rate, Self::AtrialFibrillation, Self::Axis, Self::StElevation];

    /// The small variant for tests: ST is learned late, the other three within 450 small steps.
    pub const WITHOUT_ST: [Self; 3] = [Self::Rate, Self::AtrialFibrillation, Self::Axis];

    /// Short name: the end of a held-out row's id, and the row of a table.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::AtrialFibrillation => "af",
            Self::Axis => "axis",
            Self::StElevation => "st",
        }
    }

    /// The human turn.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Rate => "What is the heart rate?",
            Self::AtrialFibrillation => "Is this atrial fibrillation?",
            Self::Axis => "What is the electrical axis?",
            Self::StElevation => "Is there anterior ST elevation?",
        }
    }

    /// Every answer there is, in the order of the attribute's values in [`Patient`].
    #[must_use]
    pub fn answers(self) -> &'static [&'static str] {
        match self {
            Self::Rate => &["The heart rate is slow.", "The heart rate is normal.", "The heart rate is fast."],
            Self::AtrialFibrillation => &["No, there are P waves.", "Yes, this is atrial fibrillation."],
            Self::Axis => &["The axis is deviated left.", "The axis is normal.", "The axis is deviated right."],
            Self::StElevation => &["No, there is no anterior ST elevation.", "Yes, there is anterior ST elevation."],
        }
    }

    /// The true answer for `patient`, one of [`Question::answers`].
    #[must_use]
    pub fn answer(self, patient: &Patient) -> &'static str {
        let which = match self {
            Self::Rate => patient.rate as usize,
            Self::AtrialFibrillation => usize::from(patient.atrial_fibrillation),
            Self::Axis => patient.axis as usize,
            Self::StElevation => usize::from(patient.st_elevation),
        };
        self.answers()[which]
    }
}
