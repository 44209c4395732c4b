//! What a run survives, a theme a file. Each test disturbs the real program and ends in the bits of R (`rig`).

mod late;
mod preemption;
mod rig;
mod secrets;
mod workers;
