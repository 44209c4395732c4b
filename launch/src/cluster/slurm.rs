//! Slurm's own notations: which task of a step this is, tasks of each node (`2(x3),1`), host lists (`gpu[01-04,7]`).
//! It never runs a command of Slurm: everything is in the variables that `srun` sets for each task.

use super::Error;
use super::place::{Launcher, Variables, number};

/// More hosts than any cluster has: a list is not expanded beyond it.
const MAX_HOSTS: usize = 100_000;

/// One task of a job step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// Among all tasks of the step.
    pub rank: u32,
    /// Tasks of the step.
    pub count: u32,
    /// Among the tasks on this machine.
    pub local_rank: u32,
    /// Tasks on this machine.
    pub n_local: u32,
    /// Of this machine, among those of the step.
    pub host: u32,
}

/// The task that `srun` started; `None` outside of a step.
pub fn said(get: &impl Variables) -> Result<Option<Task>, Error> {
    // A batch script has SLURM_PROCID, too, but no step.
    if get("SLURM_STEP_ID").is_none() {
        return Ok(None);
    }
    let first = |names: [&'static str; 2]| -> Result<Option<u32>, Error> {
        Ok(match number(names[0], Launcher::Slurm, get)? {
            Some(found) => Some(found),
            None => number(names[1], Launcher::Slurm, get)?,
        })
    };
    let Some(rank) = number("SLURM_PROCID", Launcher::Slurm, get)? else { return Ok(None) };
    let Some(count) = first(["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"])? else { return Ok(None) };
    let host = number("SLURM_NODEID", Launcher::Slurm, get)?.unwrap_or(0);
    let local_rank = number("SLURM_LOCALID", Launcher::Slurm, get)?.unwrap_or(0);
    let tasks = get("SLURM_STEP_TASKS_PER_NODE").or_else(|| get("SLURM_TASKS_PER_NODE")).unwrap_or_default();
    let n_local = tasks_of(host as usize, &tasks).unwrap_or(local_rank + 1);
    Ok(Some(Task { rank, count, local_rank, n_local, host }))
}

/// # Errors
/// A job of several nodes, outside of a step: only one of them would run.
pub fn require_step(get: &impl Variables) -> Result<(), Error> {
    let in_job = get("SLURM_JOB_ID").is_some() && get("SLURM_STEP_ID").is_none();
    match number("SLURM_JOB_NUM_NODES", Launcher::Slurm, get)? {
        Some(n_nodes) if in_job && n_nodes > 1 => Err(Error::NoStep { n_nodes }),
        _ => Ok(()),
    }
}

/// Machines of this step other than this one, by name.
pub fn other_hosts(get: &impl Variables) -> Vec<String> {
    let list = get("SLURM_STEP_NODELIST").or_else(|| get("SLURM_JOB_NODELIST")).unwrap_or_default();
    let own = get("SLURMD_NODENAME").unwrap_or_default();
    expand(&list).unwrap_or_default().into_iter().filter(|host| *host != own).collect()
}

/// Tasks of one node in a list such as `2(x3),1`: two on each of three nodes, then one.
fn tasks_of(node: usize, list: &str) -> Option<u32> {
    let mut before = 0;
    for part in list.split(',') {
        let (tasks, n_nodes) = match part.split_once("(x") {
            Some((tasks, times)) => (tasks, times.strip_suffix(')')?.parse().ok()?),
            None => (part, 1_usize),
        };
        before += n_nodes;
        if node < before {
            return tasks.parse().ok();
        }
    }
    None
}

/// Host names of a list such as `login,gpu[01-03,7]-ib,r[1-2]n[1-2]`, in order; `None` for what is no such list.
pub fn expand(list: &str) -> Option<Vec<String>> {
    let mut hosts = Vec::new();
    for item in split_outside_brackets(list)? {
        let mut names = vec![String::new()];
        let mut rest = item;
        while let Some((plain, bracket)) = rest.split_once('[') {
            let (ranges, after) = bracket.split_once(']')?;
            let numbers = expand_ranges(ranges)?;
            if names.len().checked_mul(numbers.len())? > MAX_HOSTS {
                return None;
            }
            names = names.iter().flat_map(|name| numbers.iter().map(move |n| format!("{name}{plain}{n}"))).collect();
            rest = after;
        }
        hosts.extend(names.into_iter().map(|name| name + rest));
        if rest.contains(']') || hosts.len() > MAX_HOSTS {
            return None;
        }
    }
    Some(hosts)
}

/// `a[1,2],b` -> `a[1,2]` and `b`.
fn split_outside_brackets(list: &str) -> Option<Vec<&str>> {
    let (mut items, mut begin, mut inside) = (Vec::new(), 0, false);
    for (at, c) in list.char_indices() {
        match c {
            '[' if !inside => inside = true,
            ']' if inside => inside = false,
            '[' | ']' => return None,
            ',' if !inside => {
                items.push(&list[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    items.push(&list[begin..]);
    (!inside && items.iter().all(|item| !item.is_empty())).then_some(items)
}

/// `01-03,7` -> 01, 02, 03, 7: numbers keep their leading zeros.
fn expand_ranges(ranges: &str) -> Option<Vec<String>> {
    let mut numbers = Vec::new();
    for range in ranges.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (begin, end): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if end < begin || end - begin >= MAX_HOSTS - numbers.len() {
            return None;
        }
        numbers.extend((begin..=end).map(|n| format!("{n:0width$}", width = first.len())));
    }
    Some(numbers)
}

#[cfg(test)]
mod tests;
