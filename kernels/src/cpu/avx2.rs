//! Int8 × 2-bit products on AVX2.

use std::arch::x86_64::*;

use super::tiles::TILE_ROWS;

/// Words whose products fit the 16-bit sums: one adds at most 4 planes × 2 products × 2 × 128 = 2,048 to the magnitude
/// of a lane; 16 of them reach -32,768 when every activation is -128, and +32,512 when every one is 127.
const WORDS_IN_I16: usize = 16;

/// `sum(code * x)` of 16 rows for `T` tokens: `[token][row]`. Four tokens take 8 of the 16 registers.
///
/// # Safety
/// The processor has AVX2.
///
/// # Panics
/// When `tile` is not 16 words, or `x` not `4 T` lanes, for each word of a row.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn dots<const T: usize>(tile: &[u32], x: &[u32]) -> [[i32; TILE_ROWS]; T] {
    let words = x.len() / (4 * T);
    assert!(tile.len() == TILE_ROWS * words && x.len() == 4 * T * words, "lanes");
    let (mask, ones) = (_mm256_set1_epi8(3), _mm256_set1_epi16(1));
    // Two vectors of eight rows.
    let mut totals = [[_mm256_setzero_si256(); 2]; T];
    for first in (0..words).step_by(WORDS_IN_I16) {
        let mut sums = [[_mm256_setzero_si256(); 2]; T];
        for k in first..words.min(first + WORDS_IN_I16) {
            // SAFETY: word `k` of 16 rows is there. The prefetch is a hint, of an address that need not exist.
            let mut bytes = unsafe {
                let bytes = tile.as_ptr().add(TILE_ROWS * k);
                _mm_prefetch::<_MM_HINT_T0>(bytes.wrapping_add(16 * TILE_ROWS).cast());
                [_mm256_loadu_si256(bytes.cast()), _mm256_loadu_si256(bytes.add(8).cast())]
            };
            for p in 0..4 {
                let codes = bytes.map(|bytes| _mm256_and_si256(bytes, mask));
                bytes = bytes.map(|bytes| _mm256_srli_epi16::<2>(bytes));
                for (t, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: the lanes of `T` tokens are there for each plane of each word.
                    let x = unsafe { x.as_ptr().add((4 * k + p) * T + t).read() };
                    let x = _mm256_set1_epi32(x.cast_signed());
                    for (sum, codes) in sums.iter_mut().zip(codes) {
                        *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(codes, x));
                    }
                }
            }
        }
        for (totals, sums) in totals.iter_mut().zip(sums) {
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total = _mm256_add_epi32(*total, _mm256_madd_epi16(sum, ones));
            }
        }
    }
    totals.map(|[low, high]| {
        let mut array = [0; TILE_ROWS];
        // SAFETY: there is room for twice eight lanes.
        unsafe {
            _mm256_storeu_si256(array.as_mut_ptr().cast(), low);
            _mm256_storeu_si256(array.as_mut_ptr().add(8).cast(), high);
        }
        array
    })
}
