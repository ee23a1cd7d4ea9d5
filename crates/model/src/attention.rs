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
    /// `h` and the result are `[batch, tokens, hidden]`; `norm` is applied first. With a cache, the tokens come after those
    /// that it holds.
    pub(crate) fn forward(
        &self,
        h: Tensor<3>,
        norm: &RmsNorm,
        rope: &RopeTables,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<3> {
        let shape @ [batch, tokens, hidden] = h.dims();
        let layers = [&self.q_proj, &self.k_proj, &self.v_proj];
        let [q, k, v] = BitLinear::forward_all(layers, h.reshape([batch * tokens, hidden]), Some(norm));
        let heads_of =
            |x: Tensor<2>, heads: usize, norm: Option<&RmsNorm>| self.heads_of(x, [batch, tokens, heads], norm);
        let q = heads_of(q, self.heads, self.q_norm.as_ref());
        let k = heads_of(k, self.kv_heads, self.k_norm.as_ref());
        let v = heads_of(v, self.kv_heads, None);
        let scale = 1.0 / (self.head_dim as f64).sqrt();
        let out = match cache {
            Some(cache) => cache.attend([q, k, v], rope, scale),
            None => {
                let (q, k) = (rope.apply(q), rope.apply(k));
                ops::attention(q, k.swap_dims(1, 2), v.swap_dims(1, 2), 0, scale)
            }
        };
        let out = out.reshape([batch * tokens, self.heads * self.head_dim]);
        let [out] = BitLinear::forward_all([&self.o_proj], out, self.sub_norm.as_ref());
        out.reshape(shape)
    }

    fn heads_of(&self, x: Tensor<2>, [batch, tokens, heads]: [usize; 3], norm: Option<&RmsNorm>) -> Tensor<4> {
        let x = match norm {
            Some(norm) => norm.forward(x.reshape([batch * tokens * heads, self.head_dim])),
            None => x,
        };
        x.reshape([batch, tokens, heads, self.head_dim])
    }
}
