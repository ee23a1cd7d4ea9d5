//! Tiles of Q6_K on NEON, with and without the `sdot` instruction.

use std::arch::aarch64::*;

use super::{BLOCK, GROUP, GROUP_BYTES, GROUPS, SCALES_BYTES, Split, TILE_ROWS, Tile};
use crate::cpu::neon::sdot;
use crate::cpu::row_tiles::neon::{ROWS, VECTORS, four, products_of_four, rows_of};

macro_rules! kernel {
    ($name:ident, $features:literal, $dot:ident) => {
        /// # Safety
        /// The processor has what is enabled. Every token has as many blocks as the tile.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<const T: usize>(tile: Tile<'_>, x: [&[Split]; T]) -> [[f32; TILE_ROWS]; T] {
            let (nibble, pair) = (vdupq_n_u8(0x0f), vdupq_n_u8(0x30));
            let mut totals = [[vdupq_n_f32(0.0); VECTORS]; T];
            for (b, block) in tile.blocks.iter().enumerate() {
                let scales_of_rows: [f32; TILE_ROWS] = std::array::from_fn(|lane| tile.d(b, lane));
                for (quarter, first) in block.iter().zip((0..BLOCK / GROUP).step_by(GROUPS)) {
                    let mut integers = [[vdupq_n_s32(0); VECTORS]; T];
                    for group in 0..GROUPS {
                        // SAFETY: the 16 scales of a group are there.
                        let scales = unsafe { vld1q_s8(quarter.as_ptr().add(TILE_ROWS * group).cast()) };
                        let halves = [vmovl_s8(vget_low_s8(scales)), vmovl_high_s8(scales)];
                        for v in 0..VECTORS {
                            // SAFETY: a group has 64 bytes of each.
                            let [a, b_, pairs] = [0, 64, 128].map(|at| unsafe {
                                vld1q_u8(quarter.as_ptr().add(SCALES_BYTES + GROUP_BYTES * group + at + 16 * v))
                            });
                            let low =
                                [vandq_u8(a, nibble), vshrq_n_u8::<4>(a), vandq_u8(b_, nibble), vshrq_n_u8::<4>(b_)];
                            let high = [vshlq_n_u8::<4>(pairs), vshlq_n_u8::<2>(pairs), pairs, vshrq_n_u8::<2>(pairs)];
                            let half = halves[v / 2];
                            let scale = if v % 2 == 0 { vmovl_s16(vget_low_s16(half)) } else { vmovl_high_s16(half) };
                            for (integers, x) in integers.iter_mut().zip(x) {
                                let (x, at) = (&x[b], GROUP * (first + group));
                                let (mut highs, mut lows) = (vdupq_n_s32(0), vdupq_n_s32(x.offset[first + group]));
                                for i in 0..GROUP / 4 {
                                    let codes = vreinterpretq_s8_u8(vorrq_u8(low[i], vandq_u8(high[i], pair)));
                                    highs = $dot(highs, codes, four(&x.high, at + 4 * i));
                                    lows = $dot(lows, codes, four(&x.low, at + 4 * i));
                                }
                                let sum = vaddq_s32(vshlq_n_s32::<6>(highs), lows);
                                integers[v] = vmlaq_s32(integers[v], sum, scale);
                            }
                        }
                    }
                    for ((totals, integers), x) in totals.iter_mut().zip(integers).zip(x) {
                        for (v, (total, integers)) in totals.iter_mut().zip(integers).enumerate() {
                            // SAFETY: there are 16 of them.
                            let scale = unsafe { vld1q_f32(scales_of_rows.as_ptr().add(ROWS * v)) };
                            let scale = vmulq_n_f32(scale, x[b].scale);
                            *total = vaddq_f32(*total, vmulq_f32(vcvtq_f32_s32(integers), scale));
                        }
                    }
                }
            }
            totals.map(|totals| rows_of(totals))
        }
    };
}

kernel!(neon, "neon", products_of_four);
kernel!(dotprod, "neon,dotprod", sdot);
