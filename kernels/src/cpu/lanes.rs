//! Float sums in one fixed order.
//!
//! A sum of floats depends on the order of its additions. These functions always use 32 partial sums, element `i`
//! going to partial sum `i % 32`, and add those in a fixed tree, with a product and a sum rounded each for itself.
//! The compiler turns that into the vectors of each instruction set, and all of them give the same bits.

use super::halves;
#[cfg(target_arch = "x86_64")]
use super::isa::Vectors;
use super::isa::{Isa, on_each_isa};

const LANES: usize = 32;

on_each_isa! {
    /// `sum_i a[i] * b[i]`; the shorter slice decides the length.
    pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 = dot_body
}

/// Rows that [`dots`] takes at a time.
pub(crate) const ROWS: usize = 4;

/// [`dot`] of `a` with each of some rows, which must be as long.
pub(crate) fn dots(isa: Isa, a: &[f32], rows: [&[f32]; ROWS]) -> [f32; ROWS] {
    let rows = rows.map(|row| &row[..a.len()]);
    match isa.vectors() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever came in through a public function has passed `Isa::check`.
        Vectors::Avx512 if a.len().is_multiple_of(LANES) => unsafe { dots_avx512(a, rows) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Vectors::Avx2 if a.len().is_multiple_of(LANES) => unsafe { dots_avx2(a, rows) },
        _ => rows.map(|row| dot(isa, a, row)),
    }
}

on_each_isa! {
    /// [`dot`] with the second operand as bfloat16, two little-endian bytes a value; the same bits as after conversion to
    /// f32.
    pub(crate) fn dot_bf16(a: &[f32], b: &[u8]) -> f32 = dot_bf16_body
}

/// [`dot`] with the second operand as IEEE half precision, two little-endian bytes a value; the same bits as after
/// conversion to f32.
pub(crate) fn dot_f16(isa: Isa, a: &[f32], b: &[u8]) -> f32 {
    match isa.vectors() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever came in through a public function has passed `Isa::check`.
        Vectors::Avx512 => unsafe { dot_f16_avx512(a, b) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Vectors::Avx2 => unsafe { dot_f16_avx2(a, b) },
        _ => dot_f16_portable(a, b),
    }
}

fn dot_f16_portable(a: &[f32], b: &[u8]) -> f32 {
    const WIDTH: usize = halves::WIDTH;
    let mut sums = [0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<2>().0.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        let parts =
            sums.as_chunks_mut::<WIDTH>().0.iter_mut().zip(a.as_chunks::<WIDTH>().0).zip(b.as_chunks::<WIDTH>().0);
        for ((sums, a), b) in parts {
            let b = halves::widen(b.map(u16::from_le_bytes));
            sums.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum += a * b);
        }
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        sums[lane] += a * half::f16::from_le_bytes(*b).to_f32();
    }
    total(sums)
}

#[inline(always)]
fn from_bf16(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

#[inline(always)]
fn dot_body(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        sums[lane] += a * b;
    }
    total(sums)
}

/// [`dot_body`] with the second operand in two bytes a value.
#[inline(always)]
fn dot_stored(a: &[f32], b: &[u8], value: impl Fn([u8; 2]) -> f32) -> f32 {
    let mut sums = [0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<2>().0.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * value(b[lane]);
        }
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        sums[lane] += a * value(*b);
    }
    total(sums)
}

#[inline(always)]
fn dot_bf16_body(a: &[f32], b: &[u8]) -> f32 {
    dot_stored(a, b, from_bf16)
}

/// The partial sums in a fixed tree.
#[inline(always)]
fn total(mut sums: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

/// [`dots`] with two registers of sums for each row; the compiler keeps so many sums in memory.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq")]
fn dots_avx512(a: &[f32], rows: [&[f32]; ROWS]) -> [f32; ROWS] {
    use std::arch::x86_64::*;
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    for (i, a) in a.as_chunks::<LANES>().0.iter().enumerate() {
        for half in 0..2 {
            // SAFETY: a chunk has 32 values, of which these are 16; every row has as many chunks.
            let a = unsafe { _mm512_loadu_ps(a.as_ptr().add(16 * half)) };
            for (sums, row) in sums.iter_mut().zip(rows) {
                // SAFETY: as above.
                let b = unsafe { _mm512_loadu_ps(row.as_ptr().add(LANES * i + 16 * half)) };
                sums[half] = _mm512_add_ps(sums[half], _mm512_mul_ps(a, b));
            }
        }
    }
    total_of_rows(sums.map(|[low, high]| {
        let sum = _mm512_add_ps(low, high);
        _mm256_add_ps(_mm512_castps512_ps256(sum), _mm512_extractf32x8_ps::<1>(sum))
    }))
}

/// [`dots_avx512`] in vectors of 8, two rows at a time.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dots_avx2(a: &[f32], rows: [&[f32]; ROWS]) -> [f32; ROWS] {
    use std::arch::x86_64::*;
    let mut eighths = [_mm256_setzero_ps(); ROWS];
    for (eighths, rows) in eighths.as_chunks_mut::<2>().0.iter_mut().zip(rows.as_chunks::<2>().0) {
        let mut sums = [[_mm256_setzero_ps(); 4]; 2];
        for (i, a) in a.as_chunks::<LANES>().0.iter().enumerate() {
            for part in 0..4 {
                // SAFETY: a chunk has 32 values, of which these are 8; every row has as many chunks.
                let a = unsafe { _mm256_loadu_ps(a.as_ptr().add(8 * part)) };
                for (sums, row) in sums.iter_mut().zip(rows) {
                    // SAFETY: as above.
                    let b = unsafe { _mm256_loadu_ps(row.as_ptr().add(LANES * i + 8 * part)) };
                    sums[part] = _mm256_add_ps(sums[part], _mm256_mul_ps(a, b));
                }
            }
        }
        for (eighths, [s0, s1, s2, s3]) in eighths.iter_mut().zip(sums) {
            *eighths = _mm256_add_ps(_mm256_add_ps(s0, s2), _mm256_add_ps(s1, s3));
        }
    }
    total_of_rows(eighths)
}

/// The rest of the tree of [`total`], from eight partial sums of each row on.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn total_of_rows(eighths: [std::arch::x86_64::__m256; ROWS]) -> [f32; ROWS] {
    use std::arch::x86_64::*;
    let [r0, r1, r2, r3] = eighths.map(|x| _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x)));
    // Columns of the four rows: partial sums 0 and 2, then 1 and 3.
    let (a, b) = (_mm_unpacklo_ps(r0, r1), _mm_unpacklo_ps(r2, r3));
    let (c, d) = (_mm_unpackhi_ps(r0, r1), _mm_unpackhi_ps(r2, r3));
    let (s0, s1) = (_mm_movelh_ps(a, b), _mm_movehl_ps(b, a));
    let (s2, s3) = (_mm_movelh_ps(c, d), _mm_movehl_ps(d, c));
    let sums = _mm_add_ps(_mm_add_ps(s0, s2), _mm_add_ps(s1, s3));
    let mut out = [0f32; ROWS];
    // SAFETY: there is room for four.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), sums) };
    out
}

/// Vectors of 16 halves become 16 floats: the compiler does not find that conversion by itself.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn dot_f16_avx512(a: &[f32], b: &[u8]) -> f32 {
    use std::arch::x86_64::*;
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<2>().0.as_chunks::<LANES>();
    let mut vectors = [_mm512_setzero_ps(); LANES / 16];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for (i, sum) in vectors.iter_mut().enumerate() {
            // SAFETY: a chunk has 32 values of either type, of which these are 16.
            let (a, b) = unsafe {
                let b = _mm256_loadu_si256(b.as_ptr().add(16 * i).cast());
                (_mm512_loadu_ps(a.as_ptr().add(16 * i)), _mm512_cvtph_ps(b))
            };
            *sum = _mm512_add_ps(*sum, _mm512_mul_ps(a, b));
        }
    }
    let mut sums = [0f32; LANES];
    for (i, vector) in vectors.into_iter().enumerate() {
        // SAFETY: there is room for 16 more.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr().add(16 * i), vector) };
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        sums[lane] += a * half::f16::from_le_bytes(*b).to_f32();
    }
    total(sums)
}

/// [`dot_f16_avx512`] in vectors of 8.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn dot_f16_avx2(a: &[f32], b: &[u8]) -> f32 {
    use std::arch::x86_64::*;
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<2>().0.as_chunks::<LANES>();
    let mut vectors = [_mm256_setzero_ps(); LANES / 8];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for (i, sum) in vectors.iter_mut().enumerate() {
            // SAFETY: a chunk has 32 values of either type, of which these are 8.
            let (a, b) = unsafe {
                let b = _mm_loadu_si128(b.as_ptr().add(8 * i).cast());
                (_mm256_loadu_ps(a.as_ptr().add(8 * i)), _mm256_cvtph_ps(b))
            };
            *sum = _mm256_add_ps(*sum, _mm256_mul_ps(a, b));
        }
    }
    let mut sums = [0f32; LANES];
    for (i, vector) in vectors.into_iter().enumerate() {
        // SAFETY: there is room for 8 more.
        unsafe { _mm256_storeu_ps(sums.as_mut_ptr().add(8 * i), vector) };
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        sums[lane] += a * half::f16::from_le_bytes(*b).to_f32();
    }
    total(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let noise = |seed: usize, n: usize| -> Vec<f32> {
            (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 97.0 - 10.0).collect()
        };
        for n in [0, 1, 31, 32, 33, 64, 100, 2560, 2561] {
            let (a, b) = (noise(1, n), noise(2, n));
            let exact: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let expected = dot(Isa::Scalar, &a, &b);
            assert!((f64::from(expected) - exact).abs() <= 1e-5 * exact.abs().max(1e3), "{expected} {exact}");
            let halves: Vec<half::f16> = b.iter().map(|x| half::f16::from_f32(*x)).collect();
            let bf16s: Vec<half::bf16> = b.iter().map(|x| half::bf16::from_f32(*x)).collect();
            let half_bytes: Vec<u8> = halves.iter().flat_map(|x| x.to_le_bytes()).collect();
            let bf16_bytes: Vec<u8> = bf16s.iter().flat_map(|x| x.to_le_bytes()).collect();
            let of_halves = dot(Isa::Scalar, &a, &halves.iter().map(|x| x.to_f32()).collect::<Vec<_>>());
            let of_bf16s = dot(Isa::Scalar, &a, &bf16s.iter().map(|x| x.to_f32()).collect::<Vec<_>>());
            for isa in Isa::available() {
                assert_eq!(dot_f16(isa, &a, &half_bytes).to_bits(), of_halves.to_bits(), "{isa} {n}");
                assert_eq!(dot_bf16(isa, &a, &bf16_bytes).to_bits(), of_bf16s.to_bits(), "{isa} {n}");
                assert_eq!(dot(isa, &a, &b).to_bits(), expected.to_bits(), "{isa} {n}");
                let rows = [noise(2, n), noise(3, n), noise(4, n), noise(5, n)];
                let each = rows.each_ref().map(|row| dot(Isa::Scalar, &a, row));
                assert_eq!(dots(isa, &a, rows.each_ref().map(Vec::as_slice)), each, "{isa} {n}");
            }
        }
    }
}
