//! `ecg-train launch`: one attempt after the other, each from the newest good checkpoint, as long as the run gets on.
//! It never computes, and nobody outlives it: workers read the end of their control pipe as the end of the job.

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use model::engine::Backend;
use trainer::{Config, Places};

use crate::attempt::{self, Failure, Plan, Surroundings, Verdict};
use crate::budget::{Budget, Next};
use crate::cli::LaunchArgs;
use crate::cluster;
use crate::control::Job;
use crate::event_log::{Entry, EventLog, What};
use crate::progress::Progress;
use crate::requests::Requests;
use crate::stores::Access;
use crate::together::{Share, Together};
use crate::{Error, Outcome, environment, machine, run_folder, stores};

/// Between two looks at requests while nothing runs.
const TICK: Duration = Duration::from_millis(50);

/// Runs a training job on this machine to its end.
///
/// # Errors
/// A config that cannot run (before any process is started), a failure that another attempt cannot mend, or the last
/// one when the budget of attempts is spent.
pub fn launch(args: &LaunchArgs) -> Result<Outcome, Error> {
    let backend = args.gpus.map(|_| Backend::of_build(args.backend)).transpose()?;
    let n_workers = args.gpus.or(args.cpus).unwrap_or(1);
    let place = cluster::place(&args.nodes)?;
    place.require_workers(n_workers, if args.gpus.is_some() { "--gpus" } else { "--cpus" })?;
    if let Some(backend) = backend {
        backend.require(n_workers as usize)?;
    }
    let (config, places) = run_folder::load(&args.config, &args.run)?;
    config.train.require_work_for(n_workers as usize).map_err(trainer::Error::from)?;
    let run_dir = &config.output_dir;
    // Of several nodes one writes the config, before the others are met; they run that one.
    let resolved = match place.node_rank {
        0 => run_folder::open(&config, args.run.from_scratch)?,
        _ => run_folder::resolved_by_node_0(&config)?,
    };
    let mut around = Surroundings {
        progress: Progress::new(&config, args.verbosity()),
        log: EventLog::open(run_dir, place.node_rank),
        requests: Requests::listen(run_dir)?,
    };
    let budget = Budget::new(args.max_restarts);
    let program = environment::program_hash(n_workers.max(place.n_nodes))?;
    let with = machine::described(n_workers, args.gpus.is_some(), place.n_nodes, program);
    around.log.write(&Entry::new(0, What::Environment).saying(&with));
    let together = Together::open(args, place, &config, n_workers, program)?;
    let supervisor = Supervisor { args, backend, config: &config, resolved, places, program, around, budget, together };
    supervisor.run()
}

struct Supervisor<'a> {
    args: &'a LaunchArgs,
    /// Of the GPUs; none on the CPU.
    backend: Option<Backend>,
    config: &'a Config,
    /// The config in the run folder.
    resolved: PathBuf,
    /// Where what it names lies here.
    places: Places,
    program: [u8; 32],
    around: Surroundings,
    budget: Budget,
    together: Together,
}

impl Supervisor<'_> {
    fn run(mut self) -> Result<Outcome, Error> {
        let mut number = 0;
        loop {
            // Of each attempt its own, so that nothing said in an earlier one is heard in a later one.
            let (notify, notices) = mpsc::channel();
            let requests = &mut self.around.requests;
            let share = self.together.begin(number, &notify, &mut || requests.next().is_some())?;
            let Some(share) = share else { return self.stopped(number, false) };
            number = share.number;
            let has_rank_0 = share.group.first_rank == 0;
            let verdict = attempt::run(self.plan(share)?, &mut self.around, &notify, &notices)?;
            if has_rank_0 {
                // A save that was cut short with its worker; should this fail, the next start does it.
                let _ = storage::sweep(&self.config.output_dir);
            }
            match self.together.judge(verdict) {
                Verdict::Finished => {
                    self.around.log.write(&Entry::new(number, What::Finished));
                    self.say_summary(Outcome::Done);
                    return Ok(Outcome::Done);
                }
                Verdict::Stopped { at_boundary } => return self.stopped(number, at_boundary),
                Verdict::Failed { failure, first_step, last_step } => {
                    if !self.may_begin_again(number, failure, first_step, last_step)? {
                        return self.stopped(number, false);
                    }
                }
            }
            number += 1;
        }
    }

    /// Only where rows lie in a store: otherwise no worker gets any of it.
    fn stores(&self) -> Option<Box<Access>> {
        let mut rows = self.places.train.iter().chain(&self.places.eval);
        let access = || Access::of_shell().for_data(&self.config.data).for_run(self.args.deadlines.patience);
        rows.any(|path| stores::is_address(path)).then(|| Box::new(access()))
    }

    fn plan(&self, share: Share) -> Result<Plan, Error> {
        let Share { number, group, job_key, listen, speaker } = share;
        self.config.train.require_work_for(group.world_size as usize).map_err(trainer::Error::from)?;
        let job = Job {
            job_key,
            config: self.resolved.clone(),
            places: self.places.clone(),
            // Of this run's own checkpoints none is refused.
            from_scratch: self.args.run.from_scratch && number == 0,
            backend: self.backend,
            attempt: number,
            deadlines: self.args.deadlines.for_ranks(),
            listen,
            program: self.program,
            stores: self.stores(),
        };
        Ok(Plan {
            number,
            group,
            job,
            logs: self.config.output_dir.join("logs"),
            patience: self.args.deadlines.patience,
            grace: self.args.grace,
            speaker,
        })
    }

    /// Of several nodes the first speaks for all.
    fn say_summary(&mut self, outcome: Outcome) {
        if self.together.is_first() {
            self.around.progress.summary(outcome);
        }
    }

    fn stopped(mut self, number: u32, at_boundary: bool) -> Result<Outcome, Error> {
        self.around.requests.clear_file()?;
        let how = if at_boundary { "after a checkpoint" } else { "the newest checkpoint stands" };
        self.around.log.write(&Entry::new(number, What::Stopped).saying(how));
        self.say_summary(Outcome::Stopped);
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
