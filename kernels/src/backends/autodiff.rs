//! Gradients of the operations of a decoder: by hand where training needs them fast, the others from the default bodies,
//! which are made of differentiable operations.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend};

use super::autodiff_training::float_linear;
use crate::ops::training::{Precision, TrainingOps};
use crate::ops::{CacheSpec, Gate, TernaryOps, TernarySpec};

/// Backward of the ternary linear layer: `dx = dy · W`, straight through the rounding of the activations.
#[derive(Debug)]
struct TernaryLinearBackward;

impl<B: TernaryOps> Backward<B, 1> for TernaryLinearBackward {
    /// The packed weights and their scale; no activation is kept.
    type State = (IntTensor<B>, FloatTensor<B>, TernarySpec);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [parent] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let (words, scale, spec) = ops.state;
        if let Some(node) = parent {
            grads.register::<B>(node.id, B::float_matmul(dy, B::ternary_dequantize(words, scale, spec)));
        }
    }
}

#[derive(Debug)]
struct RmsNormBackward;

impl<B: TrainingOps> Backward<B, 2> for RmsNormBackward {
    /// Input, weight and epsilon.
    type State = (FloatTensor<B>, FloatTensor<B>, f64);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (x, weight, eps) = ops.state;
        let (dx, dweight) = B::rms_norm_backward(x, weight, dy, eps);
        for (node, gradient) in ops.parents.into_iter().zip([dx, dweight]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct GatedBackward;

impl<B: TrainingOps> Backward<B, 2> for GatedBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, Gate);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (gate, up, kind) = ops.state;
        let (dgate, dup) = B::gated_backward(gate, up, dy, kind);
        for (node, gradient) in ops.parents.into_iter().zip([dgate, dup]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

/// Turns the gradient back by the same angles.
#[derive(Debug)]
struct RopeBackward;

impl<B: TernaryOps> Backward<B, 1> for RopeBackward {
    /// Cosines, sines and the first position.
    type State = (FloatTensor<B>, FloatTensor<B>, usize);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (cos, sin, start) = ops.state;
        let [node] = ops.parents;
        if let Some(node) = node {
            grads.register::<B>(node.id, B::rope(dy, cos, B::float_neg(sin), start));
        }
    }
}

impl<B: TernaryOps + TrainingOps, C: CheckpointStrategy> TernaryOps for Autodiff<B, C> {
    fn ternary_linear(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TernarySpec,
    ) -> FloatTensor<Self> {
        let scale = scale.into_primitive();
        match TernaryLinearBackward.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let state = (words.clone(), scale.clone(), spec);
                prep.finish(state, B::ternary_linear(x.into_primitive(), words, scale, spec))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::ternary_linear(x.into_primitive(), words, scale, spec)),
        }
    }

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
        let (q, k, v) = (q.into_primitive(), k.into_primitive(), v.into_primitive());
        let (cos, sin) = (cos.into_primitive(), sin.into_primitive());
        let (out, keys, values) = B::cached_attention(q, k, v, cos, sin, keys, values, places, spec);
        (Self::from_inner(out), keys, values)
    }

    fn ternary_dequantize(words: IntTensor<Self>, scale: FloatTensor<Self>, spec: TernarySpec) -> FloatTensor<Self> {
        Self::from_inner(B::ternary_dequantize(words, scale.into_primitive(), spec))
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        match RmsNormBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x.clone(), weight.clone(), eps), B::rms_norm(x, weight, eps)),
            OpsKind::UnTracked(prep) => prep.finish(B::rms_norm(x, weight, eps)),
        }
    }

    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, kind: Gate) -> FloatTensor<Self> {
        let nodes = [gate.node(), up.node()];
        let (gate, up) = (gate.into_primitive(), up.into_primitive());
        match GatedBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((gate.clone(), up.clone(), kind), B::gated(gate, up, kind)),
            OpsKind::UnTracked(prep) => prep.finish(B::gated(gate, up, kind)),
        }
    }

    fn rope(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>, start: usize) -> FloatTensor<Self> {
        let node = x.node();
        let (x, cos, sin) = (x.into_primitive(), cos.into_primitive(), sin.into_primitive());
        match RopeBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((cos.clone(), sin.clone(), start), B::rope(x, cos, sin, start)),
            OpsKind::UnTracked(prep) => prep.finish(B::rope(x, cos, sin, start)),
        }
    }

    fn top_logits(logits: FloatTensor<Self>, count: usize) -> IntTensor<Self> {
        B::top_logits(logits.into_primitive(), count)
    }

    fn dense_linear(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        float_linear::<B, C>(&x, &w, Precision::F32, |x, w, _| B::dense_linear(x, w))
    }
}
