//! What a run survives, a theme a file. Each test disturbs the real program and ends in the bits of R (`rig`).

mod evaluation;
mod late;
mod merge;
mod nodes;
mod numbers;
mod outputs;
mod partition;
mod power_cut;
mod preemption;
pub mod prepare;
mod rendezvous;
pub mod rig;
mod rows;
mod saves;
mod secrets;
mod slurm;
mod strace;
mod system;
mod workers;
