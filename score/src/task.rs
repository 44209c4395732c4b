//! The nine tasks of ECGBench: their names, how many rows were published, and what an answer to each may be.
//! It never looks at an answer.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A task, under the name of its configuration on the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Task {
    /// PTB-XL's superclasses.
    PtbTest,
    /// CPSC 2018.
    CpscTest,
    /// CODE-15%.
    Code15Test,
    /// Chapman-Shaoxing-Ningbo.
    CsnTest,
    /// Georgia 12-lead.
    G12Test,
    /// ECG questions in the manner of MMMU.
    MmmuEcg,
    /// ECG-QA.
    EcgqaTest,
    /// Reports about PTB-XL, which a judge scores.
    PtbTestReport,
    /// Open dialogues, which a judge scores.
    Arena,
}

/// What an answer is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any of these labels.
    Labels(&'static [&'static str]),
    /// One of these letters.
    Letters(&'static [char]),
    /// Any of the options that the question lists.
    Options,
    /// Words, which a judge scores by these criteria.
    Judged(&'static [&'static str]),
}

/// How answers are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scoring {
    /// As the published script, so that numbers compare; an answer it would replace by a random letter is wrong.
    Parity,
    /// Without the script's traps (docs/eval.md).
    Strict,
}

/// A name that is no task's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0} is no task of ECGBench; one of {names}", names = Task::ALL.map(Task::name).join(", "))]
pub struct UnknownTask(String);

const A_TO_H: &[char] = &['A', 'B', 'C', 'D', 'E', 'F', 'G', 'H'];

impl Task {
    /// All nine, in the order of the published table.
    pub const ALL: [Self; 9] = [
        Self::PtbTest,
        Self::PtbTestReport,
        Self::Code15Test,
        Self::EcgqaTest,
        Self::CpscTest,
        Self::CsnTest,
        Self::G12Test,
        Self::MmmuEcg,
        Self::Arena,
    ];

    /// Its configuration on the hub.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PtbTest => "ptb-test",
            Self::CpscTest => "cpsc-test",
            Self::Code15Test => "code15-test",
            Self::CsnTest => "csn-test-no-cot",
            Self::G12Test => "g12-test-no-cot",
            Self::MmmuEcg => "mmmu-ecg",
            Self::EcgqaTest => "ecgqa-test",
            Self::PtbTestReport => "ptb-test-report",
            Self::Arena => "arena",
        }
    }

    /// Every name under which its files are met.
    #[must_use]
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::PtbTest => &["ptb-test"],
            Self::CpscTest => &["cpsc-test"],
            Self::Code15Test => &["code15-test"],
            Self::CsnTest => &["csn-test-no-cot", "csn-test"],
            Self::G12Test => &["g12-test-no-cot", "g12-test"],
            Self::MmmuEcg => &["mmmu-ecg"],
            Self::EcgqaTest => &["ecgqa-test"],
            Self::PtbTestReport => &["ptb-test-report"],
            Self::Arena => &["arena"],
        }
    }

    /// Rows that were published; the published numbers are about all of them.
    #[must_use]
    pub fn published_rows(self) -> usize {
        match self {
            Self::PtbTest => 2082,
            Self::CpscTest => 2061,
            Self::Code15Test => 1400,
            Self::CsnTest => 1611,
            Self::G12Test => 2026,
            Self::MmmuEcg => 200,
            Self::EcgqaTest => 1317,
            Self::PtbTestReport => 500,
            Self::Arena => 50,
        }
    }

    /// What an answer may be.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::PtbTest => Kind::Labels(&["NORM", "MI", "STTC", "CD", "HYP"]),
            Self::CpscTest => Kind::Labels(&["NORM", "AF", "I-AVB", "LBBB", "RBBB", "PAC", "PVC", "STD", "STE"]),
            Self::Code15Test => Kind::Labels(&["NORM", "ABNORMAL", "1dAVb", "RBBB", "LBBB", "SB", "ST", "AF"]),
            Self::CsnTest | Self::G12Test => Kind::Letters(A_TO_H),
            Self::MmmuEcg => Kind::Letters(&['A', 'B', 'C', 'D']),
            Self::EcgqaTest => Kind::Options,
            Self::PtbTestReport => Kind::Judged(&["Diagnosis", "Waveform", "Rhythm"]),
            Self::Arena => Kind::Judged(&["Accuracy", "Completeness", "Instruction Adherence"]),
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Task {
    type Err = UnknownTask;

    fn from_str(name: &str) -> Result<Self, UnknownTask> {
        Self::ALL.into_iter().find(|task| task.names().contains(&name)).ok_or_else(|| UnknownTask(name.to_owned()))
    }
}

impl TryFrom<String> for Task {
    type Error = UnknownTask;

    fn try_from(name: String) -> Result<Self, UnknownTask> {
        name.parse()
    }
}

impl From<Task> for String {
    fn from(task: Task) -> Self {
        task.name().to_owned()
    }
}

impl Scoring {
    /// Both, the published one first.
    pub const ALL: [Self; 2] = [Self::Parity, Self::Strict];

    /// As in JSON and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Parity => "parity",
            Self::Strict => "strict",
        }
    }
}
