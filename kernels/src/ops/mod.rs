//! The operations of a ternary decoder, on every backend.

pub mod reference;
mod tensor;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, backend_extension};

pub use crate::cpu::dense::RowFormat;
pub use crate::cpu::gate::Gate;
pub use tensor::{
    attention, decode_rows, dense_linear, dequantize, gated, rms_norm, rope, rows_linear, ternary_linear,
};

/// What a packed matrix and the activations that meet it look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TernarySpec {
    /// Input features; the packed rows are padded to a multiple of 16.
    pub cols: usize,
    /// Columns that share a scale (a multiple of 16), where the scale is `[rows, groups]`.
    pub group: Option<usize>,
    /// How the activations are represented.
    pub activations: Activations,
}

/// How a ternary linear layer represents its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Activations {
    /// Absmax int8 per token, BitNet b1.58.
    #[default]
    Int8,
    /// As they come, for weight-only ternary models.
    Float,
}

/// The ternary operations as an extension of Burn's `Backend`.
///
/// The default bodies are the reference: correct on every backend, written with Burn's own operations, and so
/// differentiable where the backend is. All float tensors are F32 unless said otherwise, packed words are U32.
#[backend_extension(Flex: cfg(feature = "flex"), NdArray: cfg(feature = "ndarray"), Autodiff)]
pub trait TernaryOps: Backend {
    /// `[tokens, cols] × [rows, cols]ᵀ → [tokens, rows]` with packed ternary weights.
    ///
    /// `words` is `[rows, ceil(cols / 16)]`; `scale` is `[1, 1]` (tensor), `[rows, 1]` (row) or `[rows, groups]`.
    fn ternary_linear(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TernarySpec,
    ) -> FloatTensor<Self> {
        reference::ternary_linear::<Self>(x, words, scale, spec)
    }

    /// The dense matrix `trit * scale`, `[rows, cols]`.
    fn ternary_dequantize(words: IntTensor<Self>, scale: FloatTensor<Self>, spec: TernarySpec) -> FloatTensor<Self> {
        reference::dequantize::<Self>(words, scale, spec)
    }

    /// `x wᵀ` for a float matrix `w` (`[rows, cols]`, F32).
    fn dense_linear(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::dense_linear::<Self>(x, w)
    }

    /// `x wᵀ` for a matrix in stored form: `rows` is `[rows, row_bytes]` of U8, read row by row as `format` says.
    fn rows_linear(x: FloatTensor<Self>, rows: IntTensor<Self>, format: RowFormat, cols: usize) -> FloatTensor<Self> {
        reference::rows_linear::<Self>(x, rows, format, cols)
    }

    /// The values of rows in stored form, `[rows, cols]` in F32.
    fn decode_rows(rows: IntTensor<Self>, format: RowFormat, cols: usize) -> FloatTensor<Self> {
        reference::decode_rows::<Self>(rows, format, cols)
    }

    /// RMSNorm over the last dimension of `x` (`[rows, width]`), then times `weight` (`[width]`).
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        reference::rms_norm::<Self>(x, weight, eps)
    }

    /// Half-split rotary embedding of `x` (`[batch, tokens, heads, head_dim]`) from position `start` on, with tables
    /// `cos` and `sin` (`[positions, half]`); elements from `2 * half` on stay.
    fn rope(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>, start: usize) -> FloatTensor<Self> {
        reference::rope::<Self>(x, cos, sin, start)
    }

    /// Causal grouped-query attention of `q` (`[batch, tokens, heads, head_dim]`), whose first token is at position
    /// `start`, over `k` and `v` (`[batch, kv_heads, capacity, head_dim]`). Gives the shape of `q`.
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        start: usize,
        scale: f64,
    ) -> FloatTensor<Self> {
        reference::attention::<Self>(q, k, v, start, scale)
    }

    /// `act(gate) * up`, elementwise.
    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, kind: Gate) -> FloatTensor<Self> {
        reference::gated::<Self>(gate, up, kind)
    }
}
