//! One layer of the decoder.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::transformer::Context;
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
    /// `h` and the result are `[tokens, hidden]`.
    pub(crate) fn forward(&self, h: Tensor<2>, context: Context<'_>) -> Tensor<2> {
        let h = h.clone() + self.attention.forward(h, &self.attention_norm, context);
        h.clone() + self.mlp.forward(h, &self.mlp_norm)
    }
}
