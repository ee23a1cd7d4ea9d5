//! Products with rows of Q6_K, the usual storage of a quantized head, without a float for every weight.
//!
//! A block of 256 weights is 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 int8 scales (one for 16 weights) and
//! a half-precision scale `d`: `w = d * scale * (q - 32)` with `q` of six bits. An activation is taken as an integer of 14
//! bits, in two bytes, with one scale for the 256 of a block:
//!
//! ```text
//! x ≈ s * (64 * high + low)     s = max|x| / 8128     sum w x ≈ sum_blocks d s * sum_16 scale * sum (q - 32) (64 high + low)
//! ```
//!
//! All sums within a block are exact integers, and an activation is within `max|x| / 16256` of what it was: an error in the
//! fifth digit, where the storage itself has one in the second.

use half::f16;

use super::isa::Isa;

#[cfg(target_arch = "aarch64")]
mod neon;

/// Weights of a block.
pub(crate) const BLOCK: usize = 256;

/// Bytes of a block.
const BLOCK_BYTES: usize = 210;

/// Weights that are added up together: one vector of bytes on AVX-512.
const CHUNK: usize = 64;

/// Largest magnitude of an activation's integer: its high byte stays within 127.
const LARGEST: f32 = 8_128.0;

/// Bytes between what is used and what is fetched.
#[cfg(target_arch = "x86_64")]
const PREFETCH: usize = 20 * BLOCK_BYTES;

const LANES: usize = CHUNK / 4;

/// The activations of one token.
pub(crate) struct SplitActivations {
    /// One for each block.
    blocks: Vec<Split>,
}

/// 256 activations in two bytes each.
#[repr(C, align(64))]
struct Split {
    high: [i8; BLOCK],
    low: [i8; BLOCK],
    /// `-32 * sum(64 high + low)` of each 16: what the offset of the weights makes of them.
    offset: [i32; LANES],
    scale: f32,
}

impl SplitActivations {
    /// From whole blocks of activations.
    pub(crate) fn new(x: &[f32]) -> Self {
        Self { blocks: x.as_chunks::<BLOCK>().0.iter().map(Split::new).collect() }
    }

    /// What activation `i` is taken for.
    pub(crate) fn value(&self, i: usize) -> f64 {
        let block = &self.blocks[i / BLOCK];
        let integer = 64 * i32::from(block.high[i % BLOCK]) + i32::from(block.low[i % BLOCK]);
        f64::from(block.scale) * f64::from(integer)
    }
}

impl Split {
    fn new(x: &[f32; BLOCK]) -> Self {
        let largest = x.iter().fold(0f32, |a, x| a.max(x.abs()));
        // What is computed from NaN or infinity shall be NaN.
        let finite = x.iter().all(|x| x.is_finite());
        let factor = if finite && largest > 0.0 { LARGEST / largest } else { 0.0 };
        let mut split = Self { high: [0; BLOCK], low: [0; BLOCK], offset: [0; LANES], scale: largest / LARGEST };
        if !finite {
            split.scale = f32::NAN;
        }
        for (i, x) in x.iter().enumerate() {
            let code = (x * factor).round_ties_even() as i32;
            let high = (code + 32) >> 6;
            split.high[i] = high as i8;
            split.low[i] = (code - 64 * high) as i8;
            split.offset[i / 16] -= 32 * code;
        }
        split
    }
}

/// The product of one row, of as many blocks as the activations.
///
/// # Panics
/// When the row is not so many blocks.
pub(crate) fn dot(isa: Isa, row: &[u8], x: &SplitActivations) -> f32 {
    assert_eq!(row.len(), x.blocks.len() * BLOCK_BYTES, "a row of Q6_K");
    let blocks = row.as_chunks::<BLOCK_BYTES>().0.iter().zip(&x.blocks);
    let mut sums = [0f32; LANES];
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever came in through a public function has passed `Isa::check`.
        Isa::Avx512Vnni => unsafe { avx512::add_row(blocks, &mut sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { avx2::add_row(blocks, &mut sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::AvxVnni => unsafe { avx2::add_row_avxvnni(blocks, &mut sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Vnni256 => unsafe { avx2::add_row_vnni256(blocks, &mut sums) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::Neon => unsafe { neon::add_row(blocks, &mut sums) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::NeonDotprod | Isa::NeonI8mm => unsafe { neon::add_row_dotprod(blocks, &mut sums) },
        _ => blocks.for_each(|(block, x)| add(&mut sums, scale(block) * x.scale, &integers(block, x))),
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

fn scale(block: &[u8; BLOCK_BYTES]) -> f32 {
    f16::from_le_bytes([block[208], block[209]]).to_f32()
}

fn add(sums: &mut [f32; LANES], scale: f32, integers: &[i32; LANES]) {
    for (sum, integer) in sums.iter_mut().zip(integers) {
        *sum += *integer as f32 * scale;
    }
}

/// The exact sums of a block: lane `j` has the weights `4 j..4 j + 4` of each 64, and what the offset of all weights makes of
/// the activations `16 j..16 j + 16`.
///
/// A lane is at most `16 * 128 * (63 + 32) * 8128 < 2^31`.
fn integers(block: &[u8; BLOCK_BYTES], x: &Split) -> [i32; LANES] {
    let scale = |run: usize| i32::from(block[192 + run].cast_signed());
    let mut sums: [i32; LANES] = std::array::from_fn(|run| x.offset[run] * scale(run));
    for (i, lane) in (0..BLOCK).step_by(4).enumerate() {
        let mut sum = 0;
        for j in lane..lane + 4 {
            let (half, quarter, at) = (j / 128, j % 128 / 32, j % 32);
            let low = block[64 * half + 32 * (quarter % 2) + at] >> (4 * (quarter / 2)) & 15;
            let high = block[128 + 32 * half + at] >> (2 * quarter) & 3;
            sum += i32::from(low | high << 4) * (64 * i32::from(x.high[j]) + i32::from(x.low[j]));
        }
        sums[i % LANES] += sum * scale(lane / 16);
    }
    sums
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{BLOCK_BYTES, LANES, PREFETCH, Split};

    /// Adds the products of all blocks of a row to `sums`.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW and VNNI.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
    pub(super) unsafe fn add_row<'a>(
        blocks: impl Iterator<Item = (&'a [u8; BLOCK_BYTES], &'a Split)>,
        sums: &mut [f32; LANES],
    ) {
        let (nibble, pair) = (_mm512_set1_epi8(0x0f), _mm512_set1_epi8(0x30));
        // The bit pairs of weights 0..32 and 32..64 of a chunk come from the same bytes, two bits apart.
        let (up, down) = (halves(4, 2), halves(0, 2));
        // The scale of each pair of weights in a chunk: 16 weights share one.
        let spread = _mm512_inserti64x4::<1>(
            _mm512_castsi256_si512(_mm256_set_epi16(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0)),
            _mm256_set_epi16(3, 3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2),
        );
        // SAFETY: 16 floats are there.
        let mut total = unsafe { _mm512_loadu_ps(sums.as_ptr()) };
        for (block, x) in blocks {
            // SAFETY: every read is within the 210 bytes of the block, or the arrays of `x`. The prefetch is a hint.
            unsafe {
                let bytes = block.as_ptr();
                _mm_prefetch::<_MM_HINT_T0>(bytes.wrapping_add(PREFETCH).cast());
                _mm_prefetch::<_MM_HINT_T0>(bytes.wrapping_add(PREFETCH + 64).cast());
                _mm_prefetch::<_MM_HINT_T0>(bytes.wrapping_add(PREFETCH + 128).cast());
                let scales = _mm_loadu_si128(bytes.add(192).cast());
                let offset = _mm512_load_si512(x.offset.as_ptr().cast());
                let mut low_sum = _mm512_mullo_epi32(_mm512_cvtepi8_epi32(scales), offset);
                let mut high_sum = _mm512_setzero_si512();
                let scales = _mm512_castsi256_si512(_mm256_cvtepi8_epi16(scales));
                for half in 0..2 {
                    let low = _mm512_loadu_si512(bytes.add(64 * half).cast());
                    let high = _mm512_broadcast_i64x4(_mm256_loadu_si256(bytes.add(128 + 32 * half).cast()));
                    let first = _mm512_and_si512(low, nibble);
                    let second = _mm512_and_si512(_mm512_srli_epi16::<4>(low), nibble);
                    // a | (b & mask)
                    let codes = [
                        _mm512_ternarylogic_epi32::<0xf8>(first, _mm512_sllv_epi16(high, up), pair),
                        _mm512_ternarylogic_epi32::<0xf8>(second, _mm512_srlv_epi16(high, down), pair),
                    ];
                    for (i, codes) in codes.into_iter().enumerate() {
                        let chunk = 2 * half + i;
                        let high = _mm512_load_si512(x.high.as_ptr().add(64 * chunk).cast());
                        let low = _mm512_load_si512(x.low.as_ptr().add(64 * chunk).cast());
                        let of_chunk = _mm512_add_epi16(spread, _mm512_set1_epi16(4 * chunk as i16));
                        let scale = _mm512_permutexvar_epi16(of_chunk, scales);
                        // Two products are at most 2 × 63 × 127, which fits 16 bits.
                        high_sum = _mm512_dpwssd_epi32(high_sum, _mm512_maddubs_epi16(codes, high), scale);
                        low_sum = _mm512_dpwssd_epi32(low_sum, _mm512_maddubs_epi16(codes, low), scale);
                    }
                }
                let integers = _mm512_add_epi32(_mm512_slli_epi32::<6>(high_sum), low_sum);
                let d = _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(
                    bytes.add(208).cast::<u16>().read_unaligned(),
                ))));
                let scale = _mm512_set1_ps(d * x.scale);
                total = _mm512_add_ps(total, _mm512_mul_ps(_mm512_cvtepi32_ps(integers), scale));
            }
        }
        // SAFETY: there is room for 16 floats.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), total) };
    }

    #[target_feature(enable = "avx512f")]
    fn halves(first: i16, second: i16) -> __m512i {
        _mm512_inserti64x4::<1>(_mm512_set1_epi16(first), _mm256_set1_epi16(second))
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{BLOCK_BYTES, LANES, PREFETCH, Split};

    /// One text for products of 16 bits that are added by an instruction of its own, and by the same one.
    macro_rules! add_row {
        ($name:ident, $features:literal, $add:ident) => {
            /// Adds the products of all blocks of a row to `sums`.
            ///
            /// # Safety
            /// The processor has what is enabled.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name<'a>(
                blocks: impl Iterator<Item = (&'a [u8; BLOCK_BYTES], &'a Split)>,
                sums: &mut [f32; LANES],
            ) {
                let (nibble, pair) = (_mm256_set1_epi8(0x0f), _mm256_set1_epi8(0x30));
                // SAFETY: 16 floats are there.
                let mut totals = unsafe { [_mm256_loadu_ps(sums.as_ptr()), _mm256_loadu_ps(sums.as_ptr().add(8))] };
                for (block, x) in blocks {
                    // SAFETY: every read is within the 210 bytes of the block, or the arrays of `x`. The prefetch is a hint.
                    unsafe {
                        let bytes = block.as_ptr();
                        _mm_prefetch::<_MM_HINT_T0>(bytes.wrapping_add(PREFETCH).cast());
                        _mm_prefetch::<_MM_HINT_T0>(bytes.wrapping_add(PREFETCH + 64).cast());
                        _mm_prefetch::<_MM_HINT_T0>(bytes.wrapping_add(PREFETCH + 128).cast());
                        let scales = _mm_loadu_si128(bytes.add(192).cast());
                        let offsets = x.offset.as_ptr();
                        // Lanes 0..8 and 8..16.
                        let mut low_sums = [
                            _mm256_mullo_epi32(_mm256_cvtepi8_epi32(scales), _mm256_load_si256(offsets.cast())),
                            _mm256_mullo_epi32(
                                _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(scales)),
                                _mm256_load_si256(offsets.add(8).cast()),
                            ),
                        ];
                        let mut high_sums = [_mm256_setzero_si256(); 2];
                        for half in 0..2 {
                            let low = [
                                _mm256_loadu_si256(bytes.add(64 * half).cast()),
                                _mm256_loadu_si256(bytes.add(64 * half + 32).cast()),
                            ];
                            let high = _mm256_loadu_si256(bytes.add(128 + 32 * half).cast());
                            // The bit pairs of each 32 weights, where a code has them.
                            let pairs = [
                                _mm256_slli_epi16::<4>(high),
                                _mm256_slli_epi16::<2>(high),
                                high,
                                _mm256_srli_epi16::<2>(high),
                            ];
                            for (quarter, pairs) in pairs.into_iter().enumerate() {
                                let low = low[quarter % 2];
                                let low = if quarter < 2 { low } else { _mm256_srli_epi16::<4>(low) };
                                let codes =
                                    _mm256_or_si256(_mm256_and_si256(low, nibble), _mm256_and_si256(pairs, pair));
                                let at = 128 * half + 32 * quarter;
                                let high = _mm256_load_si256(x.high.as_ptr().add(at).cast());
                                let low = _mm256_load_si256(x.low.as_ptr().add(at).cast());
                                let scale =
                                    |run: usize| _mm_set1_epi16(i16::from(block[192 + at / 16 + run].cast_signed()));
                                let scale = _mm256_set_m128i(scale(1), scale(0));
                                // Two products are at most 2 × 63 × 127, which fits 16 bits.
                                let (high, low) = (_mm256_maddubs_epi16(codes, high), _mm256_maddubs_epi16(codes, low));
                                let side = quarter % 2;
                                high_sums[side] = $add(high_sums[side], high, scale);
                                low_sums[side] = $add(low_sums[side], low, scale);
                            }
                        }
                        let d = _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(
                            bytes.add(208).cast::<u16>().read_unaligned(),
                        ))));
                        let scale = _mm256_set1_ps(d * x.scale);
                        for ((total, high), low) in totals.iter_mut().zip(high_sums).zip(low_sums) {
                            let integers = _mm256_add_epi32(_mm256_slli_epi32::<6>(high), low);
                            *total = _mm256_add_ps(*total, _mm256_mul_ps(_mm256_cvtepi32_ps(integers), scale));
                        }
                    }
                }
                // SAFETY: there is room for twice eight floats.
                unsafe {
                    _mm256_storeu_ps(sums.as_mut_ptr(), totals[0]);
                    _mm256_storeu_ps(sums.as_mut_ptr().add(8), totals[1]);
                }
            }
        };
    }

    add_row!(add_row, "avx2,f16c", add_products);
    add_row!(add_row_avxvnni, "avx2,f16c,avxvnni", _mm256_dpwssd_avx_epi32);
    add_row!(add_row_vnni256, "avx2,f16c,avx512vl,avx512vnni", _mm256_dpwssd_epi32);

    #[inline]
    #[target_feature(enable = "avx2")]
    fn add_products(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block's weights by their definition.
    fn weights(block: &[u8; BLOCK_BYTES]) -> Vec<f64> {
        let of_one = |j: usize| {
            let mut one = Split { high: [0; BLOCK], low: [0; BLOCK], offset: [0; LANES], scale: 1.0 };
            one.low[j] = 1;
            one.offset[j / 16] = -32;
            let sum: i32 = integers(block, &one).iter().sum();
            f64::from(sum) * f64::from(scale(block))
        };
        (0..BLOCK).map(of_one).collect()
    }

    #[test]
    fn every_instruction_set_gives_the_products_of_the_weights() {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        for blocks in [1, 2, 10] {
            let mut row: Vec<u8> = (0..blocks * BLOCK_BYTES).map(|_| next()).collect();
            for block in row.as_chunks_mut::<BLOCK_BYTES>().0 {
                block[208..].copy_from_slice(&f16::from_f32(0.01).to_le_bytes());
            }
            let x: Vec<f32> = (0..blocks * BLOCK).map(|_| f32::from(next()) / 40.0 - 3.0).collect();
            let dense: Vec<f64> = row.as_chunks::<BLOCK_BYTES>().0.iter().flat_map(weights).collect();
            let exact: f64 = dense.iter().zip(&x).map(|(w, x)| w * f64::from(*x)).sum();
            let size: f64 = dense.iter().map(|w| w.abs()).sum::<f64>() * 3.0;
            let split = SplitActivations::new(&x);
            let expected = dot(Isa::Scalar, &row, &split);
            assert!((f64::from(expected) - exact).abs() < 3e-5 * size, "{expected} {exact}");
            for isa in Isa::available() {
                assert_eq!(dot(isa, &row, &split).to_bits(), expected.to_bits(), "{isa}");
            }
        }
    }

    #[test]
    fn the_largest_sums_do_not_wrap_and_what_is_no_number_stays_none() {
        for (fill, scale) in [(0xff, 0x80u8), (0, 0x80), (0xff, 0x7f), (0, 0x7f)] {
            let mut row = [fill; BLOCK_BYTES];
            row[192..208].fill(scale);
            row[208..].copy_from_slice(&f16::from_f32(1.0).to_le_bytes());
            let code = if fill == 0 { -32.0 } else { 31.0 };
            for x in [1.0f32, -1.0] {
                let exact = 256.0 * code * f64::from(scale.cast_signed()) * f64::from(x);
                for isa in Isa::available() {
                    let y = f64::from(dot(isa, &row, &SplitActivations::new(&[x; BLOCK])));
                    assert!((y / exact - 1.0).abs() < 1e-6, "{isa}: {y} {exact}");
                }
            }
        }
        // Every lane at its largest: the weights of lane `j` against the offset of the activations `16 j..`.
        let mut row = [0xff; BLOCK_BYTES];
        row[192..208].fill(0x80);
        row[208..].copy_from_slice(&f16::from_f32(1.0).to_le_bytes());
        for lane in 0..LANES {
            let x: [f32; BLOCK] = std::array::from_fn(|i| {
                let (of_lane, of_offset) = (i % CHUNK / 4 == lane, i / 16 == lane);
                if of_lane {
                    1.0
                } else if of_offset {
                    -1.0
                } else {
                    0.0
                }
            });
            let exact: f64 = x.iter().map(|x| -128.0 * 31.0 * f64::from(*x)).sum();
            for isa in Isa::available() {
                let y = f64::from(dot(isa, &row, &SplitActivations::new(&x)));
                assert!((y - exact).abs() <= 1e-6 * exact.abs(), "{isa} {lane}: {y} {exact}");
            }
        }
        let mut x = [1.0f32; BLOCK];
        x[77] = f32::NAN;
        assert!(dot(Isa::Scalar, &[0; BLOCK_BYTES], &SplitActivations::new(&x)).is_nan());
        assert_eq!(dot(Isa::Scalar, &[3; BLOCK_BYTES], &SplitActivations::new(&[0.0; BLOCK])), 0.0);
    }
}
