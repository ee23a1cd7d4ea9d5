//! The int8 × 2-bit dot product on AVX2.

use std::arch::x86_64::*;

const VECTOR: usize = 32;

/// Vectors whose products fit the 16-bit sums: one adds at most 4 planes × 2 products × 2 × 128 = 2,048 to the magnitude
/// of a lane; 16 of them reach -32,768 when every activation is -128, and +32,512 when every one is 127.
const VECTORS_IN_I16: usize = 16;

/// `sum(code * x)` for each of `T` tokens; `planes` as in [`super::ternary`], 32 weight bytes a vector.
///
/// # Safety
/// The processor has AVX2, and each of `planes` has at least `4 * 32` values for each 32 weight bytes begun.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn code_dots<const T: usize>(weights: &[u8], planes: [&[i8]; T]) -> [i32; T] {
    let mask = _mm256_set1_epi8(3);
    let ones = _mm256_set1_epi16(1);
    let mut totals = [_mm256_setzero_si256(); T];
    let mut v = 0;
    for block in weights.chunks(VECTORS_IN_I16 * VECTOR) {
        let mut sums = [_mm256_setzero_si256(); T];
        for weights in block.chunks(VECTOR) {
            let bytes = if weights.len() == VECTOR {
                // SAFETY: 32 bytes are there.
                unsafe { _mm256_loadu_si256(weights.as_ptr().cast()) }
            } else {
                let mut last = [0u8; VECTOR];
                last[..weights.len()].copy_from_slice(weights);
                // SAFETY: 32 bytes are there.
                unsafe { _mm256_loadu_si256(last.as_ptr().cast()) }
            };
            let codes = [
                _mm256_and_si256(bytes, mask),
                _mm256_and_si256(_mm256_srli_epi16::<2>(bytes), mask),
                _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask),
                _mm256_and_si256(_mm256_srli_epi16::<6>(bytes), mask),
            ];
            for t in 0..T {
                for (plane, codes) in codes.iter().enumerate() {
                    // SAFETY: the caller gives 4 × 32 activations for each vector.
                    let x = unsafe { _mm256_loadu_si256(planes[t].as_ptr().add((4 * v + plane) * VECTOR).cast()) };
                    sums[t] = _mm256_add_epi16(sums[t], _mm256_maddubs_epi16(*codes, x));
                }
            }
            v += 1;
        }
        for t in 0..T {
            totals[t] = _mm256_add_epi32(totals[t], _mm256_madd_epi16(sums[t], ones));
        }
    }
    totals.map(|total| {
        let sum = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256::<1>(total));
        let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b01_00_11_10>(sum));
        let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b10_11_00_01>(sum));
        _mm_cvtsi128_si32(sum)
    })
}
