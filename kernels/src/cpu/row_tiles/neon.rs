//! What the kernels of all tiles need of NEON.

use std::arch::aarch64::*;

use super::TILE_ROWS;
use super::split::BLOCK;

/// Rows in one vector, and vectors of a tile.
pub(super) const ROWS: usize = 4;
pub(super) const VECTORS: usize = TILE_ROWS / ROWS;

/// Four activations in every lane.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn four(x: &[i8; BLOCK], at: usize) -> int8x16_t {
    vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(std::array::from_fn(|i| x[at + i].cast_unsigned()))))
}

/// What [`crate::cpu::neon::sdot`] does, for products that fit 16 bits.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn products_of_four(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    let low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
    let high = vpaddlq_s16(vmull_high_s8(a, b));
    vaddq_s32(sum, vpaddq_s32(low, high))
}

/// The sums of the rows.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn rows_of(sums: [float32x4_t; VECTORS]) -> [f32; TILE_ROWS] {
    let mut out = [0.0; TILE_ROWS];
    for (out, sums) in out.as_chunks_mut::<ROWS>().0.iter_mut().zip(sums) {
        // SAFETY: there is room for four floats.
        unsafe { vst1q_f32(out.as_mut_ptr(), sums) };
    }
    out
}
