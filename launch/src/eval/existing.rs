//! Scores of answers that are there, asked by this program or another, and of a judge's replies about them.
//! It never asks a model.

use std::path::Path;

use score::Kind;

use super::answers::{self, Golds};
use super::rows::Rows;
use super::{Entry, EvalError, judge, score_answers, warn_of_count};
use crate::cli::EvalArgs;
use crate::{Error, say};

pub(super) fn score(file: &Path, args: &EvalArgs) -> Result<Vec<Entry>, Error> {
    let [task] = args.task[..] else { return Err(EvalError::ManyTasks.into()) };
    let golds = args.data.as_deref().map(|data| Golds::read(&Rows::open(data, task, true)?)).transpose()?;
    let answers = answers::read(file, task, golds.as_ref())?;
    let pages = answers::pages_of(file);
    let first_questions = answers.iter().filter(|answer| answer.turn == 0).count();
    warn_of_count(task, first_questions);
    let is_judged = matches!(task.kind(), Kind::Judged(_));
    match (is_judged, &args.judge_replies, &args.out) {
        (false, None, _) => Ok(score_answers(task, pages, &answers, args)),
        (false, Some(_), _) => {
            Err(EvalError::Judge { task, what: "is scored without a judge; leave --judge-replies out" }.into())
        }
        (true, Some(replies), _) => {
            let replies = judge::read_replies(replies, task, answers.len())?;
            let scores = score::score_replies(task, &replies, args.bootstrap());
            Ok(scores.into_iter().map(|scores| Entry { pages, bootstrap: args.bootstrap(), scores }).collect())
        }
        (true, None, Some(out)) => {
            storage::create_dir(out)?;
            let requests = out.join(pages.file("judge-requests"));
            let lines = judge::requests(task, &answers, &args.judge_model).unwrap_or_default();
            storage::publish_file(&requests, lines.as_bytes())?;
            say(&format!("{task}: {} requests for a judge: {}", answers.len(), requests.display()));
            Ok(Vec::new())
        }
        (true, None, None) => {
            let what = "needs a judge: give its replies with --judge-replies, or --out for the requests to it";
            Err(EvalError::Judge { task, what }.into())
        }
    }
}
