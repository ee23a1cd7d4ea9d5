//! The scan of a tile in vectors: a lane of 32 bits for each row, four columns of it a step.

use std::arch::x86_64::*;

use super::TILE;
use super::activations::Block;
use super::scan::Sums;
use super::sketch::{FIFTH_BIT, FOUR_BITS, SCALES};

/// Bytes between what is used and what is fetched: a page of memory, over whose end the processor does not look by itself.
const PREFETCH: usize = 4096;

/// Four activations from `i` on, for every row.
macro_rules! four_of {
    ($broadcast:ident, $x:expr, $i:expr) => {
        // SAFETY: there are 64 in the array, and `i` is a multiple of four below that.
        $broadcast(unsafe { $x.as_ptr().add($i).cast::<i32>().read_unaligned() })
    };
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn coarse_avx512(four: &[[u8; FOUR_BITS]], scales: &[[u8; SCALES]], x: &[Block], sums: &mut Sums) {
    let nibble = _mm512_set1_epi8(15);
    let mut totals = [_mm512_setzero_ps(); 3];
    for ((four, scales), x) in four.iter().zip(scales).zip(x) {
        let mut high = [_mm512_setzero_si512(); 2];
        let mut low = [_mm512_setzero_si512(); 2];
        for v in 0..8 {
            // SAFETY: the block has eight vectors. The prefetch is a hint, of an address that need not exist.
            let codes = unsafe {
                _mm_prefetch::<_MM_HINT_T0>(four.as_ptr().wrapping_add(64 * v + PREFETCH).cast());
                _mm512_loadu_si512(four.as_ptr().add(64 * v).cast())
            };
            let first = _mm512_and_si512(codes, nibble);
            let second = _mm512_and_si512(_mm512_srli_epi16::<4>(codes), nibble);
            high[0] = _mm512_dpbusd_epi32(high[0], first, four_of!(_mm512_set1_epi32, x.high, 8 * v));
            high[1] = _mm512_dpbusd_epi32(high[1], second, four_of!(_mm512_set1_epi32, x.high, 8 * v + 4));
            low[0] = _mm512_dpbusd_epi32(low[0], first, four_of!(_mm512_set1_epi32, x.low, 8 * v));
            low[1] = _mm512_dpbusd_epi32(low[1], second, four_of!(_mm512_set1_epi32, x.low, 8 * v + 4));
        }
        let high = _mm512_add_epi32(high[0], high[1]);
        let low = _mm512_add_epi32(low[0], low[1]);
        // Twice the sum, less 15 times that of the activations.
        let twice = _mm512_add_epi32(_mm512_slli_epi32::<7>(high), _mm512_slli_epi32::<1>(low));
        add_avx512(&mut totals, _mm512_sub_epi32(twice, _mm512_set1_epi32(15 * x.sum)), scales, x);
    }
    store_avx512(totals, sums);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn fine_avx512(fifth: &[[u8; FIFTH_BIT]], scales: &[[u8; SCALES]], x: &[Block], sums: &mut Sums) {
    let bit = _mm512_set1_epi8(1);
    let mut totals = [_mm512_setzero_ps(); 3];
    for ((fifth, scales), x) in fifth.iter().zip(scales).zip(x) {
        let mut high = [_mm512_setzero_si512(); 2];
        let mut low = [_mm512_setzero_si512(); 2];
        for u in 0..2 {
            // SAFETY: the block has two vectors. The prefetch is a hint.
            let mut codes = unsafe {
                _mm_prefetch::<_MM_HINT_T0>(fifth.as_ptr().wrapping_add(64 * u + PREFETCH).cast());
                _mm512_loadu_si512(fifth.as_ptr().add(64 * u).cast())
            };
            for j in 0..8 {
                let at = 32 * u + 4 * j;
                let bits = _mm512_and_si512(codes, bit);
                high[j % 2] = _mm512_dpbusd_epi32(high[j % 2], bits, four_of!(_mm512_set1_epi32, x.high, at));
                low[j % 2] = _mm512_dpbusd_epi32(low[j % 2], bits, four_of!(_mm512_set1_epi32, x.low, at));
                codes = _mm512_srli_epi32::<1>(codes);
            }
        }
        let high = _mm512_add_epi32(high[0], high[1]);
        let low = _mm512_add_epi32(low[0], low[1]);
        let twice = _mm512_add_epi32(_mm512_slli_epi32::<7>(high), _mm512_slli_epi32::<1>(low));
        add_avx512(&mut totals, _mm512_sub_epi32(twice, _mm512_set1_epi32(x.sum)), scales, x);
    }
    store_avx512(totals, sums);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn add_avx512(totals: &mut [__m512; 3], integers: __m512i, scales: &[u8; SCALES], x: &Block) {
    // SAFETY: there are 16 halves.
    let scales = _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(scales.as_ptr().cast()) });
    let product = _mm512_mul_ps(_mm512_cvtepi32_ps(integers), _mm512_mul_ps(scales, _mm512_set1_ps(x.scale)));
    totals[0] = _mm512_add_ps(totals[0], product);
    totals[1] = _mm512_add_ps(totals[1], _mm512_mul_ps(scales, _mm512_set1_ps(x.norm)));
    totals[2] = _mm512_add_ps(totals[2], _mm512_mul_ps(scales, _mm512_set1_ps(x.rounding)));
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store_avx512(totals: [__m512; 3], sums: &mut Sums) {
    const { assert!(TILE == 16) };
    let Sums { product, norm, rounding } = sums;
    for (total, sums) in totals.into_iter().zip([product, norm, rounding]) {
        // SAFETY: there is room for 16.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), total) };
    }
}

/// Rows of one vector.
const HALF: usize = TILE / 2;

#[target_feature(enable = "avx2,f16c")]
pub(super) fn coarse_avx2(four: &[[u8; FOUR_BITS]], scales: &[[u8; SCALES]], x: &[Block], sums: &mut Sums) {
    let (nibble, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
    let mut totals = [[_mm256_setzero_ps(); 2]; 3];
    for ((four, scales), x) in four.iter().zip(scales).zip(x) {
        let mut integers = [_mm256_setzero_si256(); 2];
        for (half, integers) in integers.iter_mut().enumerate() {
            let (mut high, mut low) = (_mm256_setzero_si256(), _mm256_setzero_si256());
            for quarter in 0..2 {
                // Eight sums of two products each, of at most 15 × 127: 30,480.
                let mut highs = _mm256_setzero_si256();
                for v in 4 * quarter..4 * quarter + 4 {
                    // SAFETY: the block has eight vectors of 64 bytes. The prefetch is a hint.
                    let codes = unsafe {
                        let bytes = four.as_ptr();
                        _mm_prefetch::<_MM_HINT_T0>(bytes.wrapping_add(64 * v + 32 * half + PREFETCH).cast());
                        _mm256_loadu_si256(bytes.add(64 * v + 32 * half).cast())
                    };
                    let first = _mm256_and_si256(codes, nibble);
                    let second = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble);
                    let x_first = four_of!(_mm256_set1_epi32, x.high, 8 * v);
                    let x_second = four_of!(_mm256_set1_epi32, x.high, 8 * v + 4);
                    highs = _mm256_add_epi16(highs, _mm256_maddubs_epi16(first, x_first));
                    highs = _mm256_add_epi16(highs, _mm256_maddubs_epi16(second, x_second));
                    // Sixteen of at most 15 × 32 × 2: 15,360.
                    let x_first = four_of!(_mm256_set1_epi32, x.low, 8 * v);
                    let x_second = four_of!(_mm256_set1_epi32, x.low, 8 * v + 4);
                    low = _mm256_add_epi16(low, _mm256_maddubs_epi16(first, x_first));
                    low = _mm256_add_epi16(low, _mm256_maddubs_epi16(second, x_second));
                }
                high = _mm256_add_epi32(high, _mm256_madd_epi16(highs, ones));
            }
            let low = _mm256_madd_epi16(low, ones);
            let twice = _mm256_add_epi32(_mm256_slli_epi32::<7>(high), _mm256_slli_epi32::<1>(low));
            *integers = _mm256_sub_epi32(twice, _mm256_set1_epi32(15 * x.sum));
        }
        add_avx2(&mut totals, integers, scales, x);
    }
    store_avx2(totals, sums);
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn fine_avx2(fifth: &[[u8; FIFTH_BIT]], scales: &[[u8; SCALES]], x: &[Block], sums: &mut Sums) {
    let (bit, ones) = (_mm256_set1_epi8(1), _mm256_set1_epi16(1));
    let mut totals = [[_mm256_setzero_ps(); 2]; 3];
    for ((fifth, scales), x) in fifth.iter().zip(scales).zip(x) {
        let mut integers = [_mm256_setzero_si256(); 2];
        for (half, integers) in integers.iter_mut().enumerate() {
            // Sixteen sums of two products each, of at most 127.
            let (mut high, mut low) = (_mm256_setzero_si256(), _mm256_setzero_si256());
            for u in 0..2 {
                // SAFETY: the block has two vectors of 64 bytes.
                let mut codes = unsafe { _mm256_loadu_si256(fifth.as_ptr().add(64 * u + 32 * half).cast()) };
                for j in 0..8 {
                    let at = 32 * u + 4 * j;
                    let bits = _mm256_and_si256(codes, bit);
                    high = _mm256_add_epi16(high, _mm256_maddubs_epi16(bits, four_of!(_mm256_set1_epi32, x.high, at)));
                    low = _mm256_add_epi16(low, _mm256_maddubs_epi16(bits, four_of!(_mm256_set1_epi32, x.low, at)));
                    codes = _mm256_srli_epi32::<1>(codes);
                }
            }
            let (high, low) = (_mm256_madd_epi16(high, ones), _mm256_madd_epi16(low, ones));
            let twice = _mm256_add_epi32(_mm256_slli_epi32::<7>(high), _mm256_slli_epi32::<1>(low));
            *integers = _mm256_sub_epi32(twice, _mm256_set1_epi32(x.sum));
        }
        add_avx2(&mut totals, integers, scales, x);
    }
    store_avx2(totals, sums);
}

#[target_feature(enable = "avx2,f16c")]
#[inline]
fn add_avx2(totals: &mut [[__m256; 2]; 3], integers: [__m256i; 2], scales: &[u8; SCALES], x: &Block) {
    let [products, norms, roundings] = totals;
    for half in 0..2 {
        // SAFETY: there are twice eight halves.
        let scales = _mm256_cvtph_ps(unsafe { _mm_loadu_si128(scales.as_ptr().add(2 * HALF * half).cast()) });
        let factor = _mm256_mul_ps(scales, _mm256_set1_ps(x.scale));
        let product = _mm256_mul_ps(_mm256_cvtepi32_ps(integers[half]), factor);
        products[half] = _mm256_add_ps(products[half], product);
        norms[half] = _mm256_add_ps(norms[half], _mm256_mul_ps(scales, _mm256_set1_ps(x.norm)));
        roundings[half] = _mm256_add_ps(roundings[half], _mm256_mul_ps(scales, _mm256_set1_ps(x.rounding)));
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store_avx2(totals: [[__m256; 2]; 3], sums: &mut Sums) {
    let Sums { product, norm, rounding } = sums;
    for (totals, sums) in totals.into_iter().zip([product, norm, rounding]) {
        for (half, total) in totals.into_iter().enumerate() {
            // SAFETY: there is room for twice eight.
            unsafe { _mm256_storeu_ps(sums.as_mut_ptr().add(HALF * half), total) };
        }
    }
}
