//! `ecg-train bench allreduce`: the exact sum of all ranks' gradients, as a step makes it: over the loopback interface, or
//! between this machine's GPUs over NCCL. What a network adds is not in it; what the ranks' own work costs is.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use model::engine::nvidia::Search;
use serde::Serialize;
use trainer::collective::{self, Identity, LONG, Meeting, Ranks, RanksSpec};

use crate::cli::BenchAllreduceArgs;
use crate::{Error, describe, leave, print, say};

/// Until all have met, and until an operation is over.
const DEADLINE: Duration = Duration::from_secs(120);

#[derive(Debug, Serialize)]
struct Figures {
    ranks: u32,
    /// `tcp` or `nccl`, which takes long sums.
    over: &'static str,
    numbers: u64,
    bytes: u64,
    /// On rank 0, from all ranks being ready until it has the sum.
    ms_median: f64,
    ms_min: f64,
    /// Bytes of one rank's buffer over the median.
    gb_per_second: f64,
}

/// Measures and prints.
///
/// # Errors
/// Too few GPUs or no NCCL, or a rank is lost.
pub fn run(args: &BenchAllreduceArgs) -> Result<(), Error> {
    let ranks_error = |error| Error::Trainer(trainer::Error::Ranks(error));
    if let Some(gpus) = args.gpus {
        Search::of_process().require_visible(gpus as usize)?;
    }
    let listener = collective::listen(SocketAddr::from(([127, 0, 0, 1], 0))).map_err(ranks_error)?;
    let addr = listener.local_addr().map_err(|source| Error::Process { what: "the meeting", source })?;
    let figures = thread::scope(|scope| {
        let others: Vec<_> =
            (1..n_ranks(args)).map(|rank| scope.spawn(move || one_rank(args, rank, Meeting::Join(addr)))).collect();
        let figures = one_rank(args, 0, Meeting::Host(listener));
        let failed = others.into_iter().filter_map(|other| other.join().expect("a rank has errors, no panics").err());
        // Rank 0 knows best what went wrong.
        figures.and_then(|figures| failed.last().map_or(Ok(figures), Err))
    });
    let figures = match figures.map_err(ranks_error) {
        // A communicator that failed could keep an orderly end waiting.
        Err(error) if args.gpus.is_some() => {
            say(&describe(&error));
            leave(error.exit_code())
        }
        figures => figures?,
    };
    let text =
        if args.json { serde_json::to_string(&figures).expect("numbers and texts") + "\n" } else { table(&figures) };
    print(text.as_bytes());
    Ok(())
}

fn n_ranks(args: &BenchAllreduceArgs) -> u32 {
    args.gpus.unwrap_or(args.ranks)
}

fn one_rank(args: &BenchAllreduceArgs, rank: u32, meeting: Meeting) -> Result<Vec<Figures>, collective::Error> {
    let same = blake3::hash(b"bench allreduce");
    let mut ranks = Ranks::connect(RanksSpec {
        rank: rank as usize,
        world_size: n_ranks(args) as usize,
        meeting,
        key: *same.as_bytes(),
        identity: Identity { program: same, config: same, rows: same, base: same, start: same },
        rendezvous_deadline: DEADLINE,
        operation_deadline: DEADLINE,
    })?;
    if args.gpus.is_some() {
        ranks.use_nccl(&Search::of_process(), rank as usize)?;
    }
    args.numbers.iter().map(|&numbers| size(&mut ranks, args, numbers)).collect()
}

fn size(ranks: &mut Ranks, args: &BenchAllreduceArgs, numbers: u64) -> Result<Figures, collective::Error> {
    let mut values = vec![0_i64; numbers as usize];
    let n = ranks.world_size() as i64;
    let mut times = Vec::new();
    for round in 0..=args.rounds {
        values.fill(ranks.rank() as i64 + 1);
        ranks.barrier()?;
        let began = Instant::now();
        ranks.all_reduce_i64(&mut values)?;
        // The first round is for memory and connections.
        times.extend((round > 0).then(|| began.elapsed().as_secs_f64()));
        assert!(values.iter().all(|&value| value == n * (n + 1) / 2), "an exact sum is exact");
    }
    times.sort_by(f64::total_cmp);
    let (median, bytes) = (times[times.len() / 2], numbers * 8);
    Ok(Figures {
        ranks: n_ranks(args),
        over: if args.gpus.is_some() && values.len() >= LONG { "nccl" } else { "tcp" },
        numbers,
        bytes,
        ms_median: median * 1e3,
        ms_min: times[0] * 1e3,
        gb_per_second: bytes as f64 / median / 1e9,
    })
}

fn table(figures: &[Figures]) -> String {
    let mut text = String::new();
    for Figures { ranks, over, numbers, bytes, ms_median, ms_min, gb_per_second } in figures {
        let mb = *bytes as f64 / 1e6;
        let _ = writeln!(
            text,
            "{numbers:>10} numbers ({mb:.2} MB) of {ranks} ranks over {over}: {ms_median:.2} ms, least {ms_min:.2}, {gb_per_second:.2} GB/s"
        );
    }
    text
}
