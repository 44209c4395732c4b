//! Answers to ECGBench's questions in, numbers out: how an answer is read, the metrics, their intervals, a judge's replies.
//! It opens no file and runs no model, and every number is a pure function of the answers and a seed.

mod auc;
mod bootstrap;
mod judge;
mod labels;
mod likelihood;
mod options;
mod parity;
mod published;
mod scores;
mod strict;
mod task;

pub use auc::roc_auc;
pub use bootstrap::Bootstrap;
pub use judge::{Reply, ReplyError, parse_reply, request, score_replies};
pub use likelihood::{Likelihood, candidates, score_likelihoods};
pub use published::{PUBLISHED, Published, SOURCE};
pub use scores::{Answered, Basis, Class, Metric, Read, Scores, read, score};
pub use task::{Kind, Scoring, Task, UnknownTask};
