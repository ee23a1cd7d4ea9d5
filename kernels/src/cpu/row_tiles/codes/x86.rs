//! Tiles of codes on x86-64.

use std::arch::x86_64::*;

use super::{GROUP, LINE, STEP, STEPS, Split, TILE_ROWS, of_vector, step_bytes};
use crate::cpu::row_tiles::x86::{in_order, rows_of_256, rows_of_512};

/// Four activations from word `i` of a block on, in every lane.
macro_rules! four_of {
    ($broadcast:ident, $bytes:expr, $i:expr) => {
        $broadcast($bytes.as_ptr().cast::<i32>().add($i).read())
    };
}

/// What the sum of a group is too large by, with codes that are the true ones and `1 << (BITS - 1)`.
#[inline(always)]
fn offset<const BITS: usize>(x: &Split, group: usize) -> i32 {
    // Those of 16 are -32 times the sums.
    let [a, b] = [x.offset[2 * group], x.offset[2 * group + 1]];
    if BITS == 8 { 4 * (a + b) } else { (a + b) / 4 }
}

/// # Safety
/// The processor has AVX-512 F, BW and VNNI. Every token has as many blocks as the tile.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn avx512<const BITS: usize, const T: usize>(tile: &[u8], x: [&[Split]; T]) -> [[f32; TILE_ROWS]; T] {
    let (nibble, sign) = (_mm512_set1_epi8(0x0f), _mm512_set1_epi8(-128));
    let mut totals = [_mm512_setzero_ps(); T];
    for (n, step) in tile.chunks_exact(step_bytes(BITS)).enumerate() {
        let (b, first) = (n / STEPS, n % STEPS * STEP);
        for group in 0..STEP / GROUP {
            // SAFETY: every read is within the step, or the arrays of `x`.
            unsafe {
                let d = _mm256_loadu_si256(step.as_ptr().add(2 * TILE_ROWS * group).cast());
                let mut sums = [[_mm512_setzero_si512(); 2]; T];
                for (sums, x) in sums.iter_mut().zip(x) {
                    sums[1] = _mm512_set1_epi32(offset::<BITS>(&x[b], (first + GROUP * group) / GROUP));
                }
                for v in 0..GROUP / of_vector(BITS) {
                    let column = GROUP * group + of_vector(BITS) * v;
                    let at = step.as_ptr().add(LINE + column / of_vector(BITS) * LINE);
                    let bytes = in_order(_mm512_loadu_si512(at.cast()));
                    let codes = match BITS {
                        8 => [_mm512_xor_si512(bytes, sign); 2],
                        _ => [_mm512_and_si512(bytes, nibble), _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), nibble)],
                    };
                    for (sums, x) in sums.iter_mut().zip(x) {
                        for (i, codes) in codes.into_iter().take(of_vector(BITS) / 4).enumerate() {
                            let word = (first + column) / 4 + i;
                            sums[0] = _mm512_dpbusd_epi32(sums[0], codes, four_of!(_mm512_set1_epi32, x[b].high, word));
                            sums[1] = _mm512_dpbusd_epi32(sums[1], codes, four_of!(_mm512_set1_epi32, x[b].low, word));
                        }
                    }
                }
                let d = _mm512_cvtph_ps(d);
                for ((total, [high, low]), x) in totals.iter_mut().zip(sums).zip(x) {
                    let sum = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32::<6>(high), low));
                    let scale = _mm512_mul_ps(d, _mm512_set1_ps(x[b].scale));
                    *total = _mm512_add_ps(*total, _mm512_mul_ps(sum, scale));
                }
            }
        }
    }
    totals.map(|total| rows_of_512(total))
}

/// A kernel in vectors of eight rows; `$add` adds the products of four codes of each row to two sums.
macro_rules! of_eight_rows {
    ($name:ident, $features:literal, $add:ident, $offset:ident) => {
        /// # Safety
        /// The processor has what is enabled. Every token has as many blocks as the tile.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<const BITS: usize, const T: usize>(
            tile: &[u8],
            x: [&[Split]; T],
        ) -> [[f32; TILE_ROWS]; T] {
            let nibble = _mm256_set1_epi8(0x0f);
            let mut totals = [[_mm256_setzero_ps(); 2]; T];
            for (n, step) in tile.chunks_exact(step_bytes(BITS)).enumerate() {
                let (b, first) = (n / STEPS, n % STEPS * STEP);
                for group in 0..STEP / GROUP {
                    // SAFETY: every read is within the step, or the arrays of `x`.
                    unsafe {
                        let d = _mm256_loadu_si256(step.as_ptr().add(2 * TILE_ROWS * group).cast());
                        let mut sums = [[[_mm256_setzero_si256(); 2]; 2]; T];
                        for (sums, x) in sums.iter_mut().zip(x) {
                            let offset: i32 = $offset::<BITS>(&x[b], (first + GROUP * group) / GROUP);
                            sums.iter_mut().for_each(|[_, low]| *low = _mm256_set1_epi32(offset));
                        }
                        for v in 0..GROUP / of_vector(BITS) {
                            let column = GROUP * group + of_vector(BITS) * v;
                            let at = step.as_ptr().add(LINE + column / of_vector(BITS) * LINE);
                            for half in 0..2 {
                                let bytes = in_order(_mm256_loadu_si256(at.add(32 * half).cast()));
                                let codes = match BITS {
                                    8 => [bytes; 2],
                                    _ => [
                                        _mm256_and_si256(bytes, nibble),
                                        _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble),
                                    ],
                                };
                                for (sums, x) in sums.iter_mut().zip(x) {
                                    for (i, codes) in codes.into_iter().take(of_vector(BITS) / 4).enumerate() {
                                        let word = (first + column) / 4 + i;
                                        let high = four_of!(_mm256_set1_epi32, x[b].high, word);
                                        let low = four_of!(_mm256_set1_epi32, x[b].low, word);
                                        sums[half] = $add::<BITS>(sums[half], codes, high, low);
                                    }
                                }
                            }
                        }
                        let d =
                            [_mm256_castsi256_si128(d), _mm256_extracti128_si256::<1>(d)].map(|d| _mm256_cvtph_ps(d));
                        for ((totals, sums), x) in totals.iter_mut().zip(sums).zip(x) {
                            for ((total, d), [high, low]) in totals.iter_mut().zip(d).zip(sums) {
                                let sum = _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_slli_epi32::<6>(high), low));
                                let scale = _mm256_mul_ps(d, _mm256_set1_ps(x[b].scale));
                                *total = _mm256_add_ps(*total, _mm256_mul_ps(sum, scale));
                            }
                        }
                    }
                }
            }
            totals.map(|totals| rows_of_256(totals))
        }
    };
}

of_eight_rows!(avx2, "avx2,f16c", add, offset_of_nibbles);
of_eight_rows!(avxvnni, "avx2,f16c,avxvnni", add_avxvnni, offset);
of_eight_rows!(vnni256, "avx2,f16c,avx512vl,avx512vnni", add_vnni256, offset);

/// [`offset`] where bytes are multiplied with their signs.
#[inline(always)]
fn offset_of_nibbles<const BITS: usize>(x: &Split, group: usize) -> i32 {
    if BITS == 8 { 0 } else { offset::<BITS>(x, group) }
}

/// Adds the products with high and with low bytes of activations to their sums. Bytes hand their signs to the activations:
/// a sum of two products is at most 2 * 128 * 127 then.
#[inline]
#[target_feature(enable = "avx2")]
fn add<const BITS: usize>([highs, lows]: [__m256i; 2], codes: __m256i, high: __m256i, low: __m256i) -> [__m256i; 2] {
    let ones = _mm256_set1_epi16(1);
    let products = |x: __m256i| match BITS {
        8 => _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes)),
        _ => _mm256_maddubs_epi16(codes, x),
    };
    [
        _mm256_add_epi32(highs, _mm256_madd_epi16(products(high), ones)),
        _mm256_add_epi32(lows, _mm256_madd_epi16(products(low), ones)),
    ]
}

macro_rules! add_with {
    ($name:ident, $features:literal, $dpbusd:ident) => {
        /// [`add`] by the instruction for four products.
        #[inline]
        #[target_feature(enable = $features)]
        fn $name<const BITS: usize>(
            [highs, lows]: [__m256i; 2],
            codes: __m256i,
            high: __m256i,
            low: __m256i,
        ) -> [__m256i; 2] {
            let codes = if BITS == 8 { _mm256_xor_si256(codes, _mm256_set1_epi8(-128)) } else { codes };
            [$dpbusd(highs, codes, high), $dpbusd(lows, codes, low)]
        }
    };
}

add_with!(add_avxvnni, "avx2,avxvnni", _mm256_dpbusd_avx_epi32);
add_with!(add_vnni256, "avx2,avx512vl,avx512vnni", _mm256_dpbusd_epi32);
