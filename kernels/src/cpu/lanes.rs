//! Float sums in one fixed order.
//!
//! A sum of floats depends on the order of its additions. These functions always use 32 partial sums, element `i`
//! going to partial sum `i % 32`, and add those in a fixed tree, with a product and a sum rounded each for itself.
//! The compiler turns that into the vectors of each instruction set, and all of them give the same bits.

use super::isa::{Isa, on_each_isa};

const LANES: usize = 32;

on_each_isa! {
    /// `sum_i a[i] * b[i]`; the shorter slice decides the length.
    pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 = dot_body
}

/// Rows that [`dots`] takes at a time.
pub(crate) const ROWS: usize = 4;

on_each_isa! {
    /// [`dot`] of `a` with each of some rows, which must be as long.
    pub(crate) fn dots(a: &[f32], rows: [&[f32]; ROWS]) -> [f32; ROWS] = dots_body
}

on_each_isa! {
    /// [`dot`] with the second operand as bfloat16, two little-endian bytes a value; the same bits as after conversion to
    /// f32.
    pub(crate) fn dot_bf16(a: &[f32], b: &[u8]) -> f32 = dot_bf16_body
}

/// [`dot`] with the second operand as IEEE half precision, two little-endian bytes a value; the same bits as after
/// conversion to f32.
pub(crate) fn dot_f16(isa: Isa, a: &[f32], b: &[u8]) -> f32 {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever came in through a public function has passed `Isa::check`.
        Isa::Avx512Vnni => unsafe { dot_f16_avx512(a, b) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { dot_f16_avx2(a, b) },
        _ => dot_stored(a, b, |b| half::f16::from_le_bytes(b).to_f32()),
    }
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

#[inline(always)]
fn dots_body(a: &[f32], rows: [&[f32]; ROWS]) -> [f32; ROWS] {
    let rows = rows.map(|row| &row[..a.len()]);
    let mut sums = [[0f32; LANES]; ROWS];
    let (chunks, rest) = a.as_chunks::<LANES>();
    let row_chunks = rows.map(|row| row.as_chunks::<LANES>());
    for (i, a) in chunks.iter().enumerate() {
        for (sums, row) in sums.iter_mut().zip(&row_chunks) {
            let row = &row.0[i];
            for lane in 0..LANES {
                sums[lane] += a[lane] * row[lane];
            }
        }
    }
    for (sums, row) in sums.iter_mut().zip(&row_chunks) {
        for (lane, (a, b)) in rest.iter().zip(row.1).enumerate() {
            sums[lane] += a * b;
        }
    }
    sums.map(total)
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
        for n in [0, 1, 31, 32, 33, 100, 2560, 2561] {
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
