//! Float sums in one fixed order.
//!
//! A sum of floats depends on the order of its additions. These functions always use 32 partial sums, element `i`
//! going to partial sum `i % 32`, and add those in a fixed tree, with a product and a sum rounded each for itself.
//! The compiler turns that into the vectors of each instruction set, and all of them give the same bits.

use super::isa::Isa;

const LANES: usize = 32;

/// `sum_i a[i] * b[i]`; the shorter slice decides the length.
pub fn dot(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` other than `Scalar` is used only where `Isa::is_available` says so.
        Isa::Avx512Vnni => unsafe { dot_avx512(a, b) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { dot_avx2(a, b) },
        _ => dot_body(a, b),
    }
}

/// `y[i] += a * x[i]`.
pub fn axpy(isa: Isa, a: f32, x: &[f32], y: &mut [f32]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `dot`.
        Isa::Avx512Vnni => unsafe { axpy_avx512(a, x, y) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `dot`.
        Isa::Avx2 => unsafe { axpy_avx2(a, x, y) },
        _ => axpy_body(a, x, y),
    }
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
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

#[inline(always)]
fn axpy_body(a: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn dot_avx512(a: &[f32], b: &[f32]) -> f32 {
    dot_body(a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dot_avx2(a: &[f32], b: &[f32]) -> f32 {
    dot_body(a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn axpy_avx512(a: f32, x: &[f32], y: &mut [f32]) {
    axpy_body(a, x, y);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn axpy_avx2(a: f32, x: &[f32], y: &mut [f32]) {
    axpy_body(a, x, y);
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
            let mut sum = b.clone();
            axpy(Isa::Scalar, 0.3, &a, &mut sum);
            for isa in Isa::available() {
                assert_eq!(dot(isa, &a, &b).to_bits(), expected.to_bits(), "{isa} {n}");
                let mut y = b.clone();
                axpy(isa, 0.3, &a, &mut y);
                assert_eq!(y, sum, "{isa} {n}");
            }
        }
    }
}
