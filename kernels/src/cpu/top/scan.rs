//! Products of a tile of a [`super::Sketch`], with their bounds.

use half::f16;

use super::activations::{Activations, Block};
use super::sketch::{FIFTH_BIT, FOUR_BITS, SCALES, Tile};
use super::{BLOCK, TILE};
use crate::cpu::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::cpu::isa::Vectors;

/// More than all that products and sums lose where they are no normal floats: of the head, and in units of a row.
const TINY: f32 = 1e-30;
const TINY_OF_UNIT: f32 = 1e-33;

/// What is known of the logits of 16 rows: each is within `distance` of `product`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Bounds {
    pub(super) product: [f32; TILE],
    pub(super) distance: [f32; TILE],
}

/// Sums over the blocks of a tile, one lane for each row: of the products, `S` and `R`.
pub(super) struct Sums {
    pub(super) product: [f32; TILE],
    pub(super) norm: [f32; TILE],
    pub(super) rounding: [f32; TILE],
}

/// Bounds with the four upper bits.
pub(super) fn coarse(isa: Isa, tile: Tile<'_>, x: &Activations) -> Bounds {
    let mut sums = Sums { product: [0.0; TILE], norm: [0.0; TILE], rounding: [0.0; TILE] };
    match isa.vectors() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever came in through a public function has passed `Isa::check`.
        Vectors::Avx512 => unsafe { super::x86::coarse_avx512(tile.four, tile.scales, &x.blocks, &mut sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Vectors::Avx2 => unsafe { super::x86::coarse_avx2(tile.four, tile.scales, &x.blocks, &mut sums) },
        _ => portable(tile.scales, &x.blocks, &mut sums, |b, lane| coarse_integer(&tile.four[b], &x.blocks[b], lane)),
    }
    bounds(tile, x, &sums, 1, [0.0; TILE])
}

/// Bounds with all five bits, after those with four.
pub(super) fn fine(isa: Isa, tile: Tile<'_>, x: &Activations, coarse: &Bounds) -> Bounds {
    let mut sums = Sums { product: [0.0; TILE], norm: [0.0; TILE], rounding: [0.0; TILE] };
    match isa.vectors() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Vectors::Avx512 => unsafe { super::x86::fine_avx512(tile.fifth, tile.scales, &x.blocks, &mut sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Vectors::Avx2 => unsafe { super::x86::fine_avx2(tile.fifth, tile.scales, &x.blocks, &mut sums) },
        _ => portable(tile.scales, &x.blocks, &mut sums, |b, lane| fine_integer(&tile.fifth[b], &x.blocks[b], lane)),
    }
    // The integers are twice what the fifth bit adds.
    sums.product.iter_mut().for_each(|sum| *sum *= 0.5);
    bounds(tile, x, &sums, 3, coarse.product)
}

/// `d = min(p S, |e| |x|) + R`, with `p` and `|e|` being the facts number `of` and the next; and `a`, which adds to `product`.
#[inline(always)]
fn bounds(tile: Tile<'_>, x: &Activations, sums: &Sums, of: usize, product: [f32; TILE]) -> Bounds {
    let fact = |i: usize, lane: usize| {
        let at = 4 * (TILE * i + lane);
        f32::from_le_bytes([tile.facts[at], tile.facts[at + 1], tile.facts[at + 2], tile.facts[at + 3]])
    };
    let mut bounds = Bounds { product, distance: [0.0; TILE] };
    for lane in 0..TILE {
        let unit = fact(0, lane);
        let by_blocks = fact(of, lane) * (sums.norm[lane] * unit);
        let whole = fact(of + 1, lane) * x.norm;
        let rounding = sums.rounding[lane] * unit;
        bounds.product[lane] += sums.product[lane] * unit;
        // The factor is for the rounding of the sums themselves.
        bounds.distance[lane] = (by_blocks.min(whole) + rounding) * (1.0 + 1.0 / 2048.0) + (unit * TINY_OF_UNIT + TINY);
    }
    bounds
}

#[inline(always)]
fn portable(scales: &[[u8; SCALES]], x: &[Block], sums: &mut Sums, integer: impl Fn(usize, usize) -> i32) {
    for (b, (scales, x)) in scales.iter().zip(x).enumerate() {
        for lane in 0..TILE {
            let scale = f16::from_le_bytes([scales[2 * lane], scales[2 * lane + 1]]).to_f32();
            sums.product[lane] += integer(b, lane) as f32 * (scale * x.scale);
            sums.norm[lane] += scale * x.norm;
            sums.rounding[lane] += scale * x.rounding;
        }
    }
}

/// `sum (2 c - 15) X` over a block with the four upper bits: less than `15 * 64 * 8160 < 2^24`, so a float holds it.
fn coarse_integer(four: &[u8; FOUR_BITS], x: &Block, lane: usize) -> i32 {
    let mut sum = 0;
    for v in 0..BLOCK / 8 {
        for i in 0..4 {
            let byte = four[4 * (TILE * v + lane) + i];
            sum += i32::from(byte & 15) * integer(x, 8 * v + i) + i32::from(byte >> 4) * integer(x, 8 * v + 4 + i);
        }
    }
    2 * sum - 15 * x.sum
}

/// `sum (2 c - 1) X` over a block with the fifth bit.
fn fine_integer(fifth: &[u8; FIFTH_BIT], x: &Block, lane: usize) -> i32 {
    let mut sum = 0;
    for u in 0..BLOCK / 32 {
        for i in 0..4 {
            let byte = fifth[4 * (TILE * u + lane) + i];
            sum += (0..8).map(|j| i32::from(byte >> j & 1) * integer(x, 32 * u + 4 * j + i)).sum::<i32>();
        }
    }
    2 * sum - x.sum
}

fn integer(x: &Block, i: usize) -> i32 {
    64 * i32::from(x.high[i]) + i32::from(x.low[i])
}
