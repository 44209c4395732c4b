//! One rank of a run, from its files to its last step: open, resume, loop, save. It starts no process and reads no
//! environment; what happens is told through events.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use data::{Loader, LoaderOptions, Store};
use lora::base::BaseHashes;
use model::engine::nvidia::Search;
use model::engine::{Backend, Device, Precision, Work};
use model::{Ops, StepSums};
use serde::{Deserialize, Serialize};

use crate::audit::Audit;
use crate::checkpoint::{self, Snapshot, State};
use crate::collective::{self, Identity, Meeting, Ranks, RanksSpec};
use crate::config::{self, Config};
use crate::error::Error;
use crate::event::{Event, Outcome};
use crate::faults::Faults;
use crate::held_out::{HeldOut, HeldOutSpec};
use crate::identity;
use crate::open::{self, Opened, adapter_config, layout_digest};
use crate::phase::Phase;
use crate::places::Places;
use crate::plan::Plan;
use crate::record::Record;
use crate::train_step::{Recipe, Trainer};

/// How long a rank waits for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadlines {
    /// Until all ranks have met: a large base takes minutes to read from a shared folder.
    pub rendezvous: Duration,
    /// Until a collective operation is over: the slowest rank's share of a step, with room.
    pub operation: Duration,
}

/// Asked once for the address of rank 0, when everything else is ready.
pub type Endpoint = Box<dyn FnOnce() -> Result<SocketAddr, String> + Send>;

/// What one rank is told.
pub struct RunSpec {
    pub config: Config,
    /// Where what the config names lies on this machine.
    pub places: Places,
    /// What opens the rows there.
    pub store: Arc<dyn Store>,
    pub rank: u32,
    pub world_size: u32,
    /// Ranks that do not know it are not let in.
    pub job_key: [u8; 32],
    /// Rank 0: where to listen; port 0 is any free one.
    pub listen: Option<SocketAddr>,
    /// Other ranks: where rank 0 listens.
    pub endpoint: Option<Endpoint>,
    /// Refuse to find a checkpoint.
    pub from_scratch: bool,
    pub device: Device,
    pub deadlines: Deadlines,
    /// Hash of the running program: all ranks must run the same one.
    pub program: blake3::Hash,
    /// None but in tests of survival.
    pub faults: Faults,
    /// Set from outside to end the run after the current step, with a checkpoint.
    pub stop: Arc<AtomicBool>,
}

/// Runs one rank to its end.
///
/// # Errors
/// Everything that stops a run; [`Error::exit_code`] says how the process should end.
pub fn run(spec: RunSpec, events: &mut dyn FnMut(Event)) -> Result<Outcome, Error> {
    let precision = match spec.config.train.precision {
        config::Precision::F32 => Precision::F32,
        config::Precision::Bf16 => Precision::Bf16,
    };
    spec.device.run(precision, Rank { spec, events })?
}

/// A rank that knows everything but its engine.
struct Rank<'a> {
    spec: RunSpec,
    events: &'a mut dyn FnMut(Event),
}

impl Work for Rank<'_> {
    type Done = Result<Outcome, Error>;

    fn on<O: Ops>(self, ops: O) -> Self::Done {
        run_on(ops, self.spec, self.events)
    }
}

fn run_on<O: Ops>(ops: O, mut spec: RunSpec, events: &mut dyn FnMut(Event)) -> Result<Outcome, Error> {
    let config = spec.config.clone();
    config.train.require_work_for(spec.world_size as usize)?;
    events(Event::At { step: 0, phase: Phase::Opening });
    let Opened { model, template, dataset, layout, optim, rows, base, resumed } =
        Opened::new(&ops, &config, (&spec.places, &spec.store), spec.from_scratch, events)?;
    let plan = Plan::over(&config, &dataset)?;
    let options = LoaderOptions {
        loss_on: config.data.loss_on.into(),
        max_seq_len: config.data.max_seq_len,
        threads: thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(spec.world_size as usize)),
    };
    let held_out = HeldOutSpec {
        config: &config,
        model: &model.config,
        model_dir: &spec.places.model,
        template: template.clone(),
        options,
        rank: spec.rank as usize,
        world_size: spec.world_size as usize,
    };
    let held_out = open::held_out((&spec.places, &spec.store), held_out, resumed.is_none(), events)?;
    let start = resumed.as_ref().map_or(0, |found| found.state.step);
    let identity =
        identity::of(spec.program, &config, identity::of_rows(rows, held_out.as_ref()), base.total(), start, &optim);
    events(Event::At { step: start, phase: Phase::Rendezvous });
    let ranks = meet(&mut spec, identity, events)?;
    let (rank, world_size) = (ranks.rank(), ranks.world_size());
    let State { step, num_tokens, skipped_steps, .. } =
        resumed.as_ref().map_or_else(State::default, |found| found.state.clone());
    events(Event::Started {
        step,
        total_steps: plan.total_steps(),
        n_rows: dataset.len() as u64,
        n_trainable: layout.len() as u64,
        resumed_from: resumed.map(|found| found.state.step),
    });
    let image_size = model.config.vision.image_size;
    let faults = spec.faults;
    let in_decoder = faults.clone();
    let share =
        plan.clone().share(step, rank, world_size).inspect(move |micro| in_decoder.in_decoder(micro.first_position));
    let loader = Loader::spawn(dataset, template, image_size, options, share);
    let schedule = config.train.schedule(plan.total_steps());
    let (audit, recipe) = (Audit::new(), Recipe::new(&config));
    let mut trainer = Trainer {
        ops,
        model,
        layout,
        optim,
        ranks,
        plan,
        schedule,
        audit,
        recipe,
        faults,
        step,
        num_tokens,
        skipped_steps,
        sums: StepSums::default(),
        grads: Vec::new(),
    };
    trainer.adapt();
    drive(trainer, loader, held_out.as_ref(), &config, (rows, &base), &spec.stop, events)
}

/// Meets the other ranks; all must have the same `identity`.
fn meet(spec: &mut RunSpec, identity: Identity, events: &mut dyn FnMut(Event)) -> Result<Ranks, Error> {
    if spec.world_size == 1 {
        return Ok(Ranks::alone());
    }
    let rank = spec.rank;
    let meeting = match (spec.listen, spec.endpoint.take()) {
        (Some(addr), _) => {
            let listener = collective::listen(addr)?;
            events(Event::Listening(listener.local_addr().unwrap_or(addr)));
            Meeting::Host(listener)
        }
        (None, Some(endpoint)) => Meeting::Join(endpoint().map_err(|reason| Error::Endpoint { rank, reason })?),
        (None, None) => return Err(Error::Endpoint { rank, reason: "it was not told".into() }),
    };
    let mut ranks = Ranks::connect(RanksSpec {
        rank: rank as usize,
        world_size: spec.world_size as usize,
        meeting,
        key: spec.job_key,
        identity,
        rendezvous_deadline: spec.deadlines.rendezvous,
        operation_deadline: spec.deadlines.operation,
    })?;
    if let Device::Gpu(Backend::Cuda, index) = spec.device {
        ranks.use_nccl(&Search::of_process(), index)?;
    }
    Ok(ranks)
}

/// The loop: step, journal, checkpoint, evaluation, until the last step or a request to stop.
fn drive<O: Ops>(
    mut trainer: Trainer<O>,
    mut loader: Loader,
    held_out: Option<&HeldOut>,
    config: &Config,
    known_by: (blake3::Hash, &BaseHashes),
    stop: &AtomicBool,
    events: &mut dyn FnMut(Event),
) -> Result<Outcome, Error> {
    let total_steps = trainer.plan.total_steps();
    let n_trainable = trainer.layout.len();
    let open = || Record::open(config, trainer.step, total_steps, n_trainable, held_out, events);
    let mut record = (trainer.ranks.rank() == 0).then(open).transpose()?;
    let is_due = |step| held_out.filter(|held_out| held_out.is_due(step, total_steps));
    let (mut pending, mut stopping) = (false, false);
    // A run that ended between a step and its evaluation begins with that.
    if let Some(held_out) = is_due(trainer.step)
        && trainer.any_rank(record.as_ref().is_some_and(|record| record.last_evaluation() != trainer.step))?
    {
        (pending, stopping) = evaluate(&mut trainer, held_out, &mut record, stop, events)?;
    }
    while trainer.step < total_steps && !stopping {
        let batches = loader.by_ref().map(|batch| batch.map_err(Error::from));
        let step = trainer.step + 1;
        let at = &mut |phase| events(Event::At { step, phase });
        let made = trainer.train_step(batches, stop.load(Ordering::Relaxed), at);
        if let Err(Error::DigestsDiffer { digests, .. }) = &made {
            events(Event::DigestsDiffer { step, digests: digests.clone() });
        }
        let (line, asked) = made?;
        stopping = asked;
        let due = trainer.step == total_steps || stopping || trainer.step.is_multiple_of(config.checkpoint.every_steps);
        if let Some(record) = &mut record {
            events(Event::At { step, phase: Phase::Checkpoint });
            record.step(line, events)?;
            if due {
                record.save(snapshot(&trainer, config, known_by), events)?;
            }
        }
        if let Some(held_out) = is_due(step) {
            pending = true;
            if !stopping {
                (pending, stopping) = evaluate(&mut trainer, held_out, &mut record, stop, events)?;
            }
            if let Some(record) = record.as_mut().filter(|_| stopping && !due) {
                record.save(snapshot(&trainer, config, known_by), events)?;
            }
        }
    }
    leave(trainer, record, pending, events)
}

/// The end of the loop, which is the end of the run unless steps, or the last one's evaluation, are still to be made.
fn leave<O: Ops>(
    mut trainer: Trainer<O>,
    record: Option<Record>,
    pending: bool,
    events: &mut dyn FnMut(Event),
) -> Result<Outcome, Error> {
    if let Some(mut record) = record {
        record.close(events)?;
    }
    events(Event::At { step: trainer.step, phase: Phase::Leaving });
    trainer.ranks.barrier()?; // Nobody leaves before the last checkpoint is durable.
    let step = trainer.step;
    if step < trainer.plan.total_steps() || pending {
        events(Event::Stopped { step });
        return Ok(Outcome::Stopped);
    }
    events(Event::Finished { step });
    Ok(Outcome::Finished)
}

/// Evaluates after the step just made; returns whether that is still to be done, and whether a stop was asked for.
fn evaluate<O: Ops>(
    trainer: &mut Trainer<O>,
    held_out: &HeldOut,
    record: &mut Option<Record>,
    stop: &AtomicBool,
    events: &mut dyn FnMut(Event),
) -> Result<(bool, bool), Error> {
    let step = trainer.step;
    let (evaluation, stopping) = trainer.evaluate(held_out, stop, &mut |phase| events(Event::At { step, phase }))?;
    let pending = evaluation.is_none();
    if let (Some(record), Some(evaluation)) = (record, evaluation) {
        events(Event::At { step, phase: Phase::Checkpoint });
        record.evaluation(&evaluation, events)?;
    }
    Ok((pending, stopping))
}

/// Adapters, what they belong to, moments and position as the files of a folder that PEFT loads and a rerun resumes from.
fn snapshot<O: Ops>(trainer: &Trainer<O>, config: &Config, (rows, base): (blake3::Hash, &BaseHashes)) -> Snapshot {
    let (weights, json) = lora::write_adapter(&trainer.layout, trainer.optim.params(), &adapter_config(config));
    let state = State {
        step: trainer.step,
        epoch: trainer.step as f64 / trainer.plan.steps_per_epoch() as f64,
        position: trainer.plan.step(trainer.step).first_position,
        num_tokens: trainer.num_tokens,
        skipped_steps: trainer.skipped_steps,
        world_size: trainer.ranks.world_size(),
        fingerprint: config.fingerprint(),
        rows: rows.to_hex().to_string(),
    };
    let moments = checkpoint::encode_optimizer(&trainer.optim, &layout_digest(&trainer.layout));
    let files = vec![
        ("adapter_model.safetensors", weights),
        ("adapter_config.json", json),
        (BaseHashes::FILE, base.to_json()),
        ("optimizer.safetensors", moments),
    ];
    Snapshot { state, files }
}
