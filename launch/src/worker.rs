//! `ecg-train worker`: one rank, under a supervisor or started by hand.
//! It never outlives its supervisor, and never writes anything but reports to a supervisor's pipe.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use data::{Disk, Store};
use model::engine::{Backend, Device};
use rustix::process::{Signal, set_parent_process_death_signal};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use trainer::faults::Faults;
use trainer::{Config, Endpoint, Event, RunSpec};

use crate::cli::WorkerArgs;
use crate::control::{self, Job, Order, Report};
use crate::progress::{Progress, Verbosity};
use crate::stores::Access;
use crate::{Error, Outcome, describe, environment, error, run_folder};

/// How often a rank that waits for rank 0's address looks whether it should stop.
const TICK: Duration = Duration::from_millis(100);

/// Runs one rank to its end.
///
/// # Errors
/// Whatever ended it; a supervisor has heard of it by then.
pub fn run(args: &WorkerArgs) -> Result<Outcome, Error> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    // A log on a full disk is done without; a complaint about it, to the same disk, would panic.
    let log = tracing_subscriber::fmt().log_internal_errors(false);
    let _ = log.with_writer(io::stderr).with_ansi(false).with_env_filter(filter).try_init();
    match &args.config {
        Some(config) => by_hand(config, args),
        None => {
            let result = supervised();
            if let Err(error) = &result {
                let (exit_code, message, may_pass) = (error.exit_code(), describe(error), error.may_pass());
                report(&Report::Failed { exit_code, message, may_pass });
            }
            result
        }
    }
}

fn supervised() -> Result<Outcome, Error> {
    // Also a worker that is stopped, or in the middle of a system call, ends with its supervisor.
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|errno| Error::Process { what: "the supervisor", source: errno.into() })?;
    let stop = stop_flag()?;
    let Ok(Some(Order::Start(job))) = control::receive(&mut io::stdin().lock()) else {
        return Err(Error::NoOrders);
    };
    let Job { job_key, config, places, from_scratch, backend, attempt, deadlines, listen, program, stores } = job;
    let endpoints = watch_orders();
    let store: Arc<dyn Store> = match stores {
        Some(access) => access.store(places.train.iter().chain(&places.eval))?,
        None => Arc::new(Disk),
    };
    let rank = rank()?;
    let waiting = stop.clone();
    let endpoint: Endpoint = Box::new(move || wait_for_endpoint(&endpoints, &waiting));
    let spec = RunSpec {
        config: Config::load(&config, &[]).map_err(trainer::Error::from)?,
        places,
        store,
        rank,
        world_size: world_size(rank)?,
        job_key,
        listen: (rank == 0).then_some(SocketAddr::new(listen, 0)),
        endpoint: (rank > 0).then_some(endpoint),
        from_scratch,
        device: device(backend)?,
        deadlines,
        program: program.into(),
        faults: faults(rank, attempt)?,
        stop,
    };
    finish(trainer::run(spec, &mut |event| {
        log(&event);
        report(&Report::Event(event));
    }))
}

/// A rank without a supervisor: its place comes from the environment, its progress goes to the terminal.
fn by_hand(config: &Path, args: &WorkerArgs) -> Result<Outcome, Error> {
    let rank = rank()?;
    let world_size = world_size(rank)?;
    let (config, places) = run_folder::load(config, &args.run)?;
    config.train.require_work_for(world_size as usize).map_err(trainer::Error::from)?;
    if rank == 0 {
        run_folder::open(&config, args.run.from_scratch)?;
    }
    let access = Access::of_shell().for_data(&config.data).for_run(args.deadlines.patience);
    let store = access.store(places.train.iter().chain(&places.eval))?;
    // A job of one rank meets nobody: it needs neither an address nor a key.
    let alone = world_size == 1;
    let address = if alone { SocketAddr::from(([127, 0, 0, 1], 0)) } else { master_address()? };
    let endpoint: Endpoint = Box::new(move || Ok(address));
    let mut progress = Progress::new(&config, Verbosity::Usual);
    let spec = RunSpec {
        store,
        config,
        places,
        rank,
        world_size,
        job_key: if alone { [0; 32] } else { environment::job_key()? },
        listen: (rank == 0).then_some(address),
        endpoint: (rank > 0).then_some(endpoint),
        from_scratch: args.run.from_scratch,
        device: device(args.gpu.then(|| Backend::of_build(args.backend)).transpose()?)?,
        deadlines: args.deadlines.for_ranks(),
        program: environment::program_hash(world_size)?.into(),
        faults: faults(rank, 0)?,
        stop: stop_flag()?,
    };
    let outcome = finish(trainer::run(spec, &mut |event| progress.on_event(rank, &event)));
    match &outcome {
        Ok(outcome) if rank == 0 => progress.summary(*outcome),
        _ => progress.close(),
    }
    outcome
}

fn finish(result: Result<trainer::Outcome, trainer::Error>) -> Result<Outcome, Error> {
    Ok(match result? {
        trainer::Outcome::Finished => Outcome::Done,
        trainer::Outcome::Stopped => Outcome::Stopped,
    })
}

/// Set by SIGTERM, SIGUSR1 and SIGINT; the trainer then stops after a checkpoint.
fn stop_flag() -> Result<Arc<AtomicBool>, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGUSR1, SIGINT] {
        signal_hook::flag::register(signal, stop.clone())
            .map_err(|source| Error::Process { what: "the signal handler", source })?;
    }
    Ok(stop)
}

/// Reads the supervisor's further orders on a thread of their own; when they end, the supervisor is gone and so are we.
fn watch_orders() -> Receiver<SocketAddr> {
    let (found, endpoints) = mpsc::channel();
    thread::spawn(move || {
        let mut orders = io::stdin().lock();
        while let Ok(Some(order)) = control::receive(&mut orders) {
            if let Order::Endpoint(endpoint) = order {
                let _ = found.send(endpoint);
            }
        }
        // At once and without politeness: the other threads may hang in a step that can never end.
        signal_hook::low_level::exit(i32::from(error::LOST));
    });
    endpoints
}

fn wait_for_endpoint(endpoints: &Receiver<SocketAddr>, stop: &AtomicBool) -> Result<SocketAddr, String> {
    loop {
        match endpoints.recv_timeout(TICK) {
            Ok(endpoint) => return Ok(endpoint),
            Err(RecvTimeoutError::Timeout) if !stop.load(Ordering::Relaxed) => {}
            Err(_) => return Err("stopped before rank 0 could be reached".to_owned()),
        }
    }
}

/// The end of a rank's log says how far it came.
fn log(event: &Event) {
    match event {
        Event::Step { line, .. } => tracing::info!("step {}: loss {:.4}", line.step, line.loss),
        Event::Warning(text) => tracing::warn!("{text}"),
        Event::At { step, phase } => tracing::debug!("step {step}: {phase}"),
        _ => tracing::info!("{event:?}"),
    }
}

fn report(report: &Report) {
    // A closed pipe means that the supervisor is gone; the thread that reads its orders sees to that.
    let _ = control::send(&mut io::stdout().lock(), report);
}

/// Faults on demand: none but in the tests' copy of the program, which says so.
fn faults(rank: u32, attempt: u32) -> Result<Faults, Error> {
    const NAME: &str = "ECG_TRAIN_FAULTS";
    if !cfg!(feature = "faults") {
        return Ok(Faults::default());
    }
    let text: String = environment::optional(NAME, "faults")?.unwrap_or_default();
    if !text.is_empty() {
        tracing::warn!("faults on demand: {text}");
    }
    let wrong = |part| Error::Variable { name: NAME, actual: part, expected: "KIND[=NUMBER]@RANK:STEP" };
    Faults::parse(&text, rank, attempt).map_err(wrong)
}

fn rank() -> Result<u32, Error> {
    environment::required("RANK", "a number from 0 to WORLD_SIZE - 1")
}

fn world_size(rank: u32) -> Result<u32, Error> {
    let expected = "the number of ranks, greater than RANK";
    let world_size: u32 = environment::required("WORLD_SIZE", expected)?;
    let wrong = || Error::Variable { name: "WORLD_SIZE", actual: world_size.to_string(), expected };
    if rank < world_size { Ok(world_size) } else { Err(wrong()) }
}

fn device(backend: Option<Backend>) -> Result<Device, Error> {
    let gpu = |backend| Ok(Device::Gpu(backend, environment::required("LOCAL_RANK", "the number of this rank's GPU")?));
    backend.map_or(Ok(Device::Cpu), gpu)
}

/// Where rank 0 listens when ranks are started by hand.
fn master_address() -> Result<SocketAddr, Error> {
    let host: String = environment::required("MASTER_ADDR", "the name or address of rank 0's machine")?;
    let port: u16 = environment::required("MASTER_PORT", "the port on which rank 0 listens")?;
    let resolved = (host.as_str(), port).to_socket_addrs().and_then(|mut addresses| {
        addresses.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
    });
    resolved.map_err(|source| Error::Address { host, port, source })
}
