//! Int8 × 2-bit products on AVX2.

use std::arch::asm;
use std::arch::x86_64::*;

use super::base3;
use super::tiles::TILE_ROWS;

/// Words between what is used and what is fetched: half a kilobyte. One, two and four were slower.
const PREFETCH: usize = 128;

/// Words whose products fit the 16-bit sums: one adds at most 4 planes × 2 products × 2 × 128 = 2,048 to the magnitude
/// of a lane; 16 of them reach -32,768 when every activation is -128, and +32,512 when every one is 127.
const WORDS_IN_I16: usize = 16;

/// The same where the codes of two planes are four times as large.
const SCALED_WORDS_IN_I16: usize = 8;

/// Groups of the denser order whose products fit: one adds at most 20 × 2 products × 2 × 128 = 10,240.
const GROUPS_IN_I16: usize = 3;

/// `sum(code * x)` of 16 rows for one token. Two planes are multiplied where they are in a byte, four times as large, which
/// saves half of the shifts.
///
/// # Safety
/// The processor has AVX2.
///
/// # Panics
/// When `tile` is not 16 words, or `x` not 4 lanes, for each word of a row.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn dots_of_one(tile: &[u32], x: &[u32]) -> [[i32; TILE_ROWS]; 1] {
    let words = x.len() / 4;
    assert!(tile.len() == TILE_ROWS * words && x.len() == 4 * words, "lanes");
    let masks = [_mm256_set1_epi8(0x03), _mm256_set1_epi8(0x0c)];
    let (ones, fours) = (_mm256_set1_epi16(1), _mm256_set1_epi16(4));
    // Two vectors of eight rows, four times as large.
    let mut totals = [_mm256_setzero_si256(); 2];
    for first in (0..words).step_by(SCALED_WORDS_IN_I16) {
        // Planes 0 and 2, and planes 1 and 3.
        let mut sums = [[_mm256_setzero_si256(); 2]; 2];
        for k in first..words.min(first + SCALED_WORDS_IN_I16) {
            // SAFETY: word `k` of 16 rows is there.
            let mut bytes = unsafe { load(tile.as_ptr().add(TILE_ROWS * k)) };
            for pair in 0..2 {
                for (plane, mask) in masks.into_iter().enumerate() {
                    // SAFETY: there are four lanes for each word.
                    let x = unsafe { x.as_ptr().add(4 * k + 2 * pair + plane).read() };
                    let x = _mm256_set1_epi32(x.cast_signed());
                    for (sums, bytes) in sums.iter_mut().zip(bytes) {
                        let products = _mm256_maddubs_epi16(_mm256_and_si256(bytes, mask), x);
                        sums[plane] = _mm256_add_epi16(sums[plane], products);
                    }
                }
                bytes = bytes.map(|bytes| _mm256_srli_epi16::<4>(bytes));
            }
        }
        for (total, [small, large]) in totals.iter_mut().zip(sums) {
            let sum = _mm256_add_epi32(_mm256_madd_epi16(small, fours), _mm256_madd_epi16(large, ones));
            *total = _mm256_add_epi32(*total, sum);
        }
    }
    [array(totals.map(|total| _mm256_srai_epi32::<2>(total)))]
}

/// [`dots_of_one`] of a tile with five trits in a byte.
///
/// # Safety
/// The processor has AVX2.
///
/// # Panics
/// When `tile` is not whole groups of 16 rows, or `x` not 20 lanes for each.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn dense_dots(tile: &[u32], x: &[u32]) -> [i32; TILE_ROWS] {
    let groups = base3::check(tile, x);
    let ones = _mm256_set1_epi16(1);
    // Bytes are compared as signed numbers, so 128 is taken from each; three times a byte has it still.
    let sign = _mm256_set1_epi8(-128);
    let (below_one, below_two) = (_mm256_set1_epi8((85 - 128) as i8), _mm256_set1_epi8((170 - 128) as i8));
    let mut totals = [_mm256_setzero_si256(); 2];
    for first in (0..groups).step_by(GROUPS_IN_I16) {
        let mut sums = [_mm256_setzero_si256(); 2];
        for group in first..groups.min(first + GROUPS_IN_I16) {
            for i in 0..base3::WORDS {
                // SAFETY: four words of 16 rows are there for each group.
                let bytes = unsafe { load(tile.as_ptr().add((base3::WORDS * group + i) * TILE_ROWS)) };
                let mut bytes = bytes.map(|bytes| _mm256_xor_si256(bytes, sign));
                for lane in base3::lanes_of(i) {
                    // SAFETY: the lanes of 80 columns are there for each group.
                    let x = unsafe { x.as_ptr().add(4 * base3::CANONICAL * group + lane).read() };
                    let x = _mm256_set1_epi32(x.cast_signed());
                    for (sum, bytes) in sums.iter_mut().zip(&mut bytes) {
                        let (one, two) = (_mm256_cmpgt_epi8(*bytes, below_one), _mm256_cmpgt_epi8(*bytes, below_two));
                        let codes = _mm256_abs_epi8(_mm256_add_epi8(one, two));
                        *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(codes, x));
                        *bytes = thrice(*bytes);
                    }
                }
            }
        }
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total = _mm256_add_epi32(*total, _mm256_madd_epi16(sum, ones));
        }
    }
    array(totals)
}

/// A tile with its codes taken apart, a byte each: for each word four planes of 16 rows. Worth it where many tokens meet them.
///
/// # Safety
/// The processor has AVX2.
///
/// # Panics
/// When `codes` has not four times the words of the tile.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn unpack(tile: &[u32], codes: &mut [u32]) {
    let mask = _mm256_set1_epi8(3);
    assert_eq!(codes.len(), 4 * tile.len(), "codes");
    let words = tile.as_chunks::<TILE_ROWS>().0.iter().zip(codes.as_chunks_mut::<{ 4 * TILE_ROWS }>().0);
    for (word, codes) in words {
        for half in 0..2 {
            // SAFETY: a word of 16 rows is twice 32 bytes, and its codes are four times as many.
            unsafe {
                let mut bytes = _mm256_loadu_si256(word.as_ptr().add(8 * half).cast());
                for p in 0..4 {
                    let to = codes.as_mut_ptr().add(TILE_ROWS * p + 8 * half);
                    _mm256_storeu_si256(to.cast(), _mm256_and_si256(bytes, mask));
                    bytes = _mm256_srli_epi16::<2>(bytes);
                }
            }
        }
    }
}

/// `sum(code * x)` of 16 rows for `T` tokens, `[token][row]`, from what [`unpack`] has made of a tile. Six tokens take 12 of
/// the 16 registers.
///
/// # Safety
/// The processor has AVX2.
///
/// # Panics
/// When `codes` is not 64 words, or `x` not `4 T` lanes, for each word of a row.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn dots_of_codes<const T: usize>(codes: &[u32], x: &[u32]) -> [[i32; TILE_ROWS]; T] {
    let words = x.len() / (4 * T);
    assert!(codes.len() == 4 * TILE_ROWS * words && x.len() == 4 * T * words, "lanes");
    let ones = _mm256_set1_epi16(1);
    let mut totals = [[_mm256_setzero_si256(); 2]; T];
    for first in (0..words).step_by(WORDS_IN_I16) {
        let mut sums = [[_mm256_setzero_si256(); 2]; T];
        for plane in 4 * first..4 * words.min(first + WORDS_IN_I16) {
            // SAFETY: each plane of 16 rows is there.
            let codes = unsafe {
                let codes = codes.as_ptr().add(TILE_ROWS * plane);
                [_mm256_loadu_si256(codes.cast()), _mm256_loadu_si256(codes.add(8).cast())]
            };
            for (t, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the lanes of `T` tokens are there for each plane of each word.
                let x = _mm256_set1_epi32(unsafe { x.as_ptr().add(plane * T + t).read() }.cast_signed());
                for (sum, codes) in sums.iter_mut().zip(codes) {
                    *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(codes, x));
                }
            }
        }
        for (totals, sums) in totals.iter_mut().zip(sums) {
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total = _mm256_add_epi32(*total, _mm256_madd_epi16(sum, ones));
            }
        }
    }
    totals.map(|totals| array(totals))
}

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
            // SAFETY: word `k` of 16 rows is there.
            let mut bytes = unsafe { load(tile.as_ptr().add(TILE_ROWS * k)) };
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
    totals.map(|totals| array(totals))
}

/// The words of 16 rows, and a hint that those of half a kilobyte later will be wanted.
///
/// # Safety
/// The processor has AVX2, and 16 words are there.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn load(words: *const u32) -> [__m256i; 2] {
    _mm_prefetch::<_MM_HINT_T0>(words.wrapping_add(PREFETCH).cast());
    // SAFETY: the caller has them. The prefetch is a hint, of an address that need not exist.
    unsafe { [_mm256_loadu_si256(words.cast()), _mm256_loadu_si256(words.add(8).cast())] }
}

/// Three times each byte, of which eight bits are kept. Seeing two additions, the compiler would multiply the bytes as they
/// were by 9, 27 and 81, in four instructions each.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn thrice(bytes: __m256i) -> __m256i {
    let thrice: __m256i;
    // SAFETY: the instruction is there (`avx2`), and touches nothing but these registers.
    unsafe {
        asm!("vpaddb {thrice}, {bytes}, {bytes}", "vpaddb {thrice}, {thrice}, {bytes}", thrice = out(ymm_reg) thrice,
            bytes = in(ymm_reg) bytes, options(pure, nomem, nostack, preserves_flags));
    }
    thrice
}

/// Twice eight sums in memory.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn array([low, high]: [__m256i; 2]) -> [i32; TILE_ROWS] {
    let mut array = [0; TILE_ROWS];
    // SAFETY: there is room for twice eight lanes.
    unsafe {
        _mm256_storeu_si256(array.as_mut_ptr().cast(), low);
        _mm256_storeu_si256(array.as_mut_ptr().add(8).cast(), high);
    }
    array
}
