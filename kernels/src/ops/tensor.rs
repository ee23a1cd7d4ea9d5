//! The operations on `Tensor`, whatever backend it is on.

use burn::backend::Dispatch;
use burn::tensor::{Int, Tensor};

use super::{RowFormat, TernaryOps, TernarySpec};
use crate::cpu::gate::Gate;

/// A ternary linear layer, `[tokens, cols] → [tokens, rows]`; see [`TernaryOps::ternary_linear`].
///
/// The gradient with respect to `x` is that of the straight-through estimator: `dy · dequantize(words)`.
pub fn ternary_linear(x: Tensor<2>, words: Tensor<2, Int>, scale: Tensor<2>, spec: TernarySpec) -> Tensor<2> {
    let (x, words, scale) = (x.into_dispatch(), words.into_dispatch(), scale.into_dispatch());
    Tensor::from_dispatch(Dispatch::ternary_linear(x, words, scale, spec))
}

/// The dense matrix of packed words, `[rows, cols]`; see [`TernaryOps::ternary_dequantize`].
pub fn dequantize(words: Tensor<2, Int>, scale: Tensor<2>, spec: TernarySpec) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::ternary_dequantize(words.into_dispatch(), scale.into_dispatch(), spec))
}

/// `x wᵀ` with float weights `[rows, cols]`; see [`TernaryOps::dense_linear`].
pub fn dense_linear(x: Tensor<2>, w: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::dense_linear(x.into_dispatch(), w.into_dispatch()))
}

/// `x wᵀ` with weights in stored form; see [`TernaryOps::rows_linear`].
pub fn rows_linear(x: Tensor<2>, rows: Tensor<2, Int>, format: RowFormat, cols: usize) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::rows_linear(x.into_dispatch(), rows.into_dispatch(), format, cols))
}

/// Rows in stored form as values, `[rows, cols]`; see [`TernaryOps::decode_rows`].
pub fn decode_rows(rows: Tensor<2, Int>, format: RowFormat, cols: usize) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::decode_rows(rows.into_dispatch(), format, cols))
}

/// RMSNorm of each row; see [`TernaryOps::rms_norm`].
pub fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f64) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::rms_norm(x.into_dispatch(), weight.into_dispatch(), eps))
}

/// Half-split rotary embedding; see [`TernaryOps::rope`].
pub fn rope(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>, start: usize) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::rope(x.into_dispatch(), cos.into_dispatch(), sin.into_dispatch(), start))
}

/// Causal grouped-query attention; see [`TernaryOps::attention`].
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, start: usize, scale: f64) -> Tensor<4> {
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(Dispatch::attention(q, k, v, start, scale))
}

/// `act(gate) * up`; see [`TernaryOps::gated`].
pub fn gated(gate: Tensor<2>, up: Tensor<2>, kind: Gate) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::gated(gate.into_dispatch(), up.into_dispatch(), kind))
}
