//! Which linears are adapted: `all-linear`, or PEFT's list of suffixes.
//! It never adapts what PEFT would not, and never lets a suffix that matches nothing pass.

use crate::{Error, Module, Result, names};
use std::collections::BTreeSet;

/// `target_modules` of a run or of an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Every linear of both towers.
    AllLinear,
    /// The linears whose name is one of these or ends in `.` and one of these (PEFT's `check_target_module_exists`),
    /// whichever generation of names the suffix was written against.
    Suffixes(Vec<String>),
}

impl Targets {
    /// The targeted ones of `modules`, in their order.
    ///
    /// # Errors
    /// All suffixes that match none of them.
    pub fn select(&self, modules: &[Module]) -> Result<Vec<Module>> {
        let Self::Suffixes(wanted) = self else { return Ok(modules.to_vec()) };
        let mut unmatched: BTreeSet<&String> = wanted.iter().collect();
        let mut selected = Vec::new();
        for module in modules {
            let names = names::generations(&module.name);
            let matching: Vec<&String> =
                wanted.iter().filter(|suffix| names.iter().any(|n| ends_in(n, suffix))).collect();
            if !matching.is_empty() {
                selected.push(module.clone());
            }
            for suffix in matching {
                unmatched.remove(suffix);
            }
        }
        if unmatched.is_empty() {
            return Ok(selected);
        }
        Err(Error::NoSuchTarget { names: unmatched.into_iter().cloned().collect(), known: suffixes(modules) })
    }
}

fn ends_in(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

/// Every linear among tensors given as (hub name, shape), in their order: `all-linear` as PEFT's `_maybe_include_all_linear_layers`.
pub fn all_linear<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a [usize])>) -> Vec<Module> {
    let linear = |(tensor, shape): (&'a str, &'a [usize])| match (names::linear(tensor), shape) {
        (Some(name), &[out_features, in_features]) => Some(Module { name: name.to_owned(), in_features, out_features }),
        _ => None,
    };
    tensors.into_iter().filter_map(linear).collect()
}

/// The sorted last components of the modules' names: what PEFT writes as `target_modules`.
#[must_use]
pub fn suffixes(modules: &[Module]) -> Vec<String> {
    let last = |m: &Module| m.name.rsplit('.').next().map(str::to_owned);
    modules.iter().filter_map(last).collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests;
