//! Grouped-query self-attention.

use bitnet_kernels::ops;
use burn::module::Module;
use burn::tensor::Tensor;

use crate::cache::LayerCache;
use crate::rope::RopeTables;
use crate::{BitLinear, RmsNorm};

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
}

impl Attention {
    /// `x` and the result are `[batch, tokens, hidden]`. With a cache, the tokens come after those that it holds.
    pub(crate) fn forward(&self, x: Tensor<3>, rope: &RopeTables, cache: Option<&mut LayerCache>) -> Tensor<3> {
        let [batch, tokens, _] = x.dims();
        let q = self.heads_of(self.q_proj.forward(x.clone()), self.heads, self.q_norm.as_ref());
        let k = self.heads_of(self.k_proj.forward(x.clone()), self.kv_heads, self.k_norm.as_ref());
        let v = self.heads_of(self.v_proj.forward(x), self.kv_heads, None);
        let (q, k) = (rope.apply(q), rope.apply(k).swap_dims(1, 2));
        let v = v.swap_dims(1, 2);
        let (k, v, start) = match cache {
            Some(cache) => cache.append(k, v),
            None => (k, v, 0),
        };
        let out = ops::attention(q, k, v, start, 1.0 / (self.head_dim as f64).sqrt());
        let out = out.reshape([batch * tokens, self.heads * self.head_dim]);
        let out = match &self.sub_norm {
            Some(norm) => norm.forward(out),
            None => out,
        };
        let out = self.o_proj.forward(out);
        let hidden = out.dims()[1];
        out.reshape([batch, tokens, hidden])
    }

    fn heads_of(&self, x: Tensor<3>, heads: usize, norm: Option<&RmsNorm>) -> Tensor<4> {
        let [batch, tokens, _] = x.dims();
        let x = match norm {
            Some(norm) => norm.forward(x.reshape([batch * tokens * heads, self.head_dim])).reshape([
                batch,
                tokens,
                heads * self.head_dim,
            ]),
            None => x,
        };
        x.reshape([batch, tokens, heads, self.head_dim])
    }
}
