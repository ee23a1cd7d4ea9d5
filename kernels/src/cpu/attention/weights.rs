//! Weights of a span against the values of an int8 cache.
//!
//! The weights of a row, with the scales of the values in them, are taken as 15 bits, so that the sum over a span is an exact
//! integer, the same in whatever order and width it is formed:
//!
//! ```text
//! w = exp(s - m) scale_v      c = round(w n / max w),  n = 2^15 - 1      o = (sum c v) (max w / n)
//! ```
//!
//! What this rounds off a weight is at most a 65,534th of the largest one of its span: a 250th of what the values have lost
//! already.

use super::queries::nearest;
#[cfg(target_arch = "x86_64")]
use super::x86;
use super::{ROWS, SPAN, Sum, each_step, portable};
#[cfg(target_arch = "x86_64")]
use crate::cpu::isa::Vectors;
use crate::cpu::isa::{Isa, on_each_isa};
use crate::cpu::kv_cache::{BLOCK, CacheFormat};

/// The largest code: a sum over a span stays within 31 bits.
const LARGEST: f32 = i16::MAX as f32;
const _: () = assert!(SPAN as i64 * i16::MAX as i64 * 128 < i32::MAX as i64);

/// The weights of the positions of one span for up to [`ROWS`] rows.
pub(super) struct Weights {
    isa: Isa,
    rows: usize,
    positions: usize,
    codes: [[i16; SPAN]; ROWS],
    /// What the sums of each row are multiplied by.
    factors: [f32; ROWS],
}

impl Weights {
    /// From `[rows, stride]` exponentials, of which as many as there are positions count, and the blocks of the values, which have
    /// the scales.
    pub(super) fn new(
        isa: Isa,
        exponentials: &mut [f32],
        rows: usize,
        positions: usize,
        blocks: &[u32],
        words: usize,
    ) -> Self {
        let (mut codes, mut factors) = ([[0; SPAN]; ROWS], [0.0; ROWS]);
        let stride = exponentials.len() / rows;
        for ((row, codes), factor) in exponentials.chunks_exact_mut(stride).zip(&mut codes).zip(&mut factors) {
            *factor = round(isa, &mut row[..positions], blocks, words, &mut codes[..positions]);
        }
        Self { isa, rows, positions, codes, factors }
    }

    /// The values with these weights, `[rows, head_dim]`.
    pub(super) fn sum(&self, blocks: &[u32], sums: &mut [f32]) {
        let head_dim = sums.len() / self.rows;
        each_step(self.rows, |row, step| {
            let sums = &mut sums[row * head_dim..][..step * head_dim];
            match step {
                8 => self.sum_of::<8>(row, head_dim, blocks, sums),
                4 => self.sum_of::<4>(row, head_dim, blocks, sums),
                2 => self.sum_of::<2>(row, head_dim, blocks, sums),
                _ => self.sum_of::<1>(row, head_dim, blocks, sums),
            }
        });
    }

    fn sum_of<const R: usize>(&self, first: usize, head_dim: usize, blocks: &[u32], sums: &mut [f32]) {
        let codes: [&[i16; SPAN]; R] = std::array::from_fn(|r| &self.codes[first + r]);
        let factors: [f32; R] = std::array::from_fn(|r| self.factors[first + r]);
        let sum = Sum { format: CacheFormat::Int8, head_dim, positions: self.positions, from: 0 };
        match self.isa.vectors() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: whoever came in through a public function has passed `Isa::check`.
            Vectors::Avx512 => unsafe { x86::weighted_codes_avx512(sum, codes, factors, blocks, sums) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Vectors::Avx2 => unsafe { x86::weighted_codes_avx2(sum, codes, factors, blocks, sums) },
            _ => portable::weighted_codes(sum, codes, factors, blocks, sums),
        }
    }
}

on_each_isa! {
    /// Writes the codes of a row and gives what they are to be multiplied by.
    fn round(weights: &mut [f32], blocks: &[u32], words: usize, codes: &mut [i16]) -> f32 = round_body
}

#[inline(always)]
fn round_body(weights: &mut [f32], blocks: &[u32], words: usize, codes: &mut [i16]) -> f32 {
    let mut largest = [0f32; BLOCK];
    for (weights, block) in weights.chunks_mut(BLOCK).zip(blocks.chunks_exact(words)) {
        for ((weight, scale), largest) in weights.iter_mut().zip(&block[..BLOCK]).zip(&mut largest) {
            *weight *= f32::from_bits(*scale);
            *largest = largest.max(*weight);
        }
    }
    let largest = largest.into_iter().fold(0.0, f32::max);
    let inverse = if largest > 0.0 { LARGEST / largest } else { 0.0 };
    weights.iter().zip(codes).for_each(|(w, code)| *code = nearest(w * inverse));
    largest / LARGEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_close_to_the_weights_and_what_was_never_written_has_no_influence() {
        let head_dim = 40;
        let words = BLOCK + 4 * head_dim;
        for (rows, positions) in [(1, 1), (3, 31), (8, 256), (5, 17)] {
            let stride = usize::next_multiple_of(positions, BLOCK);
            let mut blocks = vec![0xffff_ffffu32; stride / BLOCK * words];
            let scale = |p: usize| (p % 7 + 1) as f32 / 64.0;
            for p in 0..positions {
                blocks[p / BLOCK * words + p % BLOCK] = scale(p).to_bits();
            }
            let value = |p: usize, d: usize| ((p * 31 + d * 17) % 255) as i32 - 127;
            for (p, d) in (0..positions).flat_map(|p| (0..head_dim).map(move |d| (p, d))) {
                let (from, width) = if d < 32 { (0, 32) } else { (32, 8) };
                let codes: &mut [i8] =
                    bytemuck::cast_slice_mut(&mut blocks[p / BLOCK * words + BLOCK..][..4 * head_dim]);
                codes[BLOCK * from + p % BLOCK * width + d - from] = value(p, d) as i8;
            }
            let exponential = |r: usize, p: usize| ((p * 37 + r * 11) % 101) as f32 / 100.0;
            let mut one = None;
            for isa in Isa::available() {
                let mut all: Vec<f32> = (0..rows * stride).map(|i| exponential(i / stride, i % stride)).collect();
                let weights = Weights::new(isa, &mut all, rows, positions, &blocks, words);
                for r in 0..rows {
                    for p in 0..positions {
                        let wanted = exponential(r, p) * scale(p);
                        let found = f32::from(weights.codes[r][p]) * weights.factors[r];
                        assert!((wanted - found).abs() <= 0.51 * weights.factors[r], "{isa} {r} {p}");
                    }
                    assert!(weights.codes[r][positions..].iter().all(|code| *code == 0));
                }
                let mut sums = vec![f32::NAN; rows * head_dim];
                weights.sum(&blocks, &mut sums);
                for (i, sum) in sums.iter().enumerate() {
                    let (r, d) = (i / head_dim, i % head_dim);
                    let codes = weights.codes[r].iter().enumerate();
                    let wanted: i32 = codes.take(positions).map(|(p, code)| i32::from(*code) * value(p, d)).sum();
                    assert_eq!(*sum, wanted as f32 * weights.factors[r], "{isa} {r} {d}");
                }
                assert_eq!(*one.get_or_insert(sums.clone()), sums, "{isa}");
            }
        }
    }
}
