//! Int8 × 2-bit products on NEON, with and without the `sdot` instruction.

use std::arch::aarch64::*;
use std::arch::asm;

use super::tiles::TILE_ROWS;

/// Rows in one vector.
const ROWS: usize = 4;

/// Words whose products fit the 16-bit sums: one adds at most 4 planes × 2 × 128 = 1,024 to the magnitude of a lane.
const WORDS_IN_I16: usize = 31;

/// `sum(code * x)` of 16 rows for `T` tokens: `[token][row]`.
///
/// # Safety
/// None beyond NEON, which every AArch64 processor has.
///
/// # Panics
/// When `tile` is not 16 words, or `x` not `4 T` lanes, for each word of a row.
#[target_feature(enable = "neon")]
pub(crate) unsafe fn dots<const T: usize>(tile: &[u32], x: &[u32]) -> [[i32; TILE_ROWS]; T] {
    let words = check::<T>(tile, x);
    let mut out = [[0; TILE_ROWS]; T];
    for four in (0..TILE_ROWS).step_by(ROWS) {
        let mut totals = [vdupq_n_s32(0); T];
        for first in (0..words).step_by(WORDS_IN_I16) {
            // Rows 0 and 1, and rows 2 and 3, in four lanes each.
            let mut sums = [[vdupq_n_s16(0); 2]; T];
            for k in first..words.min(first + WORDS_IN_I16) {
                // SAFETY: word `k` of 16 rows is there.
                let codes = unpack(unsafe { vld1q_u8(tile.as_ptr().add(TILE_ROWS * k + four).cast()) });
                for (p, codes) in codes.into_iter().enumerate() {
                    for (t, [low, high]) in sums.iter_mut().enumerate() {
                        let x = vreinterpretq_s8_u32(vdupq_n_u32(x[(4 * k + p) * T + t]));
                        *low = vmlal_s8(*low, vget_low_s8(codes), vget_low_s8(x));
                        *high = vmlal_high_s8(*high, codes, x);
                    }
                }
            }
            for (total, [low, high]) in totals.iter_mut().zip(sums) {
                *total = vaddq_s32(*total, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
            }
        }
        for (out, total) in out.iter_mut().zip(totals) {
            // SAFETY: there is room for four lanes.
            unsafe { vst1q_s32(out.as_mut_ptr().add(four), total) };
        }
    }
    out
}

/// [`dots`] with one `sdot` for 16 products.
///
/// # Safety
/// The processor has dotprod.
///
/// # Panics
/// As [`dots`].
#[target_feature(enable = "neon,dotprod")]
pub(crate) unsafe fn dots_dotprod<const T: usize>(tile: &[u32], x: &[u32]) -> [[i32; TILE_ROWS]; T] {
    let words = check::<T>(tile, x);
    let mut sums = [[vdupq_n_s32(0); TILE_ROWS / ROWS]; T];
    for k in 0..words {
        for four in 0..TILE_ROWS / ROWS {
            // SAFETY: word `k` of 16 rows is there.
            let codes = unpack(unsafe { vld1q_u8(tile.as_ptr().add(TILE_ROWS * k + ROWS * four).cast()) });
            for (p, codes) in codes.into_iter().enumerate() {
                for (t, sums) in sums.iter_mut().enumerate() {
                    let x = vreinterpretq_s8_u32(vdupq_n_u32(x[(4 * k + p) * T + t]));
                    sums[four] = sdot(sums[four], codes, x);
                }
            }
        }
    }
    sums.map(|sums| {
        let mut out = [0; TILE_ROWS];
        for (four, sum) in sums.into_iter().enumerate() {
            // SAFETY: there is room for four times four lanes.
            unsafe { vst1q_s32(out.as_mut_ptr().add(ROWS * four), sum) };
        }
        out
    })
}

/// Words of a row.
fn check<const T: usize>(tile: &[u32], x: &[u32]) -> usize {
    let words = x.len() / (4 * T);
    assert!(tile.len() == TILE_ROWS * words && x.len() == 4 * T * words, "lanes");
    words
}

/// The four planes of codes of 16 bytes.
#[target_feature(enable = "neon")]
fn unpack(bytes: uint8x16_t) -> [int8x16_t; 4] {
    let mask = vdupq_n_u8(3);
    [
        vreinterpretq_s8_u8(vandq_u8(bytes, mask)),
        vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<2>(bytes), mask)),
        vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<4>(bytes), mask)),
        vreinterpretq_s8_u8(vshrq_n_u8::<6>(bytes)),
    ]
}

/// `sum[i] + a[4i..4i+4] · b[4i..4i+4]`; the intrinsic is not stable in every compiler that we support.
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction is there (`dotprod`), and touches nothing but these registers.
    unsafe {
        asm!("sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b", sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}
