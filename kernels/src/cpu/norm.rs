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
pub(crate) fn sum_of_squares(x: &[f32]) -> f64 {
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

/// The gradients of [`rms_norm`]: that of `x` in `dx`, that of the weight in `dweight`.
///
/// With `r = 1 / sqrt(mean(x^2) + eps)` and `g = dy * weight`:
///
/// ```text
/// dx = r g - x r^3 mean(g x)      dweight = sum over rows of dy x r
/// ```
///
/// # Panics
/// When this processor cannot run `isa`, a slice does not have the length of `x`, or that is not whole rows.
pub fn backward(isa: Isa, x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32], dweight: &mut [f32]) {
    isa.check();
    let width = weight.len();
    assert_eq!((dy.len(), dx.len(), dweight.len()), (x.len(), x.len(), width), "gradients");
    dweight.fill(0.0);
    if x.is_empty() {
        return;
    }
    // The sums over rows in blocks of one size, so that they do not depend on the threads.
    let blocks = (x.len() / width).div_ceil(ROWS_A_BLOCK);
    let mut sums = vec![0f32; blocks * width];
    {
        let sums = parallel::Parts::new(&mut sums);
        parallel::chunks(dx, ROWS_A_BLOCK * width, 6 * x.len(), |block, dx| {
            // SAFETY: each task has the sums of its own block.
            let sums = unsafe { sums.slice(block * width, (block + 1) * width) };
            for (i, dx) in dx.chunks_exact_mut(width).enumerate() {
                let at = (block * ROWS_A_BLOCK + i) * width;
                backward_of(isa, &x[at..][..width], weight, eps, &dy[at..][..width], dx, sums);
            }
        });
    }
    sums.chunks_exact(width).for_each(|sums| add(isa, sums, dweight));
}

/// Rows that one task of [`backward`] takes.
const ROWS_A_BLOCK: usize = 16;

on_each_isa! {
    fn add(x: &[f32], sums: &mut [f32]) = |x: &[f32], sums: &mut [f32]| sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x)
}

on_each_isa! {
    fn backward_of(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32], dweight: &mut [f32]) = backward_body
}

#[inline(always)]
fn backward_body(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32], dweight: &mut [f32]) {
    let width = x.len();
    let (weight, dy, dx, dweight) = (&weight[..width], &dy[..width], &mut dx[..width], &mut dweight[..width]);
    let scale = 1.0 / ((sum_of_squares(x) / width as f64) as f32 + eps).sqrt();
    for i in 0..width {
        dx[i] = dy[i] * weight[i];
        dweight[i] += dy[i] * (x[i] * scale);
    }
    let mean = (sum_of_products(dx, x) / width as f64) as f32;
    let factor = mean * scale * scale;
    for i in 0..width {
        dx[i] = scale * (dx[i] - x[i] * factor);
    }
}

#[inline(always)]
fn sum_of_products(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0f64; 8];
    let ((a_chunks, a_rest), (b_chunks, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..8 {
            sums[lane] += f64::from(a[lane]) * f64::from(b[lane]);
        }
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        sums[lane] += f64::from(*a) * f64::from(*b);
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

    #[test]
    fn the_gradient_is_the_slope() {
        let (rows, width) = (37, 29);
        let noise = |seed: usize, n: usize| -> Vec<f32> {
            (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 997.0 - 1.0).collect()
        };
        let (x, weight, dy) = (noise(1, rows * width), noise(2, width), noise(3, rows * width));
        let loss = |x: &[f32], weight: &[f32]| -> f64 {
            let row = |(x, dy): (&[f32], &[f32])| -> f64 {
                let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / width as f64;
                let scale = 1.0 / (mean + 1e-5).sqrt();
                (0..width).map(|i| f64::from(dy[i]) * f64::from(x[i]) * scale * f64::from(weight[i])).sum()
            };
            x.chunks(width).zip(dy.chunks(width)).map(row).sum()
        };
        let slope = |at: usize, of: &dyn Fn(&[f32]) -> f64, values: &[f32]| {
            let (mut a, mut b) = (values.to_vec(), values.to_vec());
            (a[at], b[at]) = (a[at] - 1e-2, b[at] + 1e-2);
            (of(&b) - of(&a)) / (f64::from(b[at]) - f64::from(a[at]))
        };
        let mut all = Vec::new();
        for isa in Isa::available() {
            let (mut dx, mut dweight) = (vec![0.0; x.len()], vec![0.0; width]);
            backward(isa, &x, &weight, 1e-5, &dy, &mut dx, &mut dweight);
            for at in [0, 5, 30, 500, rows * width - 1] {
                assert!((f64::from(dx[at]) - slope(at, &|x| loss(x, &weight), &x)).abs() < 1e-3);
            }
            for at in [0, 7, width - 1] {
                assert!((f64::from(dweight[at]) - slope(at, &|w| loss(&x, w), &weight)).abs() < 1e-3);
            }
            all.push((dx, dweight));
        }
        assert!(all.iter().all(|g| g == &all[0]), "every instruction set gives the same bits");
    }
}
