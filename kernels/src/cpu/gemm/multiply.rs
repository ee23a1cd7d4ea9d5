//! The innermost loops: one tile of a result.

use crate::cpu::isa::{Isa, Vectors};
use crate::cpu::precision::Precision;

/// Rows and columns of the result that are summed in registers.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl Tile {
    const AVX512: Tile = Tile { rows: 12, columns: 32 };
    const AVX2: Tile = Tile { rows: 6, columns: 16 };
    const PORTABLE: Tile = Tile { rows: 4, columns: 16 };
    /// The elements of the largest.
    pub(super) const MAX: usize = 12 * 32;

    pub(super) fn of(isa: Isa) -> Self {
        match isa.vectors() {
            Vectors::Avx512 => Self::AVX512,
            Vectors::Avx2 => Self::AVX2,
            _ => Self::PORTABLE,
        }
    }
}

/// `sums[r][c] += left[k][r] * right[k][c]` for every `k` in turn, for the tile of `isa`; `anew` from zero.
pub(super) fn multiply(isa: Isa, precision: Precision, left: &[f32], right: &[f32], anew: bool, sums: &mut [f32]) {
    match isa.vectors() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `matmul` has asked whether there is such an instruction.
        Vectors::Avx512 if precision == Precision::Bf16 => unsafe { x86::multiply_bf16(left, right, anew, sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever came in through a public function has passed `Isa::check`.
        Vectors::Avx512 => unsafe { x86::multiply_avx512(left, right, anew, sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Vectors::Avx2 => unsafe { x86::multiply_avx2(left, right, anew, sums) },
        _ => {
            debug_assert_eq!(precision, Precision::F32, "`matmul` has asked");
            multiply_portable(left, right, anew, sums);
        }
    }
}

fn multiply_portable(left: &[f32], right: &[f32], anew: bool, sums: &mut [f32]) {
    const ROWS: usize = Tile::PORTABLE.rows;
    const COLUMNS: usize = Tile::PORTABLE.columns;
    let mut tile = [[0f32; COLUMNS]; ROWS];
    if !anew {
        tile.iter_mut().zip(sums.as_chunks::<COLUMNS>().0).for_each(|(tile, sums)| *tile = *sums);
    }
    for (left, right) in left.as_chunks::<ROWS>().0.iter().zip(right.as_chunks::<COLUMNS>().0) {
        for (sums, a) in tile.iter_mut().zip(left) {
            sums.iter_mut().zip(right).for_each(|(sum, b)| *sum = a.mul_add(*b, *sum));
        }
    }
    sums.as_chunks_mut::<COLUMNS>().0.iter_mut().zip(tile).for_each(|(sums, tile)| *sums = tile);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Tile;

    /// [`super::multiply`] in 24 registers of 16 sums.
    #[target_feature(enable = "avx512f")]
    pub(super) fn multiply_avx512(left: &[f32], right: &[f32], anew: bool, sums: &mut [f32]) {
        const ROWS: usize = Tile::AVX512.rows;
        const COLUMNS: usize = Tile::AVX512.columns;
        let (sums, rest) = sums.as_chunks_mut::<COLUMNS>();
        assert!(sums.len() == ROWS && rest.is_empty(), "a whole tile");
        let mut tile = [[_mm512_setzero_ps(); 2]; ROWS];
        if !anew {
            for (tile, sums) in tile.iter_mut().zip(&*sums) {
                // SAFETY: a row has 32 sums.
                *tile = unsafe { [_mm512_loadu_ps(sums.as_ptr()), _mm512_loadu_ps(sums.as_ptr().add(16))] };
            }
        }
        for (left, right) in left.as_chunks::<ROWS>().0.iter().zip(right.as_chunks::<COLUMNS>().0) {
            // SAFETY: there are 32 of them.
            let [b0, b1] = unsafe { [_mm512_loadu_ps(right.as_ptr()), _mm512_loadu_ps(right.as_ptr().add(16))] };
            for (tile, a) in tile.iter_mut().zip(left) {
                let a = _mm512_set1_ps(*a);
                tile[0] = _mm512_fmadd_ps(a, b0, tile[0]);
                tile[1] = _mm512_fmadd_ps(a, b1, tile[1]);
            }
        }
        for (tile, sums) in tile.iter().zip(sums) {
            // SAFETY: a row has 32 sums.
            unsafe {
                _mm512_storeu_ps(sums.as_mut_ptr(), tile[0]);
                _mm512_storeu_ps(sums.as_mut_ptr().add(16), tile[1]);
            }
        }
    }

    /// [`super::multiply`] of pairs of bfloat16, in 24 registers of 16 sums.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn multiply_bf16(left: &[f32], right: &[f32], anew: bool, sums: &mut [f32]) {
        const ROWS: usize = Tile::AVX512.rows;
        const COLUMNS: usize = Tile::AVX512.columns;
        let (sums, rest) = sums.as_chunks_mut::<COLUMNS>();
        assert!(sums.len() == ROWS && rest.is_empty(), "a whole tile");
        // SAFETY: both are 512 bits of no particular meaning.
        let pairs = |bits: __m512| unsafe { std::mem::transmute::<__m512, __m512bh>(bits) };
        let mut tile = [[_mm512_setzero_ps(); 2]; ROWS];
        if !anew {
            for (tile, sums) in tile.iter_mut().zip(&*sums) {
                // SAFETY: a row has 32 sums.
                *tile = unsafe { [_mm512_loadu_ps(sums.as_ptr()), _mm512_loadu_ps(sums.as_ptr().add(16))] };
            }
        }
        for (left, right) in left.as_chunks::<ROWS>().0.iter().zip(right.as_chunks::<COLUMNS>().0) {
            // SAFETY: there are 32 of them.
            let [b0, b1] = unsafe { [_mm512_loadu_ps(right.as_ptr()), _mm512_loadu_ps(right.as_ptr().add(16))] };
            for (tile, a) in tile.iter_mut().zip(left) {
                let a = pairs(_mm512_set1_ps(*a));
                tile[0] = _mm512_dpbf16_ps(tile[0], a, pairs(b0));
                tile[1] = _mm512_dpbf16_ps(tile[1], a, pairs(b1));
            }
        }
        for (tile, sums) in tile.iter().zip(sums) {
            // SAFETY: a row has 32 sums.
            unsafe {
                _mm512_storeu_ps(sums.as_mut_ptr(), tile[0]);
                _mm512_storeu_ps(sums.as_mut_ptr().add(16), tile[1]);
            }
        }
    }

    /// [`super::multiply`] in 12 registers of 8 sums.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn multiply_avx2(left: &[f32], right: &[f32], anew: bool, sums: &mut [f32]) {
        const ROWS: usize = Tile::AVX2.rows;
        const COLUMNS: usize = Tile::AVX2.columns;
        let (sums, rest) = sums.as_chunks_mut::<COLUMNS>();
        assert!(sums.len() == ROWS && rest.is_empty(), "a whole tile");
        let mut tile = [[_mm256_setzero_ps(); 2]; ROWS];
        if !anew {
            for (tile, sums) in tile.iter_mut().zip(&*sums) {
                // SAFETY: a row has 16 sums.
                *tile = unsafe { [_mm256_loadu_ps(sums.as_ptr()), _mm256_loadu_ps(sums.as_ptr().add(8))] };
            }
        }
        for (left, right) in left.as_chunks::<ROWS>().0.iter().zip(right.as_chunks::<COLUMNS>().0) {
            // SAFETY: there are 16 of them.
            let [b0, b1] = unsafe { [_mm256_loadu_ps(right.as_ptr()), _mm256_loadu_ps(right.as_ptr().add(8))] };
            for (tile, a) in tile.iter_mut().zip(left) {
                let a = _mm256_set1_ps(*a);
                tile[0] = _mm256_fmadd_ps(a, b0, tile[0]);
                tile[1] = _mm256_fmadd_ps(a, b1, tile[1]);
            }
        }
        for (tile, sums) in tile.iter().zip(sums) {
            // SAFETY: a row has 16 sums.
            unsafe {
                _mm256_storeu_ps(sums.as_mut_ptr(), tile[0]);
                _mm256_storeu_ps(sums.as_mut_ptr().add(8), tile[1]);
            }
        }
    }
}
