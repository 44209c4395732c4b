//! Exponential and GELU in plain f32 arithmetic, which vectorises and gives the same bits on every machine.
//! No call into a system's mathematics library is made here.

/// `e^x` to about 1e-7 (relative); 0 below -87.3, infinite above 88.7 (Cody and Waite's reduction, Cephes' polynomial).
/// In integers where a branch or a conversion would keep a loop from being vectorised.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Adding and subtracting it rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.7);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    let fraction = p * r * r + r + 1.0;
    // 2^n in two factors, as 2^128 has no f32.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) << 23) as u32);
    let y = fraction * power(half) * power(n.wrapping_sub(half));
    let all_ones_if = |yes: bool| u32::from(yes).wrapping_neg();
    let (zero, infinite) = (all_ones_if(x < -87.3), all_ones_if(x > 88.7));
    f32::from_bits((y.to_bits() & !zero & !infinite) | (f32::INFINITY.to_bits() & infinite))
}

/// `sqrt(2 / pi)` and the cubic term of GELU's tanh form.
const INNER: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// `(1 + tanh(u)) / 2 = 1 / (1 + e^(-2u))`, with `u` GELU's inner term.
#[inline(always)]
fn gate(x: f32) -> f32 {
    let u = INNER * x * (1.0 + CUBIC * x * x);
    1.0 / (1.0 + exp(-2.0 * u))
}

/// GELU in its tanh form.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    x * gate(x)
}

/// GELU and its derivative.
#[inline(always)]
pub fn gelu_and_slope(x: f32) -> (f32, f32) {
    let g = gate(x);
    let inner_slope = INNER * (1.0 + 3.0 * CUBIC * x * x);
    (x * g, g + 2.0 * x * g * (1.0 - g) * inner_slope)
}
