//! Tiles of codes on NEON, with and without the `sdot` instruction.

use std::arch::aarch64::*;

use super::{GROUP, LINE, STEP, STEPS, Split, TILE_ROWS, of_vector, scale, step_bytes};
use crate::cpu::neon::sdot;
use crate::cpu::row_tiles::neon::{ROWS, VECTORS, four, products_of_four, rows_of};

macro_rules! kernel {
    ($name:ident, $features:literal, $dot:ident) => {
        /// # Safety
        /// The processor has what is enabled. Every token has as many blocks as the tile.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<const BITS: usize, const T: usize>(
            tile: &[u8],
            x: [&[Split]; T],
        ) -> [[f32; TILE_ROWS]; T] {
            let (nibble, eight) = (vdupq_n_u8(0x0f), vdupq_n_s8(8));
            let mut totals = [[vdupq_n_f32(0.0); VECTORS]; T];
            for (n, step) in tile.chunks_exact(step_bytes(BITS)).enumerate() {
                let (b, first) = (n / STEPS, n % STEPS * STEP);
                for group in 0..STEP / GROUP {
                    let mut sums = [[[vdupq_n_s32(0); 2]; VECTORS]; T];
                    for v in 0..GROUP / of_vector(BITS) {
                        let column = GROUP * group + of_vector(BITS) * v;
                        for rows in 0..VECTORS {
                            // SAFETY: a vector of a step is 64 bytes.
                            let bytes = unsafe {
                                vld1q_u8(step.as_ptr().add(LINE + column / of_vector(BITS) * LINE + 16 * rows))
                            };
                            let codes = match BITS {
                                8 => [vreinterpretq_s8_u8(bytes); 2],
                                _ => [vandq_u8(bytes, nibble), vshrq_n_u8::<4>(bytes)]
                                    .map(|codes| vsubq_s8(vreinterpretq_s8_u8(codes), eight)),
                            };
                            for (sums, x) in sums.iter_mut().zip(x) {
                                let [high, low] = &mut sums[rows];
                                for (i, codes) in codes.into_iter().take(of_vector(BITS) / 4).enumerate() {
                                    let at = first + column + 4 * i;
                                    *high = $dot(*high, codes, four(&x[b].high, at));
                                    *low = $dot(*low, codes, four(&x[b].low, at));
                                }
                            }
                        }
                    }
                    let scales: [f32; TILE_ROWS] = std::array::from_fn(|lane| scale(step, group, lane));
                    for ((totals, sums), x) in totals.iter_mut().zip(sums).zip(x) {
                        for (rows, (total, [high, low])) in totals.iter_mut().zip(sums).enumerate() {
                            // SAFETY: there are 16 of them.
                            let scale = unsafe { vld1q_f32(scales.as_ptr().add(ROWS * rows)) };
                            let sum = vcvtq_f32_s32(vaddq_s32(vshlq_n_s32::<6>(high), low));
                            *total = vaddq_f32(*total, vmulq_f32(sum, vmulq_n_f32(scale, x[b].scale)));
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
