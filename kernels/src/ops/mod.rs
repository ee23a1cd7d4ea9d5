//! The operations of a ternary decoder, on every backend.

pub mod reference;
mod tensor;
pub mod training;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, ExtensionType, backend_extension};

pub use crate::cpu::dense::RowFormat;
pub use crate::cpu::gate::Gate;
pub use crate::cpu::kv_cache::CacheFormat;
pub use crate::cpu::tiles::WeightOrder;
pub use tensor::{
    Packed, cached_attention, decode_rows, dense_linear, dequantize, gated, gated_ternary_linear, rms_norm, rope,
    rows_linear, ternary_linear, ternary_linears,
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
    /// How the packed words lie.
    pub order: WeightOrder,
}

/// What a KV cache and the queries that meet it look like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CacheSpec {
    /// How the cache stores its values.
    pub format: CacheFormat,
    /// Position of the first new token.
    pub start: usize,
    /// What the scores are multiplied by, `1 / sqrt(head_dim)`.
    pub scale: f64,
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

/// What a ternary linear layer reads.
#[derive(ExtensionType)]
pub enum LinearInput<B: Backend> {
    /// Values as they are, `[tokens, cols]`.
    Plain(FloatTensor<B>),
    /// `act(gate) * up`, `[tokens, cols]` each.
    Gated {
        /// Goes through the function.
        gate: FloatTensor<B>,
        /// Is multiplied by the result.
        up: FloatTensor<B>,
        /// The function.
        kind: Gate,
    },
}

/// What is done to the input of a ternary linear layer before it is quantized.
#[derive(ExtensionType)]
pub enum Norm<B: Backend> {
    /// Nothing.
    None,
    /// RMSNorm.
    Rms {
        /// `[cols]`.
        weight: FloatTensor<B>,
        /// What is added to the mean of squares.
        eps: f64,
    },
}

/// A packed ternary matrix.
#[derive(ExtensionType)]
pub struct Weight<B: Backend> {
    /// U32, 16 codes a word.
    pub words: IntTensor<B>,
    /// `[1, 1]` (tensor), `[rows, 1]` (row) or `[rows, groups]`.
    pub scale: FloatTensor<B>,
    /// What they look like.
    pub spec: TernarySpec,
}

/// The matrices that have one input.
#[derive(ExtensionType)]
pub enum Weights<B: Backend> {
    /// A layer by itself.
    One(#[extension_type] Weight<B>),
    /// Gate and up.
    Two(#[extension_type] Weight<B>, #[extension_type] Weight<B>),
    /// Query, key and value.
    Three(#[extension_type] Weight<B>, #[extension_type] Weight<B>, #[extension_type] Weight<B>),
}

impl<B: Backend> Weights<B> {
    /// In order.
    pub fn into_vec(self) -> Vec<Weight<B>> {
        match self {
            Weights::One(a) => vec![a],
            Weights::Two(a, b) => vec![a, b],
            Weights::Three(a, b, c) => vec![a, b, c],
        }
    }
}

/// The ternary operations as an extension of Burn's `Backend`.
///
/// The default bodies are the reference: correct on every backend, written with Burn's own operations, and so
/// differentiable where the backend is. All float tensors are F32 unless said otherwise, packed words are U32.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Remote: cfg(feature = "remote"),
    Autodiff
)]
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

    /// [`TernaryOps::ternary_linear`] with what comes before it in a decoder, for all matrices that have this input.
    fn ternary_linears(
        #[extension_type] input: LinearInput<Self>,
        #[extension_type] norm: Norm<Self>,
        #[extension_type] weights: Weights<Self>,
    ) -> Vec<FloatTensor<Self>> {
        reference::ternary_linears::<Self>(input, norm, weights)
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

    /// One attention step over a KV cache: turns `q` (`[batch, tokens, heads, head_dim]`) and `k`
    /// (`[batch, tokens, kv_heads, head_dim]`) by the rows of `cos` and `sin` (`[tokens, half]`), writes `k` and `v` to the
    /// cache, and attends.
    ///
    /// `keys` and `values` are U32 `[batch, kv_heads, blocks, words]`, see [`crate::cpu::kv_cache`]. Gives the shape of `q`,
    /// and the cache back, which has changed in place if nothing else held it.
    #[allow(clippy::too_many_arguments, reason = "a tensor each")]
    fn cached_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        keys: IntTensor<Self>,
        values: IntTensor<Self>,
        spec: CacheSpec,
    ) -> (FloatTensor<Self>, IntTensor<Self>, IntTensor<Self>) {
        reference::cached_attention::<Self>(q, k, v, cos, sin, keys, values, spec)
    }

    /// `act(gate) * up`, elementwise.
    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, kind: Gate) -> FloatTensor<Self> {
        reference::gated::<Self>(gate, up, kind)
    }
}
