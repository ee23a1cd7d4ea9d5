//! The linear layer of weight-only ternary models (TriLM, Bonsai): activations that are not quantized.
//!
//! Each token is taken for three of int8 activations, which meet the weights together:
//!
//! ```text
//! x ≈ (2^14 a + 2^7 b + c) / f     f = 127 * 2^14 / max|x|     -127 <= a <= 127, -64 <= b, c <= 64
//! ```
//!
//! Their products are exact integers. What is rounded off an activation is at most `max|x| / 4,161,536` and what a float itself
//! rounds off: less than a sum of floats would lose, and the same in whatever order the sum is formed.

use super::isa::{Isa, on_each_isa};
use super::parallel::{self, Parts};
use super::ternary::{TernaryView, linears_of_codes};

/// Tokens of int8 activations that one is.
const PARTS: usize = 3;

/// The largest integer that an activation becomes.
const LARGEST: f32 = (127 << 14) as f32;

/// A row whose largest value is smaller is taken for one with this value.
const SMALLEST: f32 = 1e-30;

/// What each part is multiplied by.
const FACTORS: [f32; PARTS] = [16384.0, 128.0, 1.0];

/// `out[t, n] = sum_k x[t, k] * trit[n, k] * scale`: `x` is `[tokens, cols]`, `out` is `[tokens, rows]`.
///
/// # Panics
/// When this processor cannot run `isa`, or a slice does not have the length that the others say.
pub fn linear_float(isa: Isa, x: &[f32], tokens: usize, w: &TernaryView<'_>, out: &mut [f32]) {
    isa.check();
    assert_eq!((x.len(), out.len()), (tokens * w.cols, tokens * w.rows), "activations and output");
    if w.cols == 0 || out.is_empty() {
        return out.fill(0.0);
    }
    let (mut codes, mut scales) = (vec![0i8; PARTS * x.len()], vec![0f32; PARTS * tokens]);
    let scales_of = Parts::new(&mut scales);
    parallel::chunks(&mut codes, PARTS * w.cols, 4 * x.len(), |token, codes| {
        // SAFETY: a token's scales are written by its task alone.
        let scales = unsafe { scales_of.slice(PARTS * token, PARTS * (token + 1)) };
        let factor = split(isa, &x[token * w.cols..][..w.cols], codes);
        scales.iter_mut().zip(FACTORS).for_each(|(scale, of_part)| *scale = factor / of_part);
    });
    let mut parts = vec![0f32; PARTS * out.len()];
    linears_of_codes(isa, &codes, &scales, &[*w], &mut [&mut parts]);
    parallel::chunks(out, w.rows, parts.len(), |token, out| {
        let of_token = PARTS * w.rows;
        add(isa, &parts[token * of_token..][..of_token], out);
    });
}

on_each_isa! {
    /// The codes of a token, `[3, cols]`, and what its values were multiplied by, which is NaN where one is not finite.
    fn split(x: &[f32], codes: &mut [i8]) -> f32 = split_body
}

#[inline(always)]
fn split_body(x: &[f32], codes: &mut [i8]) -> f32 {
    // As integers, magnitudes are in the order of the floats, and those that are not finite are the largest.
    let largest = f32::from_bits(x.iter().fold(0, |a, x| a.max(x.to_bits() & 0x7fff_ffff)));
    // What is no number becomes zero, and what is computed from it NaN.
    let factor = if largest.is_finite() { LARGEST / largest.max(SMALLEST) } else { 0.0 };
    let (high, rest) = codes.split_at_mut(x.len());
    let (middle, low) = rest.split_at_mut(x.len());
    for (((x, high), middle), low) in x.iter().zip(high).zip(middle).zip(low) {
        let code = (x * factor).round_ties_even() as i32;
        let a = (code + (1 << 13)) >> 14;
        let rest = code - (a << 14);
        let b = (rest + (1 << 6)) >> 7;
        (*high, *middle, *low) = (a as i8, b as i8, (rest - (b << 7)) as i8);
    }
    if largest.is_finite() { factor } else { f32::NAN }
}

on_each_isa! {
    /// The sums of the parts, `[3, rows]`, the small ones first.
    fn add(parts: &[f32], out: &mut [f32]) = add_body
}

#[inline(always)]
fn add_body(parts: &[f32], out: &mut [f32]) {
    let (high, rest) = parts.split_at(out.len());
    let (middle, low) = rest.split_at(out.len());
    for (((out, high), middle), low) in out.iter_mut().zip(high).zip(middle).zip(low) {
        *out = high + (middle + low);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::ternary::ScaleView;
    use crate::cpu::tiles::WeightOrder;

    #[test]
    fn an_activation_is_the_sum_of_its_parts() {
        for largest in [1.0f32, 3e38, 1e-20, 0.7] {
            let x: Vec<f32> = (-500..=500).map(|i| i as f32 / 500.0 * largest).collect();
            let mut same = None;
            for isa in Isa::available() {
                let mut codes = vec![0; PARTS * x.len()];
                let factor = f64::from(split(isa, &x, &mut codes));
                for (i, x) in x.iter().enumerate() {
                    let sum: f64 =
                        (0..PARTS).map(|p| f64::from(FACTORS[p]) * f64::from(codes[p * 1001 + i]) / factor).sum();
                    assert!((sum - f64::from(*x)).abs() <= f64::from(largest) * 3e-7, "{sum} {x}");
                }
                assert_eq!(same.get_or_insert(codes.clone()), &codes, "{isa}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_gives_nan_and_zeros_give_zeros() {
        let words = [0x9999_9999u32; 3];
        let w =
            TernaryView { words: &words, rows: 3, cols: 16, scale: ScaleView::Tensor(0.5), order: WeightOrder::Rows };
        for isa in Isa::available() {
            let mut out = [1.0; 6];
            let mut x = [0.0; 32];
            linear_float(isa, &x, 2, &w, &mut out);
            assert_eq!(out, [0.0; 6], "{isa}");
            for bad in [f32::INFINITY, f32::NAN] {
                (x[20], x[21]) = (bad, 1.0);
                linear_float(isa, &x, 2, &w, &mut out);
                assert!(out[..3] == [0.0; 3] && out[3..].iter().all(|y| y.is_nan()), "{isa}: {out:?}");
            }
        }
    }
}
