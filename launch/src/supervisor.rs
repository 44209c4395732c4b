//! `ecg-train launch`: one attempt after the other, each from the newest good checkpoint, as long as the run gets on.
//! It never computes, and nobody outlives it: workers read the end of their control pipe as the end of the job.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::rand::{GetRandomFlags, getrandom};
use trainer::Places;

use crate::attempt::{self, Failure, Plan, Surroundings, Verdict};
use crate::budget::{Budget, Next};
use crate::cli::LaunchArgs;
use crate::control::Job;
use crate::event_log::{Entry, EventLog, What};
use crate::progress::Progress;
use crate::requests::Requests;
use crate::workers::Group;
use crate::{Error, Outcome, environment, run_folder, say};

/// Between two looks at requests while nothing runs.
const TICK: Duration = Duration::from_millis(50);

/// Runs a training job on this machine to its end.
///
/// # Errors
/// A config that cannot run (before any process is started), a failure that another attempt cannot mend, or the last
/// one when the budget of attempts is spent.
pub fn launch(args: &LaunchArgs) -> Result<Outcome, Error> {
    if args.gpus.is_some() && !cfg!(feature = "cuda") {
        return Err(Error::NoCuda);
    }
    let n_workers = args.gpus.or(args.cpus).unwrap_or(1);
    let (config, places) = run_folder::load(&args.config, &args.run)?;
    config.train.require_work_for(n_workers as usize).map_err(trainer::Error::from)?;
    run_folder::without_effect(&config).iter().for_each(|text| say(&format!("warning: {text}")));
    let resolved = run_folder::open(&config, args.run.from_scratch)?;
    let run_dir = &config.output_dir;
    let around = Surroundings {
        progress: Progress::new(&config),
        log: EventLog::open(run_dir),
        requests: Requests::listen(run_dir)?,
    };
    let budget = Budget::new(args.max_restarts);
    let program = environment::program_hash(n_workers)?;
    let logs = run_dir.join("logs");
    let supervisor = Supervisor { args, n_workers, resolved, places, logs, program, around, budget };
    supervisor.run()
}

struct Supervisor<'a> {
    args: &'a LaunchArgs,
    n_workers: u32,
    /// The config in the run folder.
    resolved: PathBuf,
    /// Where what it names lies here.
    places: Places,
    logs: PathBuf,
    program: [u8; 32],
    around: Surroundings,
    budget: Budget,
}

impl Supervisor<'_> {
    fn run(mut self) -> Result<Outcome, Error> {
        for number in 0.. {
            // Of each attempt its own, so that nothing said in an earlier one is heard in a later one.
            let (notify, notices) = mpsc::channel();
            match attempt::run(self.plan(number)?, &mut self.around, &notify, &notices)? {
                Verdict::Finished => {
                    self.around.log.write(&Entry::new(number, What::Finished));
                    self.around.progress.summary(Outcome::Done);
                    return Ok(Outcome::Done);
                }
                Verdict::Stopped { at_boundary } => return self.stopped(number, at_boundary),
                Verdict::Failed { failure, first_step, last_step } => {
                    if !self.may_begin_again(number, failure, first_step, last_step)? {
                        return self.stopped(number, false);
                    }
                }
            }
        }
        unreachable!("attempts are without number")
    }

    fn plan(&self, number: u32) -> Result<Plan, Error> {
        let job = Job {
            job_key: new_job_key()?,
            config: self.resolved.clone(),
            places: self.places.clone(),
            // Of this run's own checkpoints none is refused.
            from_scratch: self.args.run.from_scratch && number == 0,
            gpu: self.args.gpus.is_some(),
            attempt: number,
            deadlines: self.args.deadlines.for_ranks(),
            program: self.program,
        };
        Ok(Plan {
            number,
            group: Group { first_rank: 0, n_workers: self.n_workers, world_size: self.n_workers },
            job,
            logs: self.logs.clone(),
            patience: self.args.deadlines.patience,
            grace: self.args.grace,
        })
    }

    fn stopped(mut self, number: u32, at_boundary: bool) -> Result<Outcome, Error> {
        self.around.requests.clear_file()?;
        let how = if at_boundary { "after a checkpoint" } else { "the newest checkpoint stands" };
        self.around.log.write(&Entry::new(number, What::Stopped).saying(how));
        self.around.progress.summary(Outcome::Stopped);
        Ok(Outcome::Stopped)
    }

    /// After a failed attempt: waits for the next one, unless there is to be none (an error) or somebody asks to stop (false).
    fn may_begin_again(
        &mut self,
        number: u32,
        failure: Failure,
        first_step: u64,
        last_step: u64,
    ) -> Result<bool, Error> {
        let Failure { rank, error, may_pass, .. } = failure;
        if !may_pass {
            self.around.progress.close();
            return Err(error);
        }
        match self.budget.judge(first_step, last_step, &error.to_string()) {
            Next::Restart(delay) => {
                let seconds = delay.as_secs_f64();
                let text = format!("all ranks begin again from the newest good checkpoint in {seconds:.2} s");
                self.around.progress.note(&format!("{error}\n{text}"));
                self.around.log.write(&Entry::new(number, What::Restart).saying(&text));
                Ok(self.pause(delay))
            }
            Next::GiveUp(why) => {
                self.around.log.write(&Entry::new(number, What::GaveUp).saying(&format!("rank {rank}: {why}")));
                self.around.progress.close();
                if self.budget.n_restarts() == 0 {
                    return Err(error);
                }
                Err(Error::GaveUp { why, table: self.budget.table(), last: Box::new(error) })
            }
        }
    }

    /// Waits; false if somebody asks to stop meanwhile.
    fn pause(&mut self, time: Duration) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < time {
            if self.around.requests.next().is_some() {
                return false;
            }
            thread::sleep(TICK.min(time));
        }
        true
    }
}

/// Thirty-two bytes that nobody can guess: a connection without them does not belong to the job.
fn new_job_key() -> Result<[u8; 32], Error> {
    let failed = |source| Error::Process { what: "the system's random numbers", source };
    let mut key = [0; 32];
    let n = getrandom(&mut key[..], GetRandomFlags::empty()).map_err(|errno| failed(errno.into()))?;
    if n < key.len() {
        return Err(failed(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(key)
}

#[cfg(test)]
mod tests;
