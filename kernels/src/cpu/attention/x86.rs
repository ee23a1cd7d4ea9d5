//! The kernels of attention on AVX-512 and AVX2: one text for 16 floats in one register or in two.

use std::arch::asm;
use std::arch::x86_64::*;

use super::queries::PADDING;
use super::{SPAN, Sum, portable};
use crate::cpu::kv_cache::{BLOCK, CacheFormat, VALUES};

/// Blocks between what is used and what is fetched.
const AHEAD: usize = 2;

/// Sixteen floats.
///
/// # Safety
/// Every function needs the instruction set that the implementor is for; a `load` reads 16 values.
trait Lanes: Copy {
    unsafe fn splat(x: f32) -> Self;
    /// `self + a * b`, rounded once.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn load_f32(from: *const f32) -> Self;
    unsafe fn load_f16(from: *const u16) -> Self;
    unsafe fn store(self, to: *mut f32);
}

#[derive(Clone, Copy)]
struct Wide(__m512);

impl Lanes for Wide {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller has AVX-512; so for all below.
        Self(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        // SAFETY: as above, and 16 floats are there.
        Self(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        // SAFETY: as above, and 16 halves are there.
        Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above, and there is room for 16 floats.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
}

#[derive(Clone, Copy)]
struct Pair(__m256, __m256);

impl Lanes for Pair {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller has AVX2, FMA and F16C; so for all below.
        unsafe { Self(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        // SAFETY: as above, and 16 floats are there.
        unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        // SAFETY: as above, and 16 halves are there.
        unsafe {
            let (low, high) = (_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(8).cast()));
            Self(_mm256_cvtph_ps(low), _mm256_cvtph_ps(high))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above, and there is room for 16 floats.
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }
}

/// # Safety
/// The processor has AVX-512 F.
#[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
pub(super) unsafe fn scores_avx512<const R: usize>(
    format: CacheFormat,
    q: [&[f32]; R],
    blocks: &[u32],
    scale: f32,
    out: &mut [f32],
) {
    // Two blocks at a time: an addition has to wait for the one before it on the same sum.
    // SAFETY: the processor has AVX-512.
    unsafe { scores::<Wide, R, 2>(format, q, blocks, scale, out) }
}

/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn scores_avx2<const R: usize>(
    format: CacheFormat,
    q: [&[f32]; R],
    blocks: &[u32],
    scale: f32,
    out: &mut [f32],
) {
    // SAFETY: the processor has AVX2, FMA and F16C.
    unsafe { scores::<Pair, R, 1>(format, q, blocks, scale, out) }
}

/// # Safety
/// The processor has AVX-512 F.
#[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
pub(super) unsafe fn weighted_avx512<const R: usize>(sum: Sum, weights: &[f32], values: &[u32], sums: &mut [f32]) {
    // SAFETY: the processor has AVX-512.
    unsafe { weighted::<Wide, R>(sum, weights, values, sums) }
}

/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn weighted_avx2<const R: usize>(sum: Sum, weights: &[f32], values: &[u32], sums: &mut [f32]) {
    // SAFETY: the processor has AVX2, FMA and F16C.
    unsafe { weighted::<Pair, R>(sum, weights, values, sums) }
}

/// `N` blocks at a time, and those that are left one by one.
///
/// # Safety
/// The processor has what `L` needs.
#[inline(always)]
unsafe fn scores<L: Lanes, const R: usize, const N: usize>(
    format: CacheFormat,
    q: [&[f32]; R],
    blocks: &[u32],
    scale: f32,
    out: &mut [f32],
) {
    let words = format.block_words(q[0].len());
    let stride = out.len() / R;
    let together = blocks.len() / (N * words) * N;
    for b in (0..together).step_by(N) {
        // SAFETY: the processor has what `L` needs.
        unsafe { scores_of_blocks::<L, R, N>(format, q, &blocks[b * words..], scale, &mut out[b * BLOCK..], stride) }
    }
    for b in together..blocks.len() / words {
        // SAFETY: as above.
        unsafe { scores_of_blocks::<L, R, 1>(format, q, &blocks[b * words..], scale, &mut out[b * BLOCK..], stride) }
    }
}

/// The first `N` of `blocks`.
///
/// # Safety
/// The processor has what `L` needs.
#[inline(always)]
unsafe fn scores_of_blocks<L: Lanes, const R: usize, const N: usize>(
    format: CacheFormat,
    q: [&[f32]; R],
    blocks: &[u32],
    scale: f32,
    out: &mut [f32],
    stride: usize,
) {
    let head_dim = q[0].len();
    assert!(q.iter().all(|q| q.len() == head_dim), "queries of one width");
    assert!(blocks.len() >= N * format.block_words(head_dim), "blocks");
    // SAFETY: a prefetch is a hint, of the same place in a later block, which need not exist. A block has 16 values for each
    // of the `head_dim` elements.
    unsafe {
        let mut sums = [[L::splat(0.0); N]; R];
        macro_rules! run {
            ($type:ty, $load:ident) => {{
                let codes: *const $type = blocks.as_ptr().cast();
                for d in 0..head_dim {
                    let mut k = [L::splat(0.0); N];
                    for (n, k) in k.iter_mut().enumerate() {
                        let at = codes.add(BLOCK * (n * head_dim + d));
                        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD * BLOCK * head_dim).cast());
                        *k = L::$load(at);
                    }
                    for r in 0..R {
                        let q = L::splat(*q[r].get_unchecked(d));
                        for n in 0..N {
                            sums[r][n] = sums[r][n].add_product(q, k[n]);
                        }
                    }
                }
            }};
        }
        match format {
            CacheFormat::F32 => run!(f32, load_f32),
            CacheFormat::F16 => run!(u16, load_f16),
            CacheFormat::Int8 => unreachable!("an int8 cache meets codes"),
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (n, sum) in sums.into_iter().enumerate() {
                let out = &mut out[r * stride + n * BLOCK..][..BLOCK];
                sum.mul(L::splat(scale)).store(out.as_mut_ptr());
            }
        }
    }
}

/// # Safety
/// The processor has what `L` needs.
#[inline(always)]
unsafe fn weighted<L: Lanes, const R: usize>(sum: Sum, weights: &[f32], values: &[u32], sums: &mut [f32]) {
    let Sum { format, head_dim, positions, from } = sum;
    let (words, stride) = (format.block_words(head_dim), weights.len() / R);
    let whole = head_dim / VALUES * VALUES;
    assert!(values.len() >= positions.div_ceil(BLOCK) * words && stride >= positions, "positions");
    assert!(sums.len() == R * head_dim && from == 0, "sums");
    for first in (0..positions).step_by(BLOCK) {
        let (_, codes) = portable::split(format, &values[first / BLOCK * words..][..words]);
        let here = BLOCK.min(positions - first);
        for from in (0..whole).step_by(VALUES) {
            // SAFETY: a prefetch is a hint, as above. In a block there are `head_dim` values for each position, of which
            // these 32 lie together, and each row has so many sums.
            unsafe {
                let mut part = [[L::splat(0.0); 2]; R];
                for (r, part) in part.iter_mut().enumerate() {
                    let sums = sums.as_ptr().add(r * head_dim + from);
                    *part = [L::load_f32(sums), L::load_f32(sums.add(16))];
                }
                macro_rules! run {
                    ($type:ty, $load:ident) => {{
                        let codes: *const $type = codes.as_ptr().cast::<$type>().add(BLOCK * from);
                        for lane in 0..here {
                            let v = codes.add(lane * VALUES);
                            _mm_prefetch::<_MM_HINT_T0>(v.wrapping_add(AHEAD * BLOCK * head_dim).cast());
                            let v = [L::$load(v), L::$load(v.add(16))];
                            for r in 0..R {
                                let weight = L::splat(*weights.get_unchecked(r * stride + first + lane));
                                part[r] = [part[r][0].add_product(weight, v[0]), part[r][1].add_product(weight, v[1])];
                            }
                        }
                    }};
                }
                match format {
                    CacheFormat::F32 => run!(f32, load_f32),
                    CacheFormat::F16 => run!(u16, load_f16),
                    CacheFormat::Int8 => unreachable!("an int8 cache meets codes"),
                }
                for (r, part) in part.into_iter().enumerate() {
                    let sums = sums.as_mut_ptr().add(r * head_dim + from);
                    part[0].store(sums);
                    part[1].store(sums.add(16));
                }
            }
        }
    }
    if whole < head_dim {
        portable::weighted::<R>(Sum { from: whole, ..sum }, weights, values, sums);
    }
}

/// `sum + a[0] b[0] + a[1] b[1]` in each 32-bit lane, with the same two numbers `b` for all of them.
///
/// # Safety
/// The processor has AVX-512 F and VNNI, and there are two numbers at `b`.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn add_products(sum: __m512i, a: __m512i, b: *const i16) -> __m512i {
    let mut sum = sum;
    // A compiler takes the instruction apart again, and reads the numbers through a register.
    // SAFETY: the instruction is there, and reads what the caller says is there.
    unsafe {
        asm!("vpdpwssd {sum}, {a}, dword ptr [{b}]{{1to16}}", sum = inout(zmm_reg) sum, a = in(zmm_reg) a, b = in(reg) b,
            options(pure, readonly, nostack, preserves_flags));
    }
    sum
}

/// Scores with int8 keys: two elements of a head are multiplied and added in each 32-bit lane, which is a position.
///
/// # Safety
/// The processor has AVX-512 F, BW and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2")]
pub(super) unsafe fn code_scores_avx512<const R: usize>(
    q: [&[i16]; R],
    factors: [f32; R],
    head_dim: usize,
    blocks: &[u32],
    out: &mut [f32],
) {
    const STEP: usize = PADDING;
    let (steps, stride) = (head_dim.div_ceil(STEP), out.len() / R);
    assert!(q.iter().all(|q| q.len() == STEP * steps), "queries with their padding");
    // The bytes of two neighbouring elements side by side, in each quarter of a register.
    let side_by_side = _mm512_broadcast_i32x4(_mm_set_epi8(15, 7, 14, 6, 13, 5, 12, 4, 11, 3, 10, 2, 9, 1, 8, 0));
    for (b, block) in blocks.chunks_exact(CacheFormat::Int8.block_words(head_dim)).enumerate() {
        let codes: *const i8 = block[BLOCK..].as_ptr().cast();
        let mut sums = [[_mm512_setzero_si512(); 2]; R];
        for step in 0..steps {
            // SAFETY: four elements of 16 positions are 64 bytes, of which those beyond the head are not read. Each query has
            // as many codes. The prefetch is a hint, of an address that need not exist.
            let keys = unsafe {
                let at = codes.add(BLOCK * STEP * step);
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(4 * AHEAD * block.len()));
                match head_dim - STEP * step {
                    rest @ 0..STEP => _mm512_maskz_loadu_epi8((1 << (BLOCK * rest)) - 1, at),
                    _ => _mm512_loadu_si512(at.cast()),
                }
            };
            let keys = _mm512_shuffle_epi8(_mm512_permutex_epi64::<0b11_01_10_00>(keys), side_by_side);
            let low = _mm512_cvtepi8_epi16(_mm512_castsi512_si256(keys));
            let high = _mm512_cvtepi8_epi16(_mm512_extracti64x4_epi64::<1>(keys));
            for (sums, q) in sums.iter_mut().zip(q) {
                // SAFETY: as above.
                unsafe {
                    let q = q.as_ptr().add(STEP * step);
                    sums[0] = add_products(sums[0], low, q);
                    sums[1] = add_products(sums[1], high, q.add(2));
                }
            }
        }
        // SAFETY: a block begins with 16 scales.
        let scales = unsafe { _mm512_loadu_ps(block.as_ptr().cast()) };
        for ((sums, factor), out) in sums.into_iter().zip(factors).zip(out.chunks_exact_mut(stride)) {
            let sum = _mm512_cvtepi32_ps(_mm512_add_epi32(sums[0], sums[1]));
            let out = &mut out[b * BLOCK..][..BLOCK];
            let score = _mm512_mul_ps(_mm512_mul_ps(sum, _mm512_set1_ps(factor)), scales);
            // SAFETY: there is room for 16 floats.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), score) };
        }
    }
}

/// [`code_scores_avx512`] in registers of half the width.
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn code_scores_avx2<const R: usize>(
    q: [&[i16]; R],
    factors: [f32; R],
    head_dim: usize,
    blocks: &[u32],
    out: &mut [f32],
) {
    let stride = out.len() / R;
    assert!(q.iter().all(|q| q.len() >= head_dim.next_multiple_of(2)), "queries with their padding");
    for (b, block) in blocks.chunks_exact(CacheFormat::Int8.block_words(head_dim)).enumerate() {
        let codes: *const i8 = block[BLOCK..].as_ptr().cast();
        let mut sums = [[_mm256_setzero_si256(); 2]; R];
        for d in (0..head_dim).step_by(2) {
            // SAFETY: an element of 16 positions is 16 bytes, and there are `head_dim` of them. The prefetch is a hint, of an
            // address that need not exist.
            let (first, second) = unsafe {
                let at = codes.add(BLOCK * d);
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(4 * AHEAD * block.len()));
                let second = if d + 1 < head_dim { _mm_loadu_si128(at.add(BLOCK).cast()) } else { _mm_setzero_si128() };
                (_mm_loadu_si128(at.cast()), second)
            };
            let low = _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(first, second));
            let high = _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(first, second));
            for (sums, q) in sums.iter_mut().zip(q) {
                // SAFETY: each query has so many codes.
                let q = _mm256_set1_epi32(unsafe { q.as_ptr().add(d).cast::<i32>().read_unaligned() });
                sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(low, q));
                sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(high, q));
            }
        }
        for ((sums, factor), out) in sums.into_iter().zip(factors).zip(out.chunks_exact_mut(stride)) {
            let out = &mut out[b * BLOCK..][..BLOCK];
            for (half, sum) in sums.into_iter().enumerate() {
                // SAFETY: a block begins with 16 scales, and there is room for as many floats.
                unsafe {
                    let scales = _mm256_loadu_ps(block.as_ptr().cast::<f32>().add(8 * half));
                    let sum = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(factor));
                    _mm256_storeu_ps(out.as_mut_ptr().add(8 * half), _mm256_mul_ps(sum, scales));
                }
            }
        }
    }
}

/// Asks for the scales of each block.
pub(super) fn fetch_scales(blocks: &[u32], words: usize) {
    for block in blocks.chunks_exact(words) {
        // SAFETY: a hint, and of what is there.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(block.as_ptr().cast()) }
    }
}

/// Int8 values with their weights: two positions are multiplied and added in each 32-bit lane, which is an element. Until the
/// end `sums` holds integers, of 32 elements those of 0 to 8, 16 to 24, 8 to 16 and 24 to 32.
///
/// # Safety
/// The processor has AVX-512 F, BW and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2")]
pub(super) unsafe fn weighted_codes_avx512<const R: usize>(
    sum: Sum,
    weights: [&[i16; SPAN]; R],
    factors: [f32; R],
    values: &[u32],
    sums: &mut [f32],
) {
    let Sum { format, head_dim, positions, from } = sum;
    let words = format.block_words(head_dim);
    let whole = head_dim / VALUES * VALUES;
    assert!(positions <= SPAN && values.len() >= positions.div_ceil(BLOCK) * words, "positions");
    assert!(sums.len() == R * head_dim && from == 0, "sums");
    sums.fill(0.0);
    for first in (0..positions).step_by(BLOCK) {
        for from in (0..whole).step_by(VALUES) {
            // SAFETY: a block has 16 scales, and then 32 values of each of 16 positions side by side. Each row has codes for
            // as many positions as a span has, and so many sums. A prefetch is a hint, of an address that need not exist.
            unsafe {
                let codes = values.as_ptr().add(first / BLOCK * words + BLOCK).cast::<i8>().add(BLOCK * from);
                let totals_at: [*mut __m512i; R] =
                    std::array::from_fn(|r| sums.as_mut_ptr().add(r * head_dim + from).cast());
                let mut totals = totals_at.map(|at| [_mm512_loadu_si512(at), _mm512_loadu_si512(at.add(1))]);
                for pair in (0..BLOCK.min(positions - first)).step_by(2) {
                    let at = codes.add(pair * VALUES);
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(4 * AHEAD * words));
                    let (a, b) = (_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(VALUES).cast()));
                    let low = _mm512_cvtepi8_epi16(_mm256_unpacklo_epi8(a, b));
                    let high = _mm512_cvtepi8_epi16(_mm256_unpackhi_epi8(a, b));
                    for (totals, weights) in totals.iter_mut().zip(weights) {
                        let weights = weights.as_ptr().add(first + pair);
                        totals[0] = add_products(totals[0], low, weights);
                        totals[1] = add_products(totals[1], high, weights);
                    }
                }
                for (at, totals) in totals_at.into_iter().zip(totals) {
                    _mm512_storeu_si512(at, totals[0]);
                    _mm512_storeu_si512(at.add(1), totals[1]);
                }
            }
        }
    }
    for (sums, factor) in sums.chunks_exact_mut(head_dim).zip(factors) {
        for sums in sums.as_chunks_mut::<VALUES>().0 {
            let [a, c, b, d]: [[u32; VALUES / 4]; 4] = bytemuck::cast(*sums);
            let integers: [i32; VALUES] = bytemuck::cast([a, b, c, d]);
            sums.iter_mut().zip(integers).for_each(|(sum, integer)| *sum = integer as f32 * factor);
        }
    }
    if whole < head_dim {
        portable::weighted_codes(Sum { from: whole, ..sum }, weights, factors, values, sums);
    }
}

/// [`weighted_codes_avx512`] in registers of half the width, with the integers in their order.
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn weighted_codes_avx2<const R: usize>(
    sum: Sum,
    weights: [&[i16; SPAN]; R],
    factors: [f32; R],
    values: &[u32],
    sums: &mut [f32],
) {
    const HALF: usize = VALUES / 2;
    let Sum { format, head_dim, positions, from } = sum;
    let words = format.block_words(head_dim);
    let whole = head_dim / VALUES * VALUES;
    assert!(positions <= SPAN && values.len() >= positions.div_ceil(BLOCK) * words, "positions");
    assert!(sums.len() == R * head_dim && from == 0, "sums");
    sums.fill(0.0);
    for first in (0..positions).step_by(BLOCK) {
        for from in (0..whole).step_by(HALF) {
            // SAFETY: as there; these 16 values are one half of 32.
            unsafe {
                let codes = values.as_ptr().add(first / BLOCK * words + BLOCK).cast::<i8>();
                let codes = codes.add(BLOCK * (from / VALUES * VALUES) + from % VALUES);
                let totals_at: [*mut __m256i; R] =
                    std::array::from_fn(|r| sums.as_mut_ptr().add(r * head_dim + from).cast());
                let mut totals = totals_at.map(|at| [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))]);
                for pair in (0..BLOCK.min(positions - first)).step_by(2) {
                    let at = codes.add(pair * VALUES);
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(4 * AHEAD * words));
                    let (a, b) = (_mm_loadu_si128(at.cast()), _mm_loadu_si128(at.add(VALUES).cast()));
                    let low = _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(a, b));
                    let high = _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(a, b));
                    for (totals, weights) in totals.iter_mut().zip(weights) {
                        let weight = weights.as_ptr().add(first + pair).cast::<i32>().read_unaligned();
                        let weight = _mm256_set1_epi32(weight);
                        totals[0] = _mm256_add_epi32(totals[0], _mm256_madd_epi16(low, weight));
                        totals[1] = _mm256_add_epi32(totals[1], _mm256_madd_epi16(high, weight));
                    }
                }
                for (at, totals) in totals_at.into_iter().zip(totals) {
                    _mm256_storeu_si256(at, totals[0]);
                    _mm256_storeu_si256(at.add(1), totals[1]);
                }
            }
        }
    }
    for (sums, factor) in sums.chunks_exact_mut(head_dim).zip(factors) {
        sums[..whole].iter_mut().for_each(|sum| *sum = sum.to_bits().cast_signed() as f32 * factor);
    }
    if whole < head_dim {
        portable::weighted_codes(Sum { from: whole, ..sum }, weights, factors, values, sums);
    }
}
