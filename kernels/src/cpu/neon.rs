//! The int8 × 2-bit dot product on NEON, with and without the `sdot` instruction.

use std::arch::aarch64::*;
use std::arch::asm;

const VECTOR: usize = 16;

/// `sum(code * x)` for each of `T` tokens; `planes` as in [`super::ternary`], 16 weight bytes a vector.
///
/// # Safety
/// Each of `planes` has at least `4 * 16` values for each 16 weight bytes begun.
#[target_feature(enable = "neon")]
pub(crate) unsafe fn code_dots<const T: usize>(weights: &[u8], planes: [&[i8]; T]) -> [i32; T] {
    let mut sums = [vdupq_n_s32(0); T];
    for (v, weights) in weights.chunks(VECTOR).enumerate() {
        let codes = unpack(weights);
        for t in 0..T {
            // A product is at most 2 × 127, so eight of them fit a 16-bit lane.
            let mut products = vdupq_n_s16(0);
            for (plane, codes) in codes.iter().enumerate() {
                // SAFETY: the caller gives 4 × 16 activations for each vector.
                let x = unsafe { vld1q_s8(planes[t].as_ptr().add((4 * v + plane) * VECTOR)) };
                products = vmlal_s8(products, vget_low_s8(*codes), vget_low_s8(x));
                products = vmlal_high_s8(products, *codes, x);
            }
            sums[t] = vpadalq_s16(sums[t], products);
        }
    }
    sums.map(|sum| vaddvq_s32(sum))
}

/// [`code_dots`] with one `sdot` for 16 products.
///
/// # Safety
/// As [`code_dots`], and the processor has dotprod.
#[target_feature(enable = "neon,dotprod")]
pub(crate) unsafe fn code_dots_dotprod<const T: usize>(weights: &[u8], planes: [&[i8]; T]) -> [i32; T] {
    let mut sums = [vdupq_n_s32(0); T];
    for (v, weights) in weights.chunks(VECTOR).enumerate() {
        let codes = unpack(weights);
        for t in 0..T {
            for (plane, codes) in codes.iter().enumerate() {
                // SAFETY: the caller gives 4 × 16 activations for each vector.
                let x = unsafe { vld1q_s8(planes[t].as_ptr().add((4 * v + plane) * VECTOR)) };
                sums[t] = sdot(sums[t], *codes, x);
            }
        }
    }
    sums.map(|sum| vaddvq_s32(sum))
}

/// Four vectors of codes out of at most 16 bytes; bytes that are not there count as zero.
#[target_feature(enable = "neon")]
fn unpack(weights: &[u8]) -> [int8x16_t; 4] {
    let bytes = if weights.len() == VECTOR {
        // SAFETY: 16 bytes are there.
        unsafe { vld1q_u8(weights.as_ptr()) }
    } else {
        let mut last = [0u8; VECTOR];
        last[..weights.len()].copy_from_slice(weights);
        // SAFETY: 16 bytes are there.
        unsafe { vld1q_u8(last.as_ptr()) }
    };
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
