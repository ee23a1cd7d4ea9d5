//! One layer of the decoder.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::cache::LayerCache;
use crate::rope::RopeTables;
use crate::{Attention, GatedMlp, RmsNorm};

/// `h += attention(norm(h)); h += mlp(norm(h))`.
#[derive(Module, Debug)]
pub struct Block {
    pub(crate) attention_norm: RmsNorm,
    pub(crate) attention: Attention,
    pub(crate) mlp_norm: RmsNorm,
    pub(crate) mlp: GatedMlp,
}

impl Block {
    /// `h` and the result are `[batch, tokens, hidden]`.
    pub(crate) fn forward(&self, h: Tensor<3>, rope: &RopeTables, cache: Option<&mut LayerCache>) -> Tensor<3> {
        let shape @ [batch, tokens, hidden] = h.dims();
        let h = h.clone() + self.attention.forward(h, &self.attention_norm, rope, cache);
        let m = self.mlp.forward(h.clone().reshape([batch * tokens, hidden]), &self.mlp_norm);
        h + m.reshape(shape)
    }
}
