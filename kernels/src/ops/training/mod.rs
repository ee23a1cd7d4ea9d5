//! The operations of quantization-aware training, on every backend.

#[cfg(feature = "fusion")]
mod fused;
pub mod reference;
mod tensor;

use bitnet_ternary::Granularity;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, ExtensionType, TensorMetadata, backend_extension};
use burn::tensor::FloatDType;

use super::{Activations, Gate};
pub use crate::cpu::adamw::AdamW;
pub use crate::cpu::precision::Precision;
use crate::notice::default_body;
pub use tensor::{
    absmean_quantize, adamw, cross_entropy, quantized_linears, round_to, segment_attention, sum_of_squares,
    ternary_fake_quant,
};

/// How a linear layer with latent float weights computes.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Quantization {
    /// As a float layer: the float twin of a ternary model.
    #[default]
    None,
    /// With what the quantizers make of its weights and activations.
    Ternary {
        /// The weights that share a scale.
        granularity: Granularity,
        /// How the input is represented.
        activations: Activations,
        /// How far: a value `v` is taken as `v + lambda * (quantized(v) - v)`. 1 is quantization-aware training, 0 is a
        /// float layer to the bit; what lies between leads a float model to a ternary one.
        lambda: f32,
    },
}

impl Quantization {
    /// BitNet b1.58: one scale for a matrix, int8 activations.
    pub const BITNET: Self =
        Self::Ternary { granularity: Granularity::Tensor, activations: Activations::Int8, lambda: 1.0 };

    /// Nothing is rounded.
    pub(crate) fn is_float(&self) -> bool {
        match self {
            Self::None => true,
            Self::Ternary { lambda, .. } => *lambda == 0.0,
        }
    }
}

/// The latent float matrices (`[rows, cols]`) that have one input.
#[derive(ExtensionType)]
pub enum LatentWeights<B: Backend> {
    /// A layer by itself.
    One(FloatTensor<B>),
    /// Gate and up.
    Two(FloatTensor<B>, FloatTensor<B>),
    /// Query, key and value.
    Three(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
}

impl<B: Backend> LatentWeights<B> {
    /// In order.
    pub fn into_vec(self) -> Vec<FloatTensor<B>> {
        match self {
            LatentWeights::One(a) => vec![a],
            LatentWeights::Two(a, b) => vec![a, b],
            LatentWeights::Three(a, b, c) => vec![a, b, c],
        }
    }
}

/// The operations of quantization-aware training as an extension of Burn's `Backend`.
///
/// The default bodies are the reference, written with Burn's own operations. On `Autodiff` the operations that a model is
/// made of have gradients by hand, computed with those here whose names end in `gradient` or `backward`. All float tensors
/// are F32, packed words are U32 in canonical order. Int8 codes are I8 `[tokens, cols]`, but four in a U32 word,
/// `[tokens, ceil(cols / 4)]`, on CubeCL's devices, of which some have no narrower type.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Remote: cfg(feature = "remote"),
    Autodiff,
    Fusion: cfg(feature = "fusion")
)]
pub trait TrainingOps: Backend {
    /// `x wᵀ` (`[tokens, cols] × [rows, cols]ᵀ`) for each of `weights`, quantized as `how` says. The gradients are those of
    /// the straight-through estimator: of the product of the quantized values, as if nothing had been rounded, and computed
    /// in `precision`, as is the product of a layer that is not quantized, or not wholly.
    ///
    /// Source: Ma et al., "The Era of 1-bit LLMs: Training Tips, Code and FAQ", figure 3.
    #[fusion(default)]
    fn quantized_linears(
        x: FloatTensor<Self>,
        #[extension_type] weights: LatentWeights<Self>,
        how: Quantization,
        precision: Precision,
    ) -> Vec<FloatTensor<Self>> {
        default_body::<Self>("quantized_linears", &x.device());
        reference::quantized_linears::<Self>(x, weights, how, precision)
    }

    /// Weights `[rows, cols]` as words `[rows, ceil(cols / 16)]` and scale (`[1, 1]`, `[rows, 1]` or `[rows, groups]`), by
    /// absmean.
    #[fusion(meta = fused::absmean)]
    fn absmean_quantize(w: FloatTensor<Self>, granularity: Granularity) -> (IntTensor<Self>, FloatTensor<Self>) {
        default_body::<Self>("absmean_quantize", &w.device());
        reference::absmean_quantize::<Self>(w, granularity)
    }

    /// Weights `[rows, cols]` as [`TrainingOps::absmean_quantize`] takes them, as floats: each is `-scale`, 0 or `scale`. The
    /// gradient passes unchanged.
    #[fusion(default)]
    fn ternary_fake_quant(w: FloatTensor<Self>, granularity: Granularity) -> FloatTensor<Self> {
        default_body::<Self>("ternary_fake_quant", &w.device());
        reference::ternary_fake_quant::<Self>(w, granularity)
    }

    /// Activations (`[tokens, cols]`) on the way to their quantized values, `x + lambda * (quantized(x) - x)`, of which
    /// [`TrainingOps::absmax_quantize`] gives the codes. Nothing has a gradient through it.
    #[fusion(dtype = x, shape = x)]
    fn blended_input(x: FloatTensor<Self>, lambda: f32) -> FloatTensor<Self> {
        default_body::<Self>("blended_input", &x.device());
        reference::blended_input::<Self>(x, lambda)
    }

    /// The same for weights `[rows, cols]` and [`TrainingOps::ternary_fake_quant`].
    #[fusion(dtype = w, shape = w)]
    fn blended_weight(w: FloatTensor<Self>, granularity: Granularity, lambda: f32) -> FloatTensor<Self> {
        default_body::<Self>("blended_weight", &w.device());
        reference::blended_weight::<Self>(w, granularity, lambda)
    }

    /// Each row of `x` (`[tokens, cols]`) as int8 codes, and its multiplier `127 / max(max|x|, 1e-5)` (`[tokens, 1]`).
    #[fusion(meta = fused::absmax)]
    fn absmax_quantize(x: FloatTensor<Self>) -> (IntTensor<Self>, FloatTensor<Self>) {
        default_body::<Self>("absmax_quantize", &x.device());
        reference::absmax_quantize::<Self>(x)
    }

    /// The product of quantized activations (`codes`, `multiplier`) and packed weights of `cols` columns,
    /// `[tokens, rows]`: exact integers, scaled once.
    #[fusion(dtype = multiplier, shape = [codes[0], words[0]].into())]
    fn linear_of_codes(
        codes: IntTensor<Self>,
        multiplier: FloatTensor<Self>,
        words: IntTensor<Self>,
        scale: FloatTensor<Self>,
        granularity: Granularity,
        cols: usize,
    ) -> FloatTensor<Self> {
        default_body::<Self>("linear_of_codes", &codes.device());
        reference::linear_of_codes::<Self>(codes, multiplier, words, scale, granularity, cols)
    }

    /// `dy · w̃` for packed weights of `cols` columns: `[tokens, rows] → [tokens, cols]`.
    #[fusion(dtype = dy, shape = [dy[0], *cols].into())]
    fn packed_input_gradient(
        dy: FloatTensor<Self>,
        words: IntTensor<Self>,
        scale: FloatTensor<Self>,
        granularity: Granularity,
        cols: usize,
        precision: Precision,
    ) -> FloatTensor<Self> {
        default_body::<Self>("packed_input_gradient", &dy.device());
        reference::packed_input_gradient::<Self>(dy, words, scale, granularity, cols, precision)
    }

    /// `dyᵀ · x̃` for quantized activations: `[tokens, rows], [tokens, cols] → [rows, cols]`.
    #[fusion(dtype = dy, shape = [dy[1], *cols].into())]
    fn codes_weight_gradient(
        dy: FloatTensor<Self>,
        codes: IntTensor<Self>,
        multiplier: FloatTensor<Self>,
        cols: usize,
        precision: Precision,
    ) -> FloatTensor<Self> {
        default_body::<Self>("codes_weight_gradient", &dy.device());
        reference::codes_weight_gradient::<Self>(dy, codes, multiplier, cols, precision)
    }

    /// `x wᵀ` for float weights `[rows, cols]`.
    #[fusion(default)]
    fn float_linear(x: FloatTensor<Self>, w: FloatTensor<Self>, precision: Precision) -> FloatTensor<Self> {
        default_body::<Self>("float_linear", &x.device());
        match precision {
            Precision::F32 => super::reference::dense_linear::<Self>(x, w),
            Precision::Bf16 => reference::product::<Self>(x, Self::float_transpose(w), precision),
        }
    }

    /// `dy · w`: `[tokens, rows] → [tokens, cols]`.
    #[fusion(default)]
    fn float_input_gradient(dy: FloatTensor<Self>, w: FloatTensor<Self>, precision: Precision) -> FloatTensor<Self> {
        reference::product::<Self>(dy, w, precision)
    }

    /// `dyᵀ · x`: `[tokens, rows], [tokens, cols] → [rows, cols]`.
    #[fusion(default)]
    fn float_weight_gradient(dy: FloatTensor<Self>, x: FloatTensor<Self>, precision: Precision) -> FloatTensor<Self> {
        reference::product::<Self>(Self::float_transpose(dy), x, precision)
    }

    /// The gradients of [`super::TernaryOps::rms_norm`] for its input and its weight.
    #[fusion(default)]
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        default_body::<Self>("rms_norm_backward", &x.device());
        reference::rms_norm_backward::<Self>(x, weight, dy, eps)
    }

    /// The gradients of [`super::TernaryOps::gated`] for `gate` and `up`.
    #[fusion(default)]
    fn gated_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        kind: Gate,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        default_body::<Self>("gated_backward", &gate.device());
        reference::gated_backward::<Self>(gate, up, dy, kind)
    }

    /// Causal grouped-query attention within each of `segments`, the lengths of sequences that lie one after the other: `q` is
    /// `[tokens, heads, head_dim]`, `k` and `v` are `[tokens, kv_heads, head_dim]`. Gives the shape of `q`.
    #[fusion(default)]
    fn segment_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        segments: Vec<usize>,
        scale: f64,
    ) -> FloatTensor<Self> {
        default_body::<Self>("segment_attention", &q.device());
        reference::segment_attention::<Self>(q, k, v, &segments, scale)
    }

    /// The gradients of [`TrainingOps::segment_attention`] for `q`, `k` and `v`, from its output and the gradient of that.
    #[fusion(default)]
    fn segment_attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        dout: FloatTensor<Self>,
        segments: Vec<usize>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        default_body::<Self>("segment_attention_backward", &q.device());
        reference::segment_attention_backward::<Self>(q, k, v, out, dout, &segments, scale)
    }

    /// Negative log-likelihood of `targets` (`[tokens]`) in nats under `logits` (`[tokens, vocab]`), and the logarithm of the
    /// sum of exponentials, `[tokens]` each. Only the first has a gradient.
    #[fusion(default)]
    fn cross_entropy(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>) {
        default_body::<Self>("cross_entropy", &logits.device());
        reference::cross_entropy::<Self>(logits, targets)
    }

    /// The gradient of [`TrainingOps::cross_entropy`] for the logits.
    #[fusion(default)]
    fn cross_entropy_backward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        lse: FloatTensor<Self>,
        dloss: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        default_body::<Self>("cross_entropy_backward", &logits.device());
        reference::cross_entropy_backward::<Self>(logits, targets, lse, dloss)
    }

    /// The values as `to` can hold them, in F32; the gradient passes unchanged.
    #[fusion(dtype = x, shape = x)]
    fn round_to(x: FloatTensor<Self>, to: FloatDType) -> FloatTensor<Self> {
        default_body::<Self>("round_to", &x.device());
        Self::float_cast(Self::float_cast(x, to), FloatDType::F32)
    }

    /// One step of AdamW for a tensor of any shape: the weights and both means, changed in place where nothing else holds
    /// them. Nothing has a gradient through it.
    #[fusion(meta = |w, _gradient, mean, square, _step| (w.clone(), mean.clone(), square.clone()))]
    fn adamw(
        w: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        square: FloatTensor<Self>,
        step: AdamW,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        default_body::<Self>("adamw", &w.device());
        reference::adamw::<Self>(w, gradient, mean, square, step)
    }

    /// `sum(x²)` over a tensor of any shape, `[1]`.
    #[fusion(default)]
    fn sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_sum(Self::float_mul(x.clone(), x))
    }
}
