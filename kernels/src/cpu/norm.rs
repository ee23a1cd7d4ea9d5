//! RMSNorm.

use super::isa::{Isa, on_each_isa};
use super::parallel;

/// `out = weight * (x / sqrt(mean(x^2) + eps))` for each row of `x` (`[rows, weight.len()]`), the sum of squares in f64.
///
/// Source: Zhang and Sennrich, "Root Mean Square Layer Normalization" (arXiv 1910.07467), eq. 4.
///
/// # Panics
/// When this processor cannot run `isa`, `out` does not have the length of `x`, or that is not whole rows.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    isa.check();
    assert_eq!(out.len(), x.len(), "output");
    let width = weight.len();
    parallel::chunks(out, width.max(1), x.len(), |row, out| {
        out.copy_from_slice(&x[row * width..][..width]);
        normalize(isa, out, weight, eps);
    });
}

on_each_isa! {
    /// [`rms_norm`] of one row, in place.
    pub(crate) fn normalize(x: &mut [f32], weight: &[f32], eps: f32) = normalize_body
}

#[inline(always)]
fn normalize_body(x: &mut [f32], weight: &[f32], eps: f32) {
    let mean = sum_of_squares(x) / x.len() as f64;
    let scale = 1.0 / (mean as f32 + eps).sqrt();
    for (x, w) in x.iter_mut().zip(weight) {
        *x = (*x * scale) * w;
    }
}

#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f64 {
    let mut sums = [0f64; 8];
    let (chunks, rest) = x.as_chunks::<8>();
    for chunk in chunks {
        for lane in 0..8 {
            sums[lane] += f64::from(chunk[lane]) * f64::from(chunk[lane]);
        }
    }
    for (lane, x) in rest.iter().enumerate() {
        sums[lane] += f64::from(*x) * f64::from(*x);
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_equal_values_becomes_the_weight() {
        let weight: Vec<f32> = (0..11).map(|i| i as f32).collect();
        for isa in Isa::available() {
            let mut out = vec![0.0; 22];
            rms_norm(isa, &[vec![3.0; 11], vec![-0.5; 11]].concat(), &weight, 0.0, &mut out);
            for i in 0..11 {
                assert!((out[i] - weight[i]).abs() < 1e-5 && (out[11 + i] + weight[i]).abs() < 1e-5);
            }
        }
    }
}
