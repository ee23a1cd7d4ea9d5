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
    let mut output = vec![0; tokens * m.rows()];
    for row in 0..m.rows() {
        let trits: Vec<i8> = m.row_trits(row).collect();
        for (token, x) in x.chunks_exact(m.cols()).enumerate() {
            output[token * m.rows() + row] = dot(x, &trits);
        }
    }
    output
}

fn dot(x: &[i8], trits: &[i8]) -> i32 {
    x.iter().zip(trits).map(|(x, t)| i32::from(*x) * i32::from(*t)).sum()
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
    let mut codes = vec![0i8; x.len()];
    let quantized = x.chunks_exact(m.cols()).zip(codes.chunks_exact_mut(m.cols()));
    let sx: Vec<f32> = quantized.map(|(x, codes)| quantize::absmax_int8(x, codes)).collect();
    if let Scale::Group { size, .. } = m.scale() {
        return grouped(&codes, &sx, m, *size);
    }
    let dots = matmul_i32(&codes, tokens, m);
    let output = |(i, dot): (usize, &i32)| {
        let (token, row) = (i / m.rows(), i % m.rows());
        *dot as f32 * (m.scale().at(row, 0, m.cols()) / sx[token])
    };
    dots.iter().enumerate().map(output).collect()
}

/// The outputs `[tokens, rows]` under group scales.
fn grouped(codes: &[i8], sx: &[f32], m: &TernaryMatrix, size: usize) -> Vec<f32> {
    let mut output = vec![0.0; sx.len() * m.rows()];
    for row in 0..m.rows() {
        let trits: Vec<i8> = m.row_trits(row).collect();
        for (token, (codes, sx)) in codes.chunks_exact(m.cols()).zip(sx).enumerate() {
            let parts = codes.chunks(size).zip(trits.chunks(size)).enumerate();
            let sum = parts.fold(0.0, |sum, (group, (codes, trits))| {
                sum + dot(codes, trits) as f32 * m.scale().at(row, group * size, m.cols())
            });
            output[token * m.rows() + row] = sum / sx;
        }
    }
    output
}
