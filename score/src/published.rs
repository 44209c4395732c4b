//! The published numbers that ours stand beside, as printed: percent, Hamming loss included, where lower is better.
//! It holds what papers say, never what this program has measured.

use crate::Task;

/// Where all rows of [`PUBLISHED`] are from.
pub const SOURCE: &str = "Liu, Bai, Yue, Zhang: Teach Multimodal LLMs to Comprehend Electrocardiographic Images \
     (arXiv 2410.19008), tables 3 and 4";

/// A model's published numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Published {
    /// The model.
    pub model: &'static str,
    ptb: [f64; 3],
    report: f64,
    code15: [f64; 3],
    ecgqa: f64,
    cpsc: [f64; 3],
    csn: f64,
    g12: f64,
    mmmu: f64,
    arena: f64,
}

impl Published {
    /// The metrics of a task under our names, in percent.
    #[must_use]
    pub fn of(&self, task: Task) -> Vec<(&'static str, f64)> {
        let three = |[auc, f1, loss]: [f64; 3]| {
            vec![("macro_auc_of_binary_predictions", auc), ("macro_f1", f1), ("hamming_loss", loss)]
        };
        match task {
            Task::PtbTest => three(self.ptb),
            Task::Code15Test => three(self.code15),
            Task::CpscTest => three(self.cpsc),
            Task::PtbTestReport => vec![("score", self.report)],
            Task::EcgqaTest => vec![("exact_set_accuracy", self.ecgqa)],
            Task::CsnTest => vec![("accuracy", self.csn)],
            Task::G12Test => vec![("accuracy", self.g12)],
            Task::MmmuEcg => vec![("accuracy", self.mmmu)],
            Task::Arena => vec![("score", self.arena)],
        }
    }
}

/// A random guess, general models, PULSE's base and PULSE.
pub const PUBLISHED: [Published; 7] = [
    Published {
        model: "random",
        ptb: [50.3, 33.2, 50.1],
        report: 0.0,
        code15: [48.8, 15.0, 32.1],
        ecgqa: 16.2,
        cpsc: [51.2, 15.1, 28.8],
        csn: 11.6,
        g12: 12.1,
        mmmu: 24.2,
        arena: 0.0,
    },
    Published {
        model: "GPT-4o",
        ptb: [55.6, 28.3, 26.2],
        report: 50.2,
        code15: [59.9, 24.9, 15.7],
        ecgqa: 35.2,
        cpsc: [50.9, 10.6, 18.2],
        csn: 57.5,
        g12: 49.2,
        mmmu: 43.5,
        arena: 33.5,
    },
    Published {
        model: "Claude 3.5 Sonnet",
        ptb: [54.0, 27.5, 29.6],
        report: 43.7,
        code15: [58.3, 20.3, 17.8],
        ecgqa: 34.2,
        cpsc: [52.8, 11.5, 18.9],
        csn: 51.5,
        g12: 51.4,
        mmmu: 42.0,
        arena: 37.1,
    },
    Published {
        model: "Gemini 1.5 Pro",
        ptb: [50.7, 15.3, 27.9],
        report: 35.9,
        code15: [56.7, 20.0, 15.9],
        ecgqa: 33.2,
        cpsc: [50.1, 7.4, 20.5],
        csn: 50.5,
        g12: 36.0,
        mmmu: 40.0,
        arena: 31.2,
    },
    Published {
        model: "LLaVA-1.6-Vicuna-7B",
        ptb: [50.0, 15.8, 29.4],
        report: 16.5,
        code15: [50.1, 1.0, 13.6],
        ecgqa: 13.3,
        cpsc: [50.5, 19.7, 66.0],
        csn: 23.7,
        g12: 23.3,
        mmmu: 28.0,
        arena: 16.0,
    },
    Published {
        model: "Qwen2-VL-72B",
        ptb: [54.0, 28.3, 30.2],
        report: 48.9,
        code15: [60.6, 23.6, 16.1],
        ecgqa: 23.7,
        cpsc: [50.7, 9.8, 18.9],
        csn: 35.5,
        g12: 42.9,
        mmmu: 35.0,
        arena: 10.3,
    },
    Published {
        model: "PULSE-7B",
        ptb: [82.4, 74.8, 11.0],
        report: 61.3,
        code15: [90.7, 85.4, 5.0],
        ecgqa: 73.8,
        cpsc: [76.9, 57.6, 8.6],
        csn: 85.2,
        g12: 78.2,
        mmmu: 58.0,
        arena: 38.9,
    },
];
