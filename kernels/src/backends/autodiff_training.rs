//! Gradients of the operations that a model in training is made of, each a node with a backward pass of its own.

use bitnet_ternary::Granularity;
use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{AutodiffBackend, Backend, TensorMetadata};
use burn::tensor::FloatDType;

use crate::cpu::adamw::AdamW;
use crate::ops::training::{LatentWeights, Precision, Quantization, TrainingOps, reference};
use crate::ops::{Activations, TernaryOps, TernarySpec};

/// What a linear layer read, as far as its gradients need it.
#[derive(Clone, Debug)]
enum Saved<B: Backend> {
    /// Int8 codes with their multiplier, packed words with their scale.
    Quantized { input: Input<B>, words: IntTensor<B>, scale: FloatTensor<B>, granularity: Granularity, cols: usize },
    /// Floats.
    Float { x: FloatTensor<B>, w: FloatTensor<B> },
}

/// The input of a layer with packed weights.
#[derive(Clone, Debug)]
enum Input<B: Backend> {
    Codes { codes: IntTensor<B>, multiplier: FloatTensor<B> },
    Float(FloatTensor<B>),
}

/// Straight through the rounding of weights and activations.
#[derive(Debug)]
struct LinearBackward;

impl<B: TernaryOps + TrainingOps> Backward<B, 2> for LinearBackward {
    type State = (Saved<B>, Precision);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x_node, w_node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let (saved, precision) = ops.state;
        match saved {
            Saved::Float { x, w } => {
                if let Some(node) = w_node {
                    grads.register::<B>(node.id, B::float_weight_gradient(dy.clone(), x, precision));
                }
                if let Some(node) = x_node {
                    grads.register::<B>(node.id, B::float_input_gradient(dy, w, precision));
                }
            }
            Saved::Quantized { input, words, scale, granularity, cols } => {
                if let Some(node) = w_node {
                    let dw = match input {
                        Input::Codes { codes, multiplier } => {
                            B::codes_weight_gradient(dy.clone(), codes, multiplier, cols, precision)
                        }
                        Input::Float(x) => B::float_weight_gradient(dy.clone(), x, precision),
                    };
                    grads.register::<B>(node.id, dw);
                }
                if let Some(node) = x_node {
                    let dx = B::packed_input_gradient(dy, words, scale, granularity, cols, precision);
                    grads.register::<B>(node.id, dx);
                }
            }
        }
    }
}

/// A node for `y`, which was computed from `x` and `w` by way of what `saved` holds; its gradients are computed in a
/// precision.
fn linear<B: TernaryOps + TrainingOps, C: CheckpointStrategy>(
    x: &FloatTensor<Autodiff<B, C>>,
    w: &FloatTensor<Autodiff<B, C>>,
    saved: (Saved<B>, Precision),
    y: FloatTensor<B>,
) -> FloatTensor<Autodiff<B, C>> {
    match LinearBackward.prepare::<C>([x.node(), w.node()]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(saved, y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}

/// `x wᵀ` for floats, with the product that `forward` takes.
pub(super) fn float_linear<B: TernaryOps + TrainingOps, C: CheckpointStrategy>(
    x: &FloatTensor<Autodiff<B, C>>,
    w: &FloatTensor<Autodiff<B, C>>,
    precision: Precision,
    forward: impl Fn(FloatTensor<B>, FloatTensor<B>, Precision) -> FloatTensor<B>,
) -> FloatTensor<Autodiff<B, C>> {
    let (x_value, w_value) = (x.primitive().clone(), w.primitive().clone());
    let y = forward(x_value.clone(), w_value.clone(), precision);
    linear::<B, C>(x, w, (Saved::Float { x: x_value, w: w_value }, precision), y)
}

#[derive(Debug)]
struct SegmentAttentionBackward;

/// Queries, keys, values, output; lengths; scale.
type AttentionState<B> = ([FloatTensor<B>; 4], Vec<usize>, f64);

impl<B: TrainingOps> Backward<B, 3> for SegmentAttentionBackward {
    type State = AttentionState<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dout = grads.consume::<B>(&ops.node);
        let ([q, k, v, out], segments, scale) = ops.state;
        let (dq, dk, dv) = B::segment_attention_backward(q, k, v, out, dout, segments, scale);
        for (node, gradient) in ops.parents.into_iter().zip([dq, dk, dv]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct CrossEntropyBackward;

impl<B: TrainingOps> Backward<B, 1> for CrossEntropyBackward {
    /// Logits, targets and the logarithms of the sums.
    type State = (FloatTensor<B>, IntTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dloss = grads.consume::<B>(&ops.node);
        let (logits, targets, lse) = ops.state;
        let [node] = ops.parents;
        if let Some(node) = node {
            grads.register::<B>(node.id, B::cross_entropy_backward(logits, targets, lse, dloss));
        }
    }
}

/// Passes the gradient on as it is.
#[derive(Debug)]
struct StraightThrough;

impl<B: Backend> Backward<B, 1> for StraightThrough {
    type State = ();

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let [node] = ops.parents;
        if let Some(node) = node {
            grads.register::<B>(node.id, gradient);
        }
    }
}

impl<B: TernaryOps + TrainingOps, C: CheckpointStrategy> TrainingOps for Autodiff<B, C> {
    fn quantized_linears(
        x: FloatTensor<Self>,
        weights: LatentWeights<Self>,
        how: Quantization,
        precision: Precision,
    ) -> Vec<FloatTensor<Self>> {
        let weights = weights.into_vec();
        let value = |w: &FloatTensor<Self>| w.primitive().clone();
        match how {
            how if how.is_float() => {
                weights.iter().map(|w| float_linear::<B, C>(&x, w, precision, B::float_linear)).collect()
            }
            Quantization::Ternary { granularity, activations, lambda: 1.0 } => {
                let cols = x.primitive().shape().dims::<2>()[1];
                let input = match activations {
                    Activations::Int8 => {
                        let (codes, multiplier) = B::absmax_quantize(x.primitive().clone());
                        Input::Codes { codes, multiplier }
                    }
                    Activations::Float => Input::Float(x.primitive().clone()),
                };
                let node = |w: &FloatTensor<Self>| {
                    let (words, scale) = B::absmean_quantize(value(w), granularity);
                    let y = match input.clone() {
                        Input::Codes { codes, multiplier } => {
                            B::linear_of_codes(codes, multiplier, words.clone(), scale.clone(), granularity, cols)
                        }
                        Input::Float(x) => {
                            let spec = TernarySpec { activations, ..reference::spec(granularity, cols) };
                            B::ternary_linear(x, words.clone(), scale.clone(), spec)
                        }
                    };
                    let saved = Saved::Quantized { input: input.clone(), words, scale, granularity, cols };
                    linear::<B, C>(&x, w, (saved, precision), y)
                };
                weights.iter().map(node).collect()
            }
            how => {
                let blended = reference::input_of::<B>(x.primitive().clone(), how);
                let node = |w: &FloatTensor<Self>| {
                    let w_value = reference::weight_of::<B>(value(w), how);
                    let y = B::float_linear(blended.clone(), w_value.clone(), precision);
                    linear::<B, C>(&x, w, (Saved::Float { x: blended.clone(), w: w_value }, precision), y)
                };
                weights.iter().map(node).collect()
            }
        }
    }

    fn absmean_quantize(w: FloatTensor<Self>, granularity: Granularity) -> (IntTensor<Self>, FloatTensor<Self>) {
        let (words, scale) = B::absmean_quantize(w.into_primitive(), granularity);
        (words, Self::from_inner(scale))
    }

    fn ternary_fake_quant(w: FloatTensor<Self>, granularity: Granularity) -> FloatTensor<Self> {
        let node = w.node();
        let quantized = B::ternary_fake_quant(w.into_primitive(), granularity);
        match StraightThrough.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((), quantized),
            OpsKind::UnTracked(prep) => prep.finish(quantized),
        }
    }

    fn segment_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        segments: Vec<usize>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let nodes = [q.node(), k.node(), v.node()];
        let (q, k, v) = (q.into_primitive(), k.into_primitive(), v.into_primitive());
        match SegmentAttentionBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let out = B::segment_attention(q.clone(), k.clone(), v.clone(), segments.clone(), scale);
                prep.finish(([q, k, v, out.clone()], segments, scale), out)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::segment_attention(q, k, v, segments, scale)),
        }
    }

    fn cross_entropy(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let node = logits.node();
        let logits = logits.into_primitive();
        let (loss, lse) = B::cross_entropy(logits.clone(), targets.clone());
        let loss = match CrossEntropyBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((logits, targets, lse.clone()), loss),
            OpsKind::UnTracked(prep) => prep.finish(loss),
        };
        (loss, Self::from_inner(lse))
    }

    fn round_to(x: FloatTensor<Self>, to: FloatDType) -> FloatTensor<Self> {
        let node = x.node();
        let rounded = B::round_to(x.into_primitive(), to);
        match StraightThrough.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((), rounded),
            OpsKind::UnTracked(prep) => prep.finish(rounded),
        }
    }

    fn adamw(
        w: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        square: FloatTensor<Self>,
        step: AdamW,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (w, gradient) = (w.into_primitive(), gradient.into_primitive());
        let (w, mean, square) = B::adamw(w, gradient, mean.into_primitive(), square.into_primitive(), step);
        (Self::from_inner(w), Self::from_inner(mean), Self::from_inner(square))
    }

    fn sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::from_inner(B::sum_of_squares(x.into_primitive()))
    }
}
