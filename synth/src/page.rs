//! An ECG page as a square picture: paper, grid, three rows of four leads and a lead II strip, true to scale.
//! It draws what it is given and nothing else: no label, name or number ever gives an answer away.

use image::{ExtendedColorType, ImageEncoder, ImageError, Rgb, RgbImage, codecs::png::PngEncoder};

use crate::signal::{Ecg, Lead, SAMPLE_RATE, SECONDS};

const PAPER: [u8; 3] = [255, 247, 246];
const GRID: [u8; 3] = [246, 205, 205];
const INK: [f64; 3] = [25.0, 25.0, 45.0];

/// The page is 10 s wide at 25 mm/s.
const PAGE_MM: f64 = 250.0;
const MM_PER_MILLIVOLT: f64 = 20.0;
const LAYOUT: [[Lead; 4]; 4] = [
    [Lead::I, Lead::AvR, Lead::V1, Lead::V4],
    [Lead::II, Lead::AvL, Lead::V2, Lead::V5],
    [Lead::III, Lead::AvF, Lead::V3, Lead::V6],
    [Lead::II; 4],
];

/// Draws a page of `size` x `size` pixels; without a recording it is blank paper.
#[must_use]
pub fn draw(ecg: Option<&Ecg>, size: u32) -> RgbImage {
    let lines = grid_lines(size);
    let mut page =
        RgbImage::from_fn(size, size, |x, y| Rgb(if lines[x as usize] || lines[y as usize] { GRID } else { PAPER }));
    let Some(ecg) = ecg else { return page };
    for (row, leads) in LAYOUT.iter().enumerate() {
        let baseline = f64::from(size) / 4.0 * (row as f64 + 0.58);
        for x in 0..size {
            draw_column(&mut page, x, baseline, ecg.lead(leads[(x * 4 / size) as usize]));
        }
    }
    page
}

/// A page as the bytes of a PNG file.
///
/// # Errors
/// What the encoder says; a page in memory gives it no reason to.
pub fn png(page: &RgbImage) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes).write_image(page, page.width(), page.height(), ExtendedColorType::Rgb8)?;
    Ok(bytes)
}

/// Which rows and columns carry a grid line: every 5, 10, 25 or 50 mm, as close as four pixels allow.
fn grid_lines(size: u32) -> Vec<bool> {
    let pixels_per_mm = f64::from(size) / PAGE_MM;
    let wide_enough = [5.0, 10.0, 25.0, 50.0].map(|mm| mm * pixels_per_mm).into_iter().find(|&pitch| pitch >= 4.0);
    let box_of = |x: u32, pitch: f64| (f64::from(x) / pitch).floor();
    (0..size).map(|x| wide_enough.is_some_and(|pitch| box_of(x, pitch) < box_of(x + 1, pitch))).collect()
}

/// Inks the part of column `x` that the trace passes, each pixel by how much of it is covered.
fn draw_column(page: &mut RgbImage, x: u32, baseline: f64, millivolt: &[f32]) {
    let size = f64::from(page.width());
    let sample = |x: u32| f64::from(x) / size * SECONDS * SAMPLE_RATE;
    let (low, high) = extent(millivolt, sample(x), sample(x + 1));
    let pixels_per_millivolt = MM_PER_MILLIVOLT * size / PAGE_MM;
    let half_width = 0.6 * (size / 448.0).max(1.0);
    let (top, bottom) =
        (baseline - pixels_per_millivolt * high - half_width, baseline - pixels_per_millivolt * low + half_width);
    for y in top.clamp(0.0, size) as u32..bottom.clamp(0.0, size).ceil() as u32 {
        let covered = (bottom.min(f64::from(y) + 1.0) - top.max(f64::from(y))).clamp(0.0, 1.0);
        let pixel = page.get_pixel_mut(x, y);
        for (channel, ink) in pixel.0.iter_mut().zip(INK) {
            *channel = (f64::from(*channel) + covered * (ink - f64::from(*channel))).round() as u8;
        }
    }
}

/// Lowest and highest value of the trace between two moments, given in samples; straight lines join the samples.
fn extent(millivolt: &[f32], from: f64, to: f64) -> (f64, f64) {
    let last = millivolt.len() - 1;
    let at = |moment: f64| {
        let before = (moment as usize).min(last);
        let (a, b) = (f64::from(millivolt[before]), f64::from(millivolt[(before + 1).min(last)]));
        a + (moment - before as f64) * (b - a)
    };
    let between = millivolt.iter().take(to as usize + 1).skip(from.ceil() as usize).map(|&mv| f64::from(mv));
    between
        .chain([at(from), at(to)])
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), mv| (low.min(mv), high.max(mv)))
}
