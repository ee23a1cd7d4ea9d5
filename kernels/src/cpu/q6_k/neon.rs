//! Rows of Q6_K on NEON, with and without the `sdot` instruction.

use std::arch::aarch64::*;

use super::{BLOCK_BYTES, LANES, Split, scale};
use crate::cpu::neon::sdot;

/// Adds the products of all blocks of a row to `sums`: 16 weights with one scale at a time, four sums of four.
macro_rules! add_row {
    ($name:ident, $features:literal, $dot:ident) => {
        /// # Safety
        /// The processor has what is enabled.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<'a>(
            blocks: impl Iterator<Item = (&'a [u8; BLOCK_BYTES], &'a Split)>,
            sums: &mut [f32; LANES],
        ) {
            let (nibble, pair) = (vdupq_n_u8(0x0f), vdupq_n_u8(0x30));
            // SAFETY: 16 floats are there.
            let mut totals: [float32x4_t; 4] = std::array::from_fn(|i| unsafe { vld1q_f32(sums.as_ptr().add(4 * i)) });
            for (block, x) in blocks {
                let scales: [i32; LANES] = std::array::from_fn(|run| i32::from(block[192 + run].cast_signed()));
                let mut integers: [int32x4_t; 4] = std::array::from_fn(|i| {
                    // SAFETY: there are 16 of each.
                    unsafe { vmulq_s32(vld1q_s32(scales.as_ptr().add(4 * i)), vld1q_s32(x.offset.as_ptr().add(4 * i))) }
                });
                for half in 0..2 {
                    for at in [0, 16] {
                        // SAFETY: the nibbles and bit pairs of a half are 64 and 32 bytes.
                        let [first, second, high] = [64 * half + at, 64 * half + 32 + at, 128 + 32 * half + at]
                            .map(|at| unsafe { vld1q_u8(block.as_ptr().add(at)) });
                        // Nibbles and pairs of the four quarters of a half.
                        let nibbles = [
                            vandq_u8(first, nibble),
                            vandq_u8(second, nibble),
                            vshrq_n_u8::<4>(first),
                            vshrq_n_u8::<4>(second),
                        ];
                        let pairs = [vshlq_n_u8::<4>(high), vshlq_n_u8::<2>(high), high, vshrq_n_u8::<2>(high)];
                        for (quarter, (low, high)) in nibbles.into_iter().zip(pairs).enumerate() {
                            let codes = vreinterpretq_s8_u8(vorrq_u8(low, vandq_u8(high, pair)));
                            let run = 8 * half + 2 * quarter + at / 16;
                            // SAFETY: there are 16 times 16 of each.
                            let [high, low] = [&x.high, &x.low].map(|x| unsafe { vld1q_s8(x.as_ptr().add(16 * run)) });
                            let products = vshlq_n_s32::<6>($dot(vdupq_n_s32(0), codes, high));
                            let products = $dot(products, codes, low);
                            integers[run % 4] = vmlaq_n_s32(integers[run % 4], products, scales[run]);
                        }
                    }
                }
                let scale = vdupq_n_f32(scale(block) * x.scale);
                for (total, integers) in totals.iter_mut().zip(integers) {
                    *total = vaddq_f32(*total, vmulq_f32(vcvtq_f32_s32(integers), scale));
                }
            }
            for (i, total) in totals.into_iter().enumerate() {
                // SAFETY: there is room for 16 floats.
                unsafe { vst1q_f32(sums.as_mut_ptr().add(4 * i), total) };
            }
        }
    };
}

add_row!(add_row, "neon", products_of_four);
add_row!(add_row_dotprod, "neon,dotprod", sdot);

/// What [`sdot`] does, for products that fit 16 bits.
#[inline]
#[target_feature(enable = "neon")]
fn products_of_four(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    let low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
    let high = vpaddlq_s16(vmull_high_s8(a, b));
    vaddq_s32(sum, vpaddq_s32(low, high))
}
