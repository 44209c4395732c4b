//! Some rows of a data set, looked at on all cores. It knows nothing of what is looked for.

use std::thread;

use data::Dataset;

/// What `look` says of `n` rows (at most all there are), spread evenly over the data set, in their order; `what` names the
/// work, should a thread panic.
///
/// # Errors
/// A thread panicked.
pub(super) fn on_all_cores<T: Send>(
    rows: &Dataset,
    n: usize,
    what: &'static str,
    look: impl Fn(usize) -> T + Sync,
) -> Result<Vec<T>, data::Error> {
    let chosen: Vec<usize> = (0..n).map(|i| i * rows.len() / n).collect();
    let n_threads = thread::available_parallelism().map_or(1, usize::from);
    let look_at = |part: &[usize]| part.iter().map(|&row| look(row)).collect::<Vec<T>>();
    let parts = thread::scope(|scope| {
        let parts = chosen.chunks(n.div_ceil(n_threads).max(1));
        let threads: Vec<_> = parts.map(|part| scope.spawn(|| look_at(part))).collect();
        threads.into_iter().map(|thread| thread.join().ok()).collect::<Option<Vec<_>>>()
    });
    Ok(parts.ok_or(data::Error::Thread { what, rows: chosen })?.into_iter().flatten().collect())
}
