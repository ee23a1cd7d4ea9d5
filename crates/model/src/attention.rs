//! Grouped-query self-attention.

use bitnet_kernels::ops;
use burn::module::Module;
use burn::tensor::Tensor;

use crate::transformer::Context;
use crate::{BitLinear, RmsNorm, window};

/// Causal self-attention with ternary projections, rotary positions and optional norms.
///
/// Query head `h` reads KV head `h / (heads / kv_heads)`.
#[derive(Module, Debug)]
pub struct Attention {
    pub(crate) q_proj: BitLinear,
    pub(crate) k_proj: BitLinear,
    pub(crate) v_proj: BitLinear,
    pub(crate) o_proj: BitLinear,
    /// Before `o_proj` (BitNet b1.58 2B-4T).
    pub(crate) sub_norm: Option<RmsNorm>,
    /// On each query head, before the rotation (Qwen3).
    pub(crate) q_norm: Option<RmsNorm>,
    /// On each key head, before the rotation.
    pub(crate) k_norm: Option<RmsNorm>,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// What scores are multiplied by.
    pub(crate) scale: f64,
    /// Positions that a position sees, itself among them, where that is not all before it (Gemma 3).
    pub(crate) window: Option<usize>,
}

impl Attention {
    /// `h` and the result are `[tokens, hidden]`; `norm` is applied first, and `residual` is added to the result where there
    /// is one.
    pub(crate) fn forward(
        &self,
        h: Tensor<2>,
        norm: &RmsNorm,
        context: Context<'_>,
        residual: Option<Tensor<2>>,
    ) -> Tensor<2> {
        self.o_proj.onto(residual, self.mixed(h, norm, context), self.sub_norm.as_ref())
    }

    /// Queries, keys and values of `h` after `norm`, `[1, tokens, heads, head_dim]`, not yet rotated.
    pub(crate) fn states(&self, h: Tensor<2>, norm: &RmsNorm) -> [Tensor<4>; 3] {
        let [tokens, _] = h.dims();
        let [q, k, v] = BitLinear::forward_all([&self.q_proj, &self.k_proj, &self.v_proj], h, Some(norm));
        let heads_of = |x: Tensor<2>, heads: usize, norm: Option<&RmsNorm>| self.heads_of(x, [tokens, heads], norm);
        let q = heads_of(q, self.heads, self.q_norm.as_ref());
        let k = heads_of(k, self.kv_heads, self.k_norm.as_ref());
        [q, k, heads_of(v, self.kv_heads, None)]
    }

    /// What all heads have gathered, before the norm and the projection that follow, `[tokens, heads * head_dim]`.
    pub(crate) fn mixed(&self, h: Tensor<2>, norm: &RmsNorm, context: Context<'_>) -> Tensor<2> {
        let [tokens, _] = h.dims();
        let [q, k, v] = self.states(h, norm);
        let out = match context {
            // No cache is longer than a window: see `Transformer::cache`.
            Context::Cached { positions, places, cache } => {
                let states = [q, k, v].map(|x| x.squeeze_dim::<3>(0));
                cache.attend(states, positions.of(self), places, self.scale)
            }
            Context::Sequences { positions, lengths } => {
                let rope = positions.of(self);
                let (q, k) = (rope.apply(q), rope.apply(k));
                let [q, k, v] = [q, k, v].map(|x| x.squeeze_dim::<3>(0));
                match self.window {
                    Some(size) if lengths.iter().any(|length| *length > size) => {
                        window::segment_attention([q, k, v], lengths, size, self.scale)
                    }
                    _ => ops::training::segment_attention([q, k, v], lengths, self.scale),
                }
            }
        };
        out.reshape([tokens, self.heads * self.head_dim])
    }

    /// `[1, tokens, heads, head_dim]`.
    fn heads_of(&self, x: Tensor<2>, [tokens, heads]: [usize; 2], norm: Option<&RmsNorm>) -> Tensor<4> {
        let x = match norm {
            Some(norm) => norm.forward(x.reshape([tokens * heads, self.head_dim])),
            None => x,
        };
        x.reshape([1, tokens, heads, self.head_dim])
    }

    /// The ternary layers, with the names that Hugging Face gives them.
    pub(crate) fn linears(&self) -> [(&'static str, &BitLinear); 4] {
        [("q_proj", &self.q_proj), ("k_proj", &self.k_proj), ("v_proj", &self.v_proj), ("o_proj", &self.o_proj)]
    }

    /// The same, to be changed.
    pub(crate) fn linears_mut(&mut self) -> [&mut BitLinear; 4] {
        [&mut self.q_proj, &mut self.k_proj, &mut self.v_proj, &mut self.o_proj]
    }

    /// The norms there are, with the names that Hugging Face gives them.
    pub(crate) fn norms(&self) -> impl Iterator<Item = (&'static str, &RmsNorm)> {
        let norms = [("attn_sub_norm", &self.sub_norm), ("q_norm", &self.q_norm), ("k_norm", &self.k_norm)];
        norms.into_iter().filter_map(|(name, norm)| Some((name, norm.as_ref()?)))
    }
}
