//! What the kernels of all tiles need of x86-64.

use std::arch::x86_64::*;
use std::sync::atomic::{Ordering, compiler_fence};

use super::TILE_ROWS;

/// What was read stays before what is read after it: a compiler would mix the reads of several groups, and a processor
/// that sees lines in no order does not fetch the next ones (`benches/results/cpu-2026-11-26.md`).
#[inline(always)]
pub(super) fn in_order<T>(read: T) -> T {
    compiler_fence(Ordering::SeqCst);
    read
}

/// The sums of the rows.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn rows_of_512(sums: __m512) -> [f32; TILE_ROWS] {
    let mut out = [0.0; TILE_ROWS];
    // SAFETY: there is room for 16 floats.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sums) };
    out
}

/// The same of two halves.
#[inline]
#[target_feature(enable = "avx")]
pub(super) fn rows_of_256([low, high]: [__m256; 2]) -> [f32; TILE_ROWS] {
    let mut out = [0.0; TILE_ROWS];
    // SAFETY: there is room for twice eight floats.
    unsafe {
        _mm256_storeu_ps(out.as_mut_ptr(), low);
        _mm256_storeu_ps(out.as_mut_ptr().add(8), high);
    }
    out
}
