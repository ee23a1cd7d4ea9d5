//! Int8 × 2-bit products in vectors of 256 bits with VNNI: one text for AVX-VNNI and for AVX-512's encoding of the same
//! instruction. The body needs no more than AVX2 has besides.

/// The kernels as a module `$name` that needs `$features` and multiplies by `$dpbusd`.
macro_rules! kernels {
    ($name:ident, $features:literal, $dpbusd:ident) => {
        pub(crate) mod $name {
            use std::arch::x86_64::*;

            use crate::cpu::avx2::{array, load, thrice};
            use crate::cpu::base3;
            use crate::cpu::tiles::TILE_ROWS;

            /// `sum(code * x)` of 16 rows for one token. Codes stay where they are in a byte, so that nothing is shifted, and a
            /// plane's sum is 1, 4, 16 or 64 times too large; up to half a million columns fit.
            ///
            /// # Safety
            /// The processor has what the module needs.
            ///
            /// # Panics
            /// When `tile` is not 16 words, or `x` not 4 lanes, for each word of a row.
            #[target_feature(enable = $features)]
            pub(crate) unsafe fn dots_of_one(tile: &[u32], x: &[u32]) -> [[i32; TILE_ROWS]; 1] {
                let words = tile.len() / TILE_ROWS;
                assert!(tile.len() == TILE_ROWS * words && x.len() == 4 * words, "lanes");
                let masks = [0x03, 0x0c, 0x30, 0xc0u8].map(|mask| _mm256_set1_epi8(mask.cast_signed()));
                // Two vectors of eight rows, four planes each.
                let mut sums = [[_mm256_setzero_si256(); 4]; 2];
                for k in 0..words {
                    // SAFETY: word `k` of 16 rows is there.
                    let bytes = unsafe { load(tile.as_ptr().add(TILE_ROWS * k)) };
                    for (p, mask) in masks.into_iter().enumerate() {
                        // SAFETY: there are four lanes for each word.
                        let x = _mm256_set1_epi32(unsafe { x.as_ptr().add(4 * k + p).read() }.cast_signed());
                        for (sums, bytes) in sums.iter_mut().zip(bytes) {
                            sums[p] = $dpbusd(sums[p], _mm256_and_si256(bytes, mask), x);
                        }
                    }
                }
                [array(sums.map(|[a, b, c, d]| {
                    let low = _mm256_add_epi32(a, _mm256_srai_epi32::<2>(b));
                    _mm256_add_epi32(low, _mm256_add_epi32(_mm256_srai_epi32::<4>(c), _mm256_srai_epi32::<6>(d)))
                }))]
            }

            /// [`dots_of_one`] of a tile with five trits in a byte: the products of the bytes and of what is left of them, see
            /// [`base3`].
            ///
            /// # Safety
            /// As [`dots_of_one`].
            ///
            /// # Panics
            /// When `tile` is not whole groups of 16 rows, or `x` not 20 lanes for each.
            #[target_feature(enable = $features)]
            pub(crate) unsafe fn dense_dots(tile: &[u32], x: &[u32]) -> [i32; TILE_ROWS] {
                let groups = base3::check(tile, x);
                let mut totals = [_mm256_setzero_si256(); 2];
                for first in (0..groups).step_by(base3::GROUPS_IN_I32) {
                    // Two sums for each vector, because an addition waits for the one before it.
                    let (mut sums, mut rests) = ([[_mm256_setzero_si256(); 2]; 2], [[_mm256_setzero_si256(); 2]; 2]);
                    for group in first..groups.min(first + base3::GROUPS_IN_I32) {
                        for i in 0..base3::WORDS {
                            // SAFETY: four words of 16 rows are there for each group.
                            let mut bytes = unsafe { load(tile.as_ptr().add((base3::WORDS * group + i) * TILE_ROWS)) };
                            for (n, lane) in base3::lanes_of(i).into_iter().enumerate() {
                                // SAFETY: the lanes of 80 columns are there for each group.
                                let x = unsafe { x.as_ptr().add(4 * base3::CANONICAL * group + lane).read() };
                                let x = _mm256_set1_epi32(x.cast_signed());
                                for (v, bytes) in bytes.iter_mut().enumerate() {
                                    sums[v][n % 2] = $dpbusd(sums[v][n % 2], *bytes, x);
                                    *bytes = thrice(*bytes);
                                    rests[v][n % 2] = $dpbusd(rests[v][n % 2], *bytes, x);
                                }
                            }
                        }
                    }
                    for ((total, sum), rest) in totals.iter_mut().zip(sums).zip(rests) {
                        let (sum, rest) = (_mm256_add_epi32(sum[0], sum[1]), _mm256_add_epi32(rest[0], rest[1]));
                        let three = _mm256_add_epi32(_mm256_add_epi32(sum, sum), sum);
                        *total = _mm256_add_epi32(*total, _mm256_srai_epi32::<8>(_mm256_sub_epi32(three, rest)));
                    }
                }
                array(totals)
            }

            /// `sum(code * x)` of 16 rows for `T` tokens: `[token][row]`. Six tokens take 12 of the 16 registers.
            ///
            /// # Safety
            /// As [`dots_of_one`].
            ///
            /// # Panics
            /// When `tile` is not 16 words, or `x` not `4 T` lanes, for each word of a row.
            #[target_feature(enable = $features)]
            pub(crate) unsafe fn dots<const T: usize>(tile: &[u32], x: &[u32]) -> [[i32; TILE_ROWS]; T] {
                let words = x.len() / (4 * T);
                assert!(tile.len() == TILE_ROWS * words && x.len() == 4 * T * words, "lanes");
                let mask = _mm256_set1_epi8(3);
                let mut sums = [[_mm256_setzero_si256(); 2]; T];
                for k in 0..words {
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
                                *sum = $dpbusd(*sum, codes, x);
                            }
                        }
                    }
                }
                sums.map(|sums| array(sums))
            }
        }
    };
}

kernels!(avx, "avx2,avxvnni", _mm256_dpbusd_avx_epi32);
kernels!(avx512, "avx2,avx512vl,avx512vnni", _mm256_dpbusd_epi32);
