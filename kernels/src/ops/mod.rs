//! The operations of a ternary decoder, on every backend.

#[cfg(feature = "fusion")]
mod fused;
pub mod reference;
mod tensor;
pub mod training;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, ExtensionType, TensorMetadata, backend_extension};
#[cfg(feature = "fusion")]
use burn::tensor::DType;

pub use crate::cpu::dense::RowFormat;
pub use crate::cpu::gate::Gate;
pub use crate::cpu::kv_cache::CacheFormat;
pub use crate::cpu::tiles::WeightOrder;
use crate::notice::default_body;
pub use tensor::{
    Packed, Top, cached_attention, decode_rows, dense_linear, dequantize, gapless, gated, gated_ternary_linear,
    rms_norm, rope, rows_linear, ternary_linear, ternary_linear_onto, ternary_linears, ternary_mlp, top_logits,
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
    /// What the scores are multiplied by, `1 / sqrt(head_dim)`.
    pub scale: f64,
    /// The tokens of a call come in runs of so many, each of one sequence; 1 is always right, and more lets a GPU read a key
    /// once for several tokens.
    pub run: usize,
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
#[extension_type(fusion: cfg(feature = "fusion"))]
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
#[extension_type(fusion: cfg(feature = "fusion"))]
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
#[derive(Clone, ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
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
#[extension_type(fusion: cfg(feature = "fusion"))]
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

/// The outputs of matrices that have one input, `[tokens, rows]` each.
#[derive(ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub enum Outputs<B: Backend> {
    /// Of a layer by itself.
    One(FloatTensor<B>),
    /// Of gate and up.
    Two(FloatTensor<B>, FloatTensor<B>),
    /// Of query, key and value.
    Three(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
}

impl<B: Backend> Outputs<B> {
    /// In order.
    pub fn into_vec(self) -> Vec<FloatTensor<B>> {
        match self {
            Outputs::One(a) => vec![a],
            Outputs::Two(a, b) => vec![a, b],
            Outputs::Three(a, b, c) => vec![a, b, c],
        }
    }

    /// Of one to three.
    ///
    /// # Panics
    /// When there are others.
    pub fn from_vec(outputs: Vec<FloatTensor<B>>) -> Self {
        let mut outputs = outputs.into_iter();
        match (outputs.next(), outputs.next(), outputs.next(), outputs.next()) {
            (Some(a), None, ..) => Outputs::One(a),
            (Some(a), Some(b), None, _) => Outputs::Two(a, b),
            (Some(a), Some(b), Some(c), None) => Outputs::Three(a, b, c),
            _ => panic!("one to three outputs"),
        }
    }
}

/// The ternary operations as an extension of Burn's `Backend`.
///
/// The default bodies are the reference: correct on every backend, written with Burn's own operations (which the listener of
/// [`crate::on_notice`] hears of, where no gradients are wanted), and so differentiable where the backend is. Inside Burn's
/// fusion each operation is one of its stream, whose outputs the `fusion` attributes describe; Burn 0.22.1 fuses it with nothing
/// (no fuser takes a `CustomOpIr`). All float tensors are F32 unless said otherwise, packed words are U32.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Remote: cfg(feature = "remote"),
    Autodiff,
    Fusion: cfg(feature = "fusion")
)]
pub trait TernaryOps: Backend {
    /// `[tokens, cols] × [rows, cols]ᵀ → [tokens, rows]` with packed ternary weights.
    ///
    /// `words` is `[rows, ceil(cols / 16)]`; `scale` is `[1, 1]` (tensor), `[rows, 1]` (row) or `[rows, groups]`.
    #[fusion(dtype = x, shape = [x[0], words[0]].into())]
    fn ternary_linear(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TernarySpec,
    ) -> FloatTensor<Self> {
        default_body::<Self>("ternary_linear", &x.device());
        reference::ternary_linear::<Self>(x, words, scale, spec)
    }

    /// [`TernaryOps::ternary_linear`] with what comes before it in a decoder, for all matrices that have this input.
    #[fusion(meta = fused::linears)]
    fn ternary_linears(
        #[extension_type] input: LinearInput<Self>,
        #[extension_type] norm: Norm<Self>,
        #[extension_type] weights: Weights<Self>,
    ) -> Outputs<Self> {
        reference::ternary_linears::<Self>(input, norm, weights)
    }

    /// The same for one matrix, with what comes after it: `residual + linear(norm(input))`.
    #[fusion(meta = fused::linear_onto)]
    fn ternary_linear_onto(
        residual: FloatTensor<Self>,
        #[extension_type] input: LinearInput<Self>,
        #[extension_type] norm: Norm<Self>,
        #[extension_type] weight: Weight<Self>,
    ) -> FloatTensor<Self> {
        reference::ternary_linear_onto::<Self>(residual, input, norm, weight)
    }

    /// A gated MLP, `down(inner_norm(act(gate(norm(x))) * up(norm(x))))`, where `inner` are gate and up; and `x` added to it
    /// where it is a `residual` one.
    #[fusion(meta = fused::mlp)]
    fn ternary_mlp(
        x: FloatTensor<Self>,
        #[extension_type] norm: Norm<Self>,
        #[extension_type] inner: Weights<Self>,
        kind: Gate,
        #[extension_type] inner_norm: Norm<Self>,
        #[extension_type] down: Weight<Self>,
        residual: bool,
    ) -> FloatTensor<Self> {
        reference::ternary_mlp::<Self>(x, norm, inner, kind, inner_norm, down, residual)
    }

    /// The dense matrix `trit * scale`, `[rows, cols]`.
    #[fusion(dtype = scale, shape = [words[0], spec.cols].into())]
    fn ternary_dequantize(words: IntTensor<Self>, scale: FloatTensor<Self>, spec: TernarySpec) -> FloatTensor<Self> {
        default_body::<Self>("ternary_dequantize", &words.device());
        reference::dequantize::<Self>(words, scale, spec)
    }

    /// `x wᵀ` for a float matrix `w` (`[rows, cols]`, F32).
    #[fusion(dtype = x, shape = [x[0], w[0]].into())]
    fn dense_linear(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        default_body::<Self>("dense_linear", &x.device());
        reference::dense_linear::<Self>(x, w)
    }

    /// `x wᵀ` for a matrix in stored form: `rows` is `[rows, row_bytes]` of U8, read row by row as `format` says.
    #[fusion(dtype = x, shape = [x[0], rows[0]].into())]
    fn rows_linear(x: FloatTensor<Self>, rows: IntTensor<Self>, format: RowFormat, cols: usize) -> FloatTensor<Self> {
        default_body::<Self>("rows_linear", &x.device());
        reference::rows_linear::<Self>(x, rows, format, cols)
    }

    /// The values of rows in stored form, `[rows, cols]` in F32.
    #[fusion(dtype = DType::F32, shape = [rows[0], *cols].into())]
    fn decode_rows(rows: IntTensor<Self>, format: RowFormat, cols: usize) -> FloatTensor<Self> {
        default_body::<Self>("decode_rows", &rows.device());
        reference::decode_rows::<Self>(rows, format, cols)
    }

    /// RMSNorm over the last dimension of `x` (`[rows, width]`), then times `weight` (`[width]`).
    #[fusion(dtype = x, shape = x)]
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        default_body::<Self>("rms_norm", &x.device());
        reference::rms_norm::<Self>(x, weight, eps)
    }

    /// Half-split rotary embedding of `x` (`[batch, tokens, heads, head_dim]`) from position `start` on, with tables
    /// `cos` and `sin` (`[positions, half]`); elements from `2 * half` on stay.
    #[fusion(dtype = x, shape = x)]
    fn rope(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>, start: usize) -> FloatTensor<Self> {
        default_body::<Self>("rope", &x.device());
        reference::rope::<Self>(x, cos, sin, start)
    }

    /// One attention step over a KV cache: turns `q` (`[tokens, heads, head_dim]`) and `k` (`[tokens, kv_heads, head_dim]`)
    /// by the angles of their positions, writes `k` and `v` to the cache, and attends.
    ///
    /// `places` is U32 `[tokens, 2]`: for each token the slot of its sequence in the cache and its position there, of which
    /// it sees all up to its own. So one step can serve sequences of unequal length, and what is done is data of the device
    /// alone. Tokens of one sequence stand side by side, in the order of their positions.
    ///
    /// `cos` and `sin` are `[positions, half]`, for all positions that the cache has room for; `keys` and `values` are U32
    /// `[slots, kv_heads, blocks, words]`, see [`crate::cpu::kv_cache`]. Gives the shape of `q`, and the cache back, which
    /// has changed in place if nothing else held it.
    #[fusion(meta = |q, _k, _v, _cos, _sin, keys, values, _places, _spec| (q.clone(), keys.clone(), values.clone()))]
    #[allow(clippy::too_many_arguments, reason = "a tensor each")]
    fn cached_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        keys: IntTensor<Self>,
        values: IntTensor<Self>,
        places: IntTensor<Self>,
        spec: CacheSpec,
    ) -> (FloatTensor<Self>, IntTensor<Self>, IntTensor<Self>) {
        default_body::<Self>("cached_attention", &q.device());
        reference::cached_attention::<Self>(q, k, v, cos, sin, keys, values, places, spec)
    }

    /// The best of each row of `logits` (`[rows, vocab]`): U32 `[rows, 1 + 2 count]`, which are the bits of the logarithm of
    /// the sum of the exponentials of all logits, the bits of the `count` largest logits (of equal ones first that with the
    /// lower id), and their ids.
    ///
    /// Logits that are NaN or infinite count nowhere; where fewer than `count` are left, the rest is `-inf` with the id
    /// `u32::MAX`.
    #[fusion(dtype = DType::U32, shape = [logits[0], 1 + 2 * count].into())]
    fn top_logits(logits: FloatTensor<Self>, count: usize) -> IntTensor<Self> {
        default_body::<Self>("top_logits", &logits.device());
        reference::top_logits::<Self>(logits, count)
    }

    /// `act(gate) * up`, elementwise.
    #[fusion(dtype = gate, shape = gate)]
    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, kind: Gate) -> FloatTensor<Self> {
        default_body::<Self>("gated", &gate.device());
        reference::gated::<Self>(gate, up, kind)
    }
}
