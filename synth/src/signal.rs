//! Ten seconds of twelve leads from a simple model of waves: Gaussian P, Q, R, S, ST and T on a frontal dipole.
//! It is a pure function of (seed, patient); it makes teaching material for a machine, and must never pass for an ECG.

use std::f64::consts::TAU;
use std::ops::Range;

use crate::patient::{Axis, Patient, Rate};
use crate::random::Random;

/// Samples a second of every lead: 22 for a pixel of the demo's page, 3 for one of a page of 896.
pub const SAMPLE_RATE: f64 = 250.0;
/// Length of the recording in seconds.
pub const SECONDS: f64 = 10.0;

const N_SAMPLES: usize = (SAMPLE_RATE * SECONDS) as usize;

/// The twelve leads.
#[expect(missing_docs, reason = "the names are the meaning")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lead {
    I,
    II,
    III,
    AvR,
    AvL,
    AvF,
    V1,
    V2,
    V3,
    V4,
    V5,
    V6,
}

/// Direction of the frontal leads in degrees, in the order of [`Lead`].
const FRONTAL: [f64; 6] = [0.0, 60.0, 120.0, -150.0, -30.0, 90.0];
/// R wave, S wave and share of the ST lift of V1 to V6.
const PRECORDIAL: [[f64; 3]; 6] =
    [[0.25, -0.9, 0.6], [0.45, -1.1, 1.0], [0.8, -0.8, 1.0], [1.2, -0.4, 0.8], [1.1, -0.15, 0.1], [0.8, -0.05, 0.1]];

/// One recording.
#[derive(Debug, Clone, PartialEq)]
pub struct Ecg {
    leads: [Vec<f32>; 12],
}

/// The waves that all leads share, each with peak 1 except `p` and `st`, which are in millivolt. `[N_SAMPLES]` each.
struct Waves {
    p: Vec<f64>,
    q: Vec<f64>,
    r: Vec<f64>,
    s: Vec<f64>,
    st: Vec<f64>,
    t: Vec<f64>,
}

impl Ecg {
    /// The recording of `patient`, who is the patient `index` of `seed`.
    #[must_use]
    pub fn new(seed: u64, index: u64, patient: &Patient) -> Self {
        let mut random = Random::new(seed, "signal", index);
        let waves = Waves::new(&mut random, patient);
        let axis = in_range(&mut random, axis_degrees(patient.axis));
        let (size, t_size) = (random.uniform(0.9, 1.4), random.uniform(0.2, 0.35));
        let leads = std::array::from_fn(|lead| {
            let mut millivolt = match lead.checked_sub(FRONTAL.len()) {
                None => waves.frontal(FRONTAL[lead], axis, size, t_size),
                Some(chest) => waves.precordial(chest, size, t_size),
            };
            add_wander(&mut random, &mut millivolt);
            millivolt.into_iter().map(|mv| mv as f32).collect()
        });
        Self { leads }
    }

    /// `SAMPLE_RATE * SECONDS` samples of one lead in millivolt.
    #[must_use]
    pub fn lead(&self, lead: Lead) -> &[f32] {
        &self.leads[lead as usize]
    }
}

impl Waves {
    fn new(random: &mut Random, patient: &Patient) -> Self {
        let rr = 60.0 / in_range(random, beats_a_minute(patient.rate));
        let k = (rr / 0.8).min(1.0).sqrt(); // Intervals shorten with rate.
        let st_lift = if patient.st_elevation { random.uniform(0.25, 0.45) } else { 0.0 };
        let flat = || vec![0.0; N_SAMPLES];
        let mut waves = Self { p: flat(), q: flat(), r: flat(), s: flat(), st: flat(), t: flat() };
        for beat in beats(random, rr, patient.atrial_fibrillation) {
            if !patient.atrial_fibrillation {
                add_bump(&mut waves.p, 0.17, beat - 0.16 * k, 0.024);
            }
            add_bump(&mut waves.q, 1.0, beat - 0.025, 0.009);
            add_bump(&mut waves.r, 1.0, beat, 0.011);
            add_bump(&mut waves.s, 1.0, beat + 0.028, 0.010);
            add_bump(&mut waves.t, 1.0, beat + 0.27 * k, 0.05 * k);
            for at in [0.08, 0.13, 0.18] {
                add_bump(&mut waves.st, st_lift, beat + at * k, 0.03 * k);
            }
        }
        if patient.atrial_fibrillation {
            let phase = random.uniform(0.0, TAU);
            for (p, t) in waves.p.iter_mut().zip(times()) {
                *p = 0.07 * (TAU * (6.0 * t + 0.3 * (0.7 * TAU * t).sin()) + phase).sin();
            }
        }
        waves
    }

    /// A limb lead: what the dipole shows in direction `lead_degrees`.
    fn frontal(&self, lead_degrees: f64, axis: f64, size: f64, t_size: f64) -> Vec<f64> {
        let seen = |from: f64| (lead_degrees - from).to_radians().cos();
        let (atrium, ventricle, late) = (seen(45.0), size * seen(axis), size * seen(axis + 40.0));
        let sample = |i: usize| {
            atrium * (self.p[i] + t_size * self.t[i]) + ventricle * (self.r[i] - 0.12 * self.q[i])
                - 0.18 * late * self.s[i]
        };
        (0..N_SAMPLES).map(sample).collect()
    }

    /// A chest lead, V1 being number 0; these do not depend on the axis.
    fn precordial(&self, chest: usize, size: f64, t_size: f64) -> Vec<f64> {
        let [r, s, st] = PRECORDIAL[chest];
        let t = t_size * if chest == 0 { 0.2 } else { 1.1 };
        let sample = |i: usize| {
            0.6 * self.p[i]
                + size * (r * self.r[i] + s * self.s[i] - 0.05 * self.q[i])
                + t * self.t[i]
                + st * self.st[i]
        };
        (0..N_SAMPLES).map(sample).collect()
    }
}

fn beats_a_minute(rate: Rate) -> Range<f64> {
    match rate {
        Rate::Slow => 38.0..55.0,
        Rate::Normal => 64.0..94.0,
        Rate::Fast => 106.0..150.0,
    }
}

fn axis_degrees(axis: Axis) -> Range<f64> {
    match axis {
        Axis::Left => -80.0..-40.0,
        Axis::Normal => 5.0..80.0,
        Axis::Right => 105.0..150.0,
    }
}

fn in_range(random: &mut Random, range: Range<f64>) -> f64 {
    random.uniform(range.start, range.end)
}

/// Seconds at which the ventricles beat, from just before the recording to just after it; `rr` is the mean interval.
fn beats(random: &mut Random, rr: f64, irregular: bool) -> Vec<f64> {
    let mut beats = vec![-random.uniform(0.0, rr)];
    let mut last = beats[0];
    while last < SECONDS + 1.0 {
        let variation = if irregular { (0.28 * random.normal()).clamp(-0.5, 0.7) } else { 0.02 * random.normal() };
        last += (rr * (1.0 + variation)).max(0.28);
        beats.push(last);
    }
    beats
}

fn times() -> impl Iterator<Item = f64> {
    (0..N_SAMPLES).map(|i| i as f64 / SAMPLE_RATE)
}

/// Adds a Gaussian of `height` around `center`, both ends cut where it falls below 4e-6 of its height; in seconds.
fn add_bump(wave: &mut [f64], height: f64, center: f64, width: f64) {
    let sample = |seconds: f64| (seconds * SAMPLE_RATE).max(0.0) as usize;
    let (start, end) = (sample(center - 5.0 * width), sample(center + 5.0 * width));
    for (i, value) in wave.iter_mut().enumerate().take(end).skip(start) {
        let z = (i as f64 / SAMPLE_RATE - center) / width;
        *value += height * (-0.5 * z * z).exp();
    }
}

/// Breath and noise, of each lead its own.
fn add_wander(random: &mut Random, millivolt: &mut [f64]) {
    let (hertz, phase) = (random.uniform(0.1, 0.3), random.uniform(0.0, TAU));
    for (mv, t) in millivolt.iter_mut().zip(times()) {
        *mv += 0.05 * (TAU * hertz * t + phase).sin() + 0.012 * random.normal();
    }
}
