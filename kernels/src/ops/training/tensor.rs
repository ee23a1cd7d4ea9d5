//! The operations of training on `Tensor`, whatever backend it is on.

use bitnet_ternary::Granularity;
use burn::backend::Dispatch;
use burn::tensor::{FloatDType, Int, Tensor};

use super::{AdamW, LatentWeights, Precision, Quantization, TrainingOps};

/// One to three linear layers with latent float weights `[rows, cols]` for one input `[tokens, cols]`; see
/// [`TrainingOps::quantized_linears`].
pub fn quantized_linears<const N: usize>(
    x: Tensor<2>,
    weights: [Tensor<2>; N],
    how: Quantization,
    precision: Precision,
) -> [Tensor<2>; N] {
    const { assert!(N >= 1 && N <= 3, "one to three layers") };
    let mut weights = weights.into_iter().map(Tensor::into_dispatch);
    let weights = match (weights.next(), weights.next(), weights.next()) {
        (Some(a), Some(b), Some(c)) => LatentWeights::Three(a, b, c),
        (Some(a), Some(b), None) => LatentWeights::Two(a, b),
        (Some(a), ..) => LatentWeights::One(a),
        (None, ..) => unreachable!("one to three layers"),
    };
    let out = Dispatch::quantized_linears(x.into_dispatch(), weights, how, precision);
    let mut out = out.into_iter().map(Tensor::from_dispatch);
    std::array::from_fn(|_| out.next().expect("one output for each matrix"))
}

/// Words and scale of a matrix; see [`TrainingOps::absmean_quantize`].
pub fn absmean_quantize(w: Tensor<2>, granularity: Granularity) -> (Tensor<2, Int>, Tensor<2>) {
    let (words, scale) = Dispatch::absmean_quantize(w.into_dispatch(), granularity);
    (Tensor::from_dispatch(words), Tensor::from_dispatch(scale))
}

/// The values that a matrix has once it is ternary; see [`TrainingOps::ternary_fake_quant`].
pub fn ternary_fake_quant(w: Tensor<2>, granularity: Granularity) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::ternary_fake_quant(w.into_dispatch(), granularity))
}

/// Causal attention within sequences that lie one after the other; see [`TrainingOps::segment_attention`].
pub fn segment_attention([q, k, v]: [Tensor<3>; 3], segments: &[usize], scale: f64) -> Tensor<3> {
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(Dispatch::segment_attention(q, k, v, segments.to_vec(), scale))
}

/// Negative log-likelihood of each target in nats; see [`TrainingOps::cross_entropy`].
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let (loss, _) = Dispatch::cross_entropy(logits.into_dispatch(), targets.into_dispatch());
    Tensor::from_dispatch(loss)
}

/// The values as `to` can hold them; see [`TrainingOps::round_to`].
pub fn round_to<const D: usize>(x: Tensor<D>, to: FloatDType) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::round_to(x.into_dispatch(), to))
}

/// One step of AdamW; see [`TrainingOps::adamw`].
pub fn adamw<const D: usize>(
    w: Tensor<D>,
    gradient: Tensor<D>,
    [mean, square]: [Tensor<D>; 2],
    step: AdamW,
) -> (Tensor<D>, [Tensor<D>; 2]) {
    let (w, gradient) = (w.into_dispatch(), gradient.into_dispatch());
    let (w, mean, square) = Dispatch::adamw(w, gradient, mean.into_dispatch(), square.into_dispatch(), step);
    (Tensor::from_dispatch(w), [Tensor::from_dispatch(mean), Tensor::from_dispatch(square)])
}

/// `sum(x²)`; see [`TrainingOps::sum_of_squares`].
pub fn sum_of_squares<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::sum_of_squares(x.into_dispatch()))
}
