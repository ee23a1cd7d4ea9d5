//! Values between what they are and what the quantizers make of them: `x + lambda (quantized(x) - x)`.

use super::isa::{Isa, on_each_isa};
use super::parallel;
use super::quantize::absmax_of;
use super::ternary::{self, TernaryView};

/// Rows that one task takes.
const ROWS: usize = 16;

/// Activations (`[tokens, cols]`) on the way to their int8 values.
///
/// # Panics
/// When this processor cannot run `isa`, or `out` does not have the length of `x`.
pub fn activations(isa: Isa, x: &[f32], cols: usize, lambda: f32, out: &mut [f32]) {
    isa.check();
    assert!(x.len() == out.len() && x.len().is_multiple_of(cols.max(1)), "activations");
    if x.is_empty() {
        return;
    }
    parallel::chunks(out, ROWS * cols, 8 * x.len(), |i, out| {
        let mut codes = vec![0i8; cols];
        for (x, out) in x[i * ROWS * cols..].chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
            let multiplier = absmax_of(isa, x, &mut codes);
            towards_codes(isa, x, &codes, multiplier, lambda, out);
        }
    });
}

/// Weights (`[rows, cols]`) on the way to their trits, canonical words with their scales.
///
/// # Panics
/// When this processor cannot run `isa`, or a slice does not have the length that the trits say.
pub fn weights(isa: Isa, w: &[f32], trits: &TernaryView<'_>, lambda: f32, out: &mut [f32]) {
    isa.check();
    assert_eq!(w.len(), out.len(), "weights");
    ternary::dequantize(trits, out);
    let work = 2 * w.len();
    parallel::chunks(out, ROWS * trits.cols.max(1), work, |i, out| {
        let w = &w[i * ROWS * trits.cols..][..out.len()];
        towards(isa, w, lambda, out);
    });
}

on_each_isa! {
    fn towards_codes(x: &[f32], codes: &[i8], multiplier: f32, lambda: f32, out: &mut [f32]) = towards_codes_body
}

#[inline(always)]
fn towards_codes_body(x: &[f32], codes: &[i8], multiplier: f32, lambda: f32, out: &mut [f32]) {
    for ((x, code), out) in x.iter().zip(codes).zip(out) {
        *out = between(*x, f32::from(*code) / multiplier, lambda);
    }
}

on_each_isa! {
    /// From `from` on the way to what is in `out`.
    fn towards(from: &[f32], lambda: f32, out: &mut [f32]) = towards_body
}

#[inline(always)]
fn towards_body(from: &[f32], lambda: f32, out: &mut [f32]) {
    from.iter().zip(out).for_each(|(from, to)| *to = between(*from, *to, lambda));
}

/// The end itself where `lambda` is 1, to the bit.
#[inline(always)]
fn between(from: f32, to: f32, lambda: f32) -> f32 {
    if lambda == 1.0 { to } else { from + (to - from) * lambda }
}
