//! The activations of one token as the scan multiplies them.

use super::BLOCK;
use crate::cpu::row_tiles::SplitActivations;

/// Largest magnitude of an activation's integer: its high byte stays within 127.
const LARGEST: f32 = 8_128.0;

/// Magnitudes outside of these are left to the full head: products of the others, and of weights up to
/// [`super::sketch::LARGEST`], are floats that are neither infinite nor, where it matters, subnormal.
const RANGE: std::ops::Range<f32> = 1e-15..1e15;

/// One token in blocks of 64, in integers of two bytes, and what the bound needs to know of it.
pub(super) struct Activations {
    pub(super) blocks: Vec<Block>,
    /// `|x|`, rounded up.
    pub(super) norm: f32,
}

/// 64 activations, `x ≈ scale * (64 * high + low)`.
#[repr(C, align(64))]
pub(super) struct Block {
    pub(super) high: [i8; BLOCK],
    pub(super) low: [i8; BLOCK],
    /// Sum of the integers.
    pub(super) sum: i32,
    pub(super) scale: f32,
    /// `|x_b|`, rounded up.
    pub(super) norm: f32,
    /// `128 (|h_b| + |g_b| + r |x_b|)`, rounded up.
    pub(super) rounding: f32,
}

impl Activations {
    /// From activations of any number, for a head that takes them as `split` does, or as they are; `None` where they are all
    /// zero or not within [`RANGE`].
    pub(super) fn new(x: &[f32], split: Option<&SplitActivations>) -> Option<Self> {
        let largest = x.iter().fold(0f32, |a, x| a.max(x.abs()));
        if !x.iter().all(|x| x.is_finite()) || !RANGE.contains(&largest) {
            return None;
        }
        // Additions of the head's product in one lane, those of the scan, and some for the rest.
        let operations = x.len() / 32 + x.len() / BLOCK + 64;
        let rounding = operations as f64 / f64::from(1 << 24) * 1.01;
        let blocks: Vec<Block> = x
            .chunks(BLOCK)
            .enumerate()
            .map(|(b, x)| Block::new(x, |i| taken(split, BLOCK * b + i, x[i]), rounding))
            .collect();
        let norm = blocks.iter().map(|block| f64::from(block.norm).powi(2)).sum::<f64>().sqrt();
        Some(Self { blocks, norm: up(norm) })
    }
}

/// What the head takes activation `i` for.
fn taken(split: Option<&SplitActivations>, i: usize, x: f32) -> f64 {
    split.map_or(f64::from(x), |split| split.value(i))
}

impl Block {
    fn new(x: &[f32], taken: impl Fn(usize) -> f64, rounding: f64) -> Self {
        let largest = x.iter().fold(0f32, |a, x| a.max(x.abs()));
        let factor = if largest > 0.0 { LARGEST / largest } else { 0.0 };
        // Activations that are less than 1e-24 of the largest are rounded away in their own block only.
        let factor = if factor.is_finite() { factor } else { 0.0 };
        let scale = largest / LARGEST;
        let mut block = Self { high: [0; BLOCK], low: [0; BLOCK], sum: 0, scale, norm: 0.0, rounding: 0.0 };
        let (mut square, mut of_own, mut of_head) = (0.0, 0.0, 0.0);
        for (i, x) in x.iter().enumerate() {
            let code = (x * factor).round_ties_even() as i32;
            let high = (code + 32) >> 6;
            block.high[i] = high as i8;
            block.low[i] = (code - 64 * high) as i8;
            block.sum += code;
            let x = f64::from(*x);
            square += x * x;
            of_own += (x - f64::from(scale) * f64::from(code)).powi(2);
            of_head += (x - taken(i)).powi(2);
        }
        let norm = f64::sqrt(square);
        block.norm = up(norm);
        block.rounding = up(128.0 * (of_own.sqrt() + of_head.sqrt() + rounding * norm));
        block
    }
}

/// The next larger float or the one after it.
fn up(x: f64) -> f32 {
    (x * (1.0 + 1e-6)) as f32
}
