//! The kernels of attention on AVX-512 and AVX2: one text for 16 floats in one register or in two.

use std::arch::x86_64::*;

use super::portable::split;
use super::{Place, WIDTH};
use crate::cpu::kv_cache::{BLOCK, CacheFormat};

/// Blocks between the values that are used and those that are fetched; of a block, only a part is used at a time.
const AHEAD: usize = 4;

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
    unsafe fn load_i8(from: *const i8) -> Self;
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
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: as above, and 16 bytes are there.
        Self(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) })
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
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: as above, and 16 bytes are there.
        unsafe {
            let (low, high) = (_mm_loadl_epi64(from.cast()), _mm_loadl_epi64(from.add(8).cast()));
            Self(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high)))
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
    // SAFETY: the processor has AVX-512.
    unsafe { scores::<Wide, R>(format, q, blocks, scale, out) }
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
    unsafe { scores::<Pair, R>(format, q, blocks, scale, out) }
}

/// # Safety
/// The processor has AVX-512 F.
#[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
pub(super) unsafe fn weighted_avx512<const R: usize>(
    format: CacheFormat,
    p: [&[f32]; R],
    values: &[u32],
    place: Place,
) -> [[f32; WIDTH]; R] {
    // SAFETY: the processor has AVX-512.
    unsafe { weighted::<Wide, R>(format, p, values, place) }
}

/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn weighted_avx2<const R: usize>(
    format: CacheFormat,
    p: [&[f32]; R],
    values: &[u32],
    place: Place,
) -> [[f32; WIDTH]; R] {
    // SAFETY: the processor has AVX2, FMA and F16C.
    unsafe { weighted::<Pair, R>(format, p, values, place) }
}

/// # Safety
/// The processor has what `L` needs.
#[inline(always)]
unsafe fn scores<L: Lanes, const R: usize>(
    format: CacheFormat,
    q: [&[f32]; R],
    blocks: &[u32],
    scale: f32,
    out: &mut [f32],
) {
    let head_dim = q[0].len();
    let stride = out.len() / R;
    assert!(q.iter().all(|q| q.len() == head_dim), "queries of one width");
    for (b, block) in blocks.chunks_exact(format.block_words(head_dim)).enumerate() {
        let (scales, codes) = split(format, block);
        // SAFETY: a prefetch is a hint, of the same place in a later block, which need not exist. A block has 16 values for each of the `head_dim` elements, and 16 scales if it has any.
        unsafe {
            let mut sums = [L::splat(0.0); R];
            macro_rules! run {
                ($type:ty, $load:ident) => {{
                    let codes: *const $type = codes.as_ptr().cast();
                    for d in 0..head_dim {
                        let k = codes.add(BLOCK * d);
                        _mm_prefetch::<_MM_HINT_T0>(k.wrapping_add(BLOCK * head_dim).cast());
                        let k = L::$load(k);
                        for r in 0..R {
                            sums[r] = sums[r].add_product(L::splat(*q[r].get_unchecked(d)), k);
                        }
                    }
                }};
            }
            match format {
                CacheFormat::F32 => run!(f32, load_f32),
                CacheFormat::F16 => run!(u16, load_f16),
                CacheFormat::Int8 => run!(i8, load_i8),
            }
            let scales = scales.map(|scales| L::load_f32(scales.as_ptr().cast()));
            for (r, sum) in sums.into_iter().enumerate() {
                let sum = scales.map_or(sum, |scales| sum.mul(scales)).mul(L::splat(scale));
                let out = &mut out[r * stride + b * BLOCK..][..BLOCK];
                sum.store(out.as_mut_ptr());
            }
        }
    }
}

/// # Safety
/// The processor has what `L` needs, and the place is [`WIDTH`] wide.
#[inline(always)]
unsafe fn weighted<L: Lanes, const R: usize>(
    format: CacheFormat,
    p: [&[f32]; R],
    values: &[u32],
    place: Place,
) -> [[f32; WIDTH]; R] {
    let Place { head_dim, from, width } = place;
    let positions = p[0].len();
    let words = format.block_words(head_dim);
    assert!(width == WIDTH && from + WIDTH <= head_dim, "a place within the head");
    assert!(values.len() >= positions.div_ceil(BLOCK) * words && p.iter().all(|p| p.len() == positions), "positions");
    let mut out = [[0f32; WIDTH]; R];
    // SAFETY: as in `scores`: there is a block for each 16 positions, and in it `head_dim` values for each.
    unsafe {
        let mut sums = [[L::splat(0.0); 2]; R];
        for first in (0..positions).step_by(BLOCK) {
            let (scales, codes) = split(format, &values[first / BLOCK * words..][..words]);
            let here = BLOCK.min(positions - first);
            macro_rules! run {
                ($type:ty, $load:ident) => {{
                    let codes: *const $type = codes.as_ptr().cast::<$type>().add(BLOCK * from);
                    for lane in 0..here {
                        let v = codes.add(lane * WIDTH);
                        _mm_prefetch::<_MM_HINT_T0>(v.wrapping_add(AHEAD * BLOCK * head_dim).cast());
                        let v = [L::$load(v), L::$load(v.add(16))];
                        for r in 0..R {
                            let p = *p[r].get_unchecked(first + lane);
                            let p = scales.map_or(p, |scales| p * f32::from_bits(scales[lane]));
                            let p = L::splat(p);
                            sums[r] = [sums[r][0].add_product(p, v[0]), sums[r][1].add_product(p, v[1])];
                        }
                    }
                }};
            }
            match format {
                CacheFormat::F32 => run!(f32, load_f32),
                CacheFormat::F16 => run!(u16, load_f16),
                CacheFormat::Int8 => run!(i8, load_i8),
            }
        }
        for (out, sums) in out.iter_mut().zip(sums) {
            sums[0].store(out.as_mut_ptr());
            sums[1].store(out.as_mut_ptr().add(16));
        }
    }
    out
}
