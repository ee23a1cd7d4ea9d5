//! Tiles of Q6_K on x86-64.

use std::arch::x86_64::*;

use super::{BLOCK, GROUP, GROUP_BYTES, GROUPS, SCALES_BYTES, Split, TILE_ROWS, Tile};
use crate::cpu::row_tiles::x86::{in_order, rows_of_256, rows_of_512};

/// The lanes of activations of a group: four words of high bytes, four of low bytes, and what the offset makes of them.
///
/// # Safety
/// The block has such a group.
#[inline(always)]
unsafe fn lanes(x: &Split, group: usize) -> (*const i32, *const i32, i32) {
    // SAFETY: a group is four words.
    let at = |bytes: &[i8; BLOCK]| unsafe { bytes.as_ptr().cast::<i32>().add(GROUP / 4 * group) };
    (at(&x.high), at(&x.low), x.offset[group])
}

/// # Safety
/// The processor has AVX-512 F, BW and VNNI. Every token has as many blocks as the tile.
// Reading ahead in software made this slower: one stream is found by the processor itself.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn avx512<const T: usize>(tile: Tile<'_>, x: [&[Split]; T]) -> [[f32; TILE_ROWS]; T] {
    let (nibble, pair) = (_mm512_set1_epi8(0x0f), _mm512_set1_epi8(0x30));
    let mut totals = [_mm512_setzero_ps(); T];
    for (b, (block, d)) in tile.blocks.iter().zip(tile.d).enumerate() {
        // SAFETY: every read is within `d`, the quarter, or the arrays of `x`, whose groups are four words.
        unsafe {
            let d = _mm512_cvtph_ps(_mm256_loadu_si256(d.as_ptr().cast()));
            for (quarter, first) in block.iter().zip((0..BLOCK / GROUP).step_by(GROUPS)) {
                let bytes = quarter.as_ptr();
                let mut integers = [_mm512_setzero_si512(); T];
                for group in 0..GROUPS {
                    let at = bytes.add(SCALES_BYTES + GROUP_BYTES * group);
                    let scale = _mm_loadu_si128(bytes.add(TILE_ROWS * group).cast());
                    let [a, b_, pairs] = [0, 64, 128].map(|i| in_order(_mm512_loadu_si512(at.add(i).cast())));
                    let low = [
                        _mm512_and_si512(a, nibble),
                        _mm512_and_si512(_mm512_srli_epi16::<4>(a), nibble),
                        _mm512_and_si512(b_, nibble),
                        _mm512_and_si512(_mm512_srli_epi16::<4>(b_), nibble),
                    ];
                    let high = [
                        _mm512_slli_epi16::<4>(pairs),
                        _mm512_slli_epi16::<2>(pairs),
                        pairs,
                        _mm512_srli_epi16::<2>(pairs),
                    ];
                    // low | (high & pair)
                    let codes: [__m512i; 4] =
                        std::array::from_fn(|i| _mm512_ternarylogic_epi32::<0xf8>(low[i], high[i], pair));
                    let scale = _mm512_cvtepi8_epi32(scale);
                    for (integers, x) in integers.iter_mut().zip(x) {
                        let (high, low, offset) = lanes(&x[b], first + group);
                        let (mut highs, mut lows) = (_mm512_setzero_si512(), _mm512_set1_epi32(offset));
                        for (i, codes) in codes.into_iter().enumerate() {
                            highs = _mm512_dpbusd_epi32(highs, codes, _mm512_set1_epi32(high.add(i).read()));
                            lows = _mm512_dpbusd_epi32(lows, codes, _mm512_set1_epi32(low.add(i).read()));
                        }
                        let sum = _mm512_add_epi32(_mm512_slli_epi32::<6>(highs), lows);
                        *integers = _mm512_add_epi32(*integers, _mm512_mullo_epi32(sum, scale));
                    }
                }
                for ((total, integers), x) in totals.iter_mut().zip(integers).zip(x) {
                    let scale = _mm512_mul_ps(d, _mm512_set1_ps(x[b].scale));
                    *total = _mm512_add_ps(*total, _mm512_mul_ps(_mm512_cvtepi32_ps(integers), scale));
                }
            }
        }
    }
    totals.map(|total| rows_of_512(total))
}

/// A kernel in vectors of eight rows; `$products` multiplies the four words of a group.
macro_rules! of_eight_rows {
    ($name:ident, $features:literal, $products:ident) => {
        /// # Safety
        /// The processor has what is enabled. Every token has as many blocks as the tile.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<const T: usize>(tile: Tile<'_>, x: [&[Split]; T]) -> [[f32; TILE_ROWS]; T] {
            let (nibble, pair) = (_mm256_set1_epi8(0x0f), _mm256_set1_epi8(0x30));
            let mut totals = [[_mm256_setzero_ps(); 2]; T];
            for (b, (block, d)) in tile.blocks.iter().zip(tile.d).enumerate() {
                // SAFETY: every read is within `d`, the quarter, or the arrays of `x`, whose groups are four words.
                unsafe {
                    let d: [__m256; 2] =
                        std::array::from_fn(|half| _mm256_cvtph_ps(_mm_loadu_si128(d.as_ptr().add(16 * half).cast())));
                    for (quarter, first) in block.iter().zip((0..BLOCK / GROUP).step_by(GROUPS)) {
                        let bytes = quarter.as_ptr();
                        let mut integers = [[_mm256_setzero_si256(); 2]; T];
                        for group in 0..GROUPS {
                            // Both halves of a line at once: while one came back for the second, memory would be idle.
                            for half in 0..2 {
                                let at = bytes.add(SCALES_BYTES + GROUP_BYTES * group + 32 * half);
                                let [a, b_, pairs] =
                                    [0, 64, 128].map(|i| in_order(_mm256_loadu_si256(at.add(i).cast())));
                                let low = [a, _mm256_srli_epi16::<4>(a), b_, _mm256_srli_epi16::<4>(b_)];
                                let high = [
                                    _mm256_slli_epi16::<4>(pairs),
                                    _mm256_slli_epi16::<2>(pairs),
                                    pairs,
                                    _mm256_srli_epi16::<2>(pairs),
                                ];
                                let codes: [__m256i; 4] = std::array::from_fn(|i| {
                                    _mm256_or_si256(_mm256_and_si256(low[i], nibble), _mm256_and_si256(high[i], pair))
                                });
                                let scale = bytes.add(TILE_ROWS * group + 8 * half).cast::<i64>().read_unaligned();
                                for (integers, x) in integers.iter_mut().zip(x) {
                                    let products = $products(codes, &x[b], first + group, scale);
                                    integers[half] = _mm256_add_epi32(integers[half], products);
                                }
                            }
                        }
                        for ((totals, integers), x) in totals.iter_mut().zip(integers).zip(x) {
                            for half in 0..2 {
                                let scale = _mm256_mul_ps(d[half], _mm256_set1_ps(x[b].scale));
                                let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(integers[half]), scale);
                                totals[half] = _mm256_add_ps(totals[half], scaled);
                            }
                        }
                    }
                }
            }
            totals.map(|totals| rows_of_256(totals))
        }
    };
}

of_eight_rows!(avx2, "avx2,f16c", products);
of_eight_rows!(avxvnni, "avx2,f16c,avxvnni", products_avxvnni);
of_eight_rows!(vnni256, "avx2,f16c,avx512vl,avx512vnni", products_vnni256);

/// `scale * sum((code - 32) * (64 high + low))` of each lane, with the scales of eight rows.
///
/// # Safety
/// The processor has AVX2, and the block has such a group.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn products(codes: [__m256i; 4], x: &Split, group: usize, scales: i64) -> __m256i {
    // SAFETY: the caller's.
    let (high, low, _) = unsafe { lanes(x, group) };
    let of = |words: *const i32, pair: [i16; 2]| {
        let products: [__m256i; 4] = std::array::from_fn(|i| {
            // SAFETY: a group has four words.
            _mm256_maddubs_epi16(codes[i], _mm256_set1_epi32(unsafe { words.add(i).read() }))
        });
        let pair = _mm256_set1_epi32(i32::from_ne_bytes(bytemuck::cast(pair)));
        let [a, b, c, d] = products;
        _mm256_add_epi16(_mm256_add_epi16(a, b), _mm256_add_epi16(_mm256_add_epi16(c, d), pair))
    };
    // Eight products of 16 bits may overflow on the way; without the offset they are at most 8 * 32 * 127 and fit.
    let (high, low) = (of(high, x.pairs[group][0]), of(low, x.pairs[group][1]));
    // The scale of a row in the upper bytes of both halves of its lane.
    #[rustfmt::skip]
    let upper = _mm256_setr_epi8(
        -1, 0, -1, 0, -1, 1, -1, 1, -1, 2, -1, 2, -1, 3, -1, 3, -1, 4, -1, 4, -1, 5, -1, 5, -1, 6, -1, 6, -1, 7, -1, 7,
    );
    let scale = _mm256_shuffle_epi8(_mm256_set1_epi64x(scales), upper);
    let high = _mm256_madd_epi16(high, _mm256_srai_epi16::<2>(scale));
    _mm256_add_epi32(high, _mm256_madd_epi16(low, _mm256_srai_epi16::<8>(scale)))
}

macro_rules! products_with {
    ($name:ident, $features:literal, $dpbusd:ident) => {
        /// [`products`] by the instruction for four of them.
        ///
        /// # Safety
        /// The processor has what is enabled, and the block has such a group.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn $name(codes: [__m256i; 4], x: &Split, group: usize, scales: i64) -> __m256i {
            // SAFETY: the caller's.
            let (high, low, offset) = unsafe { lanes(x, group) };
            // SAFETY: a group has four words.
            let word = |words: *const i32, i| _mm256_set1_epi32(unsafe { words.add(i).read() });
            let (mut highs, mut lows) = (_mm256_setzero_si256(), _mm256_set1_epi32(offset));
            for (i, codes) in codes.into_iter().enumerate() {
                highs = $dpbusd(highs, codes, word(high, i));
                lows = $dpbusd(lows, codes, word(low, i));
            }
            let scale = _mm256_cvtepi8_epi32(_mm_cvtsi64_si128(scales));
            _mm256_mullo_epi32(_mm256_add_epi32(_mm256_slli_epi32::<6>(highs), lows), scale)
        }
    };
}

products_with!(products_avxvnni, "avx2,avxvnni", _mm256_dpbusd_avx_epi32);
products_with!(products_vnni256, "avx2,avx512vl,avx512vnni", _mm256_dpbusd_epi32);
