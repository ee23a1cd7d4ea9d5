//! The exact oracle: what multiplying by a ternary matrix gives, to the last bit.
//!
//! Slow and plain on purpose. Every other implementation is tested against these functions: equal integers, and with
//! the same epilogue equal floats.

use crate::{Scale, TernaryMatrix, quantize};

/// The dot product of int8 activations `[cols]` with one row of trits.
///
/// It cannot overflow: a row has at most [`MAX_COLS`](crate::MAX_COLS) columns.
///
/// # Panics
/// If `x` is not `[cols]` or there is no such row.
pub fn dot_i32(x: &[i8], m: &TernaryMatrix, row: usize) -> i32 {
    assert_eq!(x.len(), m.cols(), "one activation for each column");
    x.iter().zip(m.row_trits(row)).map(|(x, t)| i32::from(*x) * i32::from(t)).sum()
}

/// Int8 activations `[tokens, cols]` times the transposed trits: `[tokens, rows]`, exact.
///
/// # Panics
/// If `x` is not `[tokens, cols]`.
pub fn matmul_i32(x: &[i8], tokens: usize, m: &TernaryMatrix) -> Vec<i32> {
    assert_eq!(Some(x.len()), tokens.checked_mul(m.cols()), "activations are [tokens, cols]");
    x.chunks_exact(m.cols()).flat_map(|token| (0..m.rows()).map(|row| dot_i32(token, m, row))).collect()
}

/// A BitLinear layer without bias: float activations `[tokens, cols]` to outputs `[tokens, rows]`.
///
/// Each token is quantized by [`quantize::absmax_int8`], giving int8 codes and the multiplier `sx`; the integer dot
/// products are exact; then, in f32 and in exactly this order:
///
/// ```text
/// Scale::Tensor, Scale::Row    y = dot * (s / sx)
/// Scale::Group                 y = (dot_0 * s_0 + dot_1 * s_1 + ...) / sx      (added from the left, starting at 0)
/// ```
///
/// # Panics
/// If `x` is not `[tokens, cols]`.
pub fn linear(x: &[f32], tokens: usize, m: &TernaryMatrix) -> Vec<f32> {
    assert_eq!(Some(x.len()), tokens.checked_mul(m.cols()), "activations are [tokens, cols]");
    let mut codes = vec![0i8; m.cols()];
    let mut output = Vec::with_capacity(tokens * m.rows());
    for token in x.chunks_exact(m.cols()) {
        let sx = quantize::absmax_int8(token, &mut codes);
        output.extend((0..m.rows()).map(|row| match m.scale() {
            Scale::Tensor(s) => dot_i32(&codes, m, row) as f32 * (s / sx),
            Scale::Row(s) => dot_i32(&codes, m, row) as f32 * (s[row] / sx),
            Scale::Group { size, .. } => grouped_dot(&codes, m, row, *size) / sx,
        }));
    }
    output
}

/// The dot product of one row with each group's part multiplied by its scale.
fn grouped_dot(codes: &[i8], m: &TernaryMatrix, row: usize, size: usize) -> f32 {
    let trits: Vec<i8> = m.row_trits(row).collect();
    let parts = codes.chunks(size).zip(trits.chunks(size)).enumerate();
    parts.fold(0.0, |sum, (group, (codes, trits))| {
        let dot: i32 = codes.iter().zip(trits).map(|(x, t)| i32::from(*x) * i32::from(*t)).sum();
        sum + dot as f32 * m.scale().at(row, group * size, m.cols())
    })
}
