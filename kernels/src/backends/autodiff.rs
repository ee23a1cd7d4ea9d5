//! Gradients: one by hand, the others from the default bodies, which are made of differentiable operations.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend};

use crate::ops::{CacheSpec, TernaryOps, TernarySpec};

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

impl<B: TernaryOps, C: CheckpointStrategy> TernaryOps for Autodiff<B, C> {
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
        spec: CacheSpec,
    ) -> (FloatTensor<Self>, IntTensor<Self>, IntTensor<Self>) {
        let (q, k, v) = (q.into_primitive(), k.into_primitive(), v.into_primitive());
        let (cos, sin) = (cos.into_primitive(), sin.into_primitive());
        let (out, keys, values) = B::cached_attention(q, k, v, cos, sin, keys, values, spec);
        (Self::from_inner(out), keys, values)
    }

    fn ternary_dequantize(words: IntTensor<Self>, scale: FloatTensor<Self>, spec: TernarySpec) -> FloatTensor<Self> {
        Self::from_inner(B::ternary_dequantize(words, scale.into_primitive(), spec))
    }
}
