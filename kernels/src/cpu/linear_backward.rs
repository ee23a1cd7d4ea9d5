//! Gradients of linear layers, ternary and float.
//!
//! Ternary layers learn through the straight-through estimator: the gradients are those of `y = x̃ w̃ᵀ` with the quantized
//! values, taken as if nothing had been rounded, clamped or scaled (Ma et al., "The Era of 1-bit LLMs: Training Tips, Code
//! and FAQ", figure 3). What has to be kept for them is what the product read: int8 codes and packed trits.

use std::ops::Range;

use super::gemm::{Lanes, Lines, Operand, ScaledLanes, ScaledLines, matmul};
use super::isa::{Isa, on_each_isa};
use super::precision::Precision;
use super::ternary::{ScaleView, TernaryView};
use super::tiles::{TILE_ROWS, WeightOrder};

/// `dx[t, k] = sum_n dy[t, n] * trit[n, k] * scale`; `dy` is `[tokens, rows]`, `dx` is `[tokens, cols]`.
///
/// # Panics
/// When this processor cannot run `isa` or has no instructions for `precision`, a slice does not have the length that the others say, or the weights lie in
/// [`WeightOrder::DenseTiles`].
pub fn ternary_input(isa: Isa, precision: Precision, dy: &[f32], tokens: usize, w: &TernaryView<'_>, dx: &mut [f32]) {
    isa.check();
    w.check(tokens * w.cols, tokens, dy.len());
    assert!(w.order != WeightOrder::DenseTiles, "five trits in a byte are for inference");
    let (shape, lines) = ([tokens, w.cols, w.rows], Lines { values: dy, stride: w.rows });
    // Trits are bfloat16 numbers, scales are not: they are multiplied in before anything is rounded.
    let factors: Option<Vec<f32>> = match (precision, w.scale) {
        (Precision::Bf16, ScaleView::Tensor(scale)) => Some(vec![scale; w.rows]),
        (Precision::Bf16, ScaleView::Row(scales)) => Some(scales.to_vec()),
        _ => None,
    };
    match factors {
        Some(factors) => {
            let trits = TernaryView { scale: ScaleView::Tensor(1.0), ..*w };
            matmul(isa, precision, shape, &ScaledLines { lines, factors: &factors }, &Trits(&trits), dx);
        }
        None => matmul(isa, precision, shape, &lines, &Trits(w), dx),
    }
}

/// `dw[n, k] = sum_t dy[t, n] * codes[t, k] / scale[t]`; `dy` is `[tokens, rows]`, `codes` is `[tokens, cols]`, `dw` is
/// `[rows, cols]`.
///
/// # Panics
/// When this processor cannot run `isa` or has no instructions for `precision`, or a slice does not have the length that the others say.
pub fn quantized_weight(isa: Isa, precision: Precision, dy: &[f32], codes: &[i8], scale: &[f32], dw: &mut [f32]) {
    isa.check();
    let tokens = scale.len();
    let (rows, cols) = (dy.len() / tokens.max(1), codes.len() / tokens.max(1));
    assert_eq!((dy.len(), codes.len()), (tokens * rows, tokens * cols), "gradient and codes");
    let inverse: Vec<f32> = scale.iter().map(|s| 1.0 / s).collect();
    let left = ScaledLanes { values: dy, stride: rows, factors: &inverse };
    matmul(isa, precision, [rows, cols, tokens], &left, &Lanes { values: codes, stride: cols }, dw);
}

/// `y[t, n] = sum_k x[t, k] * w[n, k]`, in the order of `gemm.rs`: the forward pass of a float layer in training.
///
/// # Panics
/// When this processor cannot run `isa` or has no instructions for `precision`, or a slice does not have the length that the others say.
pub fn float_forward(isa: Isa, precision: Precision, x: &[f32], w: &[f32], cols: usize, y: &mut [f32]) {
    isa.check();
    let (tokens, rows) = (x.len() / cols.max(1), w.len() / cols.max(1));
    assert_eq!((x.len(), w.len()), (tokens * cols, rows * cols), "activations and weights");
    let lines = |values| Lines { values, stride: cols };
    matmul(isa, precision, [tokens, rows, cols], &lines(x), &lines(w), y);
}

/// `dx[t, k] = sum_n dy[t, n] * w[n, k]` for float weights `[rows, cols]`.
///
/// # Panics
/// As [`float_forward`].
pub fn float_input(isa: Isa, precision: Precision, dy: &[f32], w: &[f32], cols: usize, dx: &mut [f32]) {
    isa.check();
    let rows = w.len() / cols.max(1);
    let tokens = dy.len() / rows.max(1);
    assert_eq!((dy.len(), w.len()), (tokens * rows, rows * cols), "gradient and weights");
    let left = Lines { values: dy, stride: rows };
    matmul(isa, precision, [tokens, cols, rows], &left, &Lanes { values: w, stride: cols }, dx);
}

/// `dw[n, k] = sum_t dy[t, n] * x[t, k]` for float activations `[tokens, cols]`.
///
/// # Panics
/// As [`float_forward`].
pub fn float_weight(isa: Isa, precision: Precision, dy: &[f32], x: &[f32], tokens: usize, dw: &mut [f32]) {
    isa.check();
    let (rows, cols) = (dy.len() / tokens.max(1), x.len() / tokens.max(1));
    assert_eq!((dy.len(), x.len()), (tokens * rows, tokens * cols), "gradient and activations");
    matmul(
        isa,
        precision,
        [rows, cols, tokens],
        &Lanes { values: dy, stride: rows },
        &Lanes { values: x, stride: cols },
        dw,
    );
}

/// Packed trits with their scale as the right side of a product: `k` is the row, a lane the column.
struct Trits<'a>(&'a TernaryView<'a>);

impl Operand for Trits<'_> {
    fn pack(&self, isa: Isa, first: usize, lanes: usize, rows: Range<usize>, width: usize, out: &mut [f32]) {
        let w = self.0;
        let words_a_row = w.cols.div_ceil(16);
        debug_assert!(first.is_multiple_of(16), "panels are whole words");
        for (out, row) in out.chunks_exact_mut(width).zip(rows) {
            // Word `k` of the row is `start + k * step`.
            let (start, step) = match w.order {
                WeightOrder::Rows => (row * words_a_row, 1),
                _ => {
                    let tile = row / TILE_ROWS * TILE_ROWS;
                    (tile * words_a_row + row - tile, TILE_ROWS.min(w.rows - tile))
                }
            };
            for (i, out) in out[..lanes].chunks_mut(16).enumerate() {
                let k = first / 16 + i;
                let scale = match w.scale {
                    ScaleView::Tensor(s) => s,
                    ScaleView::Row(s) => s[row],
                    ScaleView::Group { size, values } => values[row * w.cols.div_ceil(size) + 16 * k / size],
                };
                let word = w.words[start + k * step];
                match out.as_mut_array::<16>() {
                    Some(out) => floats_of(isa, word, scale, out),
                    None => {
                        let mut whole = [0f32; 16];
                        floats_of(isa, word, scale, &mut whole);
                        out.copy_from_slice(&whole[..out.len()]);
                    }
                }
            }
        }
    }
}

on_each_isa! {
    /// The values of the sixteen trits of a word.
    fn floats_of(word: u32, scale: f32, out: &mut [f32; 16]) = floats_body
}

#[inline(always)]
fn floats_body(word: u32, scale: f32, out: &mut [f32; 16]) {
    for (j, out) in out.iter_mut().enumerate() {
        *out = ((word >> (2 * j)) & 3).cast_signed().wrapping_sub(1) as f32 * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::ternary;

    fn noise(seed: usize, n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 997.0 - 1.0).collect()
    }

    #[test]
    fn the_gradients_are_products_with_what_was_quantized() {
        for (tokens, rows, cols) in [(1usize, 1usize, 1usize), (5, 37, 48), (70, 130, 100), (12, 32, 17)] {
            let words: Vec<u32> = (0..rows * cols.div_ceil(16))
                .map(|i| (0..16).map(move |j| ((i * 16 + j) * 31 / 7 % 3) as u32).enumerate())
                .map(|codes| codes.map(|(j, code)| code << (2 * j)).sum())
                .collect();
            let dy = noise(1, tokens * rows);
            let codes: Vec<i8> = (0..tokens * cols).map(|i| (i * 37 % 255) as u8 as i8).collect();
            let token_scale: Vec<f32> = noise(2, tokens).iter().map(|x| x + 3.0).collect();
            let (row_scale, group_scale) = (noise(3, rows), noise(4, rows * cols.div_ceil(16)));
            let scales = [
                ScaleView::Tensor(0.37),
                ScaleView::Row(&row_scale),
                ScaleView::Group { size: 16, values: &group_scale },
            ];
            for scale in scales {
                let view = |words, order| TernaryView { words, order, rows, cols, scale };
                let mut dense = vec![0.0; rows * cols];
                ternary::dequantize(&view(&words, WeightOrder::Rows), &mut dense);
                let tiles = WeightOrder::Rows.convert(WeightOrder::Tiles, words.clone(), cols);
                for isa in Isa::available() {
                    let mut expected = vec![0.0; tokens * cols];
                    float_input(isa, Precision::F32, &dy, &dense, cols, &mut expected);
                    for (words, order) in [(&words, WeightOrder::Rows), (&tiles, WeightOrder::Tiles)] {
                        let mut dx = vec![f32::NAN; tokens * cols];
                        ternary_input(isa, Precision::F32, &dy, tokens, &view(words, order), &mut dx);
                        assert_eq!(dx, expected, "{isa} {order:?}");
                    }
                    for (i, dx) in expected.iter().enumerate() {
                        let exact =
                            |n: usize| f64::from(dy[i / cols * rows + n]) * f64::from(dense[n * cols + i % cols]);
                        assert!((f64::from(*dx) - (0..rows).map(exact).sum::<f64>()).abs() < 1e-4);
                    }
                }
            }
            let x: Vec<f32> = (0..tokens * cols).map(|i| f32::from(codes[i]) / token_scale[i / cols]).collect();
            for isa in Isa::available() {
                let (mut dw, mut float) = (vec![0.0; rows * cols], vec![0.0; rows * cols]);
                quantized_weight(isa, Precision::F32, &dy, &codes, &token_scale, &mut dw);
                float_weight(isa, Precision::F32, &dy, &x, tokens, &mut float);
                for (a, b) in dw.iter().zip(&float) {
                    assert!((a - b).abs() < 1e-5 * b.abs().max(100.0), "{a} {b}");
                }
            }
        }
    }
}
