//! The int8 × 2-bit dot product on AVX-512 with VNNI.

use std::arch::x86_64::*;

const VECTOR: usize = 64;

/// `sum(code * x)` for each of `T` tokens; `planes` as in [`super::ternary`], 64 weight bytes a vector.
///
/// # Safety
/// The processor has AVX-512 F, BW and VNNI, and each of `planes` has at least `4 * 64` values for each 64 weight bytes
/// begun.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn code_dots<const T: usize>(weights: &[u8], planes: [&[i8]; T]) -> [i32; T] {
    let mask = _mm512_set1_epi8(3);
    // One sum for each plane: an addition has to wait for the one before it on the same sum.
    let mut sums = [[_mm512_setzero_si512(); 4]; T];
    for (v, weights) in weights.chunks(VECTOR).enumerate() {
        let there = u64::MAX >> (VECTOR - weights.len());
        // SAFETY: only the bytes that are there are read.
        let bytes = unsafe { _mm512_maskz_loadu_epi8(there, weights.as_ptr().cast()) };
        let codes = [
            _mm512_and_si512(bytes, mask),
            _mm512_and_si512(_mm512_srli_epi16::<2>(bytes), mask),
            _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask),
            _mm512_and_si512(_mm512_srli_epi16::<6>(bytes), mask),
        ];
        for t in 0..T {
            for plane in 0..4 {
                // SAFETY: the caller gives 4 × 64 activations for each vector.
                let x = unsafe { _mm512_loadu_si512(planes[t].as_ptr().add((4 * v + plane) * VECTOR).cast()) };
                sums[t][plane] = _mm512_dpbusd_epi32(sums[t][plane], codes[plane], x);
            }
        }
    }
    sums.map(|[a, b, c, d]| _mm512_reduce_add_epi32(_mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d))))
}
